"""Compare decoded results: a bundle's detections, poses, masks or classes with those of its source."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.calibration.layers import names_in
from edgekit.calibration.samples import Samples, new_stack
from edgekit.conversion import contract_trials, doubts
from edgekit.conversion.evidence import evidence_of
from edgekit.conversion.jobs import Exported, Part, Prepared, PrepareJob, Reference
from edgekit.conversion.network import compare_network
from edgekit.conversion.reading import ReadSource, arrays_of, read_source, uncut_task
from edgekit.conversion.reference import detections, read_detections, save_detections
from edgekit.conversion.workspace import Workspace
from edgekit.emulators import proof_device
from edgekit.errors import SourceError
from edgekit.evaluation.agreement import GATES, Tally
from edgekit.evaluation.object_sizes import SIZES
from edgekit.graph.exchange import operators, write_exchange
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import (
    Contract,
    Evidence,
    Gate,
    Output,
)
from edgekit.runtimes.inputs.media import ImageReference
from edgekit.runtimes.model import load
from edgekit.runtimes.results import Detections
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tracking.fitting import fitted
from edgekit.sources import WHOLE


class DecodedSource:
    """A model of one network, run in PyTorch; see `edgekit.conversion.comparison.ReferenceSource`."""

    parts: tuple[Part, ...] = (Part(name=WHOLE, role=WHOLE),)
    written = ""
    most_images: int | None = None
    has_recipes = True
    packages: tuple[str, ...] = ("torch",)

    def __init__(self, job: PrepareJob) -> None:
        read = read_source(job)
        self.name, self.contract = job.name or read.model.name, read.contract
        self.origin = msgspec.structs.replace(read.model.origin, notes=(*read.model.notes, read.note), cut=read.cut)
        self._read, self._stated, self._spec = read, bool(job.contract), job.source
        self._fitted = False

    def export(self, workspace: Workspace) -> Exported:
        """Write the network in exchange form.

        Raises:
            SourceError: it cannot be exported.
            ContractError: the decoder does not fit its outputs.
        """
        names = tuple(output.name for output in self.contract.outputs)
        exchange = write_exchange(self._read.heads, self._read.model.example, names, workspace.folder)
        self.origin = msgspec.structs.replace(self.origin, rewrites=exchange.rewrites or msgspec.UNSET)
        # Decode zeros once, so that a decoder that does not fit its heads is found before anything is built.
        empty = [np.zeros(exchange.shapes[name], np.float32) for name in names]
        open_task(self.contract).candidates(empty, 0.99)
        return Exported(exchange.shapes, operators(exchange.onnx), self._layers(exchange.onnx))

    def _layers(self, exchange: Path) -> dict[str, str]:
        """The names of layers in the ONNX file that the network came from."""
        import onnx

        if self.origin.kind != "onnx":
            return {}
        return names_in(onnx.load(self._spec), onnx.load(exchange))

    def run(self, proof: Samples, workspace: Workspace, report: Report) -> Reference:
        """Store raw outputs and detections of all images.

        Where the model as given can be decoded too, its detections are the reference, and the cut has to agree with
        them.

        Raises:
            SourceError: the source gives NaN itself, two results for one image or one for all, or the cut changed the
                result.
        """
        reference = _store_results(self._read, proof, workspace)
        if not self._fitted:  # to the proof images, which come first
            self.contract, self._fitted = _with_tracker_options(self.contract, workspace), True
        return reference

    def doubts(self, images: Sequence[ImageReference]) -> tuple[str, ...]:
        """Doubts from reading the source, and whether it finds clearly more by another image rule than by the one
        that a user stated.
        """
        import torch

        read = self._read.model.doubts
        if not self._stated:
            return read

        def network(tensor: Floats) -> list[Floats]:
            with torch.no_grad():
                return arrays_of(self._read.heads(torch.from_numpy(tensor)))

        said = contract_trials.suggestion(network, self.contract, images) or contract_trials.unusual(self.contract)
        return (*read, said) if said else read


class DecodedComparison:
    """Compares bundles of one network; see `edgekit.conversion.comparison.Comparison`."""

    takes = frozenset(
        [
            "options",
            "batches",
            "methods",
            "plan",
            "recipe",
            "max_drop",
            "labels",
            "finetune",
            "replace_silu",
            "choose",
            "fail_if_slower",
        ]
    )
    bounds: tuple[str, ...] = ("iou", "matched", "score_drift", "extra", *SIZES)
    gates: Mapping[str, Gate] = GATES

    def judged_by(self, precisions: Sequence[str]) -> str:
        """The precision of the only part."""
        return precisions[0]

    def compare(
        self,
        bundle: Bundle,
        prepared: Prepared,
        workspace: Workspace,
        gate: Gate,
        threads: int,
        report: Report,
        sheet: Path | None = None,
        batch: int = 1,
    ) -> Evidence:
        """Run a bundle on every proof image and compare its decoded results with the source's.

        Raises:
            ContractError: the two describe different heads or another resizing, so that nothing can be compared.
            EngineError: the engine cannot open or run it, or it gives NaN or infinite values.
        """
        device = proof_device(bundle.manifest.engine, bundle.manifest.graphs[0])
        model = load(bundle, threads=threads, unit=device, warm_up=0, size=prepared.contract.image.size)
        if model.placement.word == "compiled":
            said = ("compiled, and nothing here can run it: verify it on the device",)
            return evidence_of(bundle.manifest, prepared, [model.placement], gate, "nothing", said)
        return compare_network(model, prepared, workspace, gate, report, sheet, batch)


def _store_results(read: ReadSource, proof: Samples, workspace: Workspace) -> Reference:
    import torch

    model, heads, contract = read.model, read.heads, read.contract
    task, uncut = open_task(contract), uncut_task(model, contract)
    names = [output.name for output in contract.outputs]
    stacks = None
    found: list[Candidates] = []
    sameness = doubts.Sameness(names)
    cut_check = Tally.of(task, 0.99)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, tensor in enumerate(proof):
            raw = arrays_of(heads(torch.from_numpy(tensor)))
            if stacks is None:
                stacks = [
                    _stack(workspace, output, len(proof), array)
                    for output, array in zip(contract.outputs, raw, strict=True)
                ]
            sameness.add(raw)
            for output, stack, array in zip(contract.outputs, stacks, raw, strict=True):
                if not np.isfinite(array).all():
                    raise SourceError(f"the source gives NaN or infinite values itself, in output {output.name!r}")
                stack[index] = array
            if not index:
                _refuse_empty(read, tensor, raw)
                if model.check is not None:
                    model.check(torch.from_numpy(tensor))
            found.append(detections(task, raw))
            if uncut is not None:
                given = detections(uncut, _finite(arrays_of(model.module(torch.from_numpy(tensor)))))
                cut_check.add_detections(given, found[-1])
                found[-1] = given
    save_detections(workspace.detections, found)
    constant = sameness.names if len(proof) > 1 and not doubts.are_equal(proof) else ()
    said = (*doubts.of_images(proof), *doubts.of_results(found, constant, _trained(read)))
    if uncut is None:
        return Reference(how="the source's raw heads in PyTorch, decoded by edgekit", doubts=said)
    agreement = cut_check.agreement()
    if agreement.matched < 0.999 or agreement.score_drift > 1e-3:
        raise SourceError(
            f"cutting the head changed the result (matched {agreement.matched:.3f} {agreement.bound}, score drift "
            f"{agreement.score_drift:.4f}): the decoder options in the contract do not describe this network"
        )
    return Reference(how="the source as it was given, in PyTorch", doubts=said)


def _with_tracker_options(contract: Contract, workspace: Workspace) -> Contract:
    """The contract with thresholds of trackers that fit the source's scores, where the usual ones would not."""
    if contract.trackers or not issubclass(open_task(contract).gives, Detections):
        return contract
    found = [one.scores for one in read_detections(workspace.detections)]
    fitting = fitted(np.concatenate(found), contract.postprocess.score)
    return msgspec.structs.replace(contract, tracker_options=dict(fitting)) if fitting else contract


def _refuse_empty(read: ReadSource, tensor: Floats, raw: Sequence[Floats]) -> None:
    """Refuse a source of which nothing can be proven: in training mode, by chance, or blind.

    Raises:
        SourceError: it is.
    """
    import torch

    names = [output.name for output in read.contract.outputs]
    states = _states(read)
    again = arrays_of(read.heads(torch.from_numpy(tensor)))
    doubts.refuse_unstable(names, raw, again)
    changed = [name for name, version in _states(read).items() if version != states[name]]
    if changed:
        raise SourceError(
            f"the source changes its own {changed[0]} when it runs: it is in training mode; put the network in eval "
            "mode (.eval()) before it is saved or returned"
        )
    doubts.refuse_blind(names, raw, arrays_of(read.heads(torch.from_numpy(doubts.noise(read.contract.image)))))


def _states(read: ReadSource) -> dict[str, int]:
    """How often each tensor of the network has been written to."""
    return {name: value._version for name, value in read.heads.state_dict(keep_vars=True).items()}


def _finite(outputs: list[Floats]) -> list[Floats]:
    if any(np.isnan(output).any() for output in outputs):
        raise SourceError("the source gives NaN itself, in the outputs that it was given with")
    return outputs


def _trained(read: ReadSource) -> str:
    """Possible reasons why a source finds nothing."""
    if read.model.origin.kind == "factory":
        return "are its weights trained ones (--weights), and are these images (--data) like those it was trained on?"
    images = "are these images (--data) like those it was trained on?"
    if read.model.contract is None:
        return f"is the contract right (scale, mean, std, color, size), and {images}"
    return images


def _stack(workspace: Workspace, output: Output, count: int, array: Floats) -> NDArray[np.float32]:
    return new_stack(workspace.reference(output.name), np.float32, (count, *array.shape))
