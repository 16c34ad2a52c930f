"""Language models on OpenVINO: the cache is a state of the engine, and rows are chosen as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines.base import SessionOptions
from edgekit.runtimes.engines.openvino.session import CACHE_PRECISION, OpenVinoNetwork

CACHE_IN_FLOAT = {CACHE_PRECISION[1]: "f32"}
"""Unasked, the plugin keeps keys and values in 8 bits, and beams part from those of the source."""


class _Stateful:
    """A graph with a state, and which of its rows the next token continues."""

    def __init__(self, network: OpenVinoNetwork) -> None:
        self._network = network
        self._rows: Ints = np.zeros(0, np.int64)

    def begin(self, rows: int) -> None:
        """Clear the cache."""
        self._network.request.reset_state()
        self._rows = np.arange(rows)

    def select(self, rows: Ints) -> None:
        """Continue with these rows; successive selections are combined."""
        self._rows = self._rows[rows]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Logits (rows, vocabulary)."""
        logits = self._network.run({**feeds, "beam_idx": self._rows.astype(np.int32)})["logits"]
        self._rows = np.arange(len(self._rows))
        return logits


class OptOnOpenVino:
    """A decoder-only model; `edgekit.runtimes.language.LanguageGraph`."""

    def __init__(self, network: OpenVinoNetwork, embeddings: NDArray[Any]) -> None:
        self._decoder, self._embeddings = _Stateful(network), embeddings
        self._mask: Ints = np.zeros((0, 0), np.int64)

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Read the prompts."""
        self._decoder.begin(len(mask))
        self._mask = np.asarray(mask, np.int64)
        places = np.maximum(self._mask.cumsum(1) - 1, 0)
        return self._run(np.asarray(embeddings, np.float32), places)

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=1)
        embeddings = np.asarray(self._embeddings[tokens], np.float32)[:, None]
        return self._run(embeddings, self._mask.sum(1, keepdims=True) - 1)

    def _run(self, embeddings: Floats, places: Ints) -> Floats:
        return self._decoder.run({"inputs_embeds": embeddings, "position_ids": places, "attention_mask": self._mask})

    def select(self, rows: Ints) -> None:
        """Continue with these rows."""
        self._decoder.select(rows)
        self._mask = self._mask[rows]


class T5OnOpenVino:
    """An encoder and its decoder; `edgekit.runtimes.language.LanguageGraph`."""

    def __init__(
        self, encoder: OpenVinoNetwork, decoder: OpenVinoNetwork, language: Language, embeddings: NDArray[Any]
    ) -> None:
        self._encoder, self._decoder = encoder, _Stateful(decoder)
        self._embeddings, self._start = embeddings, language.start
        self._seen: dict[str, NDArray[Any]] = {}
        self._looked: dict[str, NDArray[Any]] = {}
        self._prompts: Ints = np.zeros(0, np.int64)
        self._count = 0

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Run the encoder over the prompts, and the decoder over the start token."""
        seen = self._encoder.run({"inputs_embeds": np.asarray(embeddings, np.float32), "attention_mask": mask})
        self._seen = {"encoder_mask": mask, **{name: np.array(array) for name, array in seen.items()}}
        self._prompts, self._looked, self._count = np.arange(len(mask)), self._seen, 0
        self._decoder.begin(len(mask))
        return self.step(np.full(len(mask), self._start, np.int64))

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        self._count += 1
        embeddings = np.asarray(self._embeddings[tokens], np.float32)[:, None]
        return self._decoder.run({"inputs_embeds": embeddings, "total": np.array(self._count), **self._looked})

    def select(self, rows: Ints) -> None:
        """Continue with these rows; encoder outputs are copied only if a row changes its prompt."""
        self._decoder.select(rows)
        prompts = self._prompts[rows]
        if not np.array_equal(prompts, self._prompts):
            self._prompts = prompts
            self._looked = {name: array[prompts] for name, array in self._seen.items()}


def open_language(
    folder: Path,
    graphs: Mapping[str, Graph],
    language: Language,
    embeddings: NDArray[Any],
    options: SessionOptions,
) -> OptOnOpenVino | T5OnOpenVino:
    """Open the graphs of a language model.

    Raises:
        EngineError: a device other than the CPU, or a file that cannot be opened.
    """
    if options.device not in ("", "cpu"):
        raise EngineError(f"language models run on device 'cpu' with OpenVINO, not on {options.device!r}")
    opened = {name: OpenVinoNetwork(folder, graph, options, CACHE_IN_FLOAT) for name, graph in graphs.items()}
    if language.family == "t5":
        return T5OnOpenVino(opened["encoder"], opened["decoder"], language, embeddings)
    return OptOnOpenVino(opened["language"], embeddings)
