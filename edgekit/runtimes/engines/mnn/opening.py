"""Check a ``.mnn`` file before MNN opens it, and keep the terminal quiet."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement
from edgekit.runtimes.engines.mnn.flatbuffer import CONST, INPUT, MnnOperator, read_operators

DEFAULT_THREADS = 4
"""MNN's own default; its Python module needs a number."""

_STDOUT = threading.Lock()


def weights_of(path: Path) -> Path:
    """Where MNN looks for the weights of a network that are too large for its file, without being told."""
    return path.with_name(f"{path.name}.weight")


def checked_operators(path: Path, graph: Graph) -> list[MnnOperator]:
    """Check a file before MNN opens it, which aborts the process on some broken files.

    Raises:
        EngineError: it is missing or broken, has weights beside it that the manifest does not list, or lacks a tensor
            of the manifest.
    """
    operators = _operators(path)
    weights = weights_of(path)
    if weights.exists() and weights.name not in graph.files:
        raise EngineError(f"{weights}: weights that the manifest does not list; do not use this bundle")
    made = {name for operator in operators for name in operator.outputs}
    for tensor in (*graph.inputs, *graph.outputs):  # MNN would give the first tensor for a name it does not know
        if tensor.name not in made:
            raise EngineError(f"{path}: has no tensor {tensor.name!r}, which the manifest names; convert again")
    return operators


def _operators(path: Path) -> list[MnnOperator]:
    try:
        operators = read_operators(path)
    except FileNotFoundError as error:
        raise EngineError(f"{path}: missing; convert again") from error
    except ValueError as error:
        raise EngineError(f"{path}: {error}; convert again") from error
    if not operators:
        raise EngineError(f"{path}: holds no operators; convert again")
    return operators


def placement_of(operators: list[MnnOperator]) -> Placement:
    """By how weights are stored."""
    stored = Counter(operator.stored for operator in operators if operator.stored)
    arithmetic = "float32"
    if stored["int8"]:
        arithmetic = f"int8 in {stored['int8']} of {stored.total()} convolutions, float32 or int8 tables elsewhere"
    elif stored["int8 weights"]:
        arithmetic = f"float32, weights of {stored['int8 weights']} of {stored.total()} convolutions stored as int8"
    elif stored["float16"]:
        arithmetic = "float32, weights stored as float16"
    computing = sum(operator.kind not in (INPUT, CONST) for operator in operators)
    return Placement("cpu", {"cpu": computing}, arithmetic)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Redirect what MNN prints about the CPU, so that it does not mix with a command's JSON on stdout."""
    with _STDOUT:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        try:
            yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what C holds back would come out after the restoration
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)
