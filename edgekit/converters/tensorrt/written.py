"""Parts of large models for TensorRT: ONNX in the types that it is to compute in, and the shapes to build for."""

from __future__ import annotations

import dataclasses

from edgekit.converters import WrittenJob
from edgekit.graph.blip2.blip2 import Forms
from edgekit.graph.blip2.cache import HostCache, is_cache
from edgekit.graph.blip2.forms import Blocks, DequantizedBlocks, Float16, Form, HalfProducts, Static
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.tensorrt.build import Shapes

ROWS, IMAGES = (1, 1, 5), (1, 1, 4)
"""Smallest, usual and largest number of rows of a text, and of images."""

PIECE, TEXT, CAPACITY = (2, 52, 256), (1, 32, 256), (64, 128, 1024)
"""Of tokens: of a prompt, of a text or what an encoder reads, and of the cache's buffers."""


def write(job: WrittenJob) -> Graph:
    """Write ``NAME.onnx``, which computes in float16 where the part is not to be float32."""
    forms = job.part.forms
    return dataclasses.replace(job.part, forms=Forms(_typed(forms.layers), _typed(forms.head))).write(
        job.out, HostCache
    )


def _typed(form: Form) -> Form:
    """A form that TensorRT reads: it computes in the types of the file, and quantises symmetrically."""
    if isinstance(form, Float16):
        return HalfProducts()
    if isinstance(form, Blocks):
        return DequantizedBlocks(form.bits, form.size)
    return dataclasses.replace(form, symmetric=True) if isinstance(form, Static) else form


def spans(graph: Graph) -> tuple[Shapes, ...]:
    """The shapes to build for: a decoder-only model reads a prompt, and then token after token."""
    if graph.name == "language":
        return (_span(graph, (1, 1, 1)), _span(graph, PIECE))
    return (_span(graph, (1, 1, 1) if graph.name == "decoder" else TEXT),)


def _span(graph: Graph, tokens: tuple[int, int, int]) -> Shapes:
    places = [_shape(graph.name, tensor, at, tokens[at]) for tensor in graph.inputs for at in range(3)]
    grouped = zip(places[0::3], places[1::3], places[2::3], strict=True)
    return {tensor.name: shapes for tensor, shapes in zip(graph.inputs, grouped, strict=True)}


def _shape(graph: str, tensor: Tensor, at: int, tokens: int) -> tuple[int, ...]:
    """The shape of an input at one end of a span, or in its middle."""
    name, shape = tensor.name, tensor.shape
    rows = (IMAGES if graph in ("vision", "qformer") else ROWS)[at]
    capacity, text = CAPACITY[at], TEXT[at]
    keys = capacity + tokens
    known: dict[str, tuple[int, ...]] = {
        "mask": (rows, 1, 1, text) if graph == "encoder" else (rows, 1, tokens, keys),
        "pick": (rows, 1, tokens),
        "distances": (text, text) if graph == "encoder" else (1, keys),
        "encoder_mask": (rows, 1, 1, text),
    }
    if name in known:
        return known[name]
    if is_cache(name) or name.startswith("cross."):
        return (rows, shape[1], capacity if is_cache(name) else text, shape[3])
    free = iter((rows, tokens))
    return tuple(size if size >= 0 else next(free) for size in shape)
