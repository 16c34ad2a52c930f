"""Parts of large models for ExecuTorch: written as a graph of PyTorch, and lowered to XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgekit.converters import Report, WrittenJob
from edgekit.converters._foreign import tool_error
from edgekit.converters._quiet import quiet
from edgekit.converters.executorch.layers import ExecutorchLayers
from edgekit.converters.executorch.lowering import counts, lowered_to, shared_histories
from edgekit.converters.executorch.writer import TorchWriter
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import WrittenPart
from edgekit.graph.blip2.opt import OptConfig
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.executorch import DELEGATE, XNNPACK

Size = TypeVar("Size")


def write(job: WrittenJob, tokens: int, report: Report) -> Graph:
    """Write ``NAME.pte``. The part is in memory: float32, or a byte for each integer.

    Args:
        job: the part and its folders.
        tokens: the most of image, prompt and answer, which is the capacity of a decoder's cache.
        report: progress callback.

    Raises:
        ConversionError: the toolchain refuses the graph.
    """
    part = job.part
    report("loading ExecuTorch", 0.0)
    with quiet():
        import executorch.exir  # noqa: F401 - brings the operators of quantised tensors
        import torch

        torch.set_num_threads(job.threads)
    writer = TorchWriter(part.name)
    part.describe(ExecutorchLayers(writer, part.source.checkpoint, part.forms.layers))
    report(f"lowering {part.name} for {XNNPACK}", 0.2)
    path = job.out / f"{part.name}.pte"
    try:
        with quiet(), shared_histories():
            room = limited(part, tokens)
            new, encoded = (torch.export.Dim(name, max=room) for name in ("new", "encoded"))
            examples, sizes = open_sizes(3, room, 4), open_sizes(new, room, encoded)
            program = writer.program(examples.get(part.name, {}), sizes.get(part.name, {}))
            lowered = lowered_to(program, XNNPACK, compile_config=_edge())
            counted = counts(lowered, XNNPACK)
            with path.open("wb") as file:
                lowered.to_executorch(_backend()).write_to_file(file)
    except ConversionError:
        raise
    except Exception as error:  # the toolchain raises whatever its layers raise
        raise tool_error(f"ExecuTorch cannot lower {part.name}", error) from error
    told: dict[str, str | int | float] = {
        DELEGATE: XNNPACK, **counted, "arithmetic": _arithmetic(writer.products)
    }  # fmt: skip
    return Graph(
        name=part.name, files=(path.name,), inputs=tuple(writer.inputs), outputs=tuple(writer.outputs), report=told
    )


def _edge() -> Any:
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)


def _backend() -> Any:
    """Tensors of free sizes get room for their largest."""
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

    return ExecutorchBackendConfig(
        extract_delegate_segments=True,
        sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
    )


def limited(part: WrittenPart, tokens: int) -> int:
    """The most tokens: the Q-Former has places for so many of a text, and an OPT for so many in all."""
    source = part.source
    if part.name in ("text", "match"):
        return min(tokens, source.texts)
    return min(tokens, source.language.max_position_embeddings) if isinstance(source.language, OptConfig) else tokens


def open_sizes(new: Size, room: int, encoded: Size) -> Mapping[str, Mapping[str, Sequence[Any]]]:
    """The open axes of the inputs, by graph, and by the name of the input up to its first dot.

    Args:
        new: tokens that are read; a decoder with an encoder reads one.
        room: tokens that the cache has room for.
        encoded: tokens of an encoder's output.
    """
    both = new + room  # type: ignore[operator]
    text = {"input_ids": [new], "attention_mask": [new]}
    return {
        "text": text,
        "match": text,
        "language": {
            "inputs_embeds": [new],
            "position_ids": [new],
            "mask": [new, both],
            "pick": [new],
            "past": [room],
        },
        "encoder": {"inputs_embeds": [encoded], "mask": [encoded], "distances": [encoded, encoded]},
        "decoder": {
            "inputs_embeds": [1],
            "mask": [1, room + 1],
            "pick": [1],
            "past": [room],
            "encoder_mask": [encoded],
            "cross": [encoded],
            "distances": [1, room + 1],
        },
    }


def _arithmetic(products: Mapping[str, int]) -> str:
    """The arithmetic of linear layers; the inputs of those with integers get 8 bits, with a scale per token."""
    integers = {kind: count for kind, count in products.items() if kind != "float32"}
    if not integers:
        return "float32"
    told = ", ".join(f"{kind} in {count}" for kind, count in sorted(integers.items()))
    return f"{told} of {sum(products.values())} products, float32 elsewhere"
