"""``edgekit calibrate``: make a quantisation plan without any bundle."""

from __future__ import annotations

from pathlib import Path

from edgekit.calibration.plan import Plan, check_place
from edgekit.conversion.convert import copy_plan
from edgekit.conversion.request import Request, check_options, source_of
from edgekit.conversion.stages import Stages
from edgekit.conversion.workspace import temporary_workspace
from edgekit.errors import ConversionError, UsageError
from edgekit.progress import Progress, report_of, silent


def calibrate(request: Request, out: Path, *, sensitivity: bool = False, progress: Progress = silent) -> Plan:
    """Make a plan and write it to a folder, replacing an older plan there.

    Args:
        request: the source, the images, the methods; its targets and precisions do not matter.
        out: the folder for the plan.
        sensitivity: measure what each layer alone costs.
        progress: called as it goes on.

    Raises:
        UsageError: ``out`` holds something else than a plan, or the source has no use for one.
        SourceError, ContractError, InputError, ConversionError: the model or the images cannot be used.
    """
    source = source_of(request)
    if source.written:
        raise UsageError(f"{source.kind} has no plan: edgekit convert finds what its INT8 needs, from --data FOLDER")
    check_options(request, source)
    check_place(out)
    with temporary_workspace() as workspace:
        stages = Stages(request, workspace)
        stages.prepare(report_of(progress, "prepare"), calibrate=True, half=True)
        plan = stages.calibrate(report_of(progress, "calibrate"), sensitivity=sensitivity)
        if plan is None:
            raise ConversionError(f"{request.source}: no plan was made")
        copy_plan(workspace, out)
    return plan
