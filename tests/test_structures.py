"""Decoding from any thread: the first uses of a type at once, and no code that decodes in another way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from sample_bundles import write_bundle
from test_architecture import EVERY, called, named, tree

from edgekit.structures import from_builtins, from_json

HERE = Path(__file__).parent
THE_ONE = "structures.py"


def decodes(node: ast.AST) -> bool:
    """Whether a call has msgspec prepare a type by itself."""
    name = called(node)
    typed = isinstance(node, ast.Call) and ("type" in {word.arg for word in node.keywords} or len(node.args) > 1)
    return (name.split(".")[-1] == "convert" and name.startswith("msgspec")) or (
        name.startswith("msgspec.") and (name.endswith(".Decoder") or (name.endswith(".decode") and typed))
    )


def imports_by_name(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("msgspec") and node.level == 0


def test_nothing_decodes_a_type_but_by_this_module() -> None:
    found = [
        f"{named(path)}:{node.lineno}"
        for path in EVERY
        if named(path) != THE_ONE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call | ast.ImportFrom) and (decodes(node) or imports_by_name(node))
    ]
    # `msgspec.inspect` looks at annotations and prepares nothing.
    assert [place for place in found if not place.startswith("sources/contract_file.py")] == []


@pytest.mark.parametrize(
    ("call", "refused"),
    [
        ("msgspec.json.decode(data, type=T)", True),
        ("msgspec.json.Decoder(T)", True),
        ("msgspec.convert(data, T)", True),
        ("msgspec.json.decode(data)", False),
        ("from_json(data, T)", False),
    ],
)
def test_that_rule_sees_what_it_forbids(call: str, refused: bool) -> None:
    assert decodes(ast.parse(call, mode="eval").body) == refused


def first_uses(bundle: Path, processes: int, *mode: str) -> tuple[int, int]:
    """How many processes crashed, and in how many a thread failed."""
    command = [sys.executable, str(HERE / "first_uses.py"), str(bundle), str(processes), *mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    killed, failed = done.stdout.split()
    return int(killed), int(failed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    "processes", [pytest.param(25, id="100"), pytest.param(250, id="1000", marks=pytest.mark.nightly)]
)
def test_concurrent_first_openings_do_not_crash(tmp_path: Path, processes: int) -> None:
    assert first_uses(write_bundle(tmp_path / "cells").path, processes) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_without_the_lock_they_would(tmp_path: Path) -> None:
    assert first_uses(write_bundle(tmp_path / "cells").path, 25, "bare")[0] > 0


def test_types_and_values_are_checked() -> None:
    assert from_json(b"[1, 2]", tuple[int, ...]) == (1, 2)
    assert from_builtins("3", int, strict=False) == 3
    with pytest.raises(msgspec.ValidationError, match="Expected `int` >= 1"):
        from_builtins(0, Annotated[int, msgspec.Meta(ge=1)])


def test_half_a_character_is_a_validation_error() -> None:
    """What JSON can escape, and UTF-8 cannot say."""
    with pytest.raises(msgspec.ValidationError, match="has a lone surrogate"):
        from_builtins("\ud83d", Literal["a"])
