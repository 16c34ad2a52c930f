"""Parts of large models for MNN: written as ONNX in float32, and quantised by MNN's converter layer by layer."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.converters import Report, WrittenJob
from edgekit.converters.mnn.tool import LINEAR, Weights, convert_onnx, files_of, quantised_layers
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Blocks, Float16, Float32, Form, Static, form_of
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.mnn.flatbuffer import CONVOLUTIONS, read_operators

if TYPE_CHECKING:
    from onnx import NodeProto

HEAD = "logits"


def write(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.mnn`` in the part's precision, with ``NAME.mnn.weight`` beside it where the part is large.

    MNN's converter reads floats and holds the part in memory: in ONNX, 4 bytes for each weight.

    Raises:
        ConversionError: MNN's converter refuses the graph.
    """
    part, name = job.part, job.part.name
    floats = dataclasses.replace(part, forms=Forms(Float32(), Float32())).write(job.work, HostCache)
    source, out = job.work / floats.files[0], job.out / f"{name}.mnn"
    report("converting with MNN", 0.5)
    if isinstance(part.forms.layers, Float32):
        convert_onnx(source, out)
    elif isinstance(part.forms.layers, Float16):
        convert_onnx(source, out, "--fp16")
    else:
        _convert_integers(job, source, out)
    return msgspec.structs.replace(floats, files=files_of(out))


def _convert_integers(job: WrittenJob, source: Path, out: Path) -> None:
    """Store the weights of all linear layers as integers, those of the head in a form of its own."""
    plain = job.work / "floats.mnn"
    convert_onnx(source, plain)
    forms, layers = job.part.forms, {}
    inputs = _inputs(source)
    for operator in read_operators(plain):
        name = operator.name.removesuffix(LINEAR)
        if operator.kind in CONVOLUTIONS and name in inputs:
            weight, size, is_head = inputs[name]
            layers[operator.name] = _stored(forms.head if is_head else form_of(forms.layers, weight), size)
    if not layers:
        raise ConversionError(f"{job.part.name}: MNN's converter left no linear layer to quantise; choose fp16")
    for name in files_of(plain):
        (job.work / name).unlink()
    with tempfile.TemporaryDirectory(prefix="weights.", dir=job.work) as scratch:
        convert_onnx(source, out, *quantised_layers(layers, Path(scratch)))


def _stored(form: Form, inputs: int) -> Weights:
    """How MNN stores the weights of a layer: with a scale for each output where blocks do not divide the inputs."""
    if isinstance(form, Static):
        return Weights(bits=8)
    if not isinstance(form, Blocks):
        raise ConversionError(f"MNN's converter has no weights as {form}; choose fp32, fp16, int8 or int4")
    block = form.size if inputs % form.size == 0 else 0
    return Weights(bits=form.bits, block=block, offset=form.bits == 4)


def _inputs(source: Path) -> dict[str, tuple[str, int, bool]]:
    """The weight of each linear layer, its number of inputs and whether it is the head, by the name of its result.

    With a bias, the result is that of the addition behind the product.
    """
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, tuple[str, int, bool]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in sizes:
            results = list(_results(node, readers))
            weight = str(node.input[1])
            found |= dict.fromkeys(results, (weight, int(sizes[weight][0]), HEAD in results))
    return found


def _results(product: NodeProto, readers: dict[str, list[NodeProto]]) -> Iterator[str]:
    """Names under which the result of a product may go on."""
    name = str(product.output[0])
    yield name
    while len(readers.get(name, ())) == 1 and readers[name][0].op_type in ("Add", "Identity"):
        name = str(readers[name][0].output[0])
        yield name
