"""Converted bundles of every task, and what Python finds with them: what other platforms are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edgekit
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tracking import open_tracker
from edgekit.shapes import scene

TASKS = ("detector", "pose", "segment", "classify", "semantic", "obb")


def write_pictures(folder: Path) -> Path:
    """Scenes of shapes, of several sizes, in a new folder."""
    folder.mkdir()
    for seed in range(12):
        size = ((256, 256), (180, 320), (301, 199))[seed % 3]
        cv2.imwrite(str(folder / f"{seed:02}.png"), np.ascontiguousarray(scene(seed, size).image))
    return folder


def converted(task: str, target: str, out: Path, pictures: Path) -> Bundle:
    """The trained network of a task as a bundle with golden frames."""
    from edgekit.shapes import trained

    model: Any = getattr(trained, task)()
    (outcome,) = edgekit.convert(
        model,
        target,
        precision="fp32",
        data=pictures,
        out=out,
        contract=model.contract,
        name=task,
        gated=False,
        golden=True,
    )
    assert outcome.bundle is not None, outcome.error
    return outcome.bundle


def run(bundle: Bundle) -> Callable[..., Any]:
    """Python's model of a bundle: the result of an image, perhaps from another score on."""
    import onnxruntime

    contract, (graph,) = bundle.manifest.contract, bundle.manifest.graphs
    session = onnxruntime.InferenceSession(str(bundle.file(graph.files[0])), providers=["CPUExecutionProvider"])
    prepare, task = Preprocessor(contract.image), open_task(contract)

    def result(image: Any, score: float | None = None) -> Any:
        tensor, mapping = prepare(image)
        outputs = session.run([one.name for one in graph.outputs], {graph.inputs[0].name: tensor})
        return task.result(outputs, mapping, score=score)

    return result


def expected(bundle: Bundle, pictures: Path) -> dict[str, Any]:
    """What Python finds in the pictures with the same file, and tracks of the first picture, moving."""
    model = run(bundle)
    found = []
    for file in sorted(pictures.glob("*.png"))[:6]:
        found.append({"image": str(file), "result": model(cv2.imread(str(file))).to_dict(classes=False)})
    golden = any(file.path.startswith("golden/") for file in bundle.manifest.files)
    entry: dict[str, Any] = {"bundle": str(bundle.path), "images": found, "golden": golden}
    if "boxes" in vars(model(cv2.imread(found[0]["image"]))):
        tracker, frames = open_tracker("bytetrack", new_score=0.3, high_score=0.25), []
        for number in range(8):
            image = np.roll(cv2.imread(found[0]["image"]), 3 * number, 1)
            file = bundle.path.parent / f"{bundle.path.name}-{number}.png"
            cv2.imwrite(str(file), image)
            seen = model(image, tracker.least_score)
            tracks = tracker.update(seen.boxes, seen.scores, seen.class_ids, time=number / 30).visible
            tracked = replace(seen[tracks.detections], track_ids=tracks.track_ids)
            document = tracked.to_dict(classes=False)
            frames.append({"image": str(file), "track_ids": tracks.track_ids.tolist(), "tracked": document})
        entry["frames"] = frames
    return entry
