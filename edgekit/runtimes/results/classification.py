"""Classification: the scores of all classes for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError
from edgekit.runtimes.results.columns import Size, column, columns
from edgekit.runtimes.results.result import Result, converted


class _Scores(msgspec.Struct):
    scores: list[float]
    multi_label: bool = False
    threshold: float = 0.5


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Classification(Result):
    """The classes of one image.

    Args:
        scores: float32 (classes,), 0..1: they sum to 1, or stand each for itself where ``multi_label``.
        multi_label: an image may be of several classes, or of none.
        threshold: the score from which on `labels` names a class.
        classes, size, source, time, timings: as for every `Result`.

    Raises:
        UsageError: other than one finite score per class, or no class at all.
    """

    scores: Floats = field(metadata=column("score", np.float32))
    multi_label: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise UsageError("classes must have at least one name, not none")
        checked = columns(type(self))["scores"].checked("scores", self.scores, len(self.classes), self.size)
        object.__setattr__(self, "scores", checked)

    def __repr__(self) -> str:
        shown = self.top(len(self.classes))[: len(self.labels())] if self.multi_label else self.top(3)
        parts = ", ".join(f"{name} {score:.0%}" for name, score in shown)
        return f"{self.source + ': ' if self.source else ''}{parts or 'nothing'}"

    @property
    def best(self) -> tuple[str, float]:
        """Name and score of the class with the highest score, the first of equals."""
        return self.top(1)[0]

    def top_ids(self, k: int = 5) -> list[int]:
        """Ids of the ``k`` classes with the highest scores (all of them where there are fewer), best first.

        Raises:
            UsageError: ``k`` is below 1.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        best: list[int] = np.argsort(-self.scores, kind="stable")[:k].tolist()
        return best

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Names and scores of the classes that `top_ids` gives."""
        return [(self.classes[class_id], float(self.scores[class_id])) for class_id in self.top_ids(k)]

    def labels(self, threshold: float | None = None) -> list[str]:
        """Names of the classes that score at least this much (by default `threshold`), best first."""
        least = np.float32(self.threshold if threshold is None else threshold)
        return [self.classes[i] for i in self.top_ids(len(self.classes)) if self.scores[i] >= least]

    def draw(
        self,
        image: Image,
        *,
        labels: bool = True,
        scores: bool = True,
        thickness: int | None = None,
        k: int = 5,
    ) -> Image:
        """A new image with the names of the best ``k`` classes on plates in the top-left corner.

        Where an image may be of several classes, those below the threshold are left out.

        Args:
            image, labels, scores: as `Result.draw`; without labels it is a copy of the image.
            thickness: not used, there are no lines.
            k: number of classes.
        """
        from edgekit.runtimes import drawing

        self._check_image(image)
        best = self.top_ids(k) if labels else []
        best = [i for i in best if self.scores[i] >= np.float32(self.threshold)] if self.multi_label else best
        texts = [f"{self.classes[i]} {self.scores[i]:.0%}" if scores else self.classes[i] for i in best]
        return drawing.draw_list(image, texts, best)

    def _body(self) -> dict[str, Any]:
        scores = columns(type(self))["scores"].written(self.scores)
        best = [{"class_id": i, "name": self.classes[i], "score": scores[i]} for i in self.top_ids()]
        return {
            "top": best,
            "scores": scores,
            "multi_label": bool(self.multi_label),
            "threshold": float(self.threshold),
        }

    @classmethod
    def _from_body(cls, document: dict[str, Any], size: Size) -> dict[str, Any]:
        found = converted(document, _Scores)
        scores = np.array(found.scores, np.float32)
        return {"scores": scores, "multi_label": found.multi_label, "threshold": found.threshold}
