"""RKNN-Toolkit2, kept quiet: compiles a graph to a ``.rknn`` file and simulates it. Lives in the toolchain ``rknn``.

The toolkit refuses to simulate a ``.rknn`` file that it reads back. Its simulator computes the graph, quantised and
fused, that the compiler was given in the same process. So a bundle keeps, beside ``model.rknn``, what that graph is
assembled from: the ONNX file, or for INT8 the three files of the toolkit's hybrid quantisation (graph, weights, range
and type of every tensor). Converter and simulator assemble from them with the functions below, and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgekit.errors import EngineError

FILE = "model.rknn"
FLOAT_PARTS = ("simulator.onnx",)
INT8_PARTS = ("simulator.model", "simulator.data", "simulator.cfg")


@dataclass(frozen=True)
class Assembled:
    """A graph that the toolkit has compiled and can simulate.

    ``operators`` are counts per unit (NPU, CPU), ``types`` per data type; memory is what the compiler planned.
    """

    toolkit: Any
    operators: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    internal_kilobytes: float = 0.0
    weight_kilobytes: float = 0.0


def import_rknn() -> Any:
    """The class ``RKNN``; from then on this process hands out memory filled with zeros.

    The compiler writes structures with padding that it never set: without this, two files of one graph differ in a
    thousand bytes, with it in a few hundred, all of them addresses (see `same_program`).
    """
    with contextlib.suppress(AttributeError):  # glibc's, as the toolkit itself is built for
        ctypes.CDLL(None).mallopt(_M_PERTURB, 0xFF)
    from rknn.api import RKNN

    return RKNN


_M_PERTURB = -6


def assemble(folder: Path, parts: tuple[str, ...], platform: str) -> Assembled:
    """Compile what a bundle keeps: an ONNX file for ``platform``, or `INT8_PARTS`, which know theirs.

    Behind the ONNX file may be the file of its weights.

    Raises:
        EngineError: the toolkit refuses it.
    """
    paths = [str((folder / part).absolute()) for part in parts]
    with quietly() as log:
        toolkit = import_rknn()(verbose=True)
        if parts[0].endswith(".onnx"):
            configure(toolkit, log, platform)
            step("reading the ONNX file", log, toolkit.load_onnx, model=paths[0])
            step("compiling", log, toolkit.build, do_quantization=False)
        else:
            model, data, ranges = paths
            step(
                "compiling",
                log,
                toolkit.hybrid_quantization_step2,
                model_input=model,
                data_input=data,
                model_quantization_cfg=ranges,
            )
        return _read(toolkit, _text(log))


def configure(toolkit: Any, log: IO[bytes], platform: str, **options: str) -> None:
    """Set the chip; the graph takes the normalised tensor itself, so there is neither mean nor std."""
    step("configuring", log, toolkit.config, target_platform=platform, **options)


def save(assembled: Assembled, path: Path) -> None:
    """Write the compiled ``.rknn`` file."""
    with quietly() as log:
        step("writing", log, assembled.toolkit.export_rknn, export_path=str(path.absolute()))


@contextlib.contextmanager
def quietly() -> Iterator[IO[bytes]]:
    """Redirect all output, C++ included, to a log file, whose path it gives.

    The toolkit also writes files where it stands (its graphs, when it fails), which is a scratch folder meanwhile.
    """
    before = Path.cwd()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as scratch, _into(log):
        os.chdir(scratch)
        try:
            yield log
        finally:
            os.chdir(before)


def step(what: str, log: IO[bytes], work: Callable[..., Any], **arguments: Any) -> None:
    """One call of the toolkit, which says that it failed by a return code, a line on stdout, or an exception.

    Raises:
        EngineError: it failed; the message is the toolkit's own last one.
    """
    try:
        code = work(**arguments)
    except Exception as error:  # the toolkit raises whatever its compiled layers raise
        raise EngineError(f"RKNN-Toolkit2 failed at {what}: {_complaint(_text(log)) or error}") from error
    if code != 0:
        raise EngineError(f"RKNN-Toolkit2 failed at {what}: {_complaint(_text(log)) or f'code {code}'}")


def same_program(stored: bytes, rebuilt: bytes) -> bool:
    """Whether two ``.rknn`` files come from one graph with the same weights and ranges.

    They are never equal: the compiler stores structures of its own with the pointers in them (on RK3576 ten thousand
    bytes), and memory that it never set, which holds zeros, ones or old pointers; these do not count. For RK3576 it
    also copies from beyond the end of a table, in 600 of 1.6 million bytes of FastestDet; for this a thousandth of the
    file may differ. Other ranges throughout change more; that the parts are those of the conversion, to the byte, is
    what the hashes in the manifest are for.
    """
    if len(stored) != len(rebuilt):
        return False
    first, second = np.frombuffer(stored, np.uint8), np.frombuffer(rebuilt, np.uint8)
    different = first != second
    for data in (stored, rebuilt):
        for pointer in _POINTER.finditer(data):
            different[max(0, pointer.start() - _BEFORE) : pointer.end() + _BEHIND] = False
    left = np.flatnonzero(different)
    runs = np.split(left, np.flatnonzero(np.diff(left) > 1) + 1) if left.size else []
    unset = [any(np.all(data[run] == value) for data in (first, second) for value in (0x00, 0xFF)) for run in runs]
    counted = sum(run.size for run, blank in zip(runs, unset, strict=True) if not blank)
    return counted <= max(_FEW, len(stored) // 1000)


_FEW = 256

_POINTER = re.compile(rb"[\x55\x56\x7e\x7f]\0\0", re.DOTALL)
"""End of a pointer on 64-bit Linux, to the heap (0x55.., 0x56..), a library or the stack (0x7e.., 0x7f..)."""

_BEFORE, _BEHIND = 8, 10
"""Bytes around such an end that belong to the pointer, or to one that something else was written over."""


@contextlib.contextmanager
def _into(log: IO[bytes]) -> Iterator[None]:
    """File descriptors 1 and 2 lead to ``log``."""
    kept = [os.dup(1), os.dup(2)]
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    text = log.read().decode("utf-8", "replace")
    return re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "\n")


def _complaint(text: str) -> str:
    """The last line that is an error: marked so by the toolkit, or the end of a traceback that it printed."""
    found = re.findall(r"^(?:E (?:RKNN: \[[^]]*\] )?(?:\w+: )?|(?=\w+Error: ))(.+)$", text, re.MULTILINE)
    said = [line.strip() for line in found if not line.startswith(("Traceback", "rknn-toolkit2 version"))]
    return said[-1] if said else ""


def told(assembled: Assembled, platform: str) -> dict[str, str | int | float]:
    """The compiler's messages, for the report of a graph."""
    return {
        "platform": platform,
        "types": ", ".join(f"{kind} in {count}" for kind, count in sorted(assembled.types.items())) + " operators",
        **{f"{unit.lower()}_operators": count for unit, count in assembled.operators.items()},
        "weight_memory_kb": assembled.weight_kilobytes,
        "internal_memory_kb": assembled.internal_kilobytes,
    }


def _read(toolkit: Any, text: str) -> Assembled:
    """The compiler's table of operators, and its memory plan."""
    rows = re.findall(r"^D RKNN: \[[^]]*\] \d+ +(\w+) +(\w+) +(NPU|CPU) ", text, re.MULTILINE)
    operators: dict[str, int] = {}
    types: dict[str, int] = {}
    for kind, dtype, unit in rows:
        if kind not in ("InputOperator", "OutputOperator"):
            operators[unit] = operators.get(unit, 0) + 1
            types[dtype.lower()] = types.get(dtype.lower(), 0) + 1
    sizes = dict(re.findall(r"Total (Internal|Weight) Memory Size: ([\d.]+)KB", text))
    return Assembled(toolkit, operators, types, float(sizes.get("Internal", 0.0)), float(sizes.get("Weight", 0.0)))
