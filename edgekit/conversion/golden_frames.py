"""Write a bundle's golden frames: the proof images in which the source finds the most, and what both find in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.conversion.jobs import Prepared
from edgekit.conversion.reference import read_detections
from edgekit.conversion.workspace import Workspace
from edgekit.emulators import proof_device
from edgekit.runtimes.bundle.folder import Bundle, writing
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.golden_frames import FILE, GoldenFrame, GoldenFrames, GoldenOutput, whole
from edgekit.runtimes.model import Model, load
from edgekit.runtimes.results import Result
from edgekit.runtimes.tasks import open_task

FRAMES = 2
"""Golden frames in a bundle."""


def write_frames(folder: Path, bundle: Bundle, prepared: Prepared, workspace: Workspace, threads: int) -> None:
    """Write the golden frames of a bundle that was compared with its source, a few into ``folder``.

    Raises:
        EngineError: the bundle cannot be run. BundleError: the folder cannot be written.
    """
    import cv2

    contract, stated = bundle.manifest.contract, prepared.contract
    images = workspace.proof_images(contract.image).images
    device = proof_device(bundle.manifest.engine, bundle.manifest.graphs[0])
    frames = []
    with (
        writing(folder),
        load(bundle, threads=threads, unit=device, warm_up=0, size=contract.image.size) as model,
    ):
        folder.mkdir(exist_ok=True)
        for number, index in enumerate(_chosen(prepared, workspace)):
            image, name = np.ascontiguousarray(images[index]), f"frame-{number}.png"
            (folder / name).write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
            raw = [
                np.asarray(np.load(workspace.reference(output.name), mmap_mode="r")[index]) for output in stated.outputs
            ]
            source = _found(stated, raw, contract)
            if model.placement.word == "compiled":
                frames.append(GoldenFrame(image=name, source=source))
                continue
            outputs = [np.array(one) for one in model.outputs(model.preprocess.normalise(image))]
            frames.append(
                GoldenFrame(
                    image=name,
                    source=source,
                    bundle=_found(contract, outputs, contract),
                    outputs=_values(model, outputs),
                )
            )
        post = contract.postprocess
        golden = GoldenFrames(
            word=model.placement.word,
            engine="+".join(bundle.manifest.engines),
            score=post.score,
            iou=post.iou,
            frames=tuple(frames),
        )
        (folder / Path(FILE).name).write_bytes(msgspec.json.encode(golden) + b"\n")


def _chosen(prepared: Prepared, workspace: Workspace) -> list[int]:
    """Places of the proof images in which the source finds the most, each photograph in its first view only."""
    views = 2 if prepared.proof_views == 2 * prepared.photographs else 1
    least = prepared.contract.postprocess.score
    counts = [int((found.scores > least).sum()) for found in read_detections(workspace.detections)][::views]
    best = sorted(range(len(counts)), key=lambda place: -counts[place])[:FRAMES]
    return [place * views for place in sorted(best)]


def _found(contract: Contract, outputs: Sequence[Floats], shown: Contract) -> dict[str, object]:
    """The result of raw outputs by a contract, at the thresholds of the bundle's, as a document."""
    post = shown.postprocess
    result: Result = open_task(contract).result(outputs, whole(shown.image.size), score=post.score, iou=post.iou)
    return result.to_dict(classes=False)


def _values(model: Model[Result], outputs: Sequence[Floats]) -> tuple[GoldenOutput, ...]:
    names = [output.name for output in model.contract.outputs]
    return tuple(GoldenOutput.of(name, output) for name, output in zip(names, outputs, strict=True))
