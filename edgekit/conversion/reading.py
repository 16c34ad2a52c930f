"""Read a source of one network, complete its contract from the contract file, and cut it to raw heads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.arrays import Floats
from edgekit.conversion.jobs import PrepareJob
from edgekit.errors import ContractError, SourceError
from edgekit.graph.exchange import flatten
from edgekit.graph.heads import Cut, CutPoint, cut_at, cut_automatically, last_convolutions, outputs_at
from edgekit.graph.nodes import shape_of
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Contract, Output
from edgekit.runtimes.tasks import Task, open_task
from edgekit.runtimes.tasks.decoders import Counts, Registered, find
from edgekit.sources import SourceRequest, TrainedModel, Uncut, load_network
from edgekit.sources.contract_file import StatedContract, read_contract

if TYPE_CHECKING:
    from torch import fx, nn


@dataclass(frozen=True)
class ReadSource:
    """A source with its complete contract, its network cut to raw heads, and where it was cut."""

    model: TrainedModel
    contract: Contract
    heads: nn.Module
    note: str
    cut: tuple[str, ...] = ()


def read_source(job: PrepareJob) -> ReadSource:
    """Load the trained model and complete its contract from the contract file.

    Raises:
        SourceError, ContractError: it cannot be read, or the two do not fit.
    """
    stated = _stated(job)
    weights = Path(job.weights) if job.weights else None
    if stated is not None and job.size is not None:
        stated = dataclasses.replace(stated, image=msgspec.structs.replace(stated.image, size=job.size))
    size = stated.image.size if stated else job.size
    cut = tuple(point.tensor for point in stated.cut) if stated else ()
    model = load_network(SourceRequest(job.source, weights=weights, size=size, cut=cut, trust=job.trust))
    if job.size is not None:
        model = _sized(model, job.size)
    own = "raw heads as the source defines them"
    if stated is None:
        if model.contract is None or model.heads is None:
            raise ContractError(
                f"{job.source}: this kind of source does not contain its image rule, classes and decoder; "
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
        raise ContractError(f"--size {wanted}: this source only takes {own}; export it again at the other size")
    if model.contract is None:
        return model
    image = msgspec.structs.replace(model.contract.image, size=size)
    return dataclasses.replace(model, contract=msgspec.structs.replace(model.contract, image=image))


def _stated(job: PrepareJob) -> StatedContract | None:
    """The contract from a contract file, or from a bundle made from the source."""
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
        outputs=() if points else contract.outputs,
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
        note = "not cut: the decoder reads the outputs as they are"
        return ReadSource(model, stated.complete(whole), flat, note)
    else:
        done = _cut_automatically(flat, stated, decoder)
    return ReadSource(model, stated.complete(done.outputs), done.graph, done.note, done.tensors)


def _cut_automatically(flat: fx.GraphModule, stated: StatedContract, decoder: Registered) -> Cut:
    """Cut at the decoder's heads. Keypoints have a score beside x and y, or none: both are tried, unless the decoder
    says itself how many channels they have.

    Raises:
        ContractError: no such heads.
    """
    options, classes = decoder.read(stated.decoder.options), len(stated.classes)
    channels = decoder.channels(options, classes) if decoder.channels is not None else {}
    if stated.task == "obb":
        channels = {**channels, "angles": 1}
    masks = stated.task == "segment"
    _check_bins(flat, options, set(channels.values()) | {classes})
    if "keypoints" not in decoder.attachments or "keypoints" in channels or stated.skeleton is None:
        return cut_automatically(flat, channels, decoder.name, prototypes=masks)
    with_scores, without = (
        {**channels, "keypoints": decoder.keypoint_channels(options, values * len(stated.skeleton.names))}
        for values in (3, 2)
    )
    try:
        return cut_automatically(flat, without, decoder.name)
    except ContractError:
        pass
    try:
        return cut_automatically(flat, with_scores, decoder.name)
    except ContractError as error:
        raise ContractError(f"{error} (keypoints without scores, x and y only, work too)") from error


def _check_bins(flat: fx.GraphModule, options: object, wanted: set[Counts]) -> None:
    """Refuse a ``reg_max`` of one less than the convolutions have bins: the name has two meanings.

    Raises:
        ContractError: names the number that fits.
    """
    bins = getattr(options, "reg_max", None)
    if not isinstance(bins, int):
        return
    found = {shape_of(node)[1] for node in last_convolutions(flat)}
    if not wanted <= found and (wanted - {4 * bins}) | {4 * bins + 4} <= found:
        raise ContractError(
            f"decoder.reg_max: {bins} bins per side need {4 * bins} channels of boxes, but the last convolutions have "
            f"{4 * bins + 4}: write reg_max: {bins + 1} (GFL and NanoDet call the largest distance reg_max, and have "
            "one bin more)"
        )


def uncut_task(model: TrainedModel, contract: Contract) -> Task | None:
    """The task that decodes the model's original, uncut outputs; None if they cannot be decoded."""
    uncut = model.uncut or _fused(model, contract)
    if uncut is None:
        return None
    return open_task(msgspec.structs.replace(contract, decoder=uncut.decoder, outputs=uncut.outputs))


def _fused(model: TrainedModel, contract: Contract) -> Uncut | None:
    """The fused output of a decoder's family, if the model returns one tensor of that shape."""
    import torch

    decoder = find(contract.decoder)
    if decoder.fused is None or model.heads is not None:
        return None
    with torch.no_grad():
        outputs = arrays_of(model.module(model.example))
    roles = ("predictions", "prototypes") if contract.task == "segment" else ("predictions",)
    if len(outputs) != len(roles):
        return None
    # Keypoints and mask coefficients stand behind the class scores of each box.
    points = len(contract.skeleton.names) if contract.skeleton and decoder.task == "detect" else 0
    behind = [outputs[1].shape[1]] if contract.task == "segment" else sorted({3 * points, 2 * points})
    behind = [1] if contract.task == "obb" else behind  # the angle
    batch, values, *rest = outputs[0].shape
    for attached in behind:
        spec = decoder.fused(contract.decoder.options, (batch, values - attached, *rest), len(contract.classes))
        if spec is not None:
            options = {**spec.options, "attached": attached} if attached else spec.options
            return Uncut(msgspec.structs.replace(spec, options=options), tuple(Output(name=r, role=r) for r in roles))
    return None


def arrays_of(outputs: object) -> list[Floats]:
    """The outputs of a network as arrays, in order.

    Raises:
        SourceError: it returns something else than tensors.
    """
    import torch

    if isinstance(outputs, torch.Tensor):
        return [outputs.float().numpy()]
    if isinstance(outputs, list | tuple):
        return [array for output in outputs for array in arrays_of(output)]
    raise SourceError(f"the network returns a {type(outputs).__name__}; a tensor or a flat tuple of tensors is needed")
