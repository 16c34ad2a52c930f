"""First stage, in a child process: source in, exchange files, image streams and the source's own answers out."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.calibration.half import fp16_issues
from edgekit.calibration.plan import Fp16Issue
from edgekit.calibration.samples import Samples
from edgekit.calibration.split import Split, split, store
from edgekit.conversion.jobs import Prepared, PrepareJob, PrepareTextsJob
from edgekit.conversion.reference import detections, save_detections
from edgekit.converters import Report
from edgekit.errors import ContractError, SourceError
from edgekit.evaluation.agreement import Tally
from edgekit.graph.exchange import flatten, operators, write_exchange
from edgekit.graph.heads import CutPoint, cut_at, cut_automatically, outputs_at
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Calibration, Contract, Output
from edgekit.runtimes.tasks import Task, open_task
from edgekit.runtimes.tasks.decoders import Candidates, find
from edgekit.sources import Request, TrainedModel, Uncut, load
from edgekit.sources.contract_file import StatedContract, read_contract

if TYPE_CHECKING:
    from torch import nn

HELD = "held"
"""Folder of the calibration images that were held back, with the source's answers."""

SYNTHETIC = 24
"""Generated scenes that serve as proof images when the user gives none."""


def work(job: PrepareJob, report: Report) -> Prepared:
    """Prepare one source for all of its targets.

    Raises:
        SourceError, ContractError, UsageError, InputError: what was given cannot be used.
    """
    import torch

    torch.set_num_threads(2)
    folder = Path(job.folder)
    report("reading the source", 0.0)
    read = read_source(job)
    model, contract, heads = read.model, read.contract, read.heads
    report("exporting", 0.2)
    names = tuple(output.name for output in contract.outputs)
    exchange = write_exchange(heads, model.example, names, folder)
    _check_decodes(contract, exchange.shapes)
    report("decoding images", 0.6)
    chosen = images(job, contract, folder)
    report("running the source", 0.7)
    reference = _run_source(model, heads, contract, chosen.proof, folder)
    if chosen.holdout is not None:
        _run_source(model, heads, contract, chosen.holdout, folder / HELD)
    return Prepared(
        name=job.name or model.name,
        contract=contract,
        origin=msgspec.structs.replace(model.origin, notes=(*model.notes, read.note), cut=read.cut),
        shapes=exchange.shapes,
        operators=operators(exchange.onnx),
        calibration=calibration_of(job.seed, chosen),
        proof_sha256=chosen.proof.sha256(),
        proof_views=len(chosen.proof),
        photographs=chosen.photographs,
        held_views=len(chosen.holdout) if chosen.holdout else 0,
        reference=reference,
        half=_half(job, chosen, exchange.onnx, report),
        versions={"torch": metadata.version("torch")},
    )


@dataclass(frozen=True)
class ReadSource:
    """A source with its whole contract, the network that gives the contract's outputs, and how it was cut."""

    model: TrainedModel
    contract: Contract
    heads: nn.Module
    note: str
    cut: tuple[str, ...] = ()


def read_source(job: PrepareJob) -> ReadSource:
    """Load the trained model and bring it together with what was stated about it.

    Raises:
        SourceError, ContractError: it cannot be read, or the two do not fit.
    """
    stated = _stated(job)
    weights = Path(job.weights) if job.weights else None
    if stated is not None and job.size is not None:
        stated = dataclasses.replace(stated, image=msgspec.structs.replace(stated.image, size=job.size))
    size = stated.image.size if stated else job.size
    cut = tuple(point.tensor for point in stated.cut) if stated else ()
    model = load(Request(job.source, weights=weights, size=size, cut=cut, trust=job.trust))
    if job.size is not None:
        model = _sized(model, job.size)
    own = "raw heads as the source defines them"
    if stated is None:
        if model.contract is None or model.heads is None:
            raise ContractError(
                f"{job.source}: this kind of source does not say what its image rule, classes and decoder are; "
                "write them into a contract file and give it with --contract (docs/CONTRACT.md)"
            )
        return ReadSource(model, model.contract, model.heads, own)
    if tuple(model.example.shape[2:]) != stated.image.size:
        given = tuple(model.example.shape[2:])
        raise ContractError(f"image.size is {stated.image.size}, the source takes {given} (height, width)")
    if model.contract is not None and model.heads is not None and not stated.cut:
        return ReadSource(model, stated.complete(model.contract.outputs), model.heads, own)
    return _cut(model, stated)


def _sized(model: TrainedModel, size: tuple[int, int]) -> TrainedModel:
    """The model with its contract for another input size.

    Raises:
        ContractError: a source whose input size is fixed.
    """
    given = tuple(model.example.shape[2:])
    if given != size:
        wanted, own = (f"{height}x{width}" for height, width in (size, given))
        raise ContractError(f"--size {wanted}: this source is made for {own} alone; export it anew at the other size")
    if model.contract is None:
        return model
    image = msgspec.structs.replace(model.contract.image, size=size)
    return dataclasses.replace(model, contract=msgspec.structs.replace(model.contract, image=image))


def _stated(job: PrepareJob) -> StatedContract | None:
    """What was stated about the source: in a contract file, or by a bundle made from it."""
    if job.contract:
        return read_contract(Path(job.contract))
    if not job.like:
        return None
    manifest = open_bundle(job.like).manifest
    contract, cut = manifest.contract, manifest.origin.cut
    points = [CutPoint(name, output.role, output.level) for name, output in zip(cut, contract.outputs, strict=False)]
    return StatedContract(
        task=contract.task,
        image=contract.image,
        classes=contract.classes,
        decoder=contract.decoder,
        postprocess=contract.postprocess,
        cut=tuple(points),
        skeleton=contract.skeleton,
    )


def _cut(model: TrainedModel, stated: StatedContract) -> ReadSource:
    """Cut the network where the contract says, or where its decoder's heads are."""
    if stated.cut and model.heads is not None and model.origin.cut:
        names = ", ".join(model.origin.cut)
        outputs = outputs_at(stated.cut)
        return ReadSource(model, stated.complete(outputs), model.heads, f"cut at {names}", model.origin.cut)
    if stated.outputs:
        return ReadSource(model, stated.complete(stated.outputs), model.module, "raw heads as the contract names them")
    decoder = find(stated.decoder)
    flat = flatten(model.module, model.example)
    if stated.cut:
        done = cut_at(flat, stated.cut)
    elif decoder.channels is None:
        whole = tuple(Output(name=role, role=role) for role in decoder.whole)
        note = "not cut: the decoder reads what the graph decoded itself"
        return ReadSource(model, stated.complete(whole), flat, note)
    else:
        channels = decoder.channels(decoder.read(stated.decoder.options), len(stated.classes))
        if "keypoints" in decoder.attachments and stated.skeleton is not None:
            channels |= {"keypoints": 3 * len(stated.skeleton.names)}
        done = cut_automatically(flat, channels, decoder.name, prototypes=stated.task == "segment")
    return ReadSource(model, stated.complete(done.outputs), done.graph, done.note, done.tensors)


def _check_decodes(contract: Contract, shapes: dict[str, tuple[int, ...]]) -> None:
    """Decode zeros once, so that a decoder that does not fit its heads is found before anything is built."""
    empty = [np.zeros(shapes[output.name], np.float32) for output in contract.outputs]
    open_task(contract).candidates(empty, 0.99)


def images(job: PrepareJob | PrepareTextsJob, contract: Contract, folder: Path) -> Split:
    """The streams of a conversion: what the user gave, or generated scenes as proof."""
    if job.data or job.proof_data:
        return split(
            job.data or job.proof_data,
            contract.image,
            folder,
            seed=job.seed,
            calibrate=job.calibrate,
            proof_data=job.proof_data,
            choose=job.choose if isinstance(job, PrepareJob) else 0,
            refuse=_calibrated_on(job.like),
        )
    from edgekit.runtimes.inputs.media import references
    from edgekit.shapes import scene

    # No data: generated scenes still show whether the arithmetic survived, on anchors if not on detections.
    scenes = np.stack([scene(900_000 + seed).image for seed in range(SYNTHETIC)])
    samples = store(references(scenes), contract.image, folder / "proof.npy")
    return Split(None, samples, len(samples), False, "generated scenes")


def _half(job: PrepareJob, chosen: Split, onnx: Path, report: Report) -> tuple[Fp16Issue, ...]:
    if not job.half:
        return ()
    report("looking for what float16 cannot hold", 0.9)
    return fp16_issues(onnx, chosen.calibration or chosen.proof, 2)


def _calibrated_on(bundle: str) -> frozenset[str]:
    calibration = open_bundle(bundle).manifest.calibration if bundle else None
    return frozenset(calibration.images if calibration else ())


def calibration_of(seed: int, chosen: Split) -> Calibration | None:
    """What a manifest says of the calibration images."""
    if chosen.calibration is None:
        return None
    samples = chosen.calibration
    return Calibration(
        count=len(samples),
        method=chosen.method,
        seed=seed,
        sha256=samples.sha256(),
        held=len(chosen.holdout) if chosen.holdout else 0,
        images=chosen.digests,
    )


def _run_source(model: TrainedModel, heads: nn.Module, contract: Contract, proof: Samples, folder: Path) -> str:
    """Store the source's raw outputs and detections on the proof images; says what they were taken from.

    Where the model as given can be decoded too, its detections are the reference, and the cut has to agree with them.
    """
    import torch

    task, uncut = open_task(contract), uncut_task(model, contract)
    stacks = None
    found: list[Candidates] = []
    cut_check = Tally(gate_iou=0.99, similarity=task.similarity, measure=task.measure)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, tensor in enumerate(proof):
            raw = _arrays(heads(torch.from_numpy(tensor)))
            if stacks is None:
                stacks = [
                    _stack(folder, output, len(proof), array)
                    for output, array in zip(contract.outputs, raw, strict=True)
                ]
            for output, stack, array in zip(contract.outputs, stacks, raw, strict=True):
                if not np.isfinite(array).all():
                    raise SourceError(f"the source gives NaN or infinite values itself, in output {output.name!r}")
                stack[index] = array
            found.append(detections(task, raw))
            if uncut is not None:
                given = detections(uncut, _arrays(model.module(torch.from_numpy(tensor))))
                cut_check.add_detections(given, found[-1])
                found[-1] = given
    save_detections(folder / "reference.npz", found)
    if uncut is None:
        return "the source's raw heads in PyTorch, decoded by edgekit"
    agreement = cut_check.agreement()
    if agreement.matched < 0.999 or agreement.score_drift > 1e-3:
        raise SourceError(
            f"cutting the head changed the result (matched {agreement.matched:.3f} {agreement.bound}, score drift "
            f"{agreement.score_drift:.4f}): the decoder's numbers in the contract do not describe this network"
        )
    return "the source as it was given, in PyTorch"


def uncut_task(model: TrainedModel, contract: Contract) -> Task | None:
    """Decoding of what the model returns as it was given, where that is known."""
    uncut = model.uncut or _fused(model, contract)
    if uncut is None:
        return None
    return open_task(msgspec.structs.replace(contract, decoder=uncut.decoder, outputs=uncut.outputs))


def _fused(model: TrainedModel, contract: Contract) -> Uncut | None:
    """The usual fused form of a decoder's family, if the model returns one tensor of that shape."""
    import torch

    decoder = find(contract.decoder)
    if decoder.fused is None or model.heads is not None:
        return None
    with torch.no_grad():
        outputs = _arrays(model.module(model.example))
    roles = ("predictions", "prototypes") if contract.task == "segment" else ("predictions",)
    if len(outputs) != len(roles):
        return None
    # Keypoints and mask coefficients stand behind the class scores of each box.
    attached = 3 * len(contract.skeleton.names) if contract.skeleton and decoder.task == "detect" else 0
    attached = outputs[1].shape[1] if contract.task == "segment" else attached
    batch, values, *rest = outputs[0].shape
    spec = decoder.fused(contract.decoder.options, (batch, values - attached, *rest), len(contract.classes))
    if spec is None:
        return None
    if attached:
        spec = msgspec.structs.replace(spec, options={**spec.options, "attached": attached})
    return Uncut(spec, tuple(Output(name=role, role=role) for role in roles))


def _stack(folder: Path, output: Output, count: int, array: Floats) -> NDArray[np.float32]:
    path = folder / f"reference-{output.name}.npy"
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, *array.shape))


def _arrays(outputs: object) -> list[Floats]:
    import torch

    if isinstance(outputs, torch.Tensor):
        return [outputs.float().numpy()]
    if isinstance(outputs, list | tuple):
        return [array for output in outputs for array in _arrays(output)]
    raise SourceError(f"the network returns a {type(outputs).__name__}; a tensor or a flat tuple of tensors is needed")
