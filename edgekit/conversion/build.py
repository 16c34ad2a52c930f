"""The third stage, in a child process: convert one part of a model to one target's files."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import msgspec

from edgekit import converters, registry
from edgekit.calibration import originals
from edgekit.calibration import plan as plans
from edgekit.calibration.originals import restore
from edgekit.calibration.plan import BUDGET, PlannedGraph
from edgekit.conversion.arithmetic import arithmetic
from edgekit.conversion.jobs import BuildJob, Prepared
from edgekit.conversion.layer_inputs import read_inputs
from edgekit.conversion.ranges import read_ranges
from edgekit.conversion.workspace import Workspace
from edgekit.converters import Job, Target, WrittenJob
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import CACHED, Blip2, WrittenPart
from edgekit.graph.blip2.cache_scales import cache_scales
from edgekit.graph.blip2.fitted import Fitted, fit
from edgekit.graph.blip2.precision import forms, read_part
from edgekit.graph.exchange import ONNX, PROGRAM
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.structures import from_builtins


def work(job: BuildJob, report: Report) -> Graph:
    """Run one converter.

    Raises:
        ConversionError: it failed, or did not write what it says.
        SourceError: a checkpoint lacks a tensor.
    """
    warnings.simplefilter("ignore")
    workspace = Workspace(Path(job.folder))
    prepared = workspace.read_prepared()
    Path(job.out).mkdir(parents=True, exist_ok=True)
    graph = (_written if prepared.written else _exported)(job, prepared, workspace, report)
    for name in graph.files:
        if not (Path(job.out) / name).is_file():
            raise ConversionError(f"the {job.target} converter did not write {name!r}")
    return graph


def _exported(job: BuildJob, prepared: Prepared, workspace: Workspace, report: Report) -> Graph:
    """Convert a network in exchange form."""
    spec = converters.target(job.target)
    recipe = job.recipe or spec.recipes[0]
    source, planned = _exchange(workspace, spec, job.precision, recipe)
    scratch = source.name if planned else "float"
    if planned is not None and job.integers:
        for name in job.integers:
            planned = planned.make_int8(name)
        scratch = f"{source.name}-int8"
        source = workspace.folder / job.target / "last-layer"
        if not source.exists():
            restore(_rounded(workspace), planned.float_layers, source)
    elif planned is not None and job.floats:
        planned = planned.keep_float(job.floats, BUDGET)
        # Another network for every number of layers: converters keep float files of theirs in their scratch folder.
        scratch = f"{source.name}-{len(job.floats)}"
        if source.name == plans.MIXED:
            source = workspace.folder / job.target / f"restored-{len(job.floats)}"
            restore(_rounded(workspace), planned.float_layers, source)
    graph: Graph = registry.module(converters.__name__, job.target).convert(
        Job(
            onnx=source / ONNX,
            program=source / PROGRAM,
            contract=prepared.contract,
            shapes=prepared.shapes,
            precision=job.precision,
            samples=workspace.calibration_images(prepared.contract.image),
            out=Path(job.out),
            work=workspace.scratch(job.target, scratch),
            threads=job.threads,
            options=from_builtins(job.options, spec.options),
            plan=planned,
            half=prepared.half if job.precision in spec.half_precisions else (),
            recipe=recipe,
            originals=_rounded(workspace) / originals.FILE if planned is not None else None,
            batches=job.batches,
            sizes=job.sizes,
        ),
        report,
    )
    # Of the source's own graph, also where this target's was made from another one.
    return msgspec.structs.replace(graph, report={**graph.report, **arithmetic(workspace.onnx)})


def _exchange(workspace: Workspace, spec: Target, precision: str, recipe: str) -> tuple[Path, PlannedGraph | None]:
    """The folder of the exchange files for a precision and a recipe, and the plan's graph that goes with them."""
    if precision not in spec.calibrated or not (workspace.plan / plans.FILE).is_file():
        return workspace.folder, None
    plan = plans.read_plan(workspace.plan)
    integers = spec.all_integers(recipe)
    if integers and spec.takes_equalized and plan.integer is not None:
        return workspace.plan / plans.INTEGER, plan.integer
    return _rounded(workspace) if integers else workspace.plan / plans.MIXED, plan.mixed


def _rounded(workspace: Workspace) -> Path:
    """The folder of the graph with all weights rounded; older plans have only one graph."""
    rounded = workspace.plan / plans.ROUNDED
    return rounded if rounded.is_dir() else workspace.plan / plans.MIXED


def _written(job: BuildJob, prepared: Prepared, workspace: Workspace, report: Report) -> Graph:
    """Write a part from its checkpoint, tensor by tensor. Intermediate files are as large as it, so they go at once."""
    spec = converters.target(job.target)
    options = from_builtins(job.options, spec.options)
    precision, source = read_part(job.precision), Blip2(Path(prepared.written))
    inputs = read_inputs(workspace.inputs)
    fitted = Fitted(source, inputs)
    if precision.fitted:
        report("fitting weights to the calibration data", 0.0)
        fitted = fit(source, job.part, precision, inputs, spec.grid or "lowest")
    cached = spec.observes(options) and job.part in CACHED
    form = forms(job.part, precision, read_ranges(workspace.ranges), fitted.wide)
    with tempfile.TemporaryDirectory(prefix=f"{job.part}-", dir=workspace.folder) as work:
        graph: Graph = registry.module(converters.__name__, job.target).convert_written(
            WrittenJob(
                part=WrittenPart(
                    fitted.source, job.part, form, cache_scales(fitted.source, fitted.inputs) if cached else {}
                ),
                out=Path(job.out),
                work=Path(work),
                threads=job.threads,
                options=options,
            ),
            report,
        )
    return msgspec.structs.replace(graph, report={**graph.report, **fitted.report})
