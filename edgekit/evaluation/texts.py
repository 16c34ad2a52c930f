"""Agreement of a converted vision-language model's texts with the source's, which is what evidence consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.bundle.manifest import Gate, OutputDrift, TextAgreement
from edgekit.runtimes.language.distributions import log_probabilities

GATES = {
    "fp32": Gate(iou=0, matched=0.995, score_drift=0.002),
    "fp16": Gate(iou=0, matched=0.98, score_drift=0.03),
    "int8": Gate(iou=0, matched=0.93, score_drift=0.15),
    "int4": Gate(iou=0, matched=0.80, score_drift=0.6),
}
"""Bounds by the roughest precision of a part: of `TextAgreement.matched` and ``score_drift`` (docs/BLIP2.md)."""

COSINES = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.95, "int4": 0.85}
"""Least cosine of each graph's outputs, the source's own inputs given."""


@dataclass
class TextTally:
    """Sums over everything that was asked. ``measure`` is that of `TextAgreement`."""

    measure: Literal["tokens", "decisions"]
    hits: int = 0
    drifts: list[float] = field(default_factory=list)
    answers: int = 0
    identical: int = 0

    def add_positions(self, source: Floats, ours: Floats, tokens: Ints) -> None:
        """Compare logits (positions, vocabulary) that follow the same texts; ``tokens`` are what the source chose."""
        self.hits += int((source.argmax(-1) == ours.argmax(-1)).sum())
        theirs, own = (
            np.take_along_axis(log_probabilities(logits), tokens[:, None], 1)[:, 0] for logits in (source, ours)
        )
        self.drifts += np.abs(theirs - own).tolist()

    def add_decisions(self, source: Floats, ours: Floats) -> None:
        """Compare probabilities of a match, of any shape."""
        self.hits += int(((source > 0.5) == (ours > 0.5)).sum())
        self.drifts += np.abs(source - ours).ravel().tolist()

    def add_answers(self, same: Sequence[bool]) -> None:
        """Count answers, or choices of a text, that are the source's or not."""
        self.answers += len(same)
        self.identical += int(sum(same))

    def agreement(self) -> TextAgreement:
        """Everything that was added."""
        count = len(self.drifts)
        return TextAgreement(
            measure=self.measure,
            positions=count,
            matched=self.hits / max(count, 1),
            score_drift=float(np.mean(self.drifts)) if count else 0.0,
            score_drift_max=max(self.drifts, default=0.0),
            answers=self.answers,
            identical=self.identical / max(self.answers, 1),
        )


def judge(texts: TextAgreement, outputs: Sequence[OutputDrift], gate: Gate, least_cosine: float) -> tuple[str, ...]:
    """All violations of a gate, each as a sentence with the measured value and the bound."""
    failures = []
    if texts.matched < gate.matched:
        failures.append(f"matched {texts.matched:.3f} of {texts.positions} {texts.measure}, at least {gate.matched:g}")
    if not texts.score_drift <= gate.score_drift:
        failures.append(f"mean score drift {texts.score_drift:.4f}, at most {gate.score_drift:g}")
    for output in outputs:
        if not output.cosine >= least_cosine:
            failures.append(f"output {output.name}: cosine {output.cosine:.5f}, at least {least_cosine:g}")
    return tuple(failures)
