"""Conversions in an isolated toolchain, as a conversion makes them, of jobs from `jobs.make_job`."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edgekit.calibration.plan import FILE as PLAN_FILE
from edgekit.conversion.jobs import BuildJob, Prepared, Reference
from edgekit.conversion.runner import run
from edgekit.conversion.workspace import Workspace
from edgekit.converters import Job
from edgekit.runtimes.bundle.manifest import Graph, Origin


def build(job: Job, folder: Path, target: str, precision: str, recipe: str = "", **options: str) -> tuple[Path, Graph]:
    """Convert in the toolchain of a target's name; returns the folder of the files and their entry in the manifest."""
    workspace, out = Workspace(folder / "prepared"), folder / precision
    workspace.folder.mkdir(parents=True)
    out.mkdir()
    for source, place in ((job.onnx, workspace.onnx), (job.program, workspace.program)):
        shutil.copyfile(source, place)
    if (plan := job.onnx.parents[1] / PLAN_FILE).is_file():
        shutil.copytree(plan.parent, workspace.plan)
    if job.samples is not None:
        shutil.copyfile(job.samples.path, workspace.calibration)
    told = Prepared(
        name="small",
        parts=(),
        contract=job.contract,
        origin=Origin(kind="test", name="small", sha256=""),
        shapes=job.shapes,
        operators={},
        calibration=None,
        proof_sha256="",
        proof_views=0,
        photographs=0,
        reference=Reference(how=""),
        versions={},
    )
    workspace.write_prepared(told)
    work = BuildJob(
        folder=str(workspace.folder),
        part="model",
        target=target,
        precision=precision,
        out=str(out),
        recipe=recipe,
        options=dict(options),
    )
    assert msgspec.json.encode(work)
    return out, run(work, Graph, _quiet, toolchain=target)


def _quiet(text: str, share: float) -> None:
    """A report that nobody reads."""
