"""Making sure that opening a ``.pt2`` cannot run code: ``torch.export.load`` trusts its file.

It unpickles some of the parts, loads shared libraries from others, evaluates symbolic sizes with sympy, and calls
whatever attribute of ``torch`` a node names (``torch.os.system``). The guards, which are Python code too, are left out
by ``program.module(check_guards=False)``. What is not known to be harmless is refused.
"""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.sources._archive import refuse_bomb

_PARTS = re.compile(
    r"[^/]+/(?:archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|data/sample_inputs/\w+\.pt"
    r"|data/(?:weights|constants)/(?:\w+_config\.json|(?:weight|tensor)_\d+))"
)
"""Every member of an archive that torch.export.save writes for plain tensors. Not among them: compiled libraries
(data/aotinductor) and the layout of torch < 2.8, both of which torch would open, and names in other spellings, which
its reader, unlike zipfile, takes for the same."""

_SYMBOLIC = re.compile(
    r"(?:Symbol\('[su]\d+'(?:, [a-z]+=(?:True|False))*\)|[su]\d{1,9}|\d{1,19}(?!\d)|\*(?!\*)|[\s+\-/(),<>=]"
    r"|(?:Integer|Rational|Add|Mul|Max|Min|Mod|FloorDiv|CeilDiv|PythonMod|True|False|Eq|Ne)\b)*"
)
"""Arithmetic without powers: sympy computes those of numbers, 9**9**9**9 for ever."""

_POWER = re.compile(
    r"(?<![\w)*])([su]\d{1,9})\s*\*\*\s*[2-4](?![\d*])|Pow\((Symbol\('[su]\d{1,9}'[^()]*\)), Integer\([2-4]\)\)"
)
"""A small power of a size, as torch itself writes it."""

_SLOW = re.compile(r"Max|Min|Mod|FloorDiv|CeilDiv")
"""Functions about which sympy thinks five times as long as about others."""

LONGEST, MOST = 200, 100_000
"""Characters of one symbolic size, and of all in a program but plain symbols: sympy takes up to 0.1 ms for each."""

NAMESPACES = ("aten", "prims")
"""Of operators that compute, and do nothing else."""

FURTHER = ("torchvision.nms.default", "torchvision.roi_align.default", "torchvision.deform_conv2d.default")
"""Operators of other namespaces that do so too."""

WORDS = frozenset(
    {"mode", "padding", "padding_mode", "pad_mode", "padding_side", "rounding_mode", "approximate", "equation", "norm"}
    | {
        "indexing",
        "reduce",
        "interpolation",
        "driver",
        "UPLO",
        "ord",
        "p",
        "side",
        "activation",
        "api_name",
        "assert_msg",
    }
)
"""Arguments of these names that are texts choose between algorithms, or stand in a message."""

REPLACING = frozenset({"set_", "resize_", "resize_as_", "rename_", "requires_grad_", "resize_as_sparse_"})
"""Operators that put another memory behind a tensor, in place of new values."""

_SYM = "sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt _sym_sqrt sym_sum"
_ARITHMETIC = "eq ne le ge lt gt neg pos mul add sub floordiv truediv mod and_ or_ not_ getitem"
_CALLED = frozenset(
    {f"torch.{name}" for name in _SYM.split()}
    | {f"_operator.{name}" for name in _ARITHMETIC.split()}
    | {f"math.{name}" for name in ("trunc", "ceil", "floor", "sqrt")}
    | {f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond")}
)
"""Operators that torch.export writes for sizes and blocks of a graph; no powers and shifts, which can be endless."""

_OPERATOR = re.compile(r"torch\.ops\.([a-z]\w*)\.(\w+)\.(\w+)")


def refuse_code(path: Path) -> None:
    """Refuse a ``.pt2`` that could run code when it is opened; call `refuse_damage` before.

    Raises:
        SourceError: it holds anything but tensors, arithmetic and torch operators.
    """
    with zipfile.ZipFile(path) as archive:
        _check_names(path, archive.namelist())
        for name in archive.namelist():
            if name.endswith((".pt", ".json")):
                _check_part(path, name, archive.read(name))


def refuse_damage(path: Path) -> None:
    """Refuse a zip archive whose checksums are wrong: torch does not look at them, and would take other weights.

    Raises:
        SourceError: damaged, not a zip archive, or one that unpacks to many times its size.
    """
    refuse_bomb(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, EOFError, OSError) as error:
        raise SourceError(f"{path}: damaged or not a .pt2 file ({error}); copy or export it again") from error
    if damaged:
        raise SourceError(f"{path}: damaged or not a .pt2 file (checksum of {damaged}); copy or export it again")


def _check_names(path: Path, names: list[str]) -> None:
    if not any(name.endswith("/archive_format") for name in names):
        raise SourceError(f"{path}: not a .pt2 archive of torch >= 2.8; save it again, or vouch for it with --trust")
    for name in names:
        if not _PARTS.fullmatch(name):
            raise SourceError(f"{path}: {name[:80]!r} is no part of a plain program; vouch for the file with --trust")
    # zipfile reads the last of two entries of one name, torch the first.
    doubled = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    if doubled:
        raise SourceError(f"{path}: holds {doubled[0]!r} twice; export it again")


def _check_part(path: Path, name: str, data: bytes) -> None:
    if name.endswith(".pt"):
        _check_tensors_only(path, name, data)
        return
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: {name} is not JSON ({error}); export it again") from error
    check = _check_payloads if name.endswith("_config.json") else _check_program
    check(path, name, content)


def _check_payloads(path: Path, name: str, content: Any) -> None:
    payloads = content.get("config") if isinstance(content, dict) else None
    if not isinstance(payloads, dict) or not all(isinstance(payload, dict) for payload in payloads.values()):
        raise SourceError(f"{path}: {name} does not list tensors; export it again")
    pickled = [key for key, payload in payloads.items() if _is_pickled(payload)]
    if pickled:
        raise SourceError(f"{path}: {', '.join(pickled[:3])} in {name} are pickled; vouch for the file with --trust")


def _is_pickled(payload: dict[str, Any]) -> bool:
    return bool(payload.get("use_pickle")) or not str(payload.get("path_name", "")).startswith(("weight_", "tensor_"))


def _check_program(path: Path, name: str, content: Any) -> None:
    """Symbolic sizes may hold nothing but arithmetic, and nodes may call nothing but operators that compute."""
    length = 0
    for key, text in _evaluated(content):
        if key == "expr_str" and not _is_arithmetic(text):
            raise SourceError(f"{path}: the symbolic size {text[:60]!r} is not arithmetic; vouch for it with --trust")
        length += _cost(text) if key == "expr_str" else 0
        if key != "expr_str" and ("__" in text or not _is_harmless(text)):
            raise SourceError(f"{path}: {text[:60]!r} in {name} is no torch operator; vouch for it with --trust")
    if length > MOST:
        raise SourceError(f"{path}: too many symbolic sizes in {name}; export it with fixed sizes")


def _cost(text: str) -> int:
    """How long sympy thinks about a symbolic size, in characters of a plain sum."""
    return len(text) * (5 if _SLOW.search(text) else text.count("(") > 1 or not text.startswith("Symbol("))


def _is_arithmetic(text: str) -> bool:
    return len(text) <= LONGEST and bool(_SYMBOLIC.fullmatch(_POWER.sub(_base, text)))


def _base(power: re.Match[str]) -> str:
    return power[1] or power[2]


@functools.cache
def _is_harmless(target: str) -> bool:
    """Whether a node may call this: arithmetic of sizes, or an operator that only computes tensors from tensors.

    By its schema: it takes no text but known choices, gives something, and changes nothing but its first tensor, in
    place.
    """
    import torch

    if target in _CALLED:
        return True
    found = _OPERATOR.fullmatch(target)
    if found is None:
        return False
    namespace, operator, overload = found.groups()
    if namespace not in NAMESPACES:
        return f"{namespace}.{operator}.{overload}" in FURTHER
    try:
        schema = getattr(getattr(getattr(torch.ops, namespace), operator), overload)._schema
    except AttributeError:
        return False
    if any("str" in str(argument.type) and argument.name not in WORDS for argument in schema.arguments):
        return False
    if not schema.returns and not operator.startswith(("_assert_", "sym_constrain_")):
        return False
    if not schema.is_mutable:
        return True
    written = [argument for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    return operator.endswith("_") and operator not in REPLACING and written == schema.arguments[:1]


def _evaluated(content: Any) -> Iterator[tuple[str, str]]:
    """Key and text of all that torch evaluates or calls, wherever it stands."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            called = {"expr_str", "as_operator"} | ({"target"} if "inputs" in value else set())
            yield from ((key, str(text)) for key, text in value.items() if key in called)
            left += value.values()
        elif isinstance(value, list):
            left += value


def _check_tensors_only(path: Path, name: str, data: bytes) -> None:
    """Where ``weights_only=True`` fails, torch falls back to unpickling anything."""
    import torch

    if not data:
        return
    refuse_bomb(path, io.BytesIO(data), len(data))
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise SourceError(f"{path}: {name} holds more than tensors; vouch for the file with --trust") from error
