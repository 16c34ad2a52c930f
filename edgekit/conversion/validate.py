"""The last stage, in a child process: open a bundle with its engines and compare it with the source."""

from __future__ import annotations

from pathlib import Path

from edgekit.conversion.comparison import comparison
from edgekit.conversion.golden_frames import write_frames
from edgekit.conversion.jobs import ValidateJob
from edgekit.conversion.workspace import Workspace
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Evidence


def work(job: ValidateJob, report: Report) -> Evidence:
    """Compare a bundle with the source's stored results, and write its golden frames.

    Raises:
        ContractError: the two cannot be compared.
        EngineError: an engine cannot open or run it, or it gives NaN or infinite values.
    """
    workspace = Workspace(Path(job.folder))
    prepared = workspace.read_prepared()
    images = workspace.holdout if job.holdout else workspace
    bundle = open_bundle(job.bundle)
    sheet = Path(job.sheet) if job.sheet else None
    evidence = comparison(written=bool(prepared.written)).compare(
        bundle, prepared, images, job.gate, job.threads, report, sheet, job.batch
    )
    if job.golden:
        write_frames(Path(job.golden), bundle, prepared, images, job.threads)
    return evidence
