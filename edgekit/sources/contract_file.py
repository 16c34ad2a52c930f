"""Contract files: what a source cannot say itself, in YAML, with every mistake named by its line and path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect as types

from edgekit.errors import ContractError
from edgekit.manifest import Contract, Decoder, ImageRule, Output, Postprocess, Record
from edgekit.sources.class_names import NAMED
from edgekit.sources.heads import CutPoint
from edgekit.tasks import decoders as _known  # registers the decoders edgekit knows
from edgekit.tasks.decoding import find

if TYPE_CHECKING:
    import yaml

_ = _known


class CutEntry(Record, frozen=True):
    """One tensor of the graph to end at."""

    tensor: str
    role: str
    level: int = 0


class ContractFile(Record, frozen=True, kw_only=True):
    """The keys of a contract file.

    ``classes`` is a list of names, the name of a known set (``coco``), or a text file with a name a line, relative to
    the contract file. ``decoder`` holds ``name`` and, beside it, that decoder's own options.
    """

    task: str = "detect"
    image: ImageRule
    classes: tuple[str, ...] | str
    decoder: dict[str, Any]
    postprocess: Postprocess = Postprocess()
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

    def complete(self, outputs: tuple[Output, ...]) -> Contract:
        """The contract of a graph with these outputs."""
        return Contract(
            task=self.task,
            image=self.image,
            classes=self.classes,
            decoder=self.decoder,
            outputs=outputs,
            postprocess=self.postprocess,
        )


def read_contract(path: Path) -> StatedContract:
    """Read and validate a contract file.

    Raises:
        ContractError: no such file, not YAML, or a wrong key or value, named with ``file:line``, the path to it and
            the valid choices.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise ContractError(f"--contract {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ContractError(f"--contract {path}: not a UTF-8 text file ({error.reason})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise ContractError(f"{path}:{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if root is None or not isinstance(data, dict):
        raise ContractError(f"{path}:1: a contract file has keys: {', '.join(ContractFile.__struct_fields__)}")
    try:
        stated = msgspec.convert(data, ContractFile)
    except msgspec.ValidationError as error:
        raise ContractError(_explain(path, root, str(error))) from error
    return _checked(path, root, stated)


def _checked(path: Path, root: yaml.Node, stated: ContractFile) -> StatedContract:
    """The parts that the structure alone cannot validate: decoder options and class names."""
    options = dict(stated.decoder)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ContractError(
            f"{path}:{_line(root, ['decoder'])}: decoder.name: missing; name the decoder of this network"
        )
    decoder = Decoder(name=name, options=options)
    try:
        find(decoder).read(options)
    except ContractError as error:
        raise ContractError(f"{path}:{_line(root, ['decoder'])}: {error}") from error
    return StatedContract(
        task=stated.task,
        image=stated.image,
        classes=_class_names(path, root, stated.classes),
        decoder=decoder,
        postprocess=stated.postprocess,
        cut=tuple(CutPoint(entry.tensor, entry.role, entry.level) for entry in stated.cut),
    )


def _class_names(path: Path, root: yaml.Node, given: tuple[str, ...] | str) -> tuple[str, ...]:
    where = f"{path}:{_line(root, ['classes'])}: classes"
    if isinstance(given, str):
        file = path.parent / given
        if given in NAMED:
            given = NAMED[given]
        elif file.is_file():
            given = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
        else:
            raise ContractError(
                f"{where}: {given!r} is no file and no known set; give a list, a file or: {', '.join(NAMED)}"
            )
    if not given:
        raise ContractError(f"{where}: empty; give the class names in the order of the model's outputs")
    return given


def _explain(path: Path, root: yaml.Node, message: str) -> str:
    """msgspec's message with the file, the line, the readable path and the valid choices."""
    problem, _, place = message.partition(" - at `")
    steps = [
        int(step) if step.isdigit() else step
        for step in re.findall(r"\.?([A-Za-z_]\w*)|\[(\d+)\]", place)
        for step in step
        if step
    ]
    unknown = re.search(r"unknown field `(\w+)`", problem)
    missing = re.search(r"missing required field `(\w+)`", problem)
    choices = _choices(steps)
    if unknown:
        steps.append(unknown.group(1))
        problem = "unknown key"
    elif missing:
        problem = f"missing key {missing.group(1)!r}"
    shown = ".".join(str(step) for step in steps) or "the contract"
    return f"{path}:{_line(root, steps)}: {shown}: {problem}{f'; valid: {choices}' if choices else ''}"


def _choices(steps: list[Any]) -> str:
    """Valid keys or values at a path of the contract file's type."""
    kind: types.Type = types.type_info(ContractFile)
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


def _line(node: yaml.Node, steps: list[Any]) -> int:
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
