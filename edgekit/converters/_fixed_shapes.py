"""Parts of vision-language models with a number for every size, for targets whose files have no free shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.runtimes.bundle.manifest import Graph, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Sizes:
    """Numbers for the open sizes of a graph: new tokens, places in the cache (0: it has none), encoded tokens."""

    tokens: int
    capacity: int = 0
    encoded: int = 0


def fixed(graph: Graph, sizes: Sizes) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of a graph with a number for every size, for one row."""
    inputs, outputs = (tuple(_shaped(tensor, sizes) for tensor in some) for some in (graph.inputs, graph.outputs))
    return inputs, outputs


def _shaped(tensor: Tensor, sizes: Sizes) -> Tensor:
    """The same with a number for every size. The present of a cache has the new tokens alone."""
    new, room = sizes.tokens, sizes.capacity
    shape = [1, *tensor.shape[1:]]
    if tensor.name == "distances":
        shape = [1, room + 1] if room else [new, new]
    elif tensor.name == "mask":
        shape[2:] = [new, room + new] if room else [1, new]
    elif tensor.name.startswith("past."):
        shape[2] = room
    elif tensor.name.startswith("cross.") or tensor.name == "encoder_mask":
        shape = [(sizes.encoded or new) if size == -1 else size for size in shape]
    return msgspec.structs.replace(tensor, shape=tuple(new if size == -1 else size for size in shape))


def fix(source: Path, destination: Path, sizes: Sizes) -> None:
    """Write the graph with numbers in place of names of sizes; its weights stay where they are."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    _set_shapes(model, sizes)
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), destination)


def _set_shapes(model: ModelProto, sizes: Sizes) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        open_shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)
        told = _shaped(Tensor(name=value.name, shape=open_shape), sizes)
        for dim, size in zip(dims, told.shape, strict=True):
            dim.dim_value = size
