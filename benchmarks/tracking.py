"""Trackers beside those of roboflow `trackers`, on the same detections in the same run: quality and frames/s.

Quality on a MOT Challenge sequence (det.txt and gt.txt in a folder): HOTA, IDF1, MOTA by TrackEval. Speed of `update`
alone with 20, 100 and 500 moving objects. Defaults on both sides; roboflow's BoT-SORT without camera motion, as no
frames are given.

    pip install trackers==2.6.0 trackeval==1.3.0
    python benchmarks/tracking.py [FOLDER OF A SEQUENCE [FRAMES PER SECOND]]
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtimes.tracking import mot, open_tracker

RIVALS = {
    "sort": "SORTTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "botsort": "BoTSORTTracker",
}
WIDTH, HEIGHT, RATE = 1920, 1080, 30
Frame = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Side:
    """One tracker, taken apart so that only its own work is timed: input object, update, (ids, boxes) of the result."""

    prepare: Callable[[Frame], Any]
    update: Callable[[int, Any], Any]
    read: Callable[[Any], Frame]

    def __call__(self, number: int, frame: Frame) -> Frame:
        return self.read(self.update(number, self.prepare(frame)))


def ours(name: str, fps: float) -> Side:
    """A new tracker of edgekit."""
    tracker = open_tracker(name)
    return Side(
        prepare=lambda frame: (*frame, np.zeros(len(frame[0]), np.int64)),
        update=lambda number, given: tracker.update(*given, time=number / fps),
        read=lambda tracks: (tracks.visible.track_ids, tracks.visible.boxes),
    )


def rival(name: str, fps: float) -> Side:
    """A new tracker of roboflow, with its defaults, which count frames: fps is not asked for."""
    import supervision
    import trackers

    given = {"enable_cmc": False} if name == "botsort" else {}
    tracker = getattr(trackers, RIVALS[name])(**given)
    return Side(
        prepare=lambda frame: supervision.Detections(
            xyxy=frame[0], confidence=frame[1], class_id=np.zeros(len(frame[0]), np.int64)
        ),
        update=lambda number, found: tracker.update(found),
        read=lambda found: (found.tracker_id[found.tracker_id >= 0], found.xyxy[found.tracker_id >= 0]),
    )


def moving(count: int, frames: int, seed: int = 0) -> list[Frame]:
    """Boxes that wander through a picture, with noise, 5 % misses and 3 % false positives."""
    rng = np.random.default_rng(seed)
    limit = np.array([WIDTH, HEIGHT])
    place, speed = rng.uniform(0, 1, (count, 2)) * limit, rng.normal(0, 3, (count, 2))
    size = np.stack([width := rng.uniform(20, 60, count), width * rng.uniform(1.5, 2.5, count)], 1)
    made = []
    for _ in range(frames):
        place = place + speed
        speed = np.where((place < 0) | (place > limit), -speed, speed) + rng.normal(0, 0.1, speed.shape)
        middle = np.concatenate([place, rng.uniform(0, 1, (rng.poisson(0.03 * count), 2)) * limit])
        extent = np.concatenate([size, size[: len(middle) - count]])[: len(middle)]
        boxes = np.concatenate([middle - extent / 2, middle + extent / 2], 1) + rng.normal(0, 1, (len(middle), 4))
        seen = rng.random(len(middle)) > 0.05
        scores = rng.beta(6, 2, len(middle))
        made.append((boxes[seen].astype(np.float32), scores[seen].astype(np.float32)))
    return made


def speed(count: int, names: list[str]) -> None:
    """Print frames/s with this many objects, ours and theirs measured in turns."""
    length = max(40, 6000 // count)
    frames = moving(count, length + 15)
    for name in names:
        spent: dict[str, list[float]] = {"edgekit": [], "roboflow": []}
        for _ in range(3):
            for side, make in (("roboflow", rival), ("edgekit", ours)):
                tracker, each = make(name, RATE), []
                ready = [tracker.prepare(frame) for frame in frames]
                gc.collect()
                for number, frame in enumerate(ready):
                    start = time.perf_counter()
                    tracker.update(number, frame)
                    each.append(time.perf_counter() - start)
                spent[side].append(float(np.mean(each[15:])))
        rate = {side: 1 / min(values) for side, values in spent.items()}
        ratio = rate["edgekit"] / rate["roboflow"]
        print(f"{count:>8} {name:>10} {rate['roboflow']:>12.0f} {rate['edgekit']:>12.0f} {ratio:>6.1f}x")


def quality(folder: Path, fps: float) -> None:
    """Print HOTA, IDF1, MOTA and the number of id switches on a sequence."""
    truth = [(frame.track_ids, frame.boxes) for frame in mot.read(folder / "gt.txt")]
    found = [(frame.boxes, frame.scores) for frame in mot.read(folder / "det.txt")]
    found += [(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))] * (len(truth) - len(found))
    for name in RIVALS:
        for side, make in (("roboflow", rival), ("edgekit", ours)):
            tracker = make(name, fps)
            scored = score(truth, [tracker(number, frame) for number, frame in enumerate(found)])
            print(f"{name:>10} {side:>9}  " + "  ".join(f"{value:.3f}" for value in scored[:3]) + f"  {scored[3]:.0f}")


def score(truth: list[Frame], tracks: list[Frame]) -> tuple[float, float, float, float]:
    """HOTA, IDF1, MOTA and id switches of tracks (ids, boxes) per frame, by TrackEval at its own thresholds."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    from edgekit.runtimes.tasks.similarity import box_iou

    def numbered(side: list[Frame]) -> tuple[list[np.ndarray], int]:
        known = np.unique(np.concatenate([ids for ids, _ in side]))
        return [np.searchsorted(known, ids) for ids, _ in side], len(known)

    tracks = tracks[: len(truth)]
    true_ids, true_count = numbered(truth)
    track_ids, track_count = numbered(tracks)
    data = {
        "gt_ids": true_ids,
        "tracker_ids": track_ids,
        "similarity_scores": [
            box_iou(real[1], got[1]).astype(np.float64) for real, got in zip(truth, tracks, strict=True)
        ],
        "num_timesteps": len(truth),
        "num_gt_ids": true_count,
        "num_tracker_ids": track_count,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, track_ids)),
    }
    clear = CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    identity = Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    hota = float(np.mean(HOTA().eval_sequence(data)["HOTA"]))
    return hota, float(identity["IDF1"]), float(clear["MOTA"]), float(clear["IDSW"])


def main() -> None:
    """Print both tables."""
    needed = {"trackers": "trackers==2.6.0", "supervision": "trackers==2.6.0", "trackeval": "trackeval==1.3.0"}
    for package, requirement in needed.items():
        try:
            importlib.import_module(package)
        except ImportError:
            sys.exit(f"this benchmark needs {package}, which is not installed here: pip install {requirement}")
    if len(sys.argv) > 1:
        print(f"{'':>10} {'':>9}  {'HOTA':<5}  {'IDF1':<5}  {'MOTA':<5}  id switches")
        quality(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 25.0)
        print()
    print(f"{'objects':>8} {'':>10} {'roboflow f/s':>12} {'edgekit f/s':>12} {'':>6}")
    for count in (20, 100, 500):
        speed(count, list(RIVALS))


if __name__ == "__main__":
    main()
