"""Run one stage of a conversion in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from edgekit.conversion import jobs
from edgekit.errors import ConversionError
from edgekit.progress import Report
from edgekit.worker import call
from edgekit.worker.process import Stop as Stop

Result = TypeVar("Result")

_STAGES: dict[type[jobs.Job], str] = {
    jobs.InspectJob: "inspect",
    jobs.PrepareJob: "prepare",
    jobs.ReplaceSiluJob: "replace_silu",
    jobs.CalibrateJob: "calibrate",
    jobs.BuildJob: "build",
    jobs.ValidateJob: "validate",
    jobs.MeasureJob: "measure",
    jobs.SpeedJob: "speed",
}
"""The module whose ``work`` does a job: the toolchains of the others are not imported."""

_PRELOAD = (
    "torch",
    "torch._dynamo",
    "cv2",
    "onnx",
    "onnxscript",
    "onnxslim",
    "networkx",
    "torch.export._trace",
    "edgekit.graph._decompositions",
    *(f"edgekit.conversion.{one}" for one in _STAGES.values()),
)
"""Modules that the first stage needs anyway, imported once for all; none that starts a thread when it is imported, as
openvino, onnxruntime and nncf do."""

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}
"""Libraries say little and stay off the network. Threads that wait give up their core: stages run side by side, and
where more threads than cores spin, everything takes many times as long."""


def stage_of(job: jobs.Job) -> str:
    """The name of the stage that does a job."""
    return _STAGES[type(job)]


def run(job: jobs.Job, result: type[Result], report: Report, toolchain: str = "", stop: Stop | None = None) -> Result:
    """Run a job in a child process and return its result.

    Args:
        job: the work.
        result: type of what the work returns.
        report: progress callback.
        toolchain: the isolated environment to run in, empty for this one.
        stop: ends the child early.

    Raises:
        EdgekitError: the error that the child met, or a ConversionError when it crashed.
    """
    stage = stage_of(job)
    # What toolchains leave where temporary files go, copies of the model too, is removed with the workspace.
    temporary = Path(job.folder, "temporary")
    temporary.mkdir(exist_ok=True)
    finished = call.run(
        f"edgekit.conversion.{stage}:work",
        job,
        result,
        report,
        name=stage.replace("_", " "),
        error=ConversionError,
        toolchain=toolchain,
        preload=_PRELOAD,
        variables={**_QUIET, "TMPDIR": str(temporary)},
        imports=getattr(job, "imports", ()),
        stop=stop,
    )
    return finished.result
