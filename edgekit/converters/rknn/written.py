"""Vision and Q-Former of a vision-language model for Rockchip's NPUs: written as ONNX for one row, compiled by the
toolkit in its toolchain."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec

from edgekit.converters import Report, WrittenJob
from edgekit.converters._fixed_shapes import Sizes, fix, fixed
from edgekit.emulators.rknn import toolkit
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Float32
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.worker import call


class CompileJob(Record, frozen=True, kw_only=True):
    """The folder of the ONNX file and of what is made of it, their names, and the chip."""

    folder: str
    source: str
    destination: str
    platform: str


class Compiled(Record, frozen=True, kw_only=True):
    """What the compiler reported."""

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
