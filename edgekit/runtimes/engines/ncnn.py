"""ncnn: Tencent's engine for phones and small boards, here through its Python module on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions

_MAGIC = "7767517"
_TAG_FLOAT16 = 0x01306B47
"""The word before weights that are stored as float16 in a ``.bin``."""

_INT8_SWITCH = {"Convolution": "8=", "ConvolutionDepthWise": "8=", "InnerProduct": "8=", "Gemm": "18="}
"""The parameter that is not zero when a layer of this kind computes in INT8."""

_READ_ONLY = ("Convolution", "ConvolutionDepthWise")
"""Layers that can be given memory which does not belong to ncnn."""


@dataclass(frozen=True)
class _Traits:
    """Properties of the files: number of layers, of layers that can run and do run in INT8, and stored floats."""

    layers: int
    quantisable: int
    quantised: int
    float16: bool


class NcnnSession:
    """An opened ncnn network. Not thread-safe.

    Attributes:
        net: ncnn's own.
    """

    def __init__(self, net: Any, graph: Graph, placement: Placement) -> None:
        self.placement = placement
        self.net = net
        self._graph = graph
        # A layer that works in place asks how many share its input's memory, and memory that is not ncnn's own cannot
        # tell: it crashes. Convolutions read their input and nothing else, and nearly all networks begin with one.
        self._borrowed = {
            name for layer in net.layers() if layer.type in _READ_ONLY for name in _input_names(net, layer)
        }

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        """Run once: NCHW float32 with batch 1 in the graph's order, outputs likewise in the contract's order.

        Raises:
            EngineError: another number or shape of inputs, or ncnn fails or gives another shape than the manifest says.
        """
        import ncnn

        arrays = self._checked(inputs)
        extractor = self.net.create_extractor()
        for tensor, array in zip(self._graph.inputs, arrays, strict=True):
            # The Mat only points into the array, which `arrays` keeps alive until the last output is there.
            mat = ncnn.Mat(array[0])
            if extractor.input(tensor.name, mat if tensor.name in self._borrowed else mat.clone()):
                raise EngineError(f"ncnn has no input {tensor.name!r}: the file and its manifest differ, convert again")
        outputs = []
        for tensor in self._graph.outputs:
            code, mat = extractor.extract(tensor.name)
            if code:
                raise EngineError(f"ncnn failed to compute output {tensor.name!r} (code {code}); convert again")
            outputs.append(_as_array(mat, tensor.name, tensor.shape))
        return outputs

    def _checked(self, inputs: Sequence[Floats]) -> list[Floats]:
        """The inputs as contiguous float32; ncnn itself would take any size and compute something."""
        if len(inputs) != len(self._graph.inputs):
            raise EngineError(f"the graph takes {len(self._graph.inputs)} inputs, not {len(inputs)}")
        for tensor, array in zip(self._graph.inputs, inputs, strict=True):
            if array.shape != tensor.shape:
                raise EngineError(f"input {tensor.name!r} takes shape {list(tensor.shape)}, not {list(array.shape)}")
        return [np.ascontiguousarray(array, np.float32) for array in inputs]


def int8_layers(param: Path) -> set[str]:
    """Names of the layers of a ``.param`` that compute in INT8."""
    lines = [line.split() for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()]
    return {words[1] for words in lines if words[0] in _INT8_SWITCH and _is_int8(words)}


def _files(folder: Path, graph: Graph) -> tuple[Path, Path]:
    """The ``.param`` and the ``.bin`` of a graph, both there."""
    if len(graph.files) != 2:
        raise EngineError(f"an ncnn graph has a .param and a .bin, not {list(graph.files)}; convert again")
    param, weights = folder / graph.files[0], folder / graph.files[1]
    for path in (param, weights):
        if not path.is_file():
            raise EngineError(f"{path}: missing; convert again")
    return param, weights


def _traits(param: Path, weights: Path) -> _Traits:
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
    return _Traits(len(layers), len(quantisable), len(quantised), not quantised and _has_float16(weights))


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


def _has_float16(weights: Path) -> bool:
    """Whether any weights are stored as float16. The files do not say; the tag stands at a multiple of four bytes.

    As a float32 weight the tag would read 3e-38, which no trained network holds.
    """
    words = np.fromfile(weights, "<u4", weights.stat().st_size // 4)
    return bool((words == _TAG_FLOAT16).any())


def _configure(opt: Any, traits: _Traits, options: SessionOptions) -> str:
    """Set ncnn's options; returns the arithmetic they lead to."""
    import ncnn

    if options.threads:
        opt.num_threads = options.threads
    opt.use_vulkan_compute = False
    # bfloat16 has 8 bits of precision, too few for a detector's boxes, and ncnn may switch it on by itself.
    opt.use_bf16_storage = opt.use_bf16_packed = False
    # ncnn would compute in float16 wherever the CPU can, whatever the file holds: an fp32 bundle must stay float32,
    # and an INT8 bundle was proven with float32 between its convolutions.
    storage = traits.float16 and bool(ncnn.cpu_support_arm_vfpv4())
    arithmetic = traits.float16 and bool(ncnn.cpu_support_arm_asimdhp())
    opt.use_fp16_packed = opt.use_fp16_storage = storage
    opt.use_fp16_arithmetic = arithmetic
    opt.use_int8_inference = True
    if traits.quantised:
        return f"int8 in {traits.quantised} of {traits.quantisable} convolutions and products, float32 elsewhere"
    if arithmetic:
        return "float16"
    if traits.float16:
        return f"float32, weights {'and activations ' if storage else ''}stored as float16"
    return "float32"


def _input_names(net: Any, layer: Any) -> list[str]:
    blobs = net.blobs()
    return [blobs[index].name for index in layer.bottoms]


def _unknown_layers(param: Path) -> str:
    """Names the layers that this ncnn does not have, for an error message."""
    import ncnn

    kinds = {line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()}
    unknown = sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)
    return f" (it has no layer {', '.join(unknown)})" if unknown else ""


def _require(graph: Graph, net: Any, param: Path) -> None:
    """Refuse a file that lacks a blob the manifest names."""
    blobs = {blob.name for blob in net.blobs()}
    missing = [tensor.name for tensor in (*graph.inputs, *graph.outputs) if tensor.name not in blobs]
    if missing:
        raise EngineError(f"{param}: has no blob {', '.join(missing)}, which the manifest names; convert again")


def _as_array(mat: Any, name: str, shape: tuple[int, ...]) -> Floats:
    """An output with its batch axis. Copies only where ncnn padded the channels to a multiple of 16 bytes."""
    array = np.asarray(mat)
    if array.size != np.prod(shape) or array.dtype != np.float32:
        raise EngineError(
            f"output {name!r} came as {array.dtype} {list(array.shape)}, the manifest says float32 {list(shape)}; "
            "convert again"
        )
    return np.ascontiguousarray(array).reshape(shape)


class Ncnn(Engine):
    """ncnn."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> NcnnSession:
        """Open a ``.param`` and ``.bin`` on the CPU. Everything ncnn has runs there, so ``strict`` always holds.

        Raises:
            EngineError: the files are not what ncnn reads, or use a layer it does not have.
        """
        import ncnn

        param, weights = _files(folder, graph)
        traits = _traits(param, weights)
        net = ncnn.Net()
        arithmetic = _configure(net.opt, traits, options)
        if net.load_param(str(param)):
            raise EngineError(
                f"{param}: ncnn {ncnn.__version__} cannot open this graph{_unknown_layers(param)}; convert the model "
                "again with this version of ncnn"
            )
        if net.load_model(str(weights)):
            raise EngineError(f"{weights}: ncnn {ncnn.__version__} cannot read the weights, truncated? convert again")
        _require(graph, net, param)
        return NcnnSession(net, graph, Placement("cpu", {"cpu": traits.layers}, arithmetic))


SETTINGS = (
    "no Vulkan (use_vulkan_compute), no bfloat16 (use_bf16_storage, use_bf16_packed); use_fp16_packed, "
    "use_fp16_storage and use_fp16_arithmetic only for fp16 bundles; use_int8_inference"
)

ENGINE = Ncnn(name="ncnn", packages=("ncnn",), extra="ncnn", settings=SETTINGS)
