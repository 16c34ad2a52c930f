"""The files of an ncnn model: ``.param`` (the graph, text) and ``.bin`` (the weights, in the order of the layers).

The ``.bin`` has no index: what lies where follows from the layers' parameters, so a layer whose weights are not
known here makes the whole file unreadable and is refused by name. What is read and written unchanged is the same
byte for byte. Layout: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and, for each layer,
``load_model`` in its source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConversionError

MAGIC = "7767517"

TAG_FLOAT32 = 0
TAG_FLOAT16 = 0x01306B47
TAG_INT8 = 0x000D4B38
_STORED: dict[int, np.dtype[Any]] = {
    TAG_FLOAT32: np.dtype("<f4"),
    TAG_FLOAT16: np.dtype("<f2"),
    TAG_INT8: np.dtype("i1"),
}

CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")

# Layers without weights that pnnx writes for detectors and their neighbours. A list of what is known to be safe:
# an unknown layer that did carry weights would shift every layer after it.
_WEIGHTLESS_NAMES = """
    AbsVal ArgMax BinaryOp BNLL Cast CELU Clip Concat CopyTo Crop CumulativeSum DeepCopy Diag Dropout Eltwise ELU Erf
    Exp ExpandDims Flatten Flip Fold GELU GLU GridSample HardSigmoid HardSwish Input Interp LRN Log MatMul Mish Noop
    Packing Padding Permute PixelShuffle Pooling Power Reduction ReLU Reorg Reshape SELU ShuffleChannel Shrink Sigmoid
    Slice Softmax Softplus Split Squeeze Swish TanH Threshold Tile UnaryOp Unfold
"""
_WEIGHTLESS = frozenset(_WEIGHTLESS_NAMES.split())


@dataclass
class Weight:
    """One run of numbers in the ``.bin``. ``tag`` is the word before it that names the type; None: float32, no word."""

    data: NDArray[Any]
    tag: int | None = None

    def stored(self) -> bytes:
        """The bytes in the file, padded to four."""
        data = self.data.tobytes()
        head = b"" if self.tag is None else self.tag.to_bytes(4, "little")
        return head + data + bytes(-len(data) % 4)


@dataclass
class NcnnLayer:
    """One line of the ``.param``. ``params`` keeps the text of each value, so that writing changes nothing."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, str]
    weights: list[Weight] = field(default_factory=list)

    def number(self, key: int, default: int = 0) -> int:
        """An integer parameter."""
        return int(self.params.get(key, default))

    @property
    def convolution(self) -> bool:
        """Whether this is a two-dimensional convolution (grouped or not) with its weights in the file."""
        return self.kind in CONVOLUTIONS and bool(self.weights)

    @property
    def groups(self) -> int:
        """Groups of a convolution."""
        return self.number(7, 1) if self.kind == "ConvolutionDepthWise" else 1

    @property
    def depthwise(self) -> bool:
        """Whether every output of this convolution reads a single input channel."""
        return self.convolution and self.kernels().shape[1] == 1 and self.groups > 1

    def kernels(self) -> NDArray[np.float32]:
        """Weights of a convolution as (outputs, inputs of one group, kernel height, kernel width), of a product as
        (outputs, inputs)."""
        if self.kind == "InnerProduct":
            return np.asarray(self.weights[0].data, np.float32).reshape(self.number(0), -1)
        width = self.number(1)
        return np.asarray(self.weights[0].data, np.float32).reshape(self.number(0), -1, self.number(11, width), width)


@dataclass
class NcnnModel:
    """A parsed model. ``blobs`` is the number of blobs that the header states."""

    layers: list[NcnnLayer]
    blobs: int

    def param(self) -> str:
        """Text of the ``.param`` file."""
        lines = [MAGIC, f"{len(self.layers)} {self.blobs}"]
        for layer in self.layers:
            words = [f"{layer.kind:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)}"]
            words += layer.inputs + layer.outputs + [f"{key}={value}" for key, value in layer.params.items()]
            lines.append(" ".join(words))
        return "\n".join(lines) + "\n"

    def bin(self) -> bytes:
        """Content of the ``.bin`` file."""
        return b"".join(weight.stored() for layer in self.layers for weight in layer.weights)

    def write(self, param: Path, weights: Path) -> None:
        """Write both files."""
        param.write_text(self.param(), encoding="utf-8", newline="\n")
        weights.write_bytes(self.bin())


def read_model(param: Path, weights: Path) -> NcnnModel:
    """Read both files.

    Raises:
        ConversionError: not such files, a layer whose weights are not known here, or a ``.bin`` of another length.
    """
    model = parse_param(param.read_text(encoding="utf-8"), param.name)
    data = weights.read_bytes()
    reader = _Reader(data, weights.name)
    for layer in model.layers:
        layer.weights = _weights(layer, reader)
    if reader.offset != len(data):
        raise ConversionError(
            f"{weights.name} has {len(data)} bytes but its layers account for {reader.offset}; "
            "the INT8 writer does not know this pnnx: choose fp16, and report the version of pnnx"
        )
    return model


def parse_param(text: str, origin: str) -> NcnnModel:
    """Read the text of a ``.param``; the layers have no weights yet.

    Raises:
        ConversionError: not a ``.param``, or one whose header does not fit its lines.
    """
    lines = text.splitlines()
    try:
        if lines[0] != MAGIC:
            raise ValueError(f"begins with {lines[0][:20]!r}, not {MAGIC}")
        count, blobs = (int(word) for word in lines[1].split())
        layers = [_layer(line) for line in lines[2:] if line.strip()]
        if len(layers) != count:
            raise ValueError(f"has {len(layers)} layers, its header says {count}")
    except (ValueError, IndexError) as error:
        raise ConversionError(f"{origin} is not a readable ncnn graph: {error}; convert the model again") from error
    return NcnnModel(layers, blobs)


def _layer(line: str) -> NcnnLayer:
    kind, name, inputs, outputs, *words = line.split()
    first, second = int(inputs), int(inputs) + int(outputs)
    if len(words) < second:
        raise ValueError(f"layer {name!r} ends early")
    params = dict(word.split("=", 1) for word in words[second:])
    return NcnnLayer(kind, name, words[:first], words[first:second], {int(key): value for key, value in params.items()})


class _Reader:
    """Takes numbers off the front of a ``.bin``."""

    def __init__(self, data: bytes, origin: str) -> None:
        self.data, self.origin, self.offset = data, origin, 0

    def raw(self, count: int) -> Weight:
        """Float32 numbers without a tag."""
        return Weight(self._take(np.dtype("<f4"), count))

    def tagged(self, count: int) -> Weight:
        """Numbers behind the tag that says how they are stored."""
        tag = int(self._take(np.dtype("<u4"), 1)[0])
        if tag not in _STORED:
            raise ConversionError(
                f"{self.origin}: unknown weight tag 0x{tag:08X} at byte {self.offset - 4}; "
                "the INT8 writer does not know this pnnx: choose fp16, and report the version of pnnx"
            )
        return Weight(self._take(_STORED[tag], count), tag)

    def _take(self, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        size = count * kind.itemsize
        if count < 0 or self.offset + size > len(self.data):
            raise ConversionError(f"{self.origin} ends at byte {len(self.data)}, its layers need more; convert again")
        values: NDArray[Any] = np.frombuffer(self.data, kind, count, self.offset)
        self.offset += size + -size % 4
        return values


def _weights(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    """Take one layer's weights off the reader."""
    read = _READERS.get(layer.kind)
    if read is not None:
        return read(layer, reader)
    if layer.kind in _WEIGHTLESS:
        return []
    raise ConversionError(
        f"ncnn int8: layer {layer.name!r} is a {layer.kind}, whose weights the INT8 writer does not know; choose fp16"
    )


def _convolution(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    if layer.number(19):  # the weights are inputs of the layer
        return []
    if layer.number(8):
        raise ConversionError(f"ncnn int8: convolution {layer.name!r} is quantised already; start from the float model")
    weights = [reader.tagged(layer.number(6))]
    return weights + ([reader.raw(layer.number(0))] if layer.number(5) else [])


def _inner_product(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    return [reader.tagged(layer.number(2))] + ([reader.raw(layer.number(0))] if layer.number(1) else [])


def _memory_data(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    count = int(np.prod([max(layer.number(key), 1) for key in (0, 1, 11, 2)]))
    return [reader.raw(count) if layer.number(21, 1) else reader.tagged(count)]


def _embed(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    return [reader.tagged(layer.number(3))] + ([reader.raw(layer.number(0))] if layer.number(2) else [])


def _scale(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    size = layer.number(0)
    if size == -233:  # the factors are an input of the layer
        return []
    return [reader.raw(size)] + ([reader.raw(size)] if layer.number(1) else [])


def _gemm(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
    rows, columns, inner = layer.number(7), layer.number(8), layer.number(9)
    weights = []
    if layer.number(4):
        weights.append(reader.tagged(rows * inner))
    if layer.number(5):
        weights.append(reader.tagged(columns * inner))
    if layer.number(6) and layer.number(10) != -1:
        sizes = {0: 1, 1: rows, 2: rows, 3: rows * columns, 4: columns}
        weights.append(reader.tagged(sizes[layer.number(10)]))
    return weights


def _affine(size: int, switch: int, runs: int) -> Callable[[NcnnLayer, _Reader], list[Weight]]:
    """Reader of ``runs`` vectors whose length is parameter ``size``, there unless parameter ``switch`` is 0."""

    def read(layer: NcnnLayer, reader: _Reader) -> list[Weight]:
        return [reader.raw(layer.number(size)) for _ in range(runs)] if layer.number(switch, 1) else []

    return read


_READERS: dict[str, Callable[[NcnnLayer, _Reader], list[Weight]]] = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Deconvolution": _convolution,
    "DeconvolutionDepthWise": _convolution,
    "InnerProduct": _inner_product,
    "Gemm": _gemm,
    "MemoryData": _memory_data,
    "Embed": _embed,
    "Scale": _scale,
    "Bias": lambda layer, reader: [reader.raw(layer.number(0))],
    "PReLU": lambda layer, reader: [reader.raw(layer.number(0))],
    "BatchNorm": lambda layer, reader: [reader.raw(layer.number(0)) for _ in range(4)],
    "LayerNorm": _affine(0, 2, 2),
    "RMSNorm": _affine(0, 2, 1),
    "InstanceNorm": _affine(0, 2, 2),
    "GroupNorm": _affine(1, 3, 2),
}
