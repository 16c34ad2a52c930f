"""Parts of large models for Hexagon: every shape is a number, and each is compiled for one row.

The graph that reads a prompt in pieces and the graph for one token are compiled apart, from one file of weights.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.converters import Report, WrittenJob
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Blip2, Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Float16, Float32
from edgekit.runtimes.bundle.manifest import Graph, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.converters.qnn import QnnOptions

TEXT_POSITIONS = "embeddings.position_embeddings.weight"

Compiles = Callable[[Path, Path], int]


@dataclass(frozen=True)
class Sizes:
    """Numbers for the open sizes of a graph: new tokens, places in the cache (0: it has none), encoded tokens."""

    tokens: int
    capacity: int = 0
    encoded: int = 0


def write(job: WrittenJob, options: QnnOptions, compiles: Compiles, report: Report) -> Graph:
    """Write ``NAME_ctx.onnx`` and ``NAME.onnx``, of a decoder ``NAME_one_ctx.onnx`` and ``NAME_one.onnx`` too.

    Raises:
        ConversionError: integers, or the NPU does not take the graph.
    """
    if not isinstance(job.part.forms.layers, Float16):
        raise ConversionError(f"qnn computes parts of vision-language models in float16 only; choose fp16, {_WHY}")
    # The NPU rounds weights to float16 itself, and takes none that are widened.
    exact = dataclasses.replace(job.part, forms=Forms(Float32(), Float32()))
    graph = exact.write(job.work, HostCache)
    for name in graph.files[1:]:
        shutil.move(job.work / name, job.out / name)
    chosen, files, operators = sizes_of(graph, job.part.source, options), [], 0
    for number, sizes in enumerate(chosen):
        source = job.out / f"{graph.name}{'_one' if number else ''}.onnx"
        _fix(job.work / graph.files[0], source, sizes)
        context = source.with_name(f"{source.stem}_ctx.onnx")
        report("compiling for the NPU", 0.5 + 0.4 * number)
        operators += compiles(source, context)
        files += [context.name, source.name]
    told: dict[str, str | int | float] = {"arithmetic": "float16", "htp_operators": operators}
    fixed = [tuple(_shaped(tensor, chosen[0]) for tensor in tensors) for tensors in (graph.inputs, graph.outputs)]
    return Graph(name=graph.name, files=(*files, *graph.files[1:]), inputs=fixed[0], outputs=fixed[1], report=told)


_WHY = (
    "or another target for this part (--target vision=qnn,qformer=qnn,language=onnx): its integers need ranges of all "
    "activations"
)


def sizes_of(graph: Graph, source: Blip2, options: QnnOptions) -> tuple[Sizes, ...]:
    """The sizes that a graph is compiled for; of a decoder those of a piece of the prompt, then those of one token."""
    names = {tensor.name for tensor in graph.inputs}
    if "past.0.key" not in names:
        texts = source.checkpoint.shape(TEXT_POSITIONS)[0] if "input_ids" in names else options.tokens
        return (Sizes(min(options.tokens, texts)),)
    if "position_ids" not in names:
        return (Sizes(1, options.tokens, options.tokens),)
    return Sizes(options.piece, options.tokens), Sizes(1, options.tokens)


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


def _fix(source: Path, destination: Path, sizes: Sizes) -> None:
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


def refuse_lengths(options: QnnOptions) -> None:
    """Refuse a piece that is longer than the cache.

    Raises:
        ConversionError: it is.
    """
    if options.piece > options.tokens:
        raise ConversionError(f"qnn.piece={options.piece} is more than qnn.tokens={options.tokens}; give less")
