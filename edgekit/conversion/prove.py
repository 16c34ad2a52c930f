"""Third stage, in a child process of its own: open the bundle with its engine and compare it with the source."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edgekit.calibration.samples import Samples
from edgekit.conversion.build import PREPARED
from edgekit.conversion.jobs import Prepared, ProveJob
from edgekit.conversion.prepare import HELD
from edgekit.conversion.reference import add_anchors, are_enough, detections, read_detections
from edgekit.converters import Report
from edgekit.emulators import proof_device
from edgekit.errors import ContractError, EngineError
from edgekit.evaluation.agreement import COSINES, DriftTally, Tally, judge
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Contract, Evidence, Gate
from edgekit.runtimes.model import Model, load
from edgekit.runtimes.results import Result
from edgekit.runtimes.tasks import open_task


def work(job: ProveJob, report: Report) -> Evidence:
    """Measure a bundle against the reference that was prepared.

    Raises:
        EngineError: the engine cannot open or run it, or it gives NaN or infinite values.
    """
    folder = Path(job.folder)
    prepared = msgspec.json.decode((folder / PREPARED).read_bytes(), type=Prepared)
    bundle = open_bundle(job.bundle)
    device = proof_device(bundle.manifest.engine, bundle.manifest.graphs[0])
    model = load(bundle, threads=job.threads, unit=device, warm_up=0)
    if model.placement.word == "compiled":
        return _compiled(model, prepared, job.gate)
    return compare(model, prepared, folder / HELD if job.held else folder, job.gate, report)


def compare(model: Model[Result], prepared: Prepared, folder: Path, gate: Gate, report: Report) -> Evidence:
    """Run an opened bundle on every proof image and hold it against the source's answers.

    The bundle is normalised and decoded by its own contract, the source by the one that was stated for it: a mistake in
    either shows as drift.

    Raises:
        ContractError: the two describe different heads or another resizing, so that nothing can be compared.
        EngineError: the bundle gives NaN or infinite values.
    """
    if model.manifest is None:
        raise TypeError("only an opened bundle can be proven")
    _check_comparable(model.contract, prepared)
    ours, theirs = model.task, open_task(prepared.contract)
    tally = Tally(gate_iou=gate.iou, similarity=theirs.similarity, measure=theirs.measure)
    names = [output.name for output in prepared.contract.outputs]
    order = [[output.name for output in model.contract.outputs].index(name) for name in names]
    raws = [np.load(folder / f"reference-{name}.npy", mmap_mode="r") for name in names]
    drifts = [DriftTally(name) for name in names]
    references = read_detections(folder / "reference.npz")
    enough = are_enough(references)
    proof = Samples(folder / "proof.npy", model.contract.image)
    for index, tensor in enumerate(proof):
        report("comparing with the source", index / len(proof))
        outputs = list(model.outputs(tensor))
        source = [np.asarray(raw[index]) for raw in raws]
        for drift, place, reference in zip(drifts, order, source, strict=True):
            if not np.isfinite(outputs[place]).all():
                raise EngineError(f"output {drift.name!r} holds NaN or infinite values; convert in another precision")
            drift.add(reference, outputs[place])
        if enough:
            tally.add_detections(references[index], detections(ours, outputs))
        else:
            add_anchors(tally, theirs, source, ours, outputs)
    decoded, measured = tally.agreement(), tuple(drift.drift() for drift in drifts)
    failures = judge(decoded, measured, gate, None if enough else COSINES.get(model.manifest.precision))
    return Evidence(
        word=model.placement.word,
        engine=model.manifest.engine,
        images=prepared.photographs,
        views=prepared.proof_views,
        images_sha256=prepared.proof_sha256,
        reference=prepared.reference,
        compared="detections" if enough else "candidates",
        decoded=decoded,
        outputs=measured,
        gate=gate,
        passed=not failures,
        failures=failures,
        placement=model.placement.operators,
    )


def _compiled(model: Model[Result], prepared: Prepared, gate: Gate) -> Evidence:
    """What can be said of a file that a compiler accepted and nothing here computes: that it is not proven."""
    if model.manifest is None:
        raise TypeError("only an opened bundle can be proven")
    return Evidence(
        word="compiled",
        engine=model.manifest.engine,
        images=prepared.photographs,
        views=prepared.proof_views,
        images_sha256=prepared.proof_sha256,
        reference=prepared.reference,
        compared="nothing",
        decoded=None,
        outputs=(),
        gate=gate,
        passed=False,
        failures=("compiled, and nothing here can run it: verify it on the device",),
        placement=model.placement.operators,
    )


def _check_comparable(bundle: Contract, prepared: Prepared) -> None:
    """Refuse to compare what has other outputs or sees images resized in another way."""
    source = prepared.contract
    if sorted(output.name for output in bundle.outputs) != sorted(output.name for output in source.outputs):
        given, wanted = (", ".join(output.name for output in one.outputs) for one in (bundle, source))
        raise ContractError(f"the bundle has the outputs {given}, the source as stated has {wanted}")
    for key in ("size", "resize", "pad", "align"):
        ours, theirs = getattr(bundle.image, key), getattr(source.image, key)
        if ours != theirs:
            raise ContractError(f"image.{key} is {ours!r} in the bundle and {theirs!r} in the contract given")
    if len(bundle.classes) != len(source.classes):
        raise ContractError(f"the bundle has {len(bundle.classes)} classes, the contract given {len(source.classes)}")
