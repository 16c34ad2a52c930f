"""``edgekit convert --dry-run``: everything up to the first build, and what would follow."""

from __future__ import annotations

import time
from dataclasses import replace

from edgekit import converters
from edgekit.conversion import notices
from edgekit.conversion.bundle_builder import BundleBuilder
from edgekit.conversion.convert import Conversions, Planned, check_bounds
from edgekit.conversion.jobs import Prepared
from edgekit.conversion.notices import Notice, ignored
from edgekit.conversion.request import Request, plan_is_there, source_of, validate
from edgekit.conversion.selection import ALL, AUTO, BundleSpec, Selection, refuse, select
from edgekit.conversion.stages import Stages
from edgekit.conversion.workspace import temporary_workspace
from edgekit.errors import ConversionError, UsageError
from edgekit.progress import Progress, report_of, silent
from edgekit.sources import Source
from edgekit.worker.process import Stop

PREPARE, CALIBRATE = 20.0, 18.0
"""Seconds of the first stages of a small detector on two cores."""

SECONDS = {"coreml": 30.0, "executorch": 40.0, "web": 8.0, "mnn": 6.0, "tensorrt": 5.0}
"""Seconds of one build and its proof of that detector, where it is not about `USUAL`."""
USUAL = 3.0


def dry_run(
    request: Request, progress: Progress = silent, stop: Stop | None = None, notice: Notice = ignored
) -> Conversions:
    """Read the source, choose the images and run the source on them, as a conversion begins; write nothing.

    The arguments are those of `edgekit.conversion.convert.convert`.

    Returns:
        What would be made, in ``planned``, and roughly how long it would take here, from the time of the first stage.

    Raises:
        UsageError, SourceError, ContractError, InputError: the conversion could not be begun.
        ConversionError: there is not enough memory.
    """
    source = source_of(request)
    request, refused = _possible(request, source)
    selection = validate(request, source)
    for text in notices.of_selection(selection):
        notice(text)
    with temporary_workspace() as workspace:
        stages = Stages(request, workspace, stop or Stop())
        half = not source.written and selection.half
        started = time.monotonic()
        prepared = stages.prepare(report_of(progress, "prepare"), calibrate=selection.calibrated, half=half)
        pace = (time.monotonic() - started) / PREPARE
        check_bounds(request, prepared)
        builder = BundleBuilder(stages, prepared, selection.options)
        planned = (*(_planned(spec, builder, prepared) for spec in selection.bundles), *refused)
    for text in notices.of_source(prepared):
        notice(text)
    minutes = _minutes(request, selection, planned, pace)
    return Conversions(prepared, (), selection.skipped, planned=planned, minutes=minutes)


def _possible(request: Request, source: Source) -> tuple[Request, tuple[Planned, ...]]:
    """The request with the targets that are possible here, and the others with the reason; with none it stays whole."""
    if source.written or request.targets == ALL:
        return request, ()
    refused: dict[str, str] = {}
    for name in request.targets:
        try:
            select(source, (name,), request.precisions, {}, request.recipe)
        except UsageError as error:
            refused[name] = str(error)
    left = tuple(name for name in request.targets if name not in refused)
    if not left:
        return request, ()
    options = {name: given for name, given in request.options.items() if name not in refused}
    planned = tuple(Planned(name, ", ".join(request.precisions), (), why) for name, why in refused.items())
    return replace(request, targets=left, options=options), planned


def _planned(spec: BundleSpec, builder: BundleBuilder, prepared: Prepared) -> Planned:
    refusal = ""
    try:
        for target in spec.targets:
            refuse(converters.target(target), prepared.operators)
    except ConversionError as error:
        refusal = str(error)
    return Planned(spec.target, spec.precision, builder.recipes(spec), refusal)


def usual_seconds(target: str) -> float:
    """Seconds of one build of a small detector."""
    return SECONDS.get(target, USUAL)


def expected_seconds(
    targets: tuple[str, ...], precisions: tuple[str, ...], recipe: str = AUTO, finetune: float = 0.0
) -> dict[str, float] | None:
    """Seconds of each step of a conversion of a small detector on two cores, by the names that progress is told by.

    None where a target or a precision is not one of a network's, but of the parts of a model.
    """
    names = tuple(converters.target_names()) if targets == ALL else targets
    if not set(names) <= set(converters.target_names()):
        return None
    steps = {"prepare": PREPARE}
    for name in names:
        spec = converters.target(name)
        for one in precisions if not spec.missing else ():
            if one in spec.precisions:
                tried = max(1, len(spec.recipes_of(one))) if recipe == AUTO else 1
                steps[f"{name} {one}"] = usual_seconds(name) * tried
                if one in spec.calibrated:
                    steps["calibrate"] = CALIBRATE + finetune
    return steps if len(steps) > 1 else None


def _minutes(request: Request, selection: Selection, planned: tuple[Planned, ...], pace: float) -> float:
    """Of all stages, at the pace of this machine and this network; each recipe builds and proves once more."""
    builds = sum(usual_seconds(one.target) * max(1, len(one.recipes)) for one in planned if not one.refusal)
    calibrate = CALIBRATE if selection.calibrated and not plan_is_there(request) else 0.0
    return (pace * (PREPARE + calibrate + builds / max(1, min(request.jobs, 2)))) / 60 + request.finetune
