"""A pool of sessions beside one model behind a lock: images per second from several threads, in turns.

    python benchmarks/pool.py [BUNDLE] [--threads 4] [--workers 2,4]

Without a bundle it takes the small detector of the tests.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import edgekit

DEFAULT = Path(__file__).parents[1] / "tests" / "old_bundles" / "detector-onnx-int8"
ROUNDS, SECONDS = 5, 1.0


def rate(call: Callable[[np.ndarray], object], image: np.ndarray, threads: int) -> float:
    """Images per second of so many threads that call without a pause."""
    counts = [0] * threads
    end = time.perf_counter() + SECONDS

    def run(number: int) -> None:
        while time.perf_counter() < end:
            call(image)
            counts[number] += 1

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / SECONDS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", default=str(DEFAULT))
    parser.add_argument("--threads", type=int, default=4, help="threads that call")
    parser.add_argument("--workers", default="2,4", help="sizes of the pools")
    given = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    model, lock = edgekit.load(given.bundle), threading.Lock()

    def locked(one: np.ndarray) -> object:
        with lock:
            return model(one)

    pools = {workers: edgekit.load(given.bundle, workers=workers) for workers in map(int, given.workers.split(","))}
    calls: dict[str, Callable[[np.ndarray], object]] = {"one model, locked": locked}
    calls |= {f"pool of {workers}": pool for workers, pool in pools.items()}
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            spent[name].append(rate(call, image, given.threads))
    bare = statistics.median(spent["one model, locked"])
    for name, values in spent.items():
        middle = statistics.median(values)
        print(f"{name:<20} {middle:8.1f} images/s   ratio to locked {middle / bare:.2f}")
    for pool in pools.values():
        pool.close()


if __name__ == "__main__":
    main()
