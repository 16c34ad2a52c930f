"""A language graph with timings, lent to one generation at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import UsageError
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.results import TextTimings


class GraphLender:
    """Lends a graph, which has one cache, to one `TimedGraph` after the other: the last one borrowed is in use."""

    def __init__(self, graph: LanguageGraph) -> None:
        self.graph = graph
        self.user: TimedGraph | None = None

    def lend(self) -> TimedGraph:
        """The graph for a new generation; an earlier one cannot go on."""
        self.user = TimedGraph(self)
        return self.user


class TimedGraph:
    """A `LanguageGraph` that counts its steps and milliseconds.

    Raises:
        UsageError: (from every method) another generation has begun meanwhile, which took over the cache.
    """

    def __init__(self, lender: GraphLender) -> None:
        self._lender = lender
        self.prefill = self.decode = 0.0
        self.steps = 0

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """As `LanguageGraph.start`; its time is the prefill's."""
        logits, self.prefill = _timed(lambda: self._graph.start(embeddings, mask))
        return logits

    def step(self, tokens: Ints) -> Floats:
        """As `LanguageGraph.step`."""
        logits, spent = _timed(lambda: self._graph.step(tokens))
        self.decode += spent
        self.steps += 1
        return logits

    def select(self, rows: Ints) -> None:
        """As `LanguageGraph.select`; its time counts as decoding."""
        graph = self._graph
        before = time.perf_counter()
        graph.select(rows)
        self.decode += 1e3 * (time.perf_counter() - before)

    def timings(self, vision: float) -> TextTimings:
        """The measured times, with the milliseconds of the images."""
        return TextTimings(vision=vision, prefill=self.prefill, decode=self.decode, steps=self.steps)

    @property
    def _graph(self) -> LanguageGraph:
        if self._lender.user is not self:
            raise UsageError(
                "this stream cannot continue: its model has started another text; finish a stream before the next "
                "call, or load the bundle twice"
            )
        return self._lender.graph


def _timed(run: Callable[[], Floats]) -> tuple[Floats, float]:
    before = time.perf_counter()
    logits = np.asarray(run(), np.float32)
    return logits, 1e3 * (time.perf_counter() - before)
