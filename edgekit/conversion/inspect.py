"""``edgekit inspect``: a source's inputs and outputs, the family it seems to be of, and a contract to start from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.conversion.contract_trials import alternatives
from edgekit.conversion.families import believed, cut_by_itself
from edgekit.conversion.family import Family, levels_of
from edgekit.conversion.jobs import InspectJob, PrepareJob
from edgekit.conversion.reading import read_source
from edgekit.conversion.runner import run
from edgekit.conversion.workspace import temporary_workspace
from edgekit.errors import EngineError, InputError, SourceError, UsageError
from edgekit.graph.exchange import flatten
from edgekit.graph.heads import results_of
from edgekit.graph.tails import Ending, ending_of, with_shapes
from edgekit.progress import Progress, Report, report_of, silent
from edgekit.runtimes.bundle.manifest import Contract, ImageRule, Record
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Classification, Detections, Result
from edgekit.sources import SourceRequest, TrainedModel, find, load_network, locate
from edgekit.sources.class_names import NAMED
from edgekit.sources.contract_file import write_contract
from edgekit.sources.session import TorchSession

if TYPE_CHECKING:
    from torch import fx

OPEN_SIZE = 640
"""Pixels of a side that the file leaves open, where the user gives no size."""


OWN_RULE = "the contract's own"


class Port(Record, frozen=True, kw_only=True):
    """An input or an output. Dimensions that the file leaves open have their name, or ``?``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def dynamic(self) -> bool:
        """Whether a dimension is open."""
        return any(isinstance(dim, str) for dim in self.shape)


class Head(Record, frozen=True, kw_only=True):
    """A tensor that the network can be cut at: one of the last convolutions, or a part of its channels.

    Attributes:
        tensor: its name under ``cut:``: the ONNX file's own, or that of the exported torch graph.
        shape: (1, channels, rows, columns).
        level: 0 for the finest grid.
        stride: input pixels a cell.
        then: operators that only this tensor goes through.
        role: what it seems to be, empty where that is not known.
    """

    tensor: str
    shape: tuple[int, ...]
    level: int
    stride: float
    then: tuple[str, ...] = ()
    role: str = ""


class Trial(Record, frozen=True, kw_only=True):
    """The result of one image rule on the photograph: its description, how many objects, and the best score."""

    rule: str
    found: int
    top: float


class Inspected(Record, frozen=True, kw_only=True):
    """Everything that `edgekit inspect` reports about a source.

    Attributes:
        source, kind: as the user names it, and what that is.
        inputs, outputs: of the file.
        size: (height, width) that it was looked at with.
        heads: tensors that it can be cut at.
        decoder: the name of the family's decoder, empty where none fits.
        why: what speaks for it.
        doubts: what has to be checked by eye.
        warnings: what reading the source left open.
        contract: a contract file as text, empty where none can be written.
        trials: image rules that were tried on the photograph; the first is the contract's.
        found: what the contract finds in the photograph, a line for each of the best.
    """

    source: str
    kind: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size: tuple[int, int]
    heads: tuple[Head, ...] = ()
    decoder: str = ""
    why: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    contract: str = ""
    trials: tuple[Trial, ...] = ()
    found: tuple[str, ...] = ()


def inspect(
    source: str,
    *,
    weights: str = "",
    size: tuple[int, int] | None = None,
    image: str = "",
    drawn: str = "",
    trust: bool = False,
    imports: tuple[str, ...] = (),
    progress: Progress = silent,
) -> Inspected:
    """Look at a trained model.

    Args:
        source: as for `edgekit.convert`.
        weights: of a ``module:factory``.
        size: (height, width), where the source leaves it open.
        image: a photograph to try the contract on.
        drawn: where to write the photograph with what was found.
        trust: allow unpickling.
        imports: modules that register decoders.
        progress: called as it goes on.

    Raises:
        SourceError, ContractError, InputError: the source or the image cannot be read.
        UsageError: a source of several parts, whose contract is in its own files, or ``drawn`` without ``image``.
    """
    if drawn and not image:
        raise UsageError(f"--out {drawn}: there is nothing to draw on; give a photograph with --image")
    kind = find(SourceRequest(source))
    if kind.written:
        raise UsageError(f"{source} is {kind.kind}: its contract is in its own files; convert it as it is")
    if weights and "weights" not in kind.takes:
        raise UsageError(f"--weights does not apply to {kind.kind}; leave it out")
    if trust and "trust" not in kind.takes:
        raise UsageError(f"--trust does not apply to {kind.kind}; leave it out")
    located = locate(source)
    with temporary_workspace() as workspace:
        job = InspectJob(
            folder=str(workspace.folder),
            source=located.spec,
            name=source,
            hub=located.name,
            weights=weights,
            size=size,
            image=str(Path(image).absolute()) if image else "",
            drawn=str(Path(drawn).absolute()) if drawn else "",
            trust=trust,
            imports=imports,
        )
        return run(job, Inspected, report_of(progress, "inspect"))


def work(job: InspectJob, report: Report) -> Inspected:
    """Look at a source, in a child process.

    Raises:
        SourceError, ContractError, InputError: the source or the image cannot be read.
    """
    import torch

    torch.set_num_threads(job.threads)
    report("reading the source", 0.0)
    looked = _look(job)
    seen, family = msgspec.structs.replace(looked.seen, warnings=looked.model.doubts), looked.family
    contract = looked.model.contract
    if contract is not None:
        why = ("the source says so itself: no contract file is needed",)
        seen = msgspec.structs.replace(
            seen, decoder=contract.decoder.name, why=why, contract=_stated_text(job, contract)
        )
    elif family is not None:
        text = _contract_text(job, family, seen.size)
        seen = msgspec.structs.replace(
            seen, decoder=family.decoder.name, why=family.why, doubts=family.doubts, contract=text
        )
    else:
        seen = msgspec.structs.replace(seen, doubts=(_unknown(seen),))
    if not job.image or not seen.contract:
        return seen
    report("trying the contract on the image", 0.6)
    return _tried(job, seen, family)


@dataclass(frozen=True)
class _Looked:
    """A model that was read, its last layers, and what is known about it before any contract."""

    model: TrainedModel
    seen: Inspected
    family: Family | None


def _look(job: InspectJob) -> _Looked:
    path = Path(job.source)
    kind = find(SourceRequest(job.source))
    onnx = path.suffix.lower() == ".onnx"
    inputs, outputs, size = _declared_onnx(path, job.size) if onnx else ((), [], job.size)
    suppressed = _before_suppression(path) if onnx else ()
    weights = Path(job.weights) if job.weights else None
    model = load_network(SourceRequest(job.source, weights=weights, size=size, trust=job.trust, cut=suppressed))
    height, width = model.example.shape[2:]
    if job.size is not None and not onnx and job.size != (height, width) and model.contract is None:
        raise UsageError(f"--size {job.size[0]}x{job.size[1]}: this source is made for {height}x{width} alone")
    ending = _ending(model, list(suppressed) or outputs)
    family = believed(ending, (height, width)) if model.contract is None else None
    if family is not None and suppressed:
        why = f"what follows {' and '.join(suppressed)} is left out: the file ends in NonMaxSuppression"
        family = replace(family, why=(*family.why, why))
    elif family is not None and onnx and cut_by_itself(family, ending, lambda: flatten(model.module, model.example)):
        family = replace(family, automatic=True)
    known = {point.tensor: point for point in family.cut} if family else {}
    heads = tuple(
        Head(
            tensor=tail.tensor,
            shape=tail.shape,
            level=known[tail.tensor].level if tail.tensor in known else number,
            stride=height / tail.shape[2],
            then=tail.then,
            role=known[tail.tensor].role if tail.tensor in known else "",
        )
        for number, level in enumerate(levels_of(ending.tails))
        for tail in level
    )
    seen = Inspected(
        source=job.name or job.source,
        kind=kind.kind,
        inputs=inputs or (Port(name="image", dtype="float32", shape=tuple(model.example.shape)),),
        outputs=tuple(Port(name=name, dtype="float32", shape=shape) for name, shape in ending.outputs.items()),
        size=(height, width),
        heads=heads,
    )
    return _Looked(model, seen, family)


def _before_suppression(path: Path) -> tuple[str, ...]:
    from edgekit.sources.onnx.suppression import before_suppression

    return before_suppression(path)


def _declared_onnx(
    path: Path, size: tuple[int, int] | None
) -> tuple[tuple[Port, ...], list[str], tuple[int, int] | None]:
    """Inputs and outputs of an ONNX file, and the size to look at it with: what it leaves open is `OPEN_SIZE`."""
    from edgekit.sources.onnx import declared
    from edgekit.sources.onnx.rebuild import PLACEHOLDER

    inputs, outputs = declared(path)
    ports = tuple(Port(name=name, dtype=dtype, shape=tuple(shape)) for name, dtype, shape in inputs)
    if size is None and len(ports) == 1 and len(ports[0].shape) == 4:
        fixed = [dim if isinstance(dim, int) else OPEN_SIZE for dim in ports[0].shape[2:]]
        placeholder = max(fixed) < PLACEHOLDER
        if placeholder or any(map(_open, ports[0].shape[2:])):
            size = (OPEN_SIZE, OPEN_SIZE) if placeholder else (fixed[0], fixed[1])
    return ports, outputs, size


def _open(dim: int | str) -> bool:
    return isinstance(dim, str)


def _ending(model: TrainedModel, outputs: list[str]) -> Ending:
    """How the network ends, in the names that ``cut:`` takes."""
    names: dict[str, str] | None = getattr(model.module, "tensor_names", None)
    if names is not None:
        graph: fx.GraphModule = with_shapes(model.module, model.example)  # type: ignore[arg-type]
        return ending_of(graph, {node: name for name, node in names.items()}, outputs)
    graph = with_shapes(flatten(model.module, model.example), model.example)
    return ending_of(graph, {}, [node.name for node in results_of(graph)])


def _unknown(seen: Inspected) -> str:
    """Why no family fits."""
    from edgekit.runtimes.tasks.decoders import every_decoder

    levels: dict[int, list[int]] = {}
    for head in seen.heads:
        levels.setdefault(head.level, []).append(head.shape[1])
    channels = "; ".join(f"level {level}: {', '.join(map(str, counts))}" for level, counts in levels.items()) or "none"
    return (
        f"no decoder has heads with these channels ({channels}). The decoders are {', '.join(every_decoder())}; "
        "write a contract with one of them and name its tensors under cut:, or register a decoder of your own "
        "(docs/CONTRACT.md, --import MODULE)"
    )


def _contract_text(job: InspectJob, family: Family, size: tuple[int, int]) -> str:
    """A contract file to start from."""
    import yaml

    classes, note = _class_names(family)
    image: dict[str, Any] = {"size": list(size), **family.rule}
    data: dict[str, Any] = {"task": family.task, "image": image, "classes": classes}
    data["decoder"] = {"name": family.decoder.name, **family.decoder.options}
    if family.skeleton is not None:
        data["skeleton"] = family.skeleton
    if family.postprocess:
        data["postprocess"] = dict(family.postprocess)
    if family.outputs:
        data["outputs"] = [{"name": one.name, "role": one.role} for one in family.outputs]
    if family.cut and not family.automatic:
        data["cut"] = [{"tensor": one.tensor, "role": one.role, "level": one.level} for one in family.cut]
    head = [f"# Written by edgekit inspect {job.name or job.source}: a contract to start from (docs/CONTRACT.md).", "#"]
    head += [f"# {reason}" for reason in family.why]
    if family.automatic:
        head.append("# edgekit finds the cut itself, and compares it with the uncut file: cut: is left out.")
    head += [f"# CHECK: {doubt}" for doubt in (*family.doubts, *note, _TOLD_BY_TRAINING)]
    return "\n".join(head) + "\n" + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110)


_TOLD_BY_TRAINING = (
    "image (resize, color, scale, mean, std) is what the family is usually trained with; the file does not say"
)


def _class_names(family: Family) -> tuple[list[str] | str, tuple[str, ...]]:
    """Names of the classes, and what is to be checked about them."""
    if family.names:
        return list(family.names), ()
    if family.task == "pose":
        return ["person"], ()
    for known, members in NAMED.items():
        if len(members) == family.classes:
            return known, (
                f"classes: {family.classes} is the number of {known}'s; if they are others, list their names, in order",
            )
    names = [f"class_{number}" for number in range(family.classes)]
    return names, ("classes: their names are not in the file; write them down in the order of the training",)


def _stated_text(job: InspectJob, contract: Contract) -> str:
    path = Path(job.folder) / "contract.yaml"
    return write_contract(contract, path).read_text(encoding="utf-8")


def _tried(job: InspectJob, seen: Inspected, family: Family | None) -> Inspected:
    """Try the contract on the photograph, and other image rules where they may be meant.

    Where the contract's own rule finds nothing and another does, the contract is written with that one.
    """
    path = Path(job.folder) / "contract.yaml"
    path.write_text(seen.contract, encoding="utf-8")
    stated = str(path) if family is not None else ""
    read = read_source(
        PrepareJob(
            folder=job.folder,
            source=job.source,
            contract=stated,
            weights=job.weights,
            size=None if stated else job.size,
            trust=job.trust,
        )
    )
    session, contract = TorchSession(read.heads), read.contract
    tried: list[tuple[Trial, Result, ImageRule]] = []
    others = alternatives(contract) if family is not None else []
    for text, rule in [(OWN_RULE, contract.image), *((other.text, other.rule) for other in others)]:
        model: Model[Result] = Model(msgspec.structs.replace(contract, image=rule), session)
        try:
            result = model.predict(job.image)
            trial = Trial(rule=text, found=_count(result), top=_top(model, result, job.image))
        except EngineError as error:
            if tried:  # numbers of another order than it has learnt may well overflow
                continue
            raise SourceError(f"{job.image}: the source gives NaN or infinite values for it") from error
        tried.append((trial, result, rule))
    first = tried[0]
    best = max(tried, key=lambda one: one[0].top)
    taken = best if family is not None and not first[0].found and best[0].found else first
    written, doubts = seen.contract, seen.doubts
    if taken is not first:
        written = _contract_text(job, _with_rule(family, taken[2]), seen.size) if family else written
        doubts = (*doubts, f"the usual image rule finds nothing in the photograph; the contract says {taken[0].rule}")
    elif not first[0].found:
        doubts = (*doubts, f"nothing was found in the photograph (best score {first[0].top:.2f})")
    if job.drawn:
        _draw(taken[1], job)
    ordered = (taken[0], *(one[0] for one in tried if one is not taken))
    return msgspec.structs.replace(seen, contract=written, doubts=doubts, trials=ordered, found=_lines(taken[1]))


def _count(result: Result) -> int:
    return len(result) if isinstance(result, Detections) else 1


def _top(model: Model[Result], result: Result, image: str) -> float:
    """The best score, of what is under the contract's threshold too."""
    if isinstance(result, Classification):
        return float(result.scores.max(initial=0.0))
    everything = model.predict(image, score=0.0)
    return float(everything.scores.max(initial=0.0)) if isinstance(everything, Detections) else 0.0


def _with_rule(family: Family, rule: ImageRule) -> Family:
    """The family with another image rule."""
    keys: dict[str, Any] = {"resize": rule.resize, "color": rule.color, "scale": rule.scale}
    keys |= {"mean": list(rule.mean), "std": list(rule.std), "pad": rule.pad}
    keys |= {"align": rule.align} if rule.resize == "letterbox" else {}
    return replace(family, rule=keys | ({"crop": rule.crop} if rule.resize == "crop" else {}))


def _draw(result: Result, job: InspectJob) -> None:
    """Write the photograph with what was found.

    Raises:
        InputError: it cannot be written, or would replace the photograph.
    """
    import cv2

    from edgekit.runtimes.model import read

    path = Path(job.drawn)
    if path.exists() and path.samefile(job.image):
        raise InputError(f"--out {path}: would overwrite the photograph; choose another name")
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError(f"--out {path}: must end in .jpg or .png")
    drawn = result.draw(read(job.image)[0])
    try:
        path.write_bytes(cv2.imencode(path.suffix, drawn)[1].tobytes())
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written: {error.strerror}") from error


def _lines(result: Result) -> tuple[str, ...]:
    """The best of what was found, in words."""
    if isinstance(result, Detections):
        rows = zip(result.class_ids, result.scores, result.boxes, strict=True)
        named = [
            f"{result.classes[number]} {score:.2f} at {', '.join(f'{edge:.0f}' for edge in box)}"
            for number, score, box in rows
        ]
        return tuple(named[:10])
    return (repr(result),)
