"""A decoder-only language model whose cache is kept by Core ML, in one state for each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines.coreml.network import PackageNetwork, State

if TYPE_CHECKING:
    from edgekit.runtimes.language.graph import LanguageGraph

START = "start"
"""The input that a graph with states has: the first free place of them."""


class StatedOpt:
    """A decoder-only model over states; `edgekit.runtimes.language.LanguageGraph`.

    Rows run one after another. Every row is as long as the longest, padded on the left. What lies in places that the
    mask hides does no harm: it is finite.
    """

    def __init__(self, network: PackageNetwork, graph: Graph, language: Language, embeddings: NDArray[Any]) -> None:
        from edgekit.runtimes.language.host_cache import HIDDEN

        shapes = {tensor.name: tensor.shape for tensor in graph.inputs}
        if not {START, "mask", "pick", "inputs_embeds", "position_ids"} <= shapes.keys():
            raise EngineError(
                f"graph {graph.name!r} takes {', '.join(sorted(shapes))} and keeps no cache; convert the model again"
            )
        self._network, self._embeddings, self._below = network, embeddings, HIDDEN
        *_, self._piece, self._capacity = shapes["mask"]
        self._states: list[State] = []
        self._spare: list[State] = []
        self._hidden: Floats = np.zeros((0, 0), np.float32)
        self._lengths: Ints = np.zeros(0, np.int64)
        self._used = 0

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Read the prompts, in pieces.

        Raises:
            UsageError: they have no room.
        """
        rows, count = mask.shape
        self._check(count)
        self._spare += self._states
        self._states = [self._another() for _ in range(rows)]
        self._hidden = np.full((rows, self._capacity), self._below, np.float32)
        self._lengths, self._used = np.asarray(mask.sum(1), np.int64), 0
        places = np.maximum(mask.cumsum(1) - 1, 0)
        logits: Floats = np.zeros((0, 0), np.float32)
        for first in range(0, count, self._piece):
            piece = slice(first, first + self._piece)
            logits = self._read(embeddings[:, piece], mask[:, piece], places[:, piece])
        return logits

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row.

        Raises:
            UsageError: there is no room for it.
        """
        self._check(self._used + 1)
        places = self._lengths[:, None]
        self._lengths = self._lengths + 1
        return self._read(np.asarray(self._embeddings[tokens])[:, None], np.ones_like(places), places)

    def select(self, rows: Ints) -> None:
        """Continue with these rows: the first to want a row's state takes it, others get copies."""
        chosen: list[State] = []
        taken: set[int] = set()
        self._spare += [state for row, state in enumerate(self._states) if row not in rows]
        for row in rows.tolist():
            state = self._states[row]
            if row in taken:
                state = self._another()
                self._network.copy(self._states[row], state)
            taken.add(row)
            chosen.append(state)
        self._states, self._hidden, self._lengths = chosen, self._hidden[rows], self._lengths[rows]

    def _another(self) -> State:
        return self._spare.pop() if self._spare else self._network.make_state()

    def _check(self, tokens: int) -> None:
        if tokens > self._capacity:
            raise UsageError(
                f"{tokens} tokens (image, prompt and what is written) are more than the {self._capacity} that this "
                "bundle has room for; shorten the prompt, lower max_new_tokens, or convert with a larger capacity="
            )

    def _read(self, embeddings: Floats, mask: Ints, places: Ints) -> Floats:
        """Append tokens to every row and give the logits (rows, vocabulary) behind the last."""
        rows, count, width = embeddings.shape
        size = self._piece if count > 1 else 1
        filled, numbers = np.zeros((rows, size, width), np.float32), np.zeros((rows, size), np.int64)
        filled[:, :count], numbers[:, :count] = embeddings, places
        pick = np.zeros((rows, 1, size), np.float32)
        pick[:, 0, count - 1] = 1
        feeds: dict[str, NDArray[Any]] = {
            "inputs_embeds": filled, "position_ids": numbers, "mask": self._mask(mask, size), "pick": pick,
            START: np.full((rows, 1), self._used),
        }  # fmt: skip
        logits = []
        for row, state in enumerate(self._states):
            given = {name: array[row : row + 1] for name, array in feeds.items()}
            logits.append(self._network.row({**given, START: feeds[START][row]}, state)["logits"])
        self._used += count
        return np.concatenate(logits)

    def _mask(self, mask: Ints, size: int) -> Floats:
        """The attention mask of every token: (rows, 1, tokens, capacity). From now on, it includes the new tokens."""
        count = mask.shape[1]
        found = np.repeat(self._hidden[:, None, None], size, 2)
        new = np.where(mask > 0, np.float32(0), self._below)
        later = np.triu(np.full((count, count), self._below, np.float32), 1)
        here = slice(self._used, self._used + count)
        found[:, 0, :count, here] = np.minimum(new[:, None], later)
        self._hidden[:, here] = new
        return found


def open_packages(
    networks: Mapping[str, PackageNetwork], graphs: Mapping[str, Graph], language: Language, embeddings: NDArray[Any]
) -> LanguageGraph:
    """A language model of opened packages: over states where its graph has them, else over buffers of the host.

    Raises:
        EngineError: a graph whose cache is not the contract's.
    """
    from edgekit.runtimes.language.host_cache import open_hosted

    spoken = graphs.get("language")
    if spoken is not None and any(tensor.name == START for tensor in spoken.inputs):
        return StatedOpt(networks["language"], spoken, language, embeddings)
    return open_hosted(networks, graphs, language, embeddings)
