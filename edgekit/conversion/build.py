"""Second stage, in a child process of its own: the exchange files become one target's files."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec

from edgekit import converters, registry
from edgekit.calibration import plan as plans
from edgekit.calibration.originals import restore
from edgekit.calibration.plan import BUDGET, PlannedGraph
from edgekit.calibration.samples import Samples
from edgekit.conversion.arithmetic import arithmetic
from edgekit.conversion.jobs import BuildJob, Prepared
from edgekit.converters import Job, Report, Target
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import Graph

PREPARED = "prepared.json"
PLAN = "plan"
"""Folder of the quantisation plan."""


def work(job: BuildJob, report: Report) -> Graph:
    """Run one converter.

    Raises:
        ConversionError: it failed, or did not write what it says.
    """
    warnings.simplefilter("ignore")
    folder = Path(job.folder)
    prepared = msgspec.json.decode((folder / PREPARED).read_bytes(), type=Prepared)
    calibration = folder / "calibration.npy"
    spec = converters.target(job.target)
    source, planned = _exchange(folder, spec, job.precision)
    scratch = folder / job.target / (source.name if planned else "float")
    if planned is not None and job.floats:
        planned = planned.keep_float(job.floats, BUDGET)
        # Another network for every number of layers: converters keep float files of theirs in their scratch folder.
        scratch = scratch.with_name(f"{source.name}-{len(job.floats)}")
        if source.name == plans.MIXED:
            source = scratch.with_name(f"restored-{len(job.floats)}")
            restore(_rounded(folder), planned.float_layers, source)
    scratch.mkdir(parents=True, exist_ok=True)
    converter = registry.module("edgekit.converters", job.target)
    graph: Graph = converter.convert(
        Job(
            onnx=source / "graph.onnx",
            program=source / "graph.pt2",
            contract=prepared.contract,
            shapes=prepared.shapes,
            precision=job.precision,
            samples=Samples(calibration, prepared.contract.image) if calibration.exists() else None,
            out=Path(job.out),
            work=scratch,
            threads=job.threads,
            options=msgspec.convert(job.options, spec.options),
            plan=planned,
            half=prepared.half if job.precision == "fp16" else (),
            recipe=job.recipe or spec.recipes[0],
        ),
        report,
    )
    for name in graph.files:
        if not (Path(job.out) / name).is_file():
            raise ConversionError(f"the {job.target} converter did not write {name!r}")
    # Of the source's own graph, also where this target's was made from another one.
    report_with_arithmetic = {**graph.report, **arithmetic(folder / "graph.onnx")}
    return msgspec.structs.replace(graph, report=report_with_arithmetic)


def _exchange(folder: Path, spec: Target, precision: str) -> tuple[Path, PlannedGraph | None]:
    """The folder of the exchange files that a precision is made from, and its part of the plan."""
    if precision not in spec.calibrated or not (folder / PLAN / plans.FILE).is_file():
        return folder, None
    plan = plans.read_plan(folder / PLAN)
    if spec.integer_only and plan.integer is not None:
        return folder / PLAN / plans.INTEGER, plan.integer
    return _rounded(folder) if spec.integer_only else folder / PLAN / plans.MIXED, plan.mixed


def _rounded(folder: Path) -> Path:
    """The plan's graph with all weights rounded; a plan from before there were two has no other."""
    rounded = folder / PLAN / plans.ROUNDED
    return rounded if rounded.is_dir() else folder / PLAN / plans.MIXED
