"""Vision and Q-Former of a vision-language model for Rockchip's NPUs: written as ONNX for one row, compiled by the
toolkit in its toolchain."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgekit.converters import Report, WrittenJob
from edgekit.converters._fixed_shapes import Sizes, fix, fixed
from edgekit.emulators.rknn import toolkit
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Float32
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.worker import call

if TYPE_CHECKING:
    from onnx import NodeProto


class CompileJob(Record, frozen=True, kw_only=True):
    """The folder of the ONNX file and of what is made of it, their names, and the chip."""

    folder: str
    source: str
    destination: str
    platform: str


class Compiled(Record, frozen=True, kw_only=True):
    """The compiler's report."""

    report: dict[str, str | int | float]


def compile_part(job: CompileJob, report: call.Report) -> Compiled:
    """Compile; runs in the toolchain.

    Raises:
        EngineError: the toolkit refuses the file.
    """
    assembled = toolkit.assemble(Path(job.folder), (job.source,), job.platform)
    toolkit.save(assembled, Path(job.folder) / job.destination)
    return Compiled(report=toolkit.told(assembled, job.platform))


def write(job: WrittenJob, platform: str, tokens: int, toolchain: str, report: Report) -> Graph:
    """Write ``NAME.rknn``, with the ONNX file that the simulator compiles it from.

    Raises:
        ConversionError: the toolkit refuses the graph.
    """
    # The NPU computes in float16, and the compiler rounds weights to it by itself.
    exact = dataclasses.replace(job.part, forms=Forms(Float32(), Float32()))
    graph, texts = exact.write(job.work, HostCache), job.part.source.texts
    sizes = Sizes(min(tokens, texts) if texts else 1)
    source, out = job.out / graph.files[0], job.out / f"{graph.name}.rknn"
    for name in graph.files[1:]:
        shutil.move(job.work / name, job.out / name)
    fix(job.work / graph.files[0], source, sizes)
    write_older(source)
    report("compiling for the NPU", 0.5)
    compiled = call.run(
        "edgekit.converters.rknn.written:compile_part",
        CompileJob(folder=str(job.out.absolute()), source=source.name, destination=out.name, platform=platform),
        Compiled,
        name="compiling for the NPU",
        error=ConversionError,
        toolchain=toolchain,
        group=False,  # it is a stage's own, and ends with that
    ).result
    inputs, outputs = fixed(graph, sizes)
    files = (out.name, *graph.files)
    return msgspec.structs.replace(graph, files=files, inputs=inputs, outputs=outputs, report=compiled.report)


OPSET = 19
"""The latest that the toolkit reads."""


def write_older(path: Path) -> None:
    """Bring an ONNX file to the opset that the toolkit reads, with other operators for those that it fails at."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        replaced = _REPLACED.get(node.op_type)
        nodes += replaced(node) if replaced is not None else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    numbers = {"half": 0.5, "one": 1.0, "root": 2**-0.5, "rise": 0.044715, "slope": (2 / np.pi) ** 0.5}
    for name, number in numbers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(number), f"gelu_{name}"))
    for domain in model.opset_import:
        domain.version = min(domain.version, OPSET)
    onnx.save(model, path)


def _seen(expand: NodeProto) -> list[NodeProto]:
    """The query tokens plus a zero that is computed from the image: the toolkit fails at attention with a constant."""
    from onnx import helper

    (y,) = expand.output
    del expand.output[:]
    expand.output.append(f"{y}_plain")
    steps = [("ReduceMean", "image_embeds"), ("Abs", f"{y}_0"), ("Neg", f"{y}_1"), ("Relu", f"{y}_2")]
    nodes = [helper.make_node(kind, [x], [f"{y}_{place}"], f"{y}_{place}") for place, (kind, x) in enumerate(steps)]
    return [expand, *nodes, helper.make_node("Add", [f"{y}_plain", f"{y}_3"], [y], y)]


def _gelu(node: NodeProto) -> list[NodeProto]:
    """``x / 2 (1 + erf(x / sqrt 2))``, or its approximation by a hyperbolic tangent (arXiv:1606.08415)."""
    from onnx import helper

    (x,), (y,) = node.input, node.output
    made: list[NodeProto] = []

    def add(operator: str, *inputs: str, output: str = "") -> str:
        name = output or f"{y}_{len(made)}"
        made.append(helper.make_node(operator, inputs, [name], name))
        return name

    if any(attribute.s == b"tanh" for attribute in node.attribute):
        cube = add("Mul", add("Mul", add("Mul", x, x), x), "gelu_rise")
        bent = add("Tanh", add("Mul", add("Add", x, cube), "gelu_slope"))
    else:
        bent = add("Erf", add("Mul", x, "gelu_root"))
    add("Mul", add("Mul", x, "gelu_half"), add("Add", bent, "gelu_one"), output=y)
    return made


_REPLACED = {"Gelu": _gelu, "Expand": _seen}
