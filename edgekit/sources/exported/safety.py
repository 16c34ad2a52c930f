"""Making sure that opening a ``.pt2`` cannot run code: ``torch.export.load`` trusts its file.

It unpickles some of the parts, loads shared libraries from others, evaluates symbolic sizes with sympy, and calls
whatever attribute of ``torch`` a node names (``torch.os.system``). The guards, which are Python code too, are left out
by ``program.module(check_guards=False)``. What is not known to be harmless is refused.
"""

from __future__ import annotations

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

_PARTS = re.compile(
    r"[^/]+/(?:archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|data/sample_inputs/\w+\.pt"
    r"|data/(?:weights|constants)/(?:\w+_config\.json|(?:weight|tensor)_\d+))"
)
"""Every member of an archive that torch.export.save writes for plain tensors. Not among them: compiled libraries
(data/aotinductor) and the layout of torch < 2.8, both of which torch would open, and names in other spellings, which
its reader, unlike zipfile, takes for the same."""

_SYMBOLIC = re.compile(
    r"(?:Symbol\('[su]\d+'(?:, [a-z]+=(?:True|False))*\)|[su]\d+|\d+|[\s+\-*/(),<>=]"
    r"|(?:Integer|Rational|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CeilDiv|PythonMod|True|False|Eq|Ne)\b)*"
)

_OPERATORS = re.compile(
    r"torch\.ops\.(?!load_library|import_module)[a-z]\w*\.(?!from_file|save)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(?!call|attrgetter|methodcaller)[a-z]\w*|math\.\w+|torch\._?sym_\w+"
)


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
        SourceError: damaged, or not a zip archive.
    """
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
    """Symbolic sizes may hold nothing but arithmetic, and nodes may call nothing but operators."""
    for key, text in _evaluated(content):
        if key == "expr_str" and not _SYMBOLIC.fullmatch(text):
            raise SourceError(f"{path}: the symbolic size {text[:60]!r} is not arithmetic; vouch for it with --trust")
        if key != "expr_str" and ("__" in text or not _OPERATORS.fullmatch(text)):
            raise SourceError(f"{path}: {text[:60]!r} in {name} is no torch operator; vouch for it with --trust")


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
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise SourceError(f"{path}: {name} holds more than tensors; vouch for the file with --trust") from error
