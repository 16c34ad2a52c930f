"""MNN from the exchange ONNX file by the converter and quantiser in its wheel.

Only the compiled module ``_tools`` is used. Importing ``MNN.tools`` installs packages and contacts a server.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekit.calibration.layers import STEM
from edgekit.calibration.samples import Samples
from edgekit.converters import Job, Report, Target
from edgekit.errors import ConversionError, EngineError
from edgekit.manifest import Graph
from edgekit.runtimes import SessionOptions
from edgekit.runtimes._mnn_file import CONVERT, CONVOLUTIONS, identifier, read_operators
from edgekit.runtimes.mnn import open_session

TARGET = Target(
    name="mnn",
    summary="phones and small ARM boards with MNN",
    engine="mnn",
    precisions=("fp32", "fp16", "int8"),
    requires=("onnx", "MNN", "_tools"),
    distributions=("MNN", "torch", "onnxscript", "onnxslim"),
    integers=True,
    refuses=dict.fromkeys(("Bernoulli", "Hardmax", "IsInf", "IsNaN", "Mish"), "MNN has no such operator"),
)

FILE = "model.mnn"

_RUN = "import sys, _tools; getattr(_tools, sys.argv[1])(sys.argv[1:])"

_LOG_LINES = 4

METHODS = ("EMA", "KL")
"""How the quantiser may find the activations' ranges, the better one first."""

_BATCH = 8
"""Images that an EMA step takes: one by one it needs six times as long and is no better."""

_JUDGES = 8
"""Calibration images on which the methods are compared."""


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.mnn`` in the job's precision.

    Raises:
        ConversionError: MNN's tools refuse the network or crash, or int8 has no images.
    """
    out = job.out / FILE
    if job.precision == "int8":
        samples = job.calibration()  # refuse before the slow part
        _convert(job, job.work / "float.mnn", report)
        method = _quantise(job.work / "float.mnn", samples, out, job, report)
        return msgspec.structs.replace(job.graph(FILE), report={"activation ranges": method})
    _convert(job, out, report, *(["--fp16"] if job.precision == "fp16" else []))
    return job.graph(FILE)


def _convert(job: Job, out: Path, report: Report, *more: str) -> None:
    report("converting with MNN", 0.1)
    # Its own name for the file's maker is a company's code, which otherwise reads "MNNTest".
    given = ["-f", "ONNX", "--modelFile", str(job.onnx), "--MNNModel", str(out), "--bizCode", "edgekit", *more]
    _tool("mnnconvert", given, out)
    _name_by_content(out)


def _name_by_content(path: Path) -> None:
    """Replace the random identifier in a file by a hash of the rest: the same network gives the same bytes."""
    data = bytearray(path.read_bytes())
    start, length = identifier(bytes(data))
    data[start : start + length] = bytes(length)
    data[start : start + length] = hashlib.sha256(data).hexdigest()[:length].encode().ljust(length, b"0")
    path.write_bytes(data)


def _quantise(source: Path, samples: Samples, out: Path, job: Job, report: Report) -> str:
    """Static INT8 by MNN's quantiser, by the method whose file computes what the float file does; returns its name.

    EMA gives asymmetric activations and is the better one, though it leaves nothing in float (demo detector: mAP .888
    of .892; KL with the first convolutions and the heads in float .866). But MNN 3.6.1 computes a ReLU that was fused
    into an addition wrongly with those (FastestDet: 2 % matched, KL 96 %), so both are made and measured on calibration
    images. Our own ranges through the converter's ``--compressionParamsFile``, which describes only the convolutions'
    tensors, gave results on FastestDet that depended on what had run before.

    Raises:
        ConversionError: neither method gives a file.
    """
    if not len(samples):
        raise ConversionError("int8 needs calibration images and there are none: give --data with photographs")
    with tempfile.TemporaryDirectory(prefix="int8.", dir=job.work) as scratch:
        folder = Path(scratch)
        report("writing calibration images", 0.2)
        _write_images(samples, folder / "images")
        errors: dict[str, float] = {}
        for number, method in enumerate(METHODS):
            report(f"calibrating with MNN, {method}", 0.3 + 0.35 * number)
            config, made = folder / f"{method}.json", folder / method / FILE
            made.parent.mkdir()
            config.write_text(json.dumps(_configuration(samples, folder / "images", source, method)), encoding="utf-8")
            try:
                _tool("mnnquant", [str(source), str(made), str(config)], made)
                errors[method] = _error(source, made, samples, job)
            except (ConversionError, EngineError):
                if number + 1 == len(METHODS) and not errors:
                    raise
        best = min(errors, key=lambda method: errors[method])
        shutil.move(folder / best / FILE, out)
    return best


def _error(source: Path, made: Path, samples: Samples, job: Job) -> float:
    """How far a file's outputs are from those of the float file: root mean square over spread, mean of all outputs."""
    graph = job.graph(source.name)
    wanted, found = (
        open_session(path.parent, msgspec.structs.replace(graph, files=(path.name,)), SessionOptions(job.threads))
        for path in (source, made)
    )
    errors = []
    for image in itertools.islice(samples, _JUDGES):
        for one, other in zip(found.run([image]), wanted.run([image]), strict=True):
            errors.append(float(np.sqrt(np.mean((one - other) ** 2)) / max(float(other.std()), 1e-6)))
    return float(np.nan_to_num(np.mean(errors), nan=np.inf))


def _write_images(samples: Samples, folder: Path) -> None:
    """The calibration images in input size, losslessly, as files that the quantiser reads and normalises itself."""
    import cv2

    folder.mkdir()
    for number, image in enumerate(samples.images):
        if not cv2.imwrite(str(folder / f"{number:06}.png"), image):
            raise ConversionError(f"{folder}: calibration images cannot be written; is the disk full?")


def _configuration(samples: Samples, folder: Path, source: Path, method: str) -> dict[str, object]:
    """The quantiser's configuration; it normalises as ``(pixel - mean) * normal``."""
    rule = samples.rule
    height, width = rule.size
    return {
        "format": rule.color.upper(),
        "mean": [mean / rule.scale for mean in rule.mean],
        "normal": [rule.scale / std for std in rule.std],
        "width": width,
        "height": height,
        "path": f"{folder}{os.sep}",
        "used_sample_num": len(samples),
        "input_type": "image",
        "feature_quantize_method": method,
        "batch_size": min(_BATCH, len(samples)),
        "weight_quantize_method": "MAX_ABS",
        "skip_quant_op_names": _islands(source),
        "debug": False,
    }


def _islands(source: Path) -> list[str]:
    """Names of the convolutions that KL leaves in float: the first three, and those that give the outputs."""
    operators = read_operators(source)
    convolutions = [operator for operator in operators if operator.kind in CONVOLUTIONS]
    read = {name for operator in operators for name in operator.inputs}
    ends = {name for operator in operators for name in operator.outputs if name not in read}
    # An output is moved into the plain layout by an operator of its own.
    ends |= {operator.inputs[0] for operator in operators if operator.kind == CONVERT and ends & {*operator.outputs}}
    heads = [operator for operator in convolutions if ends & {*operator.outputs}]
    return list(dict.fromkeys(operator.name for operator in (*convolutions[:STEM], *heads)))


def _tool(name: str, arguments: Sequence[str], made: Path) -> None:
    """Run one of MNN's tools in a process of its own: they abort on what they do not know, and always return True.

    Raises:
        ConversionError: it failed or did not write ``made``; with what it said.
    """
    made.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, name, *arguments],
        cwd=made.parent,  # its log and what it dumps stay there
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode or not made.is_file():
        log = done.stdout.decode(errors="replace")
        raise ConversionError(f"{name} failed (exit code {done.returncode}): {_tail(log)}")


def _tail(log: str) -> str:
    """What matters of a tool's log: the operators that it does not have, else its last lines."""
    lines = [line.strip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    named = [line for line in lines if "ot Support" in line or "not support" in line or "NOT_SUPPORTED" in line]
    return " | ".join((named or lines or ["no output"])[-_LOG_LINES:])
