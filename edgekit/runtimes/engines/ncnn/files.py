"""Check and describe the files of an ncnn network before ncnn opens them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph

_MAGIC = "7767517"
TAG_FLOAT16 = 0x01306B47
"""The tag in front of weights that are stored as float16 in a ``.bin``."""

_INT8_SWITCH = {"Convolution": "8=", "ConvolutionDepthWise": "8=", "InnerProduct": "8=", "Gemm": "18="}
"""The parameter that is not zero when a layer of this kind computes in INT8."""

_CHUNK = 1 << 24
"""Bytes of weights that are looked at together."""


@dataclass(frozen=True)
class Traits:
    """Properties of the files.

    Attributes:
        layers: how many.
        quantisable: of them those that can hold integers.
        quantised: those that do.
        bits: of weights in blocks, of which each has a scale; empty where a whole output, or layer, has one.
        float16: whether floats are stored as float16.
    """

    layers: int
    quantisable: int
    quantised: int
    bits: tuple[int, ...]
    float16: bool


def int8_layers(param: Path) -> set[str]:
    """Names of the layers of a ``.param`` that compute in INT8."""
    lines = [line.split() for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()]
    return {words[1] for words in lines if words[0] in _INT8_SWITCH and _is_int8(words)}


def files_of(folder: Path, graph: Graph) -> tuple[Path, Path]:
    """The ``.param`` and the ``.bin`` of a graph, both there."""
    if len(graph.files) != 2:
        raise EngineError(f"an ncnn graph has a .param and a .bin, not {list(graph.files)}; convert again")
    param, weights = folder / graph.files[0], folder / graph.files[1]
    for path in (param, weights):
        if not path.is_file():
            raise EngineError(f"{path}: missing; convert again")
    return param, weights


def traits_of(param: Path, weights: Path) -> Traits:
    """Check the files before ncnn opens them, because ncnn crashes on wrong counts in the header."""
    try:
        lines = param.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise EngineError(f"{param}: not an ncnn graph (not text); convert again") from error
    if any("\0" in line for line in lines):
        raise EngineError(f"{param}: not an ncnn graph (it has zero bytes, at which ncnn crashes); convert again")
    layers = [line.split() for line in lines[2:] if line.strip()]
    header = lines[1].split() if len(lines) > 1 else []
    if lines[:1] != [_MAGIC] or len(header) != 2 or header[0] != str(len(layers)):
        raise EngineError(
            f"{param}: not a whole ncnn graph ({len(layers)} layers, header {' '.join(lines[:2])[:40]!r})"
        )
    blobs = {name for words in layers for name in _produced(words, param)}
    if header[1] != str(len(blobs)):
        raise EngineError(f"{param}: the header says {header[1]} blobs, the layers make {len(blobs)}; convert again")
    quantisable = [words for words in layers if words[0] in _INT8_SWITCH]
    quantised = [words for words in quantisable if _is_int8(words)]
    bits = tuple(sorted({_block_bits(words) for words in quantised} - {0}))
    return Traits(len(layers), len(quantisable), len(quantised), bits, not quantised and _has_float16(weights))


def _produced(words: list[str], param: Path) -> list[str]:
    """Names of the blobs a layer's line says it makes."""
    try:
        inputs, outputs = int(words[2]), int(words[3])
    except (IndexError, ValueError) as error:
        raise EngineError(f"{param}: not an ncnn layer: {' '.join(words)[:60]!r}; convert again") from error
    if min(inputs, outputs) < 0 or len(words) < 4 + inputs + outputs:
        raise EngineError(f"{param}: layer {words[1]!r} ends early; convert again")
    return words[4 + inputs : 4 + inputs + outputs]


def _is_int8(words: list[str]) -> bool:
    switch = _INT8_SWITCH[words[0]]
    return any(word.startswith(switch) and word != switch + "0" for word in words)


def _block_bits(words: list[str]) -> int:
    """Bits of a product's weight in blocks; 0 for another way of holding integers."""
    switch = _INT8_SWITCH[words[0]]
    value = next(word for word in words if word.startswith(switch)).removeprefix(switch)
    return int(value) // 100 if words[0] == "Gemm" else 0


def _has_float16(weights: Path) -> bool:
    """Whether any weights are stored as float16. The files do not say; the tag stands at a multiple of four bytes.

    As a float32 weight the tag would read 3e-38, which no trained network holds.
    """
    with weights.open("rb") as file:
        while some := file.read(_CHUNK):
            if (np.frombuffer(some, "<u4", len(some) // 4) == TAG_FLOAT16).any():
                return True
    return False
