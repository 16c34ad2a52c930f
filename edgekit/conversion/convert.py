"""Convert one source to many validated bundles, several targets at once, each stage in a child process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import edgekit
from edgekit import converters
from edgekit.calibration.plan import Plan
from edgekit.conversion import notices
from edgekit.conversion.bundle_builder import BundleBuilder, Outcome
from edgekit.conversion.float_partners import with_speeds
from edgekit.conversion.jobs import HardSwish, MeasuredScore, Prepared
from edgekit.conversion.kept_graphs import KeptGraphs
from edgekit.conversion.notices import Notice, ignored
from edgekit.conversion.request import Request, plan_is_there, source_of, validate
from edgekit.conversion.runner import Stop as Stop
from edgekit.conversion.selection import BundleSpec, Selection, Skipped
from edgekit.conversion.stages import Stages
from edgekit.conversion.workspace import Workspace, open_workspace
from edgekit.errors import ConversionError, UsageError
from edgekit.evaluation.object_sizes import SIZES
from edgekit.progress import Progress, Report, report_of, silent
from edgekit.runtimes.bundle.folder import writing
from edgekit.runtimes.results import Detections
from edgekit.runtimes.tasks import open_task

Conversion = Request
"""The former name."""


@dataclass(frozen=True)
class Planned:
    """One bundle that was asked for, as a dry run sees it.

    Attributes:
        target, precision: of its name.
        recipes: ways of quantising that would be tried.
        refusal: why it cannot be made, empty where nothing is known against it.
    """

    target: str
    precision: str
    recipes: tuple[str, ...]
    refusal: str


@dataclass(frozen=True)
class Conversions:
    """The results of one call of `convert`: a sequence of outcomes, in the order of targets and precisions.

    Attributes:
        prepared: what was read of the source.
        outcomes: one for each bundle that was asked for.
        skipped: targets that ``all`` cannot have here, and why.
        plan: how the model became INT8, where it did in this run.
        seconds: time of each stage that all bundles share, and of everything (``total``).
        planned: of a dry run, in place of outcomes.
        minutes: of a dry run, roughly how long the conversion would take here.
    """

    prepared: Prepared
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...] = ()
    plan: Plan | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    planned: tuple[Planned, ...] = ()
    minutes: float = 0.0

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, place: int) -> Outcome:
        return self.outcomes[place]

    @property
    def ok(self) -> bool:
        """Whether every bundle that was asked for is there and proven; of a dry run, whether nothing is refused."""
        return all(outcome.ok for outcome in self.outcomes) and not any(one.refusal for one in self.planned)


def convert(
    request: Request, progress: Progress = silent, stop: Stop | None = None, notice: Notice = ignored
) -> Conversions:
    """Convert a trained model; one failing target does not stop the others. Bundles that the same request left in its
    folder are kept.

    Args:
        request: what to do.
        progress: called from several threads.
        stop: ends the conversion from another thread (`Stop.pull`); what is finished by then stays.
        notice: called with what the user should read, as soon as it is known.

    Returns:
        The bundles and the failures, in the order of targets and precisions.

    Raises:
        UsageError, SourceError, ContractError, InputError: nothing can be begun with what was given.
        ConversionError: it was stopped.
    """
    began = time.monotonic()
    source = source_of(request)
    selection = validate(request, source)
    for text in notices.of_selection(selection):
        notice(text)
    with open_workspace(request.out) as workspace:
        stages = Stages(request, workspace, stop or Stop())
        half = not source.written and selection.half
        told = report_of(progress, "prepare")
        prepared = stages.prepare(told, calibrate=selection.calibrated, half=half, keep=True)
        for text in notices.of_source(prepared):
            notice(text)
        further = _at_further_sizes(stages, selection, progress)
        check_bounds(request, prepared)
        builder = BundleBuilder(stages, prepared, selection.options)
        missing = [spec for spec in selection.bundles if builder.kept(spec) is None]
        source_score = stages.measure(None, report_of(progress, "source")) if request.labels and missing else None
        cache = KeptGraphs(request.out)
        if prepared.reference.kept:
            cache.use(prepared.reference.kept)
        plan = None
        if any(spec.calibrated for spec in missing):
            plan = _calibrate(stages, selection, prepared, cache, report_of(progress, "calibrate"))
        for text in notices.of_plan(plan) if plan is not None else ():
            notice(text)
        replaced = _replaced(stages, plan, progress) if request.replace_silu and plan is not None else None
        outcomes = _side_by_side(stages, selection, prepared, source_score, progress, notice, further, replaced)
        outcomes = with_speeds(outcomes, stages, progress)
        for text in (text for outcome in outcomes for text in notices.of_speed(outcome)):
            notice(text)
        if stages.stop.pulled:
            raise ConversionError("cancelled")
        if all(outcome.ok for outcome in outcomes):
            cache.forget()
    seconds = {**stages.seconds, "total": round(time.monotonic() - began, 3)}
    return Conversions(prepared, outcomes, selection.skipped, plan, seconds)


def _at_further_sizes(stages: Stages, selection: Selection, progress: Progress) -> list[Stages]:
    """Prepare the source at the further input sizes, on the same images."""
    found = []
    for size in stages.request.sizes:
        at_size = stages.at_size(size)
        told = report_of(progress, f"prepare {size[0]}x{size[1]}")
        at_size.prepare(told, calibrate=selection.calibrated, half=False)
        found.append(at_size)
    return found


def _replaced(stages: Stages, plan: Plan, progress: Progress) -> HardSwish:
    """The network with hard swish in place of SiLU, with a quantisation plan of its own."""
    done = stages.replace_silu(report_of(progress, "replace SiLU"))
    other = stages.with_hard_swish()
    sensitivity = stages.request.max_drop is not None
    other.calibrate(
        report_of(progress, "calibrate hard swish"), integer=plan.integer is not None, sensitivity=sensitivity
    )
    return done


def check_bounds(request: Request, prepared: Prepared) -> None:
    """Refuse bounds that nothing is measured for.

    Raises:
        UsageError: what INT8 may lose, with neither labels nor a hold-out set; hard swish without a hold-out set to
            judge it by; a bound by size of a task without boxes.
    """
    if request.replace_silu and not prepared.holdout_views:
        given = prepared.calibration.count if prepared.calibration else 0
        raise UsageError(
            f"--replace-silu needs more images in --data than {given}: from ten calibration images on some form the "
            "hold-out set, which judges it"
        )
    sized = [name for name in SIZES if name in request.bounds]
    if sized and not issubclass(open_task(prepared.contract).gives, Detections):
        raise UsageError(
            f"--gate {sized[0]}={request.bounds[sized[0]]:g} is for boxes, and the task {prepared.contract.task!r} has "
            "none; leave it out"
        )
    if request.max_drop is not None and not request.labels and not prepared.holdout_views:
        raise UsageError(
            "--max-drop needs labelled images (--labels) or more images in --data: from ten calibration images on "
            "some form the hold-out set, on which the results are compared with the source's"
        )


def _calibrate(
    stages: Stages, selection: Selection, prepared: Prepared, cache: KeptGraphs, report: Report
) -> Plan | None:
    """Make or load the quantisation plan for all targets; a new one is copied to the folder ``plan``, if given.

    A plan that an earlier run made and could not use to the end is taken from the cache.
    """
    request = stages.request
    known = plan_is_there(request)
    integer = bool(request.plan) or any(converters.target(name).takes_equalized for name in selection.targets)
    sensitivity = request.max_drop is not None
    if prepared.written:
        return stages.calibrate(report, ranges=selection.ranges, fitted=selection.fitted)
    if known:
        return stages.calibrate(report, plan=request.plan, integer=integer, sensitivity=sensitivity)
    depends = {
        "edgekit": edgekit.__version__,
        "versions": prepared.versions,
        "origin": prepared.origin,
        "contract": prepared.contract,
        "calibration": prepared.calibration,
        "half": prepared.half,
        "methods": request.methods,
        "finetune": request.finetune,
        "integer": integer,
        "sensitivity": sensitivity,
    }

    def make(folder: Path) -> Plan:
        plan = stages.calibrate(report, integer=integer, sensitivity=sensitivity)
        if plan is None:
            raise ConversionError(f"{request.source}: no plan was made")
        shutil.copytree(stages.workspace.plan, folder)
        return plan

    folder, plan = cache.build(depends, Plan, make, fresh=request.rebuild)
    if not stages.workspace.plan.exists():
        shutil.copytree(folder, stages.workspace.plan)
        report("plan of an interrupted run", 1.0)
    if request.plan:
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
    stages: Stages,
    selection: Selection,
    prepared: Prepared,
    source_score: MeasuredScore | None,
    progress: Progress,
    notice: Notice = ignored,
    further: Sequence[Stages] = (),
    replaced: HardSwish | None = None,
) -> tuple[Outcome, ...]:
    """Build all bundles, several targets at once. Precisions of one target share files and are built in turn."""
    lanes: dict[str, list[BundleSpec]] = {}
    for spec in selection.bundles:
        lanes.setdefault(spec.target, []).append(spec)

    def build(spec: BundleSpec) -> Outcome:
        builder = BundleBuilder(stages.timed_apart(), prepared, selection.options, source_score, further, replaced)
        outcome = builder.build(spec, report_of(progress, f"{spec.target} {spec.precision}"))
        for text in notices.of_outcome(outcome):
            notice(text)
        return outcome

    def lane(target: str) -> list[Outcome]:
        return [build(spec) for spec in lanes[target] if not stages.stop.pulled]

    with ThreadPoolExecutor(max_workers=max(1, stages.request.jobs)) as pool:
        try:
            return tuple(outcome for outcomes in pool.map(lane, lanes) for outcome in outcomes)
        except BaseException:
            stages.stop.pull()
            raise
