"""Convert one source to many validated bundles, several targets at once, each stage in a child process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgekit import converters
from edgekit.calibration.plan import Plan
from edgekit.conversion.bundle_builder import BundleBuilder, Outcome
from edgekit.conversion.jobs import MeasuredScore, Prepared
from edgekit.conversion.request import Request, plan_is_there, source_of, validate
from edgekit.conversion.runner import Stop as Stop
from edgekit.conversion.selection import BundleSpec, Selection, Skipped
from edgekit.conversion.stages import Stages
from edgekit.conversion.workspace import Workspace, open_workspace
from edgekit.errors import ConversionError, UsageError
from edgekit.progress import Progress, report_of, silent
from edgekit.runtimes.bundle.folder import writing

Conversion = Request
"""The former name."""


@dataclass(frozen=True)
class Conversions:
    """The results of one call of `convert`: a sequence of outcomes, in the order of targets and precisions.

    Attributes:
        prepared: what was read of the source.
        outcomes: one for each bundle that was asked for.
        skipped: targets that ``all`` cannot have here, and why.
        plan: how the model became INT8, where it did.
    """

    prepared: Prepared
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...] = ()
    plan: Plan | None = None

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, place: int) -> Outcome:
        return self.outcomes[place]

    @property
    def ok(self) -> bool:
        """Whether every bundle that was asked for is there and proven."""
        return all(outcome.ok for outcome in self.outcomes)


def convert(request: Request, progress: Progress = silent, stop: Stop | None = None) -> Conversions:
    """Convert a trained model; one failing target does not stop the others.

    Args:
        request: what to do.
        progress: called from several threads.
        stop: ends the conversion from another thread (`Stop.pull`); what is finished by then stays.

    Returns:
        The bundles and the failures, in the order of targets and precisions.

    Raises:
        UsageError, SourceError, ContractError, InputError: nothing can be begun with what was given.
        ConversionError: it was stopped.
    """
    source = source_of(request)
    selection = validate(request, source)
    with open_workspace(request.out) as workspace:
        stages = Stages(request, workspace, stop or Stop())
        half = not source.written and any(spec.precision == "fp16" for spec in selection.bundles)
        prepared = stages.prepare(report_of(progress, "prepare"), calibrate=selection.calibrated, half=half)
        check_budget(request, prepared)
        source_score = stages.measure(None, report_of(progress, "source")) if request.labels else None
        plan = _calibrate(stages, selection, progress) if selection.calibrated else None
        outcomes = _side_by_side(stages, selection, prepared, source_score, progress)
        if stages.stop.pulled:
            raise ConversionError("cancelled")
    return Conversions(prepared, outcomes, selection.skipped, plan)


def check_budget(request: Request, prepared: Prepared) -> None:
    """Refuse a bound on what INT8 may lose where there is nothing to measure the loss on.

    Raises:
        UsageError: neither labels nor a hold-out set.
    """
    if request.max_drop is not None and not request.labels and not prepared.holdout_views:
        raise UsageError(
            "--max-drop needs labelled images (--labels) or more images in --data: from ten calibration images on "
            "some are held back, on which the results are compared with the source's"
        )


def _calibrate(stages: Stages, selection: Selection, progress: Progress) -> Plan | None:
    """Make or load the quantisation plan for all targets; a new one is copied to the folder ``plan``, if given."""
    request = stages.request
    known = plan_is_there(request)
    integer = bool(request.plan) or any(converters.target(name).integer_only for name in selection.targets)
    plan = stages.calibrate(
        report_of(progress, "calibrate"),
        plan=request.plan if known else "",
        integer=integer,
        sensitivity=request.max_drop is not None,
    )
    if request.plan and not known:
        copy_plan(stages.workspace, Path(request.plan))
    return plan


def copy_plan(workspace: Workspace, out: Path) -> None:
    """Copy the plan of a workspace to a folder of the user's, whole, in place of an older plan there.

    Raises:
        BundleError: it cannot be written.
    """
    out = out.absolute()
    partial, replaced = (out.with_name(f".{out.name}.{what}") for what in ("partial", "replaced"))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in (partial, replaced):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(workspace.plan, partial)
        if out.exists():
            out.replace(replaced)
        partial.replace(out)
        shutil.rmtree(replaced, ignore_errors=True)


def _side_by_side(
    stages: Stages, selection: Selection, prepared: Prepared, source_score: MeasuredScore | None, progress: Progress
) -> tuple[Outcome, ...]:
    """Build all bundles, several targets at once. Precisions of one target share files and are built in turn."""
    lanes: dict[str, list[BundleSpec]] = {}
    for spec in selection.bundles:
        lanes.setdefault(spec.target, []).append(spec)
    builder = BundleBuilder(stages, prepared, selection.options, source_score)

    def lane(target: str) -> list[Outcome]:
        return [
            builder.build(spec, report_of(progress, f"{spec.target} {spec.precision}"))
            for spec in lanes[target]
            if not stages.stop.pulled
        ]

    with ThreadPoolExecutor(max_workers=max(1, stages.request.jobs)) as pool:
        try:
            return tuple(outcome for outcomes in pool.map(lane, lanes) for outcome in outcomes)
        except BaseException:
            stages.stop.pull()
            raise
