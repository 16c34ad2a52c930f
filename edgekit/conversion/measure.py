"""Measure the score of an accuracy budget, in a child process: accuracy on labels, or agreement with the source."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

from edgekit.conversion.jobs import MeasuredScore, MeasureJob, Prepared
from edgekit.conversion.network import compare_network
from edgekit.conversion.workspace import Workspace
from edgekit.emulators import proof_device
from edgekit.evaluation.agreement import GATES
from edgekit.evaluation.coco import SCORE_THRESHOLD
from edgekit.evaluation.labelled import evaluate
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.model import Model, load
from edgekit.runtimes.results import Result
from edgekit.sources.session import TorchSession

AGREEMENT = "agreement"
"""The name of a score without labels."""

TIMED = 20
"""Images that a bundle is timed on."""


def work(job: MeasureJob, report: Report) -> MeasuredScore:
    """Measure a bundle, or the float graph where none is named.

    Raises:
        EngineError: the engine cannot run it.
    """
    workspace = Workspace(Path(job.folder))
    prepared = workspace.read_prepared()
    model = _opened(job, prepared, workspace)
    if job.labels:
        main, *_ = evaluate(
            lambda image: model.predict(image, score=SCORE_THRESHOLD),
            job.labels,
            None,
            lambda done, total: report(f"accuracy, {done} of {total} images", done / max(total, 1)),
        )
        return MeasuredScore(
            score=main.main, by=next(iter(main.figures)), milliseconds=_latency(model, prepared, workspace)
        )
    if not job.bundle:
        return MeasuredScore(score=1.0, by=AGREEMENT, milliseconds=0.0)
    decoded = compare_network(model, prepared, workspace.holdout, GATES["int8"], report).decoded
    score = 0.0 if decoded is None else min(decoded.matched, 1 - decoded.extra)
    return MeasuredScore(score=score, by=AGREEMENT, milliseconds=_latency(model, prepared, workspace))


def _opened(job: MeasureJob, prepared: Prepared, workspace: Workspace) -> Model[Result]:
    if job.bundle:
        bundle = open_bundle(job.bundle)
        device = proof_device(bundle.manifest.engine, bundle.manifest.graphs[0])
        return load(bundle, threads=job.threads, unit=device, warm_up=0)
    import torch

    return Model(prepared.contract, TorchSession(torch.export.load(workspace.program).module()))


def _latency(model: Model[Result], prepared: Prepared, workspace: Workspace) -> float:
    """Median latency of inference alone, in ms."""
    seconds = []
    for tensor in itertools.islice(workspace.proof_images(prepared.contract.image), TIMED):
        begun = time.perf_counter()
        model.outputs(tensor)
        seconds.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(seconds), 3)
