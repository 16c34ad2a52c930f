"""What a batch gains: milliseconds of a run of N images against N runs of one, for every bundle that takes batches.

    python benchmarks/batch.py BUNDLE...        # made with edgekit convert --batch 1,4
    python benchmarks/batch.py                  # makes some of the demo's detector first, in a temporary folder

A ratio below 1 is a gain. Runs of both kinds take turns, so that a machine that slows down does so for both.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import edgekit
from edgekit.arrays import Floats
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Result

ROUNDS = 30


def main() -> None:
    bundles = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for path in bundles or made(Path(folder)):
            measure(Path(path))


def made(folder: Path) -> list[str]:
    """Bundles of the demo's detector that take 1 and 4 images."""
    from edgekit.shapes import write_coco

    photos = write_coco(folder / "scenes", range(330_000, 330_030)).parent
    done = edgekit.convert(
        "edgekit.shapes.trained:detector",
        target="onnx,openvino",
        precision="fp32,int8",
        batch=[1, 4],
        data=photos,
        out=folder / "out",
    )
    return [str(outcome.path) for outcome in done if outcome.ok]


def measure(path: Path) -> None:
    """Print the ratio for each batch and size of a bundle."""
    manifest = edgekit.load(path).manifest
    if manifest is None or not manifest.variants:
        print(f"{path.name}: one image at {manifest and manifest.contract.image.size} only")
        return
    for size, batches in manifest.batches.items():
        model: Model[Result] = edgekit.load(path, size=size)
        one = np.random.default_rng(0).random((1, 3, *size), np.float32)
        for batch in batches[1:]:
            several = np.repeat(one, batch, axis=0)
            single, whole = [], []
            for _ in range(ROUNDS):
                single.append(sum(milliseconds(model, one) for _ in range(batch)))
                whole.append(milliseconds(model, several))
            ratio = statistics.median(whole) / statistics.median(single)
            print(
                f"{path.name} at {size[0]}x{size[1]}: batch {batch} {statistics.median(whole):.2f} ms, {batch} x 1 "
                f"{statistics.median(single):.2f} ms, ratio {ratio:.2f}"
            )


def milliseconds(model: Model[Result], tensor: Floats) -> float:
    """Of one run."""
    start = time.perf_counter()
    model.outputs(tensor)
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
