"""Several models of one task on the same labelled images: accuracy, latency and size of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.arrays import Image
from edgekit.errors import UsageError
from edgekit.evaluation.coco import SCORE_THRESHOLD
from edgekit.evaluation.metrics import Report
from edgekit.runtimes.results import Result

Evaluation = Callable[[Callable[[Image], Result], Callable[[int, int], None]], Report]
"""Measures a model, and tells how many images are done and of how many: `edgekit.evaluation.labelled.evaluate`, say."""

Watch = Callable[[str, int, int], None]
"""Called after each image with the model's name, how many images are done, and how many there are."""


@dataclass(frozen=True)
class Candidate:
    """A model to measure.

    Attributes:
        name: for tables.
        task: the contract's.
        bytes: size of the model's files, or of a source's parameters.
        open: opens it, a `edgekit.Model` or `edgekit.VisionLanguage`; called when its turn has come: one model is in
            memory at a time.
        source: it is the source in PyTorch.
        proof: how a bundle runs here: `edgekit.runtimes.bundle.manifest.ProofWord`, empty where it was not proven.
    """

    name: str
    task: str
    bytes: int
    open: Callable[[], Any]
    source: bool = False
    proof: str = ""


@dataclass(frozen=True)
class MeasuredModel:
    """A model and what was measured of it. Latencies are medians on this host, in ms: of inference, and of all from
    image to result."""

    candidate: Candidate
    report: Report
    inference: float
    total: float

    @property
    def main(self) -> float:
        """The main figure, 0..1."""
        return self.report[0].main

    @property
    def figures(self) -> dict[str, float]:
        """All figures of the report by name, the main one first."""
        return {name: value for metrics in self.report for name, value in metrics.figures.items()}


@dataclass(frozen=True)
class Latencies:
    """The names of the two latencies of `MeasuredModel`, for tables."""

    inference: str = "inference"
    total: str = "in all"
    note: str = "median inference here, one image at a time"
    columns: str = "Whole: from image to result."


@dataclass(frozen=True)
class ModelComparison:
    """Measured models, in the order given, and the one that the others are compared with."""

    measured: tuple[MeasuredModel, ...]
    reference: MeasuredModel
    latencies: Latencies = field(default_factory=Latencies)

    def difference(self, one: MeasuredModel) -> float | None:
        """Main figure of a model less the reference's; None for the reference itself."""
        return None if one is self.reference else one.main - self.reference.main


def compare(
    candidates: Sequence[Candidate],
    evaluation: Evaluation,
    watch: Watch | None = None,
    score: float | None = SCORE_THRESHOLD,
) -> ModelComparison:
    """Measure models one after the other; the first source is what the others are compared with, else the first model.

    Args:
        candidates: models of one task.
        evaluation: see `Evaluation`.
        watch: see `Watch`.
        score: least score that models are run with; None for each contract's.

    Raises:
        UsageError: no model, or models of several tasks.
        InputError: as the evaluation.
        BundleError, EngineError: a model cannot be opened or run.
    """
    return compare_by(candidates, lambda candidate: _measured(candidate, evaluation, watch, score))


def compare_by(
    candidates: Sequence[Candidate], measure: Callable[[Candidate], MeasuredModel], latencies: Latencies | None = None
) -> ModelComparison:
    """As `compare`, with another way to measure a model.

    Raises:
        UsageError: no model, or models of several tasks.
    """
    if not candidates:
        raise UsageError("name at least one bundle or source to measure")
    tasks = {candidate.task: candidate.name for candidate in candidates}
    if len(tasks) > 1:
        told = ", ".join(f"{name}: {task}" for task, name in tasks.items())
        raise UsageError(f"models of one task can be compared, these are of several ({told}); evaluate them separately")
    measured = tuple(measure(candidate) for candidate in candidates)
    reference = next((one for one in measured if one.candidate.source), measured[0])
    return ModelComparison(measured, reference, latencies or Latencies())


def _measured(candidate: Candidate, evaluation: Evaluation, watch: Watch | None, score: float | None) -> MeasuredModel:
    model = candidate.open()
    inference: list[float] = []
    total: list[float] = []

    def run(image: Image) -> Result:
        result: Result = model.predict(image, score=score)
        if result.timings is not None:
            inference.append(result.timings.inference)
            total.append(result.timings.total)
        return result

    def on_progress(done: int, images: int) -> None:
        if watch is not None:
            watch(candidate.name, done, images)

    report = evaluation(run, on_progress)
    return MeasuredModel(candidate, report, statistics.median(inference), statistics.median(total))
