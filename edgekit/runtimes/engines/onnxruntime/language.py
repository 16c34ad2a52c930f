"""Language models on ONNX Runtime: a cache in buffers that the engine appends to where they lie."""

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
from edgekit.runtimes.engines.onnxruntime.session import OnnxRuntimeNetwork, failures

ROOM = 64
"""Initial capacity of the buffers beyond the prompt, in tokens; full buffers double."""


STORED: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
"""Types that a cache may have."""


class _Cache:
    """Keys and values of all layers, (rows, heads, capacity, size) each, and how many tokens each row has."""

    def __init__(self, language: Language, lengths: Ints, dtype: type[np.generic]) -> None:
        self.lengths = lengths
        shape = (len(lengths), language.heads, int(lengths.max()) + ROOM, language.head_size)
        self.buffers = {
            f"{number}.{what}": np.zeros(shape, dtype) for number in range(language.layers) for what in ("key", "value")
        }

    @property
    def used(self) -> int:
        """The most tokens that a row has."""
        return int(self.lengths.max())

    @property
    def capacity(self) -> int:
        """Tokens that the buffers have room for."""
        return int(next(iter(self.buffers.values())).shape[2])

    def append(self) -> bool:
        """Count one more token in every row; True when the buffers had to be replaced by larger ones."""
        self.lengths = self.lengths + 1
        if self.used <= self.capacity:
            return False
        self._rearrange(np.arange(len(self.lengths)), 2 * self.capacity)
        return True

    def select(self, rows: Ints) -> None:
        """Keep these rows, in this order."""
        self._rearrange(rows, self.capacity)
        self.lengths = self.lengths[rows]

    def _rearrange(self, rows: Ints, capacity: int) -> None:
        for name, old in self.buffers.items():
            new = np.zeros((len(rows), old.shape[1], capacity, old.shape[3]), old.dtype)
            filled = min(self.used, old.shape[2])
            np.take(old[:, :, :filled], rows, axis=0, out=new[:, :, :filled], mode="clip")
            self.buffers[name] = new


class _Decoder:
    """A graph with a cache, run through an I/O binding: inputs, cache and logits stay where numpy has them."""

    def __init__(self, network: OnnxRuntimeNetwork, language: Language, vocabulary: int) -> None:
        self._session, self._language, self._vocabulary = network.session, language, vocabulary
        self._dtype = _check_cache(self._session, language)
        self._binding = self._session.io_binding()
        self._held: dict[str, NDArray[Any]] = {}
        self._logits = np.zeros((0, vocabulary), np.float32)
        self.cache = _Cache(language, np.zeros(1, np.int64), self._dtype)

    def begin(self, lengths: Ints) -> None:
        """Empty buffers for rows of the given numbers of tokens."""
        self.cache = _Cache(self._language, lengths, self._dtype)
        self._bind_cache()

    def append(self) -> None:
        """Make room for one more token in every row."""
        if self.cache.append():
            self._bind_cache()

    def select(self, rows: Ints) -> None:
        """Keep these rows."""
        self.cache.select(rows)
        self._bind_cache()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Logits (rows, vocabulary) for inputs that complete the cache to its lengths; a view, see `LanguageGraph`."""
        lengths = self.cache.lengths
        self.hold("seqlens", (lengths - 1).astype(np.int32))
        self.hold("total", np.array(self.cache.used, np.int32))
        for name, array in feeds.items():
            self.hold(name, array)
        if len(self._logits) != len(lengths):
            self._logits = np.zeros((len(lengths), self._vocabulary), np.float32)
            self._bind("logits", self._logits, output=True)
        try:
            self._session.run_with_iobinding(self._binding)
        except failures() as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return self._logits

    def hold(self, name: str, array: NDArray[Any]) -> None:
        """Bind an input until it is bound again."""
        self._held[name] = np.ascontiguousarray(array)
        self._bind(name, self._held[name], output=False)

    def _bind_cache(self) -> None:
        for name, buffer in self.cache.buffers.items():
            self._bind(f"past.{name}", buffer, output=False)
            self._bind(f"present.{name}", buffer, output=True)

    def _bind(self, name: str, array: NDArray[Any], *, output: bool) -> None:
        bind = self._binding.bind_output if output else self._binding.bind_input
        try:
            bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        except failures() as error:
            raise EngineError(f"ONNX Runtime cannot take {name!r}: {error}") from error


class OptOnOnnxRuntime:
    """A decoder-only model; `edgekit.runtimes.language.LanguageGraph`."""

    def __init__(self, network: OnnxRuntimeNetwork, language: Language, embeddings: NDArray[Any]) -> None:
        self._decoder = _Decoder(network, language, _vocabulary(network.graph))
        self._embeddings = embeddings

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Read the prompts. The engine wants its padding on the right, so what is there moves to the left."""
        lengths = mask.sum(1)
        order = np.argsort(mask == 0, axis=1, kind="stable")[:, : int(lengths.max())]
        packed = np.take_along_axis(np.asarray(embeddings, np.float32), order[..., None], 1)
        self._decoder.begin(lengths)
        places = np.arange(order.shape[1])[None].repeat(len(mask), 0)
        return self._decoder.run({"inputs_embeds": packed, "position_ids": places, "last": lengths - 1})

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        decoder = self._decoder
        decoder.append()
        embeddings = np.asarray(self._embeddings[tokens], np.float32)[:, None]
        places = decoder.cache.lengths[:, None] - 1
        return decoder.run(
            {"inputs_embeds": embeddings, "position_ids": places, "last": np.zeros(len(tokens), np.int64)}
        )

    def select(self, rows: Ints) -> None:
        """Continue with these rows."""
        self._decoder.select(rows)


class T5OnOnnxRuntime:
    """An encoder and its decoder; `edgekit.runtimes.language.LanguageGraph`."""

    def __init__(
        self, encoder: OnnxRuntimeNetwork, decoder: OnnxRuntimeNetwork, language: Language, embeddings: NDArray[Any]
    ) -> None:
        self._encoder = encoder
        self._decoder = _Decoder(decoder, language, _vocabulary(decoder.graph))
        self._embeddings, self._start = embeddings, language.start
        self._seen: dict[str, NDArray[Any]] = {}
        self._prompts: Ints = np.zeros(0, np.int64)

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Run the encoder over the prompts, and the decoder over the start token."""
        seen = self._encoder.run({"inputs_embeds": np.asarray(embeddings, np.float32), "attention_mask": mask})
        self._seen = {"encoder_mask": mask, **seen}
        self._look(np.arange(len(mask)))
        self._decoder.begin(np.zeros(len(mask), np.int64))
        return self.step(np.full(len(mask), self._start, np.int64))

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        self._decoder.append()
        embeddings = np.asarray(self._embeddings[tokens], np.float32)[:, None]
        return self._decoder.run({"inputs_embeds": embeddings, "last": np.zeros(len(tokens), np.int64)})

    def select(self, rows: Ints) -> None:
        """Continue with these rows; encoder outputs are copied only if a row changes its prompt."""
        self._decoder.select(rows)
        if not np.array_equal(self._prompts[rows], self._prompts):
            self._look(self._prompts[rows])

    def _look(self, prompts: Ints) -> None:
        """Bind each row to the encoder's output for its prompt."""
        self._prompts = prompts
        for name, array in self._seen.items():
            self._decoder.hold(name, array[prompts])


def _check_cache(session: Any, language: Language) -> type[np.generic]:
    """The type of a graph's cache; refuses one that is not the contract's, before memory for it is taken.

    Raises:
        EngineError: another number of layers, heads or numbers a head, or another type.
    """
    ports = [port for port in session.get_inputs() if port.name.startswith("past.")]
    shapes = [port.shape for port in ports]
    found = {(shape[1], shape[3]) if len(shape) == 4 else tuple(shape) for shape in shapes}
    if len(shapes) != 2 * language.layers or found != {(language.heads, language.head_size)}:
        raise EngineError(
            f"the language graph has a cache of {len(shapes) // 2} layers with {sorted(found, key=str)} heads and "
            f"numbers, the contract says {language.layers} with {(language.heads, language.head_size)}; convert again"
        )
    types = {port.type for port in ports}
    if len(types) != 1 or not types <= set(STORED):
        raise EngineError(
            f"the language graph has a cache of {', '.join(sorted(types))}, which is none of {', '.join(STORED)}; "
            "convert again"
        )
    return STORED[types.pop()]


def _vocabulary(graph: Graph) -> int:
    return next(tensor.shape[-1] for tensor in graph.outputs if tensor.name == "logits")


def open_language(
    folder: Path,
    graphs: Mapping[str, Graph],
    language: Language,
    embeddings: NDArray[Any],
    options: SessionOptions,
) -> OptOnOnnxRuntime | T5OnOnnxRuntime:
    """Open the graphs of a language model.

    Raises:
        EngineError: a device other than the CPU, or a file that cannot be opened.
    """
    if options.device not in ("", "cpu"):
        raise EngineError(f"language models run on device 'cpu' with ONNX Runtime, not on {options.device!r}")
    opened = {name: OnnxRuntimeNetwork(folder, graph, options) for name, graph in graphs.items()}
    if language.family == "t5":
        return T5OnOnnxRuntime(opened["encoder"], opened["decoder"], language, embeddings)
    return OptOnOnnxRuntime(opened["language"], language, embeddings)
