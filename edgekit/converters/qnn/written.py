"""Parts of large models for Hexagon: every shape is a number, and each is compiled for one row.

The graph that reads a prompt in pieces and the graph for one token are compiled apart, from one file of weights.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.converters import Report, WrittenJob
from edgekit.converters._fixed_shapes import Sizes, fix, fixed
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Blip2, Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Float16, Float32
from edgekit.runtimes.bundle.manifest import Graph

if TYPE_CHECKING:
    from edgekit.converters.qnn import QnnOptions

Compiles = Callable[[Path, Path], int]


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
        fix(job.work / graph.files[0], source, sizes)
        context = source.with_name(f"{source.stem}_ctx.onnx")
        report("compiling for the NPU", 0.5 + 0.4 * number)
        operators += compiles(source, context)
        files += [context.name, source.name]
    told: dict[str, str | int | float] = {"arithmetic": "float16", "htp_operators": operators}
    inputs, outputs = fixed(graph, chosen[0])
    return Graph(name=graph.name, files=(*files, *graph.files[1:]), inputs=inputs, outputs=outputs, report=told)


_WHY = (
    "or another target for this part (--target vision=qnn,qformer=qnn,language=onnx): its integers need ranges of all "
    "activations"
)


def sizes_of(graph: Graph, source: Blip2, options: QnnOptions) -> tuple[Sizes, ...]:
    """The sizes that a graph is compiled for; of a decoder those of a piece of the prompt, then those of one token."""
    names = {tensor.name for tensor in graph.inputs}
    if "past.0.key" not in names:
        return (Sizes(min(options.tokens, source.texts) if "input_ids" in names else options.tokens),)
    if "position_ids" not in names:
        return (Sizes(1, options.tokens, options.tokens),)
    return Sizes(options.piece, options.tokens), Sizes(1, options.tokens)


def refuse_lengths(options: QnnOptions) -> None:
    """Refuse a piece that is longer than the cache.

    Raises:
        ConversionError: it is.
    """
    if options.piece > options.tokens:
        raise ConversionError(f"qnn.piece={options.piece} is more than qnn.tokens={options.tokens}; give less")
