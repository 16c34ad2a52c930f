"""A bundle's decoded results on the proof images against its source's, and the negative control of that comparison."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.conversion import doubts
from edgekit.conversion.contact_sheet import ContactSheet
from edgekit.conversion.control import BLINDED, NEGATED, blinded, negated, passed_control, refuse_identical
from edgekit.conversion.evidence import evidence_of
from edgekit.conversion.jobs import Prepared
from edgekit.conversion.reference import add_anchors, are_enough, detections, read_detections
from edgekit.conversion.workspace import Workspace
from edgekit.errors import ContractError, EngineError
from edgekit.evaluation.agreement import ANGLES, COSINES, SCORE_FLOOR, DriftTally, Tally, judge
from edgekit.evaluation.object_sizes import without_sizes
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import (
    Agreement,
    Contract,
    Evidence,
    Gate,
    Manifest,
    NegativeControl,
    OutputDrift,
)
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections, Result
from edgekit.runtimes.tasks import Task, open_task


def compare_network(
    model: Model[Result],
    prepared: Prepared,
    workspace: Workspace,
    gate: Gate,
    report: Report,
    sheet: Path | None = None,
    batch: int = 1,
) -> Evidence:
    """Run an opened bundle on every proof image, ``batch`` at a time, and compare it with the source's results; draw a
    contact sheet. Then compare damaged results, which have to fail (`edgekit.conversion.control`).

    The bundle is normalised and decoded by its own contract, the source by the one that was stated for it: a mistake in
    either shows as drift.

    Raises:
        ContractError: the two describe different heads or another resizing, so that nothing can be compared.
        EngineError: the bundle gives NaN or infinite values.
        ConversionError: the negative control passes.
    """
    if model.manifest is None:
        raise TypeError("only an opened bundle can be proven")
    _check_comparable(model.contract, prepared)
    source = _SourceResults(prepared, workspace)
    precision, names = model.manifest.precision, source.names
    if source.task.oriented and source.enough and precision in ANGLES:
        gate = msgspec.structs.replace(gate, angle=ANGLES[precision])
    sums = _Sums(source, model.task, precision, gate)
    seen, given = doubts.Sameness(names, 0.0), doubts.Sameness(names, doubts.CLEARLY)
    proof = workspace.proof_images(model.contract.image)
    kept: list[Floats] = []
    drawing = None if sheet is None else _contact_sheet(sheet, model.manifest, prepared, len(proof))
    for index, outputs in enumerate(_in_batches(model, proof, batch)):
        report("comparing with the source", index / len(proof))
        raw, ours = source.raw(index), sums.ordered(outputs)
        seen.add(ours)
        given.add(raw)
        for name, output in zip(names, ours, strict=True):
            if not np.isfinite(output).all():
                raise EngineError(f"output {name!r} holds NaN or infinite values; convert in another precision")
        if drawing is not None:
            drawing.add(index, proof.images[index], (source.task, raw), (model.task, outputs))
        sums.add(index, outputs)
        if index == source.fullest:
            kept = [np.array(output) for output in outputs]
    decoded, measured = sums.agreement(), sums.drifts()
    if drawing is not None:
        drawing.write(_caption(decoded))
    gate = gate if decoded.by_size else without_sizes(gate)
    failures = sums.failures()
    if len(seen.names) == len(names) > len(given.names):
        failures = (*failures, "the outputs are the same for every image, the source's are not")
    refuse_identical(precision, measured)
    return evidence_of(
        model.manifest,
        prepared,
        [model.placement],
        gate,
        "detections" if source.enough else "candidates",
        failures,
        decoded=decoded,
        outputs=measured,
        control=_control(kept, source, _Sums(source, model.task, precision, gate)),
    )


class _SourceResults:
    """The source's results on the proof images; ``fullest`` is the image in which it finds most."""

    def __init__(self, prepared: Prepared, workspace: Workspace) -> None:
        self.task = open_task(prepared.contract)
        self.names = [output.name for output in prepared.contract.outputs]
        self._raws = [np.load(workspace.reference(name), mmap_mode="r") for name in self.names]
        self.found = read_detections(workspace.detections)
        self.enough = are_enough(self.found)
        counts = [int((one.scores > SCORE_FLOOR).sum()) for one in self.found]
        self.fullest = counts.index(max(counts))

    def raw(self, index: int) -> list[Floats]:
        """Its raw outputs of one image."""
        return [np.asarray(raw[index]) for raw in self._raws]


class _Sums:
    """A comparison of some images, added up: decoded results, and each raw output."""

    def __init__(self, source: _SourceResults, task: Task, precision: str, gate: Gate) -> None:
        self._source, self._task, self.gate = source, task, gate
        self._order = [[output.name for output in task.contract.outputs].index(name) for name in source.names]
        self._tally = Tally.of(source.task, gate.iou)
        self._drifts = [DriftTally(name) for name in source.names]
        self._least_cosine = None if source.enough else COSINES.get(precision)

    def ordered(self, outputs: Sequence[Floats]) -> list[Floats]:
        """The bundle's raw outputs in the source's order."""
        return [outputs[place] for place in self._order]

    def add(self, index: int, outputs: Sequence[Floats]) -> None:
        """Compare the bundle's raw outputs of one image, in the order of its contract."""
        raw = self._source.raw(index)
        for drift, output, reference in zip(self._drifts, self.ordered(outputs), raw, strict=True):
            drift.add(reference, output)
        if self._source.enough:
            self._tally.add_detections(self._source.found[index], detections(self._task, outputs))
        else:
            add_anchors(self._tally, self._source.task, raw, self._task, outputs)

    def agreement(self) -> Agreement:
        """Of decoded results."""
        return self._tally.agreement()

    def drifts(self) -> tuple[OutputDrift, ...]:
        """Of raw outputs."""
        return tuple(drift.drift() for drift in self._drifts)

    def failures(self) -> tuple[str, ...]:
        """How the images fall outside the gate."""
        return judge(self.agreement(), self.drifts(), self.gate, self._least_cosine)


def _control(outputs: Sequence[Floats], source: _SourceResults, sums: _Sums) -> NegativeControl:
    """Compare damaged outputs of the image in which the source finds most.

    Raises:
        ConversionError: they pass.
    """
    blind = source.enough and issubclass(source.task.gives, Detections)
    damage, damaged = (BLINDED, blinded(outputs)) if blind else (NEGATED, negated(outputs))
    try:
        sums.add(source.fullest, damaged)
        failures = sums.failures()
    except EngineError as error:  # numbers that no network gives are refused before they are compared
        failures = (str(error),)
    return passed_control(damage, failures, sums.gate)


def _in_batches(model: Model[Result], tensors: Iterable[Floats], batch: int) -> Iterator[list[Floats]]:
    """The outputs of each image, from runs of so many at once; the last run is filled up with its last image."""
    if batch == 1:
        for tensor in tensors:
            yield list(model.outputs(tensor))
        return
    images = iter(tensors)
    while taken := [np.array(one) for one in itertools.islice(images, batch)]:
        outputs = model.outputs(np.concatenate(taken + taken[-1:] * (batch - len(taken))))
        for place in range(len(taken)):
            yield [output[place : place + 1] for output in outputs]


def _contact_sheet(path: Path, manifest: Manifest, prepared: Prepared, count: int) -> ContactSheet:
    views = 2 if prepared.proof_views == 2 * prepared.photographs else 1
    return ContactSheet(path, ("source", f"{manifest.target} {manifest.precision}"), count, views)


def _caption(decoded: Agreement) -> str:
    """The figures of a contact sheet."""
    sizes = (f"{name} {one.found} of {one.detections}" for name, one in (decoded.by_size or {}).items())
    return ", ".join((f"matched {decoded.matched:.1%} {decoded.counted}", *sizes))


def _check_comparable(bundle: Contract, prepared: Prepared) -> None:
    """Refuse to compare if outputs, image rule or number of classes differ."""
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
