"""Language models on engines that keep no cache: keys and values lie in buffers of numpy, which a graph only reads.

An engine needs nothing but a `Network`, run with arrays by name; `open_hosted` makes a `LanguageGraph` of it. The
graphs are those of `HostCache` (edgekit.graph.blip2.cache). What they take, and what comes out:

* a decoder-only model, ``language``: ``inputs_embeds`` float32 [rows, tokens, width], ``position_ids`` int64 [rows,
  tokens], and the cache's inputs -> ``logits`` float32 [rows, vocabulary] and the cache's outputs.
* an encoder-decoder model: ``encoder`` takes ``inputs_embeds``, ``mask`` float32 [rows, 1, 1, tokens], added to the
  scores, and ``distances`` int64 [tokens, tokens], key less query -> ``cross.N.key``, ``cross.N.value`` [rows, heads,
  tokens, size]. ``decoder`` takes those, ``inputs_embeds`` of one token, ``encoder_mask`` float32 [rows, 1, 1, tokens],
  ``distances`` int64 [1, capacity + 1] and the cache's inputs -> ``logits`` and the cache's outputs.
* the cache's inputs: ``past.N.key``, ``past.N.value`` float32 [rows, heads, capacity, size], ``mask`` float32 [rows, 1,
  tokens, capacity + tokens], added to the scores, ``pick`` float32 [rows, 1, tokens], 1 at the token whose logits are
  asked for. Its outputs: ``present.N.key``, ``present.N.value`` [rows, heads, tokens, size], of the new tokens alone.

A mask is 0 where there is something to see and `HIDDEN` elsewhere: that survives float16, and no engine meets an
infinity. Every row is as long as the longest, padded on the left as the prompts are; a row's own positions begin at its
first token. The same is written into all rows at once, and rows are reordered by numpy.

`Limits` says what an engine's files have room for; it is read off the shapes in the manifest, where -1 is any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, Language

HIDDEN = np.float32(-1e4)
"""The value added to the score of a masked key."""

BLOCK = 64
"""Buffers grow by so many tokens. They are given whole: engines plan anew for every shape that they have not seen."""


class Runs(Protocol):
    """An opened graph: the part of `edgekit.runtimes.engines.Network` that is needed here."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Inputs by name to outputs by name, which may be views that hold until the next run."""
        ...


@dataclass(frozen=True)
class Limits:
    """The capacity of a graph; 0 is unlimited.

    Attributes:
        one_row: rows run one after another.
        tokens: of a piece of the prompt, which is filled up to it. The graph takes a single token too.
        capacity: of the buffers, in tokens.
    """

    one_row: bool = False
    tokens: int = 0
    capacity: int = 0

    @classmethod
    def of(cls, graph: Graph) -> Limits:
        """By the shapes that the manifest says of ``language``, ``encoder`` or ``decoder``."""
        shapes = {tensor.name: tensor.shape for tensor in graph.inputs}
        rows, tokens, _ = shapes["inputs_embeds"]
        capacity = shapes["past.0.key"][2] if "past.0.key" in shapes else -1
        return cls(rows == 1, max(tokens, 0), max(capacity, 0))

    def together(self, rows: int) -> Iterator[slice]:
        """Rows that run together."""
        step = 1 if self.one_row else rows
        return (slice(first, first + step) for first in range(0, rows, step))

    def filled(self, count: int) -> int:
        """How many tokens the graph is given for so many."""
        return self.tokens if count > 1 and self.tokens else count


class _Decoder:
    """A graph and the buffers of its cache: (rows, heads, capacity, size) each, of which the first tokens are used.

    Attributes:
        used: tokens of every row, with what is padding in some.
    """

    def __init__(self, network: Runs, graph: Graph, language: Language) -> None:
        check_cache(graph, language)
        self._network, self._language, self.limits = network, language, Limits.of(graph)
        self._names = [f"{number}.{what}" for number in range(language.layers) for what in ("key", "value")]
        self._buffers: dict[str, Floats] = {}
        self._spare: dict[str, Floats] = {}
        self._hidden: Floats = np.zeros((0, 0), np.float32)
        self.used = 0

    def begin(self, rows: int, tokens: int) -> None:
        """Empty buffers with room for so many tokens, and some more.

        Raises:
            UsageError: they have no such room.
        """
        self.used = 0
        self._take(rows, self._capacity(tokens))

    @property
    def rows(self) -> int:
        """Rows there are now."""
        return len(self._hidden)

    def read(self, embeddings: Floats, mask: Ints, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Append tokens to every row and give the logits (rows, vocabulary) behind the last.

        Args:
            embeddings: float32 (rows, tokens, width); at most as many tokens as the graph takes.
            mask: (rows, tokens), 0 where there is padding.
            feeds: further inputs of all rows, and ``distances``.

        Raises:
            UsageError: the buffers cannot grow any further.
        """
        count = embeddings.shape[1]
        self.reserve(self.used + count)
        size = self.limits.filled(count)
        filled = np.zeros((self.rows, size, embeddings.shape[2]), np.float32)
        filled[:, :count] = embeddings
        new = np.where(mask > 0, np.float32(0), HIDDEN)
        pick = np.zeros((self.rows, 1, size), np.float32)
        pick[:, 0, count - 1] = 1
        given = {"inputs_embeds": filled, "mask": self._mask(new, size), "pick": pick, **feeds}
        logits: list[Floats] = []
        for rows in self.limits.together(self.rows):
            buffers = {f"past.{name}": self._buffers[name][rows] for name in self._names}
            found = self._network.run({**_of_rows(rows, given), **buffers})
            for name in self._names:
                self._buffers[name][rows, :, self.used : self.used + count] = found[f"present.{name}"][:, :, :count]
            part = np.asarray(found["logits"], np.float32)
            logits.append(part.copy() if self.limits.one_row else part)
        self._hidden[:, self.used : self.used + count] = new
        self.used += count
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    @property
    def capacity(self) -> int:
        """Tokens that the buffers have room for."""
        return int(self._hidden.shape[1])

    def select(self, rows: Ints) -> None:
        """Keep these rows, in this order: numpy copies what is used into buffers that were in use before."""
        if len(rows) != self.rows or not self._spare:
            self._spare = self._empty(len(rows), self.capacity)
        for name, old in self._buffers.items():
            np.take(old[:, :, : self.used], rows, 0, out=self._spare[name][:, :, : self.used], mode="clip")
        self._buffers, self._spare = self._spare, self._buffers if len(rows) == self.rows else {}
        self._hidden = self._hidden[rows]

    def _mask(self, new: Floats, size: int) -> Floats:
        """The attention mask of every token: (rows, 1, tokens, capacity + tokens)."""
        capacity, count = self.capacity, new.shape[1]
        mask = np.full((self.rows, 1, size, capacity + size), HIDDEN, np.float32)
        mask[..., :capacity] = self._hidden[:, None, None]
        later = np.triu(np.full((count, count), HIDDEN, np.float32), 1)
        mask[:, 0, :count, capacity : capacity + count] = np.minimum(new[:, None], later)
        return mask

    def _capacity(self, tokens: int) -> int:
        limit = self.limits.capacity
        if limit and tokens > limit:
            raise UsageError(
                f"{tokens} tokens (image, prompt and what is written) are more than the {limit} that this bundle has "
                "room for; shorten the prompt, lower max_new_tokens, or convert for another target"
            )
        return limit or -(-(tokens + 1) // BLOCK) * BLOCK

    def reserve(self, tokens: int) -> None:
        """Have room for so many tokens."""
        if tokens <= self.capacity:
            return
        old, hidden = self._buffers, self._hidden
        self._take(self.rows, self._capacity(tokens))
        for name, buffer in self._buffers.items():
            buffer[:, :, : self.used] = old[name][:, :, : self.used]
        self._hidden[:, : self.used] = hidden[:, : self.used]

    def _take(self, rows: int, capacity: int) -> None:
        self._hidden = np.full((rows, capacity), HIDDEN, np.float32)
        self._buffers, self._spare = self._empty(rows, capacity), {}

    def _empty(self, rows: int, capacity: int) -> dict[str, Floats]:
        """Zeros, not whatever was there: a hidden value that is no number would be seen all the same."""
        shape = (rows, self._language.heads, capacity, self._language.head_size)
        return {name: np.zeros(shape, np.float32) for name in self._names}


class HostedOpt:
    """A decoder-only model; `edgekit.runtimes.language.LanguageGraph`."""

    def __init__(self, network: Runs, graph: Graph, language: Language, embeddings: NDArray[Any]) -> None:
        self._decoder, self._embeddings = _Decoder(network, graph, language), embeddings
        self._lengths: Ints = np.zeros(0, np.int64)

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Read the prompts, in pieces where the graph has a fixed length."""
        decoder = self._decoder
        rows, count = mask.shape
        decoder.begin(rows, count)
        self._lengths = np.asarray(mask.sum(1), np.int64)
        places = np.maximum(mask.cumsum(1) - 1, 0)
        step = decoder.limits.tokens or count
        logits: Floats = np.zeros((0, 0), np.float32)
        for first in range(0, count, step):
            piece = slice(first, first + step)
            logits = self._read(embeddings[:, piece], mask[:, piece], places[:, piece])
        return logits

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        places = self._lengths[:, None]
        self._lengths = self._lengths + 1
        return self._read(self._embeddings[tokens][:, None], np.ones_like(places), places)

    def _read(self, embeddings: Floats, mask: Ints, places: Ints) -> Floats:
        filled = np.zeros((len(places), self._decoder.limits.filled(places.shape[1])), np.int64)
        filled[:, : places.shape[1]] = places
        return self._decoder.read(embeddings, mask, {"position_ids": filled})

    def select(self, rows: Ints) -> None:
        """Continue with these rows."""
        self._decoder.select(rows)
        self._lengths = self._lengths[rows]


class HostedT5:
    """An encoder and its decoder; `edgekit.runtimes.language.LanguageGraph`."""

    def __init__(
        self, networks: Mapping[str, Runs], graphs: Mapping[str, Graph], language: Language, embeddings: NDArray[Any]
    ) -> None:
        self._encoder, self._limits = networks["encoder"], Limits.of(graphs["encoder"])
        self._decoder = _Decoder(networks["decoder"], graphs["decoder"], language)
        self._embeddings, self._start = embeddings, language.start
        self._seen: dict[str, NDArray[Any]] = {}
        self._looked: dict[str, NDArray[Any]] = {}
        self._prompts: Ints = np.zeros(0, np.int64)

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Run the encoder over the prompts, and the decoder over the start token.

        Raises:
            UsageError: a prompt with more tokens than the encoder takes.
        """
        self._seen = self._encoded(embeddings, mask)
        self._prompts, self._looked = np.arange(len(mask)), self._seen
        self._decoder.begin(len(mask), 1)
        return self.step(np.full(len(mask), self._start, np.int64))

    def _encoded(self, embeddings: Floats, mask: Ints) -> dict[str, NDArray[Any]]:
        """Keys and values of every prompt, and where they are padding."""
        rows, count = mask.shape
        size = self._limits.tokens or count
        if count > size:
            raise UsageError(
                f"{count} tokens of image and prompt are more than the {size} that this bundle's encoder takes; "
                "shorten the prompt, or convert for another target"
            )
        filled = np.zeros((rows, size, embeddings.shape[2]), np.float32)
        filled[:, :count] = embeddings
        hidden = np.full((rows, 1, 1, size), HIDDEN, np.float32)
        hidden[:, 0, 0, :count][mask > 0] = 0
        places = np.arange(size)
        given = {"inputs_embeds": filled, "mask": hidden, "distances": places[None] - places[:, None]}
        parts = []
        for some in self._limits.together(rows):
            found = self._encoder.run(_of_rows(some, given))
            parts.append({name: np.array(array, np.float32) for name, array in found.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {"encoder_mask": hidden, **joined}

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        decoder = self._decoder
        decoder.reserve(decoder.used + 1)
        away = np.append(np.arange(decoder.capacity) - decoder.used, 0)[None]
        embeddings = np.asarray(self._embeddings[tokens], np.float32)[:, None]
        return decoder.read(embeddings, np.ones((len(tokens), 1), np.int64), {"distances": away, **self._looked})

    def select(self, rows: Ints) -> None:
        """Continue with these rows; encoder outputs are copied only if a row changes its prompt."""
        self._decoder.select(rows)
        prompts = self._prompts[rows]
        if not np.array_equal(prompts, self._prompts):
            self._prompts = prompts
            self._looked = {name: array[prompts] for name, array in self._seen.items()}


def _of_rows(rows: slice, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Inputs for some of the rows; distances are the same for all."""
    return {name: array if name == "distances" else array[rows] for name, array in feeds.items()}


def check_cache(graph: Graph, language: Language) -> None:
    """Refuse a graph whose cache is not the contract's, before memory for it is taken.

    Raises:
        EngineError: another number of layers, heads or numbers a head; or it takes no cache of the host.
    """
    names = {tensor.name for tensor in graph.inputs}
    if not {"mask", "pick", "inputs_embeds"} <= names:
        raise EngineError(
            f"graph {graph.name!r} takes {', '.join(sorted(names))} and no cache of the host; convert the model again"
        )
    shapes = [tensor.shape for tensor in graph.inputs if tensor.name.startswith("past.")]
    found = {(shape[1], shape[3]) if len(shape) == 4 else tuple(shape) for shape in shapes}
    if len(shapes) != 2 * language.layers or found != {(language.heads, language.head_size)}:
        raise EngineError(
            f"the language graph has a cache of {len(shapes) // 2} layers with {sorted(found, key=str)} heads and "
            f"numbers, the contract says {language.layers} with {(language.heads, language.head_size)}; convert again"
        )


def open_hosted(
    networks: Mapping[str, Runs], graphs: Mapping[str, Graph], language: Language, embeddings: NDArray[Any]
) -> HostedOpt | HostedT5:
    """A language model of opened graphs: ``language``, or ``encoder`` and ``decoder``.

    Args:
        networks: the opened graphs by name.
        graphs: what the manifest says of them; their shapes are the `Limits`.
        language: the contract.
        embeddings: (vocabulary, width) float16 or float32, of the tokens.

    Raises:
        EngineError: a graph whose cache is not the contract's.
    """
    if language.family == "t5":
        return HostedT5(networks, graphs, language, embeddings)
    return HostedOpt(networks["language"], graphs["language"], language, embeddings)
