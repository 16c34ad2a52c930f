"""Parts of the runtimes of other platforms beside Python's, on the same inputs in the same run: ratios of CPU time.

Postprocessing of a detector at 640 (8,400 anchors, 80 classes, 39 boxes kept) and of a segmenter (40 masks), the
exact letterbox of a picture of 810x1080, and trackers with 8, 20 and 100 objects. A letterbox is the whole way from
8-bit pixels to the normalised float tensor; Python's is OpenCV's ``resize``, ``split`` and three ``LUT``. All are CPU
times of one thread, in turns, and the fastest of each counts.

    OMP_NUM_THREADS=1 python benchmarks/platforms.py [swift] [kotlin] [web]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

sys.path.append(str(Path(__file__).parent))
from overhead import HEIGHT, SIZE, STRIDES, WIDTH, heads
from tracking import moving

from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import Preprocessor, transform
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tracking import open_tracker
from edgekit.shapes import scene

ROOT = Path(__file__).parent.parent
TRACKERS = ("sort", "bytetrack", "ocsort", "botsort")
COUNTS = (8, 20, 100)
TURNS = 3


def contract(task: str, coefficients: int = 0) -> Contract:
    """The contract of a YOLO detector or segmenter with DFL."""
    outputs = [
        Output(name=f"{role}{level}", role=role, level=level)
        for level in range(len(STRIDES))
        for role in ("boxes", "classes", "coefficients")[: 3 if coefficients else 2]
    ]
    if coefficients:
        outputs.append(Output(name="prototypes", role="prototypes"))
    return Contract(
        task=task,
        image=ImageRule(size=(SIZE, SIZE)),
        classes=tuple(f"class{number}" for number in range(80)),
        decoder=Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": 16}),
        outputs=tuple(outputs),
    )


def segmented(objects: int) -> list[np.ndarray]:
    """Raw outputs of a segmenter, whose prototypes are as smooth as a network's."""
    rng, plain = np.random.default_rng(1), heads(objects)
    found = []
    for level, stride in enumerate(STRIDES):
        side = SIZE // stride
        found += [*plain[2 * level : 2 * level + 2], rng.normal(0, 1, (1, 32, side, side)).astype(np.float32)]
    coarse = rng.normal(0, 1, (32, SIZE // 32, SIZE // 32)).astype(np.float32)
    return [*found, np.stack([cv2.resize(plane, (SIZE // 4, SIZE // 4)) for plane in coarse])[None]]


def fastest(turns: int, work: Callable[[], object]) -> float:
    """Milliseconds of the fastest turn."""
    best = float("inf")
    for _ in range(turns):
        begun = time.thread_time()
        work()
        best = min(best, time.thread_time() - begun)
    return 1e3 * best


def python(tasks: list[tuple[str, Contract, list[np.ndarray]]], image: np.ndarray) -> dict[str, float]:
    """Milliseconds of Python's runtime by name."""
    cv2.setNumThreads(1)  # what its other threads do would not be counted
    found = {}
    for name, one, outputs in tasks:
        task, mapping = open_task(one), transform(one.image, WIDTH, HEIGHT)
        found[name] = fastest(60, lambda task=task, outputs=outputs, mapping=mapping: task.result(outputs, mapping))
    prepare = Preprocessor(tasks[0][1].image)
    found["letterbox"] = fastest(60, lambda: prepare(image))
    for count in COUNTS:
        frames = moving(count, 120)
        for name in TRACKERS:
            best = np.full(len(frames), np.inf)
            for _ in range(5):
                tracker = open_tracker(name)
                for number, (boxes, scores) in enumerate(frames):
                    ids = np.zeros(len(boxes), np.int64)
                    begun = time.thread_time()
                    tracker.update(boxes, scores, ids, time=number / 30)
                    best[number] = min(best[number], time.thread_time() - begun)
            found[f"{name} {count}"] = 1e3 * float(best.mean())
    return found


def write(folder: Path, tasks: list[tuple[str, Contract, list[np.ndarray]]], image: np.ndarray) -> None:
    """The same inputs as files."""
    plan: dict[str, Any] = {"tasks": [], "tracks": []}
    for name, one, outputs in tasks:
        places = []
        for number, output in enumerate(outputs):
            (folder / f"{name}-{number}.bin").write_bytes(output.tobytes())
            places.append({"file": f"{name}-{number}.bin", "shape": output.shape})
        rules = msgspec.to_builtins(one)
        plan["tasks"].append({"name": name, "contract": rules, "size": [WIDTH, HEIGHT], "outputs": places})
    (folder / "picture.rgb").write_bytes(np.ascontiguousarray(image[..., ::-1]).tobytes())
    rule = msgspec.to_builtins(tasks[0][1].image)
    plan["picture"] = {"file": "picture.rgb", "size": [WIDTH, HEIGHT], "rule": rule}
    for count in COUNTS:
        frames = [{"boxes": boxes.tolist(), "scores": scores.tolist()} for boxes, scores in moving(count, 120)]
        plan["tracks"].append({"name": str(count), "frames": frames})
    (folder / "plan.json").write_text(json.dumps(plan))


def swift(folder: Path) -> dict[str, float]:
    """Milliseconds of the Swift runtime by name."""
    command = [
        ROOT / "platforms/swift/test.sh",
        "run",
        "swift",
        "run",
        "--scratch-path",
        "/var/tmp/edgekit-swift-release",
    ]
    done = subprocess.run(
        [*command, "-c", "release", "benchmark", str(folder)],
        env={**os.environ, "EDGEKIT_SWIFT_BUNDLES": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def kotlin(folder: Path) -> dict[str, float]:
    """Milliseconds of the Kotlin runtime by name."""
    command = [ROOT / "platforms/kotlin/test.sh", "benchmark", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def web(folder: Path) -> dict[str, float]:
    """Milliseconds of the web runtime in node by name; trackers by the clock on the wall."""
    package = ROOT / "platforms/web"
    subprocess.run(["npx", "tsc", "-p", "tsconfig.test.json"], cwd=package, check=True)
    command = ["node", package / "build/test/benchmark.js", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


PLATFORMS: dict[str, Callable[[Path], dict[str, float]]] = {"swift": swift, "kotlin": kotlin, "web": web}


def main(names: list[str]) -> None:
    """Measure in turns and print the table."""
    tasks = [
        ("detector", contract("detect"), heads(39)),
        ("segmenter", contract("segment", 32), segmented(40)),
    ]
    image = np.ascontiguousarray(scene(0, (HEIGHT, WIDTH)).image)
    best: dict[str, dict[str, float]] = {name: {} for name in ("Python", *names)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, tasks, image)
        for _ in range(TURNS):
            for name, side in best.items():
                measured = PLATFORMS[name](folder) if name in PLATFORMS else python(tasks, image)
                side.update({key: min(value, side.get(key, value)) for key, value in measured.items()})
    print(f"{'milliseconds':14}" + "".join(f"{name:>10}" for name in best) + "".join(f"{name:>9}/Py" for name in names))
    for key, value in best["Python"].items():
        times = "".join(f"{side[key]:10.3f}" for side in best.values())
        print(f"{key:14}{times}" + "".join(f"{best[name][key] / value:12.2f}" for name in names))


if __name__ == "__main__":
    main(sys.argv[1:] or list(PLATFORMS))
