"""Parts of large models for TensorRT: ONNX written tensor by tensor, with optimisation profiles for named inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from edgekit.converters import Report, WrittenJob
from edgekit.converters.tensorrt.forms import DequantisedBlocks, SymmetricStatic
from edgekit.converters.tensorrt.halves import compute_in_half
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Blocks, Float16, Form, Static
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.tensorrt.build import SETTINGS, BuildSettings, Shapes
from edgekit.runtimes.language.host_cache import BLOCK

if TYPE_CHECKING:
    from edgekit.converters.tensorrt import TensorrtOptions

ROWS = 8
"""The most rows that an engine takes at once; more are run in turns."""

Tried = Callable[[Path, BuildSettings, int, Report], dict[str, str | int | float]]


def write(job: WrittenJob, options: TensorrtOptions, tried: Tried, report: Report) -> Graph:
    """Write ``NAME.onnx`` in the part's precision and ``NAME.build.json`` for the device.

    Raises:
        ConversionError: options that a part cannot have, or TensorRT-RTX, where installed, refuses the file.
    """
    if options.weights == "float32":
        raise ConversionError(
            "tensorrt.weights=float32 is for TensorRT 8, which takes no parts of vision-language models; leave it out"
        )
    half = _in_half(job, options)
    part = dataclasses.replace(
        job.part, forms=Forms(_form(job.part.forms.layers, half), _form(job.part.forms.head, half))
    )
    graph = part.write(job.out, HostCache)
    path = job.out / graph.files[0]
    if half:
        _halve(path)
    settings = BuildSettings(
        precision=_precision(job.part.forms.layers),
        workspace_megabytes=options.workspace_megabytes,
        optimisation_level=options.optimisation_level,
        floats="fp16" if half else "fp32",
        shapes=shapes_of(graph, options.tokens),
    )
    name = f"{graph.name}.{SETTINGS}"
    (job.out / name).write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
    told: dict[str, str | int | float] = {"arithmetic": settings.arithmetic}
    return msgspec.structs.replace(
        graph, files=(*graph.files, name), report={**told, **tried(path, settings, options.sm, report)}
    )


def _in_half(job: WrittenJob, options: TensorrtOptions) -> bool:
    """Whether a part computes in float16: where its precision is none of floats, and in fp16, but for T5.

    Raises:
        ConversionError: T5 is asked to.
    """
    is_t5 = job.part.name in ("encoder", "decoder")
    if is_t5 and options.floats == "fp16":
        raise ConversionError(
            "tensorrt.floats=fp16: squares of a T5's activations overflow float16; leave it out, T5 is stored in the "
            "precision that you ask for and computes in float32"
        )
    if is_t5 or options.floats == "fp32":
        return False
    return _precision(job.part.forms.layers) != "fp32"


def _precision(form: Form) -> Literal["fp32", "fp16", "int8", "int4"]:
    if isinstance(form, Blocks):
        return "int4" if form.bits == 4 else "int8"
    if isinstance(form, Static):
        return "int8"
    return "fp16" if isinstance(form, Float16) else "fp32"


def _form(form: Form, half: bool) -> Form:
    """The same form of weights as TensorRT takes it."""
    if isinstance(form, Blocks):
        return DequantisedBlocks(form.bits, form.size, half, form.wide)
    return SymmetricStatic(form.ranges, half) if isinstance(form, Static) else form


def _halve(path: Path) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    compute_in_half(model)
    onnx.save(model, path)


def shapes_of(graph: Graph, tokens: int) -> tuple[Mapping[str, Shapes], ...]:
    """The optimisation profiles: the smallest, usual and largest shape of each input.

    A decoder has two, for reading a prompt and for a token at a time. ``tokens`` bounds a text with its image.
    """
    names = {tensor.name for tensor in graph.inputs}
    if "past.0.key" not in names:
        return (_profile(graph, (1, min(32, tokens), tokens), (0, 0, 0)),)
    room = -(-(tokens + 1) // BLOCK) * BLOCK
    capacity = (BLOCK, min(2 * BLOCK, room), room)
    one = _profile(graph, (1, 1, 1), capacity, encoded=(1, min(32, tokens), tokens))
    if "position_ids" not in names:  # T5 reads its prompt in the encoder
        return (one,)
    return one, _profile(graph, (2, min(32, tokens), tokens), capacity)


_Sizes = tuple[int, int, int]


def _profile(graph: Graph, tokens: _Sizes, capacity: _Sizes, encoded: _Sizes = (1, 1, 1)) -> Mapping[str, Shapes]:
    """One profile: of inputs by name, for numbers of new tokens, of places in the cache, and of encoded tokens."""
    return {
        tensor.name: Shapes(*(_shape(graph, tensor, place, tokens, capacity, encoded) for place in range(3)))
        for tensor in graph.inputs
    }


def _shape(
    graph: Graph, tensor: Tensor, place: int, tokens: _Sizes, capacity: _Sizes, encoded: _Sizes
) -> tuple[int, ...]:
    new, room, seen = tokens[place], capacity[place], encoded[place]
    sizes = [(1, 1, ROWS)[place], *tensor.shape[1:]]
    if tensor.name == "distances":
        return (1, room + 1) if room else (new, new)
    if tensor.name.startswith("past."):
        sizes[2] = room
    elif tensor.name.startswith("cross."):
        sizes[2] = seen
    elif tensor.name == "encoder_mask":
        sizes[3] = seen
    elif tensor.name == "mask":
        sizes[2:] = [new, room + new] if room else [1, new]
    return tuple(new if size == -1 else size for size in sizes)
