"""An opened ncnn network of one or several images to arrays, and one of named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.base import SHARED, Placement, rows_of

_READ_ONLY = ("Convolution", "ConvolutionDepthWise", "Concat", "Embed", "SDPA")
"""Layers that can be given memory which does not belong to ncnn."""


class NcnnSession:
    """An opened ncnn network. Not thread-safe.

    Attributes:
        net: ncnn's own.
    """

    def __init__(self, net: Any, graph: Graph, placement: Placement) -> None:
        self.placement = placement
        self.net = net
        self._graph = graph
        self._borrowed = _borrowed(net)

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


class NcnnNetwork:
    """A network with named inputs, of which ncnn runs one row at a time. Not thread-safe."""

    def __init__(self, net: Any, graph: Graph, placement: Placement) -> None:
        self.placement = placement
        self._net, self._graph = net, graph
        self._borrowed = _borrowed(net)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run every row by itself: inputs by name to outputs by name.

        Raises:
            EngineError: an input is missing or has another shape than the manifest says, or ncnn fails.
        """
        made = [self._row(row) for row in rows_of(self._graph, feeds)]
        return {tensor.name: np.stack([one[tensor.name] for one in made]) for tensor in self._graph.outputs}

    def _row(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import ncnn

        extractor = self._net.create_extractor()
        for name, array in arrays.items():
            # The Mat only points into the array, which `arrays` keeps alive until the last output is there.
            mat = ncnn.Mat(array if name == SHARED else array[0])
            if extractor.input(name, mat if name in self._borrowed else mat.clone()):
                raise EngineError(f"ncnn has no input {name!r}: the file and its manifest differ, convert again")
        outputs = {}
        for tensor in self._graph.outputs:
            code, mat = extractor.extract(tensor.name)
            if code:
                raise EngineError(f"ncnn failed to compute output {tensor.name!r} (code {code}); convert again")
            outputs[tensor.name] = _as_row(np.array(mat), tensor)
        return outputs


def _borrowed(net: Any) -> set[str]:
    """Names of the inputs that may lie in memory which does not belong to ncnn.

    A layer that works in place asks how many share its input's memory, and memory that is not ncnn's own cannot tell:
    it crashes. Convolutions read their input and nothing else, and nearly all networks begin with one.
    """
    return {name for layer in net.layers() if layer.type in _READ_ONLY for name in _input_names(net, layer)}


def _input_names(net: Any, layer: Any) -> list[str]:
    blobs = net.blobs()
    return [blobs[index].name for index in layer.bottoms]


def _as_array(mat: Any, name: str, shape: tuple[int, ...]) -> Floats:
    """An output with its batch axis. Copies only where ncnn padded the channels to a multiple of 16 bytes."""
    array = np.asarray(mat)
    if array.size != np.prod(shape) or array.dtype != np.float32:
        raise EngineError(
            f"output {name!r} came as {array.dtype} {list(array.shape)}, the manifest says float32 {list(shape)}; "
            "convert again"
        )
    return np.ascontiguousarray(array).reshape(shape)


def _as_row(array: NDArray[Any], tensor: Tensor) -> Floats:
    """An output without its axis of rows; at most one of its other sizes is not known before."""
    wanted = tensor.shape[1:]
    known = int(np.prod([size for size in wanted if size >= 0]))
    fits = array.size % known == 0 if -1 in wanted else array.size == known
    if not fits or array.dtype != np.float32:
        raise EngineError(
            f"output {tensor.name!r} came as {array.dtype} {list(array.shape)}, the manifest says float32 "
            f"{list(wanted)} for each row; convert again"
        )
    return array.reshape(wanted)
