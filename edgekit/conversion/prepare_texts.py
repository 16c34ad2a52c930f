"""First stage of a vision-language model, in a child process: images, prompts, and the source's own answers."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import numpy as np

from edgekit.calibration.samples import Samples
from edgekit.calibration.split import Split
from edgekit.conversion import prepare
from edgekit.conversion.jobs import Prepared, PrepareTextsJob
from edgekit.conversion.ranges_file import write_ranges
from edgekit.conversion.source_texts import answer, match_all, read_texts
from edgekit.converters import Report
from edgekit.errors import UsageError
from edgekit.graph.blip2.blip2 import Blip2, Forms
from edgekit.graph.blip2.cache import SharedCache
from edgekit.graph.blip2.contract import contract_of
from edgekit.graph.blip2.forms import Float32, Observed, Range
from edgekit.runtimes.bundle.manifest import Contract, Origin

MOST_IMAGES = 24
"""Proof images; each is asked with every prompt."""


def work(job: PrepareTextsJob, report: Report) -> Prepared:
    """Prepare a source for all of its targets.

    Raises:
        SourceError, UsageError, InputError: what was given cannot be used.
    """
    folder = Path(job.folder)
    report("reading the source", 0.0)
    source = Blip2(Path(job.source))
    contract = contract_of(source)
    texts = read_texts(job.prompts, contract)
    report("decoding images", 0.1)
    chosen = _images(job, contract, folder)
    if job.calibrate and chosen.calibration is not None:
        report("observing the vision tower", 0.2)
        write_ranges(folder, observe(source, chosen.calibration, folder / "observed"))
    report("running the source", 0.4)
    notes = (f"fetched from {job.hub}",) if job.hub else ()
    run = match_all if source.retrieval else answer
    run(source, contract, chosen.proof, texts, folder, job.threads)
    return Prepared(
        name=job.name or _name(job, source),
        contract=contract,
        origin=Origin(kind="transformers", name=source.architecture, sha256=source.checkpoint.sha256(), notes=notes),
        shapes={},
        operators={},
        calibration=prepare.calibration_of(job.seed, chosen),
        proof_sha256=chosen.proof.sha256(),
        proof_views=len(chosen.proof),
        photographs=len(chosen.proof),
        reference="the source as it was given, in PyTorch",
        versions={name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
    )


def _name(job: PrepareTextsJob, source: Blip2) -> str:
    """The folder's; a model of the hub has it in its address, its folder is named after the commit."""
    return job.hub.partition("@")[0].rpartition("/")[2] or source.folder.resolve().name


def _images(job: PrepareTextsJob, contract: Contract, folder: Path) -> Split:
    """The streams, with no more proof images than are asked about."""
    chosen = prepare.images(job, contract, folder)
    if job.calibrate and chosen.calibration is None:
        raise UsageError("int8 needs calibration images like those the device will see: give --data FOLDER")
    if len(chosen.proof) > MOST_IMAGES:
        kept = np.array(chosen.proof.images[:MOST_IMAGES])
        np.save(chosen.proof.path, kept)
    return chosen


def observe(source: Blip2, samples: Samples, folder: Path) -> dict[str, Range]:
    """What the inputs of all linear layers of the vision tower reach on images, per channel.

    The tower is written in float32 for it, with these figures as further outputs, and run by ONNX Runtime.
    """
    import onnxruntime

    folder.mkdir()
    graph = source.write("vision", folder, Forms(Observed(), Float32()), SharedCache)
    session = onnxruntime.InferenceSession(str(folder / graph.files[0]))
    names = [tensor.name for tensor in graph.outputs if tensor.name.endswith((".low", ".high"))]
    found: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for tensor in samples:
        for name, reached in zip(names, session.run(names, {"pixel_values": tensor}), strict=True):
            further = np.minimum if name.endswith(".low") else np.maximum
            found[name] = further(found[name], reached) if name in found else reached
    shutil.rmtree(folder)
    layers = [name.removesuffix(".low") for name in names if name.endswith(".low")]
    return {name: Range(found[f"{name}.low"], found[f"{name}.high"]) for name in layers}
