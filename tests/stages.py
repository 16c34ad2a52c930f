"""The stages of a conversion where they are called: starting child processes takes longer than small work does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edgekit.conversion import build, calibrate, jobs, measure, prepare, speed, stages, validate

STAGES: dict[type, Any] = {
    jobs.PrepareJob: prepare,
    jobs.CalibrateJob: calibrate,
    jobs.BuildJob: build,
    jobs.MeasureJob: measure,
    jobs.ValidateJob: validate,
    jobs.SpeedJob: speed,
}


def run(job: Any, result: Any, report: Callable[[str, float], None], **given: Any) -> Any:
    """What a child does between reading its job and writing its result."""
    done = STAGES[type(job)].work(msgspec.json.decode(msgspec.json.encode(job), type=type(job)), report)
    return msgspec.convert(msgspec.to_builtins(done), result)


def stay(patch: pytest.MonkeyPatch) -> None:
    """Let every stage run in this process."""
    patch.setattr(stages, "run", run)
