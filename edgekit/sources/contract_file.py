"""Contract files: YAML with what a source does not contain; errors name line and path."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect as types

from edgekit.errors import ContractError, choices
from edgekit.graph.heads import CutPoint
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess, Record, Skeleton
from edgekit.runtimes.tasks import roles as task_roles
from edgekit.runtimes.tasks import task_names
from edgekit.runtimes.tasks.decoders import every_decoder, find
from edgekit.runtimes.tasks.skeletons import NAMED as SKELETONS
from edgekit.sources.class_names import NAMED
from edgekit.sources.normalisation import contradiction
from edgekit.structures import from_builtins

if TYPE_CHECKING:
    import yaml


class CutEntry(Record, frozen=True):
    """One tensor of the graph to end at."""

    tensor: str
    role: str
    level: int = 0


class PostprocessEntry(Record, frozen=True, kw_only=True):
    """Thresholds as a contract file spells them: ``score`` and ``iou``, like the command line and the API.

    ``score_threshold`` and ``iou_threshold``, the manifest's names, are read too.
    """

    score: float | None = None
    iou: float | None = None
    max_detections: int = Postprocess().max_detections
    class_agnostic: bool = False
    nms: bool = True
    score_threshold: float | None = None
    iou_threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("score", "iou"):
            values = {key: getattr(self, key) for key in (name, f"{name}_threshold")}
            given = {key: value for key, value in values.items() if value is not None}
            for key, value in given.items():
                if not 0.0 <= value <= 1.0:
                    raise ValueError(f"{key} must be 0..1, not {value}")
            if len(given) > 1:
                raise ValueError(f"{name}_threshold must be left out beside {name}, its newer name")
        self.read()

    def read(self) -> Postprocess:
        """The same as a contract has it."""
        default = Postprocess()
        score = self.score if self.score is not None else self.score_threshold
        iou = self.iou if self.iou is not None else self.iou_threshold
        return Postprocess(
            score=default.score if score is None else score,
            iou=default.iou if iou is None else iou,
            max_detections=self.max_detections,
            class_agnostic=self.class_agnostic,
            nms=self.nms,
        )


class ContractFile(Record, frozen=True, kw_only=True):
    """The keys of a contract file.

    ``classes`` is a list of names, the name of a known set (``coco``), or a text file with a name a line, relative to
    the contract file. ``decoder`` holds ``name`` and, beside it, that decoder's own options. ``skeleton`` is written
    out or the name of a known one (``coco``). ``outputs`` names the outputs of a network that ends in its raw heads, in
    order; it is not cut then.
    """

    task: str = "detect"
    image: ImageRule
    classes: tuple[str, ...] | str
    decoder: dict[str, Any]
    postprocess: PostprocessEntry = PostprocessEntry()
    skeleton: Skeleton | str | None = None
    outputs: tuple[Output, ...] = ()
    cut: tuple[CutEntry, ...] = ()


@dataclass(frozen=True)
class StatedContract:
    """A contract file, read: all of a contract but the outputs, and where to cut when that is said."""

    task: str
    image: ImageRule
    classes: tuple[str, ...]
    decoder: Decoder
    postprocess: Postprocess
    cut: tuple[CutPoint, ...]
    skeleton: Skeleton | None = None
    outputs: tuple[Output, ...] = ()

    def complete(self, outputs: tuple[Output, ...]) -> Contract:
        """The contract of a graph with these outputs."""
        return Contract(
            task=self.task,
            image=self.image,
            classes=self.classes,
            decoder=self.decoder,
            outputs=outputs,
            postprocess=self.postprocess,
            skeleton=self.skeleton,
        )


def read_contract(path: Path) -> StatedContract:
    """Read and validate a contract file.

    Raises:
        ContractError: no such file, not YAML, or a wrong key or value, named with ``file:line``, the path to it and
            the valid choices.
    """
    root, data = _read_yaml(path)
    try:
        stated = from_builtins(data, ContractFile)
    except msgspec.ValidationError as error:
        raise ContractError(_explain(path, root, data, str(error))) from error
    return _checked(path, root, data, stated)


def write_contract(contract: Contract, path: Path) -> Path:
    """A contract as a contract file, which `read_contract` reads.

    Raises:
        ContractError: of a vision-language model, whose contract is read from its own files.
    """
    import yaml

    if contract.language is not None:
        raise ContractError("the contract of a vision-language model is in its own files; leave contract out")
    data = msgspec.to_builtins(contract)
    data["decoder"] = {"name": contract.decoder.name, **contract.decoder.options}
    if contract.image.resize != "letterbox":
        del data["image"]["align"]
    for key in ("language", *(key for key in ("skeleton", "outputs") if not data[key])):
        del data[key]
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _read_yaml(path: Path) -> tuple[yaml.Node, dict[Any, Any]]:
    """The file as nodes, which know their lines, and as values."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _check_nodes(path, root)
        data = yaml.safe_load(text)
    except OSError as error:
        raise ContractError(f"--contract {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ContractError(f"--contract {path}: not a UTF-8 text file ({error.reason})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise ContractError(f"{path}:{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        # What PyYAML lets through of impossible dates, wrongly tagged values and deep nesting.
        raise ContractError(f"{path}:1: not valid YAML: {error}") from error
    if root is None or not isinstance(data, dict):
        raise ContractError(f"{path}:1: a contract file has keys: {', '.join(ContractFile.__struct_fields__)}")
    for steps, value in _infinite(data):
        raise ContractError(f"{path}:{_line(root, steps)}: {_dotted(steps)}: {value} is not a finite number")
    return root, data


def _check_nodes(path: Path, root: yaml.Node) -> None:
    """Refuse what YAML accepts silently: duplicate keys, halves of characters, and aliases, which have no bound."""
    import yaml

    left, seen = [root], set()
    while left:
        node = left.pop()
        line = node.start_mark.line + 1
        if id(node) in seen:
            raise ContractError(f"{path}:{line}: aliases (*name) are not supported; write the value out")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            for number, (key, _) in enumerate(node.value):
                if keys[number] in keys[:number]:
                    raise ContractError(f"{path}:{key.start_mark.line + 1}: {keys[number]}: given twice")
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
        elif re.search(
            "[\ud800-\udfff]", node.value
        ):  # JSON escapes what is beyond 16 bits in two halves, YAML does not
            raise ContractError(f"{path}:{line}: {node.value!r} has a lone surrogate; write the character itself")


def _infinite(data: Any, steps: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Path and value of every NaN and infinity, which JSON cannot hold."""
    if isinstance(data, float) and not math.isfinite(data):
        yield steps, data
    elif isinstance(data, dict | list):
        for step, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _infinite(value, (*steps, step))


def _checked(path: Path, root: yaml.Node, data: dict[Any, Any], stated: ContractFile) -> StatedContract:
    """Validate what types alone cannot: task, decoder options, class names and roles."""
    if stated.task not in task_names():
        raise ContractError(f"{path}:{_line(root, ['task'])}: task: {choices(stated.task, task_names())}")
    if stated.cut and stated.outputs:
        raise ContractError(
            f"{path}:{_line(root, ['outputs'])}: outputs: a network that is cut has none of its own; "
            "give cut or outputs"
        )
    decoder = _decoder(path, root, stated.decoder)
    classes = _class_names(path, root, stated.classes) if stated.classes or stated.task != "embed" else ()
    skeleton = _skeleton(path, root, stated)
    _check_roles(path, root, stated, decoder, len(classes))
    return StatedContract(
        task=stated.task,
        image=_image(path, root, data["image"], stated.image, decoder),
        classes=classes,
        decoder=decoder,
        postprocess=stated.postprocess.read(),
        cut=tuple(CutPoint(entry.tensor, entry.role, entry.level) for entry in stated.cut),
        skeleton=skeleton,
        outputs=stated.outputs,
    )


def _image(path: Path, root: yaml.Node, given: dict[Any, Any], rule: ImageRule, decoder: Decoder) -> ImageRule:
    """The image rule; a letterbox that does not say how it is aligned is aligned as the decoder's family trains."""
    key, why = contradiction(rule)
    if key:
        steps = ["image", key if key in given else "size"]
        raise ContractError(f"{path}:{_line(root, steps)}: image.{key}: {why}")
    if "align" in given:
        if rule.resize != "letterbox":
            where = f"{path}:{_line(root, ['image', 'align'])}: image.align"
            raise ContractError(
                f"{where}: must be left out with resize: {rule.resize}, not {rule.align}: only a letterbox has padding "
                "(center, corner)"
            )
        return rule
    if rule.resize != "letterbox":
        return rule
    return msgspec.structs.replace(rule, align=find(decoder).align)


def _skeleton(path: Path, root: yaml.Node, stated: ContractFile) -> Skeleton | None:
    """The keypoints of a pose, which no other task has."""
    where = f"{path}:{_line(root, ['skeleton'])}: skeleton"
    given = stated.skeleton
    if isinstance(given, str):
        if given not in SKELETONS:
            raise ContractError(f"{where}: {choices(given, SKELETONS)}, or write out names, edges and sigmas")
        given = SKELETONS[given]
    if stated.task == "pose" and given is None:
        raise ContractError(f"{where}: missing; a pose has keypoints: coco, or names, edges and sigmas")
    if stated.task != "pose" and given is not None:
        raise ContractError(f"{where}: the task {stated.task!r} has no keypoints; leave it out")
    return given


def _decoder(path: Path, root: yaml.Node, given: dict[str, Any]) -> Decoder:
    options = dict(given)
    name = options.pop("name", None)
    where = f"{path}:{_line(root, ['decoder', 'name'])}: decoder.name"
    if not isinstance(name, str):
        problem = "missing" if name is None else f"{name!r} is not a name"
        raise ContractError(
            f"{where}: {problem}; name the decoder of this network; valid: {', '.join(every_decoder())}"
        )
    decoder = Decoder(name=name, options=options)
    try:
        registered = find(decoder)
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from error
    try:
        registered.read(options)
    except ContractError as error:
        problem = str(error.__cause__)
        explained = _explain(path, root, {"decoder": given}, problem, registered.options, ("decoder",))
        raise ContractError(f"{explained} (decoder {name!r})") from error
    return decoder


def _check_roles(path: Path, root: yaml.Node, stated: ContractFile, decoder: Decoder, classes: int) -> None:
    """A wrong role in an entry of cut or outputs would show up much later, as an output that nobody reads."""
    registered = find(decoder)
    if registered.channels is None:
        return
    try:
        roles = (*registered.channels(registered.read(decoder.options), classes), *task_roles(stated.task))
    except ContractError:  # no automatic cut, which is why the tensors are named
        return
    entries = [("cut", index, entry.role) for index, entry in enumerate(stated.cut)]
    entries += [("outputs", index, output.role) for index, output in enumerate(stated.outputs)]
    for key, index, role in entries:
        if role not in roles:
            raise ContractError(
                f"{path}:{_line(root, [key, index, 'role'])}: {key}.{index}.role: {choices(role, roles)}"
            )


def _class_names(path: Path, root: yaml.Node, given: tuple[str, ...] | str) -> tuple[str, ...]:
    where = f"{path}:{_line(root, ['classes'])}: classes"
    if isinstance(given, str):
        if given in NAMED:
            return NAMED[given]
        try:
            lines = (path.parent / given).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ContractError(f"{where}: {given} is not a UTF-8 text file ({error.reason})") from error
        except (OSError, ValueError) as error:
            raise ContractError(
                f"{where}: {given[:80]!r} is no file and no known set; give a list, a file or: {', '.join(NAMED)}"
            ) from error
        given = tuple(line.strip() for line in lines if line.strip())
    if not given:
        raise ContractError(f"{where}: empty; give the class names in the order of the model's outputs")
    return given


def _explain(
    path: Path,
    root: yaml.Node,
    data: Any,
    message: str,
    kind: type[msgspec.Struct] = ContractFile,
    base: tuple[str, ...] = (),
) -> str:
    """msgspec's message on a value of type ``kind`` at ``base``, with the file, the line, the readable path, the
    offending value and the valid choices."""
    problem, _, place = message.partition(" - at `")
    place = place.partition("$")[2].rstrip("`")
    steps: list[Any] = [
        int(index) if index else name for name, index in re.findall(r"\.([A-Za-z_]\w*)|\[(\d+)\]", place)
    ]
    valid = _choices(kind, steps)
    given = f", not {_value(data, (*base, *steps))}"
    if unknown := re.search(r"unknown field `(.*)`", problem, re.DOTALL):
        steps.append(unknown.group(1))
        problem, given = "unknown key", ""
    elif missing := re.search(r"missing required field `(\w+)`", problem):
        problem, given = f"missing key {missing.group(1)!r}", ""
    elif own := re.match(r"(\w+) (must be .*)", problem):  # of a structure's own check, about one of its fields
        steps.append(own.group(1))
        problem, given, valid = own.group(2), "", ""
    elif " - at `key`" in message:
        problem, given = "a key that is not text", ""
    elif problem.startswith("Invalid enum value"):
        given = ""
    steps = [*base, *steps]
    return f"{path}:{_line(root, steps)}: {_dotted(steps)}: {problem}{given}{f'; valid: {valid}' if valid else ''}"


def _dotted(steps: Sequence[Any]) -> str:
    return ".".join(str(step) for step in steps) or "the contract"


def _value(data: Any, steps: Sequence[Any]) -> str:
    """The value at a path, shortened."""
    for step in steps:
        data = data[step]
    return repr(data)[:80]


def _choices(kind_of: type[msgspec.Struct], steps: list[Any]) -> str:
    """Valid keys or values at a path of a type."""
    kind: types.Type = types.type_info(kind_of)
    for step in steps:
        kind = _concrete(kind)
        if isinstance(kind, types.StructType):
            kind = next((field.type for field in kind.fields if field.name == step), types.AnyType())
        elif isinstance(kind, types.VarTupleType):
            kind = kind.item_type
    kind = _concrete(kind)
    if isinstance(kind, types.StructType):
        return ", ".join(field.name for field in kind.fields)
    return ", ".join(map(str, kind.values)) if isinstance(kind, types.LiteralType) else ""


def _concrete(kind: types.Type) -> types.Type:
    return kind.types[0] if isinstance(kind, types.UnionType) else kind


def _line(node: yaml.Node, steps: Sequence[Any]) -> int:
    """Line (from 1) of the deepest existing node on a path."""
    import yaml

    line = node.start_mark.line + 1
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == step), None)
            if entry is None:
                break
            key, node = entry
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return int(line)
