"""ncnn by pnnx: TorchScript traced from the torch.export program, its float32 and float16 files, and our own INT8.

From TorchScript rather than ONNX: pnnx then finds every SiLU (61 of 61 in the demo detector; 59 from ONNX).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.calibration.layers import sites
from edgekit.converters import CONVOLUTIONS as IN_INTEGERS
from edgekit.converters import Job, Report, Target, WrittenJob
from edgekit.converters._foreign import tool_error
from edgekit.converters.ncnn.int8 import lower
from edgekit.converters.ncnn.layers import NcnnLayers
from edgekit.converters.ncnn.model import NcnnModel, read_model
from edgekit.converters.ncnn.writer import NcnnWriter
from edgekit.errors import ConversionError, EngineError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.ncnn import ENGINE
from edgekit.runtimes.engines.ncnn.files import int8_layers
from edgekit.sources import WHOLE

# fmt: off
_NO_LAYER = (
    "And", "ArgMax", "Equal", "GatherElements", "GatherND", "Greater", "IsNaN", "Less", "NonZero", "Not",
    "ScatterElements", "TopK", "Trilu", "Where",
)
# fmt: on
"""ONNX operators that pnnx writes into its files as they are and ncnn then cannot load, each tried on 1.0.20261020."""

TARGET = Target(
    name="ncnn",
    summary="phones and small ARM boards with ncnn",
    engine="ncnn",
    precisions=("fp32", "fp16", "int8"),
    requires=("torch", "onnx", "pnnx", "ncnn"),
    distributions=("pnnx", "ncnn", "torch", "onnx"),
    parts=(WHOLE, *PART_NAMES),
    grid="symmetric",
    part_notes={
        "int4": "ncnn multiplies 4 bits slowly, so they are held in 8: a smaller file, with int8's speed and memory"
    },
    refuses=dict.fromkeys((*_NO_LAYER, "DFT", "STFT", "Det", "GRU", "LSTM"), "ncnn has no layer for it"),
)

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"

LOG = "pnnx.log"

_LOG_LINES = 6


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.ncnn.param`` and ``model.ncnn.bin`` in the job's precision.

    Raises:
        ConversionError: pnnx fails, ncnn cannot load and run what it wrote, or INT8 cannot be written.
    """
    graph = _entry(job)
    if job.precision == "int8":
        planned = job.planned()  # refuse before the slow part
        folder = _float_files(job, "fp32", graph, report)
        report("quantising", 0.9)
        import onnx

        network = onnx.load(job.onnx)
        lowered = lower(read_model(folder / PARAM, folder / BIN), sites(network), planned)
        lowered.write(job.out / PARAM, job.out / BIN)
        graph.report.update(_told(lowered, job.out / PARAM))
    else:
        folder = _float_files(job, job.precision, graph, report)
        for name in graph.files:
            shutil.copyfile(folder / name, job.out / name)
    report("loading with ncnn", 0.97)
    _check_runs(job.out, graph, job, job.work / job.precision / LOG)
    return graph


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.param`` and ``NAME.bin``, a tensor at a time. ncnn runs one row; a decoder's cache is the host's."""
    part = job.part
    with NcnnWriter(job.out, part.name) as writer:
        part.describe(NcnnLayers(writer, part.source.checkpoint, part.forms.layers))
        return writer.save()


def _told(model: NcnnModel, param: Path) -> dict[str, str | int | float]:
    """Count the products in integers, and the SiLUs, which ncnn computes only in float32: much of a detector's time."""
    convolutions = {layer.name for layer in model.layers if layer.convolution}
    told: dict[str, str | int | float] = {
        IN_INTEGERS: f"{len(convolutions & int8_layers(param))} of {len(convolutions)}"
    }
    silus = sum(layer.kind == "Swish" for layer in model.layers)
    if silus:
        told["SiLU in float32"] = f"{silus} of {silus}"
    return told


def _entry(job: Job) -> Graph:
    """The manifest entry; pnnx names inputs and outputs by their position."""
    outputs = tuple(
        Tensor(name=f"out{number}", shape=tuple(job.shapes[output.name]))
        for number, output in enumerate(job.contract.outputs)
    )
    return Graph(
        files=(PARAM, BIN), inputs=(Tensor(name="in0", shape=(1, 3, *job.contract.image.size)),), outputs=outputs
    )


def _float_files(job: Job, precision: str, graph: Graph, report: Report) -> Path:
    """The folder with pnnx's files in a float precision, from the work folder if they were made before."""
    folder = job.work / precision
    if folder.is_dir():
        return folder
    traced = _traced(job, report)
    report("converting with pnnx", 0.2)
    # A folder of its own: pnnx writes seven files beside the one it reads, and other precisions may be at it as well.
    scratch = Path(tempfile.mkdtemp(prefix=f"{precision}.", dir=job.work))
    try:
        shutil.copyfile(traced, scratch / "model.pt")
        _run_pnnx(scratch, half=precision == "fp16")
        _check_runs(scratch, graph, job, scratch / LOG)
        (scratch / "model.pt").unlink()
        try:
            scratch.rename(folder)
        except OSError as error:  # another job of the same work folder was first: its files are the same
            if not folder.is_dir():
                raise ConversionError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _traced(job: Job, report: Report) -> Path:
    """The program as TorchScript."""
    path = job.work / "traced.pt"
    if path.is_file():
        return path
    report("tracing", 0.0)
    import torch

    torch.set_num_threads(job.threads)
    unfinished = job.work / f"traced.{os.getpid()}.pt"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, and the only way into pnnx from a program
        try:
            module = torch.export.load(job.program).module()
            example = torch.zeros(1, 3, *job.contract.image.size)
            trace: Any = torch.jit.trace  # not typed by torch
            trace(module, example, check_trace=False).save(str(unfinished))
        except RuntimeError as error:
            raise tool_error("the network cannot be traced for pnnx", error) from error
    unfinished.replace(path)
    return path


def _run_pnnx(folder: Path, half: bool) -> None:
    """Run pnnx on ``folder/model.pt``; its output goes to a log beside it.

    Raises:
        ConversionError: it failed, crashed, or wrote no ncnn files.
    """
    import pnnx

    # Everything it writes stays in its folder: it names its files after the input and its cwd.
    call = [pnnx.EXEC_PATH, "model.pt", f"fp16={int(half)}"]
    done = subprocess.run(
        call, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    log = done.stdout.decode(errors="replace")
    (folder / LOG).write_text(log, encoding="utf-8")
    missing = [name for name in (PARAM, BIN) if not (folder / name).is_file()]
    if done.returncode or missing:
        raise tool_error(f"pnnx failed (exit code {done.returncode})", _tail(log))


def _check_runs(folder: Path, graph: Graph, job: Job, log: Path) -> None:
    """Load the files with ncnn and run them once: pnnx's exit code 0 does not mean that they work.

    Raises:
        ConversionError: they do not, with what ncnn and pnnx said.
    """
    try:
        session = ENGINE.open_session(folder, graph, SessionOptions(threads=job.threads))
        outputs = session.run([np.full(graph.inputs[0].shape, 0.5, np.float32)])
    except EngineError as error:
        said = f"; pnnx said: {_tail(log.read_text(encoding='utf-8'))}" if log.is_file() else ""
        # Without the folder, which is gone when the message is read.
        engine = (str(error).partition(f"{PARAM}: ")[2] or str(error)).replace("; convert again", "")
        raise tool_error("what pnnx wrote does not run in ncnn", f"{engine}{said}", job.onnx) from error
    for output, values in zip(job.contract.outputs, outputs, strict=True):
        if not np.isfinite(values).all():
            raise ConversionError(f"ncnn computes NaN or infinity for output {output.name!r} of a grey image")


def _tail(log: str) -> str:
    """The relevant part of pnnx's log: unsupported operators, or its last lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "not supported" in line or "unsupported" in line or line.startswith("ignore ")]
    return " | ".join((named or lines)[-_LOG_LINES:])
