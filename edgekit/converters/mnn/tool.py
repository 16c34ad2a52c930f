"""The converter and quantiser in MNN's wheel.

Only the compiled module ``_tools`` is used. Importing ``MNN.tools`` installs packages and contacts a server.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.converters._foreign import tool_error
from edgekit.runtimes.bundle.folder import sha256
from edgekit.runtimes.engines.mnn.flatbuffer import identifier
from edgekit.runtimes.engines.mnn.opening import weights_of

_RUN = "import sys, _tools; getattr(_tools, sys.argv[1])(sys.argv[1:])"

LINEAR = "__matmul_converted"
"""Suffixes that the converter adds to the name of a linear layer, or of its result, when it makes it a convolution."""

_LOG_LINES = 4


@dataclass(frozen=True)
class Weights:
    """How the weights of a layer are stored: ``bits``, with a scale for every ``block`` inputs or, 0, each output.

    ``offset`` is whether there is an offset beside the scale.
    """

    bits: int
    block: int = 0
    offset: bool = False


def convert_onnx(source: Path, out: Path, *more: str) -> None:
    """Convert an ONNX file.

    Raises:
        ConversionError: the converter refuses it or crashes.
    """
    # Its own name for the file's maker is a company's code, which otherwise reads "MNNTest".
    given = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(out), "--bizCode", "edgekit", *more]
    run_tool("mnnconvert", given, out, source)
    _name_by_content(out)


def files_of(made: Path) -> tuple[str, ...]:
    """Names of a network's files: the converter writes weights of a gigabyte and more beside it."""
    return tuple(path.name for path in (made, weights_of(made)) if path.is_file())


def quantised_layers(layers: Mapping[str, Weights], scratch: Path) -> list[str]:
    """The converter's arguments that store the weights of these layers as integers, and no others.

    Args:
        layers: by the name that the converter gives each in a float file.
        scratch: a folder that holds until the converter has run.
    """
    told = [
        {
            "opName": name,
            "weight": [{"name": name, "bits": one.bits, "asymmetric": one.offset, "blockSize": one.block or -1}],
        }
        for name, one in layers.items()
    ]
    settings = scratch / "layers.json"
    algorithm = {"type": "QUANTIZE", "quantParams": {"layer": told}}
    settings.write_text(json.dumps({"version": "3.6.1", "algo": [algorithm]}), encoding="utf-8")
    return ["--compressionParamsFile", str(settings)]


def _name_by_content(path: Path) -> None:
    """Replace the random identifier in a file by a hash of the rest: the same network gives the same bytes."""
    data = bytearray(path.read_bytes())
    start, length = identifier(bytes(data))
    data[start : start + length] = bytes(length)
    content = hashlib.sha256(data)
    if (weights := weights_of(path)).is_file():
        content.update(sha256(weights).encode())
    data[start : start + length] = content.hexdigest()[:length].encode().ljust(length, b"0")
    path.write_bytes(data)


def run_tool(name: str, arguments: Sequence[str], made: Path, source: Path) -> None:
    """Run one of MNN's tools in a process of its own: they abort on what they do not know, and always return True.

    Args:
        name: of the tool.
        arguments: its own.
        made: the file that it is to write.
        source: the ONNX file that it is about, for messages.

    Raises:
        ConversionError: it failed or did not write ``made``; with what it said.
    """
    for path in (made, weights_of(made)):
        path.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, name, *arguments],
        cwd=made.parent,  # its log and what it dumps stay there
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode or not made.is_file():
        log = done.stdout.decode(errors="replace")
        raise tool_error(f"{name} failed (exit code {done.returncode})", _tail(log), source)


def _tail(log: str) -> str:
    """The relevant part of a tool's log: unsupported operators, or its last lines."""
    lines = [line.strip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    named = [line for line in lines if "ot Support" in line or "not support" in line or "NOT_SUPPORTED" in line]
    return " | ".join((named or lines or ["no output"])[-_LOG_LINES:])
