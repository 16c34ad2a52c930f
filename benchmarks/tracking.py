"""Trackers beside those of roboflow `trackers` and of Ultralytics, on the same detections in the same run.

- Speed: milliseconds of `update` alone with 5, 8, 20, 100 and 500 moving objects, as CPU time of its thread. All sides
  take turns, over and over; of each frame the fastest turn counts, so that what else the machine does counts little.
- Crowds: HOTA, IDF1, MOTA and id switches on generated crowds of 100 walkers (benchmarks/crowds.py), of three seeds.
- A sequence of the MOT Challenge (det.txt and gt.txt in a folder), where one is given.

Defaults on all sides; BoT-SORT without camera motion, as no frames are given. Ultralytics (AGPL-3.0) is run where it is
installed, and is no part of edgekit.

    pip install trackers==2.6.1 trackeval==1.3.0 ultralytics==8.4.190
    OMP_NUM_THREADS=1 python benchmarks/tracking.py [FOLDER OF A SEQUENCE [FRAMES PER SECOND]]
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))  # also where a test loads this file
from crowds import HEIGHT, RATE, WIDTH, crowd

from edgekit.evaluation.tracks import measure_tracks
from edgekit.runtimes.tracking import mot, open_tracker

Frame = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Side:
    """One tracker, taken apart so that only its own work is timed: input object, update, (ids, boxes) of the result."""

    prepare: Callable[[Frame], Any]
    update: Callable[[int, Any], Any]
    read: Callable[[Any], Frame]

    def __call__(self, number: int, frame: Frame) -> Frame:
        return self.read(self.update(number, self.prepare(frame)))


def ours(name: str, fps: float, **options: Any) -> Side:
    """A new tracker of edgekit."""
    tracker = open_tracker(name, **options)
    return Side(
        prepare=lambda frame: (*frame, np.zeros(len(frame[0]), np.int64)),
        update=lambda number, given: tracker.update(*given, time=number / fps),
        read=lambda tracks: (tracks.visible.track_ids, tracks.visible.boxes),
    )


ROBOFLOW = {
    "sort": "SORTTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "botsort": "BoTSORTTracker",
}


def roboflow(name: str, fps: float) -> Side:
    """A new tracker of roboflow, with its defaults, which count frames: fps is not asked for."""
    import supervision
    import trackers

    given = {"enable_cmc": False} if name == "botsort" else {}
    tracker = getattr(trackers, ROBOFLOW[name])(**given)
    return Side(
        prepare=lambda frame: supervision.Detections(
            xyxy=frame[0], confidence=frame[1], class_id=np.zeros(len(frame[0]), np.int64)
        ),
        update=lambda number, found: tracker.update(found),
        read=lambda found: (found.tracker_id[found.tracker_id >= 0], found.xyxy[found.tracker_id >= 0]),
    )


class Boxes:
    """Detections as Ultralytics' trackers read them."""

    def __init__(self, frame: Frame) -> None:
        self.xyxy, self.conf = frame
        self.cls = np.zeros(len(self.conf))

    @property
    def xywh(self) -> np.ndarray:
        return np.concatenate([(self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.xyxy[:, 2:] - self.xyxy[:, :2]], 1)

    def __len__(self) -> int:
        return len(self.conf)

    def __getitem__(self, rows: np.ndarray) -> Boxes:
        return Boxes((self.xyxy[rows], self.conf[rows]))


def ultralytics(name: str, fps: float) -> Side | None:
    """A new tracker of Ultralytics, with its defaults, which count frames; None where it has none of that name."""
    import yaml
    from ultralytics.trackers.track import TRACKER_MAP
    from ultralytics.utils import ROOT

    if name not in TRACKER_MAP:
        return None
    options = yaml.safe_load((Path(ROOT) / "cfg" / "trackers" / f"{name}.yaml").read_text(encoding="utf-8"))
    tracker = TRACKER_MAP[name](SimpleNamespace(**{**options, "gmc_method": "none"}))
    tracker.reset_id()
    return Side(
        prepare=Boxes,
        update=lambda number, found: tracker.update(found),
        read=lambda rows: (rows[:, 4].astype(np.int64), rows[:, :4].astype(np.float32)) if len(rows) else NOTHING,
    )


NOTHING: Frame = (np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
NAMES = tuple(ROBOFLOW)
SIDES: dict[str, Callable[[str, float], Side | None]] = {"roboflow": roboflow, "edgekit": ours}
if importlib.util.find_spec("ultralytics"):
    SIDES["ultralytics"] = ultralytics


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


def speed(count: int, name: str) -> dict[str, float]:
    """Milliseconds of an update with this many objects, by side."""
    length, turns = (60, 15) if count < 100 else (30, 4) if count < 500 else (10, 3)
    frames = moving(count, 15 + length)
    spent: dict[str, list[list[float]]] = {}
    gc.collect()
    gc.disable()
    for _ in range(turns):
        for side, make in SIDES.items():
            tracker = make(name, RATE)
            if tracker is None:
                continue
            ready, each = [tracker.prepare(frame) for frame in frames], []
            for number, frame in enumerate(ready):
                start = time.thread_time()
                tracker.update(number, frame)
                each.append(time.thread_time() - start)
            spent.setdefault(side, []).append(each[15:])
    gc.enable()
    return {side: 1000 * float(np.min(turns, axis=0).mean()) for side, turns in spent.items()}


def speeds() -> None:
    """Print the table of speed."""
    print("| objects | tracker | roboflow ms | Ultralytics ms | edgekit ms | of roboflow's | of Ultralytics' |")
    print("|---|---|---|---|---|---|---|")
    for count in (5, 8, 20, 100, 500):
        for name in NAMES:
            spent = speed(count, name)
            shares = [f"{spent['edgekit'] / spent[side]:.2f}" if side in spent else "-" for side in OTHERS]
            times = [f"{spent[side]:.3f}" if side in spent else "-" for side in (*OTHERS, "edgekit")]
            print(f"| {count} | {name} | {' | '.join(times + shares)} |", flush=True)


OTHERS = ("roboflow", "ultralytics")


def qualities(sequences: dict[str, tuple[list[Frame], list[Frame]]], fps: float) -> None:
    """Print HOTA, IDF1, MOTA and the number of id switches on sequences: truth and detections, by name."""
    print("| sequence | tracker | side | HOTA | IDF1 | MOTA | id switches |")
    print("|---|---|---|---|---|---|---|")
    for sequence, (truth, found) in sequences.items():
        for name in NAMES:
            for side, make in SIDES.items():
                tracker = make(name, fps)
                if tracker is not None:
                    *shares, switches = score(truth, [tracker(number, frame) for number, frame in enumerate(found)])
                    values = " | ".join(f"{value:.3f}" for value in shares)
                    print(f"| {sequence} | {name} | {side} | {values} | {switches:.0f} |", flush=True)


def crowds(seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, tuple[list[Frame], list[Frame]]]:
    """Truth and detections of generated crowds: 100 walkers, 10 seconds."""
    made = {}
    for seed in seeds:
        frames = crowd(100, 300, seed)
        truth = [(frame.track_ids, frame.truth) for frame in frames]
        made[f"crowd {seed}"] = truth, [(frame.boxes, frame.scores) for frame in frames]
    return made


def recorded(folder: Path) -> dict[str, tuple[list[Frame], list[Frame]]]:
    """Truth and detections of a sequence in the MOT format."""
    truth = [(frame.track_ids, frame.boxes) for frame in mot.read(folder / "gt.txt")]
    found = [(frame.boxes, frame.scores) for frame in mot.read(folder / "det.txt")]
    found += [(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))] * (len(truth) - len(found))
    return {folder.name: (truth, found)}


def score(truth: list[Frame], tracks: list[Frame]) -> tuple[float, float, float, float]:
    """HOTA, IDF1, MOTA and id switches of tracks (ids, boxes) per frame, by TrackEval at its own thresholds."""

    def numbered(side: list[Frame]) -> list[mot.MotFrame]:
        return [
            mot.MotFrame(number, np.asarray(ids, np.int64), boxes, np.ones(len(ids), np.float32))
            for number, (ids, boxes) in enumerate(side, 1)
        ]

    measured = measure_tracks(numbered(truth), numbered(tracks[: len(truth)]))
    return measured.hota, measured.idf1, measured.mota, float(measured.switches)


def main() -> None:
    """Print all tables."""
    needed = {"trackers": "trackers==2.6.1", "supervision": "trackers==2.6.1", "trackeval": "trackeval==1.3.0"}
    for package, requirement in needed.items():
        try:
            importlib.import_module(package)
        except ImportError:
            sys.exit(f"this benchmark needs {package}, which is not installed here: pip install {requirement}")
    speeds()
    print()
    qualities(crowds(), RATE)
    if len(sys.argv) > 1:
        print()
        qualities(recorded(Path(sys.argv[1])), float(sys.argv[2]) if len(sys.argv) > 2 else 25.0)


if __name__ == "__main__":
    main()
