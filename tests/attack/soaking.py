"""A program that runs for long: ``python soaking.py MINUTES VIDEO ADDRESS``. Now and then a JSON line says how it is.

Two trackers on two engines: one on a video in a loop, one on a camera whose connection breaks off again and again.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import edgekit
from edgekit.runtimes.results import Detections

OLD = Path(__file__).parents[1] / "old_bundles"
SAMPLES = 20


def now(count: dict[str, int]) -> str:
    """Frames so far, and what the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = {"megabytes": pages * 4096 / 1e6, "handles": len(list(Path("/proc/self/fd").iterdir()))}
    return json.dumps({**count, **held, "threads": threading.active_count()})


def main() -> None:
    """Track until the time is over."""
    minutes, video, address = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    end, failed = time.monotonic() + 60 * minutes, list[BaseException]()
    count = {"frames": 0, "live": 0, "loops": 0, "tracks": 0}
    first = edgekit.load(OLD / "detector-onnx-int8", threads=1)
    second = edgekit.load(OLD / "detector-litert-int8", threads=1)

    def taken(results: Iterator[Detections], kind: str) -> None:
        for result in results:
            count[kind] += 1
            if result.track_ids is not None:
                count["tracks"] = max(count["tracks"], len(result))
            if time.monotonic() > end or failed:
                return

    def watch() -> None:
        try:
            taken(second.track(address, "botsort", reconnect=60), "live")
        except BaseException as error:
            failed.append(error)
            raise

    live = threading.Thread(target=watch)
    live.start()
    following = time.monotonic()
    while time.monotonic() < end and not failed:
        taken(first.track(video, "bytetrack"), "frames")
        count["loops"] += 1
        if time.monotonic() > following:
            print(now(count), flush=True)
            following += 60 * minutes / SAMPLES
    live.join(60)
    if failed:
        raise failed[0]
    print(now(count), flush=True)


if __name__ == "__main__":
    main()
