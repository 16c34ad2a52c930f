"""Three kinds of key-value cache for a decoder, for three kinds of engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from edgekit.arrays import Floats
from edgekit.graph.blip2.layers import MASKED, Cache, Heads, Layers
from edgekit.graph.blip2.writer import MICROSOFT, GraphWriter


class OnnxGraph(Layers, Protocol):
    """Layers of an ONNX graph, to which operators of other kinds can be added."""

    @property
    def writer(self) -> GraphWriter:
        """Of the graph."""
        ...


CacheKind = Callable[[OnnxGraph, Heads], Cache]


def past(number: int, what: str) -> str:
    """Name of an input with the cached keys or values."""
    return f"past.{number}.{what}"


def present(number: int, what: str) -> str:
    """Name of an output with the new keys or values."""
    return f"present.{number}.{what}"


def is_cache(name: str) -> bool:
    """Whether an input or output is a tensor of the cache."""
    return name.startswith(("past.", "present."))


class SharedCache:
    """A cache in fixed buffers, to which ONNX Runtime's GroupQueryAttention appends in place.

    The buffers are inputs and outputs at once, longer than what they hold. Rows are padded on the right: ``seqlens``
    int32 (rows,) are their tokens less one, ``total`` int32 () is the most that one of them has, ``last`` int64 (rows,)
    the place of each row's last token among those that are being read. With ``scales``, by the names of the inputs, the
    buffers hold INT8, and these (1, heads, 1, size) say what 1 stands for in each channel.
    """

    def __init__(self, layers: OnnxGraph, heads: Heads, *, scales: Mapping[str, Floats] | None = None) -> None:
        writer = layers.writer
        self._writer, self._heads, self._scales = writer, heads, scales
        self._dtype = "int8" if scales else "float32"
        writer.input("seqlens", (-1,), "int32")
        writer.input("total", (), "int32")
        writer.input("last", (-1,), "int64")
        for number in range(heads.layers):
            for what in ("key", "value"):
                writer.input(past(number, what), (-1, heads.count, -1, heads.size), self._dtype)

    def attend(self, layers: Layers, number: int, query: str, key: str, value: str, bias: str = "") -> str:
        """One operator, which appends to the buffers and attends."""
        heads = self._heads
        kept = [present(number, what) for what in ("key", "value")]
        inputs = [query, key, value, past(number, "key"), past(number, "value"), "seqlens", "total"]
        stored, attributes = self._stored(number)
        inputs += ["", "", "", bias, *stored] if bias or stored else []
        attended = self._writer.node(
            "GroupQueryAttention",
            *inputs,
            outputs=[f"attended_{number}", *kept],
            domain=MICROSOFT,
            num_heads=heads.count,
            kv_num_heads=heads.count,
            scale=heads.scale,
            **attributes,
        )
        for name in kept:
            self._writer.output(name, name, (-1, heads.count, -1, heads.size), self._dtype)
        return attended

    def _stored(self, number: int) -> tuple[list[str], dict[str, str | int]]:
        """Further inputs and attributes of a layer whose buffers hold integers."""
        if not self._scales:
            return [], {}
        names = (past(number, what) for what in ("key", "value"))
        scales = [self._writer.weight(f"{name}.scales", self._scales[name]) for name in names]
        channels = dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_CHANNEL")
        return ["", *scales], {**channels, "kv_cache_bit_width": 8}

    def last(self, x: str) -> str:
        """Rows have their last token in different places."""
        places = self._writer.node("Unsqueeze", "last", self._writer.constant([1], np.int64))
        return self._writer.node("GatherND", x, places, batch_dims=1)

    def distances(self, x: str) -> str:
        """By the total that is given."""
        from onnx import TensorProto

        return distances(self._writer, x, self._writer.node("Cast", "total", to=TensorProto.INT64))

    def hiding(self, layers: Layers, name: str) -> str:
        """A mask int64 (rows, tokens)."""
        return layers.hiding(self._writer.input(name, (-1, -1), "int64"))


class GrownCache:
    """A cache that grows by concatenation, after its rows are reordered; OpenVINO turns it into a state.

    Rows are padded on the left. ``beam_idx`` int32 (rows,) says which former row each continues; with ``mask`` the
    graph also takes ``attention_mask`` int64 (rows, all tokens), and sees no later token.
    """

    def __init__(self, layers: OnnxGraph, heads: Heads, *, mask: bool) -> None:
        writer = layers.writer
        self._writer, self._heads, self._hidden = writer, heads, ""
        writer.input("beam_idx", (-1,), "int32")
        for number in range(heads.layers):
            for what in ("key", "value"):
                writer.input(past(number, what), (-1, heads.count, -1, heads.size))
        writer.input("attention_mask" if mask else "total", (-1, -1) if mask else (), "int64")
        self._mask = mask

    def attend(self, layers: Layers, number: int, query: str, key: str, value: str, bias: str = "") -> str:
        """Concatenation, scores, softmax."""
        node, heads = self._writer.node, self._heads
        query, key, value = (layers.split(one, heads.count, heads.size) for one in (query, key, value))
        grown = {}
        for what, new in (("key", key), ("value", value)):
            chosen = node("Gather", past(number, what), "beam_idx", axis=0)
            grown[what] = node("Concat", chosen, new, axis=2)
            self._writer.output(present(number, what), grown[what], (-1, heads.count, -1, heads.size))
        if self._mask and not self._hidden:
            self._hidden = self._later_and_padding(layers, query)
        biases = [one for one in (bias, self._hidden) if one]
        both = node("Add", *biases) if len(biases) == 2 else "".join(biases)
        return layers.join(layers.attention(query, grown["key"], grown["value"], heads.scale, both), heads.width)

    def _later_and_padding(self, layers: Layers, query: str) -> str:
        """An attention bias (rows, 1, tokens, all tokens) that masks padding and later tokens."""
        node, constant = self._writer.node, self._writer.constant
        size = node("Gather", node("Shape", query), constant(2, np.int64))
        places, keys = _positions(self._writer, size, self._total())
        later = node("Greater", node("Unsqueeze", keys, constant([0], np.int64)), places)
        hidden = node("Where", later, constant(MASKED, np.float32), constant(0, np.float32))
        return node("Min", hidden, layers.hiding("attention_mask"))

    def last(self, x: str) -> str:
        """Every row has its last token at the end."""
        return self._writer.node("Gather", x, self._writer.constant(-1, np.int64), axis=1)

    def distances(self, x: str) -> str:
        """By the mask, or by the total that is given."""
        return distances(self._writer, x, self._total())

    def hiding(self, layers: Layers, name: str) -> str:
        """A mask int64 (rows, tokens)."""
        return layers.hiding(self._writer.input(name, (-1, -1), "int64"))

    def _total(self) -> str:
        node, constant = self._writer.node, self._writer.constant
        return node("Gather", node("Shape", "attention_mask"), constant(1, np.int64)) if self._mask else "total"


class HostCache:
    """A cache in buffers of the host: the graph reads them and gives the keys and values of the new tokens alone.

    It has no scatter, no range, no state and no shape that depends on values, so that every engine takes it; the host
    copies what is new into its buffers (`edgekit.runtimes.language.host_cache`, which says what goes in).
    ``mask`` float32 [rows, 1, tokens, capacity + tokens] is added to the scores, so that padding and unused places are
    the host's business; ``pick`` float32 [rows, 1, tokens] is 1 at each row's last token and 0 elsewhere.
    """

    def __init__(self, layers: Layers, heads: Heads) -> None:
        self._layers, self._heads, self._seen = layers, heads, ""
        layers.input("mask", (-1, 1, -1, -1))
        layers.input("pick", (-1, 1, -1))
        for number in range(heads.layers):
            for what in ("key", "value"):
                layers.input(past(number, what), (-1, heads.count, -1, heads.size))

    def attend(self, layers: Layers, number: int, query: str, key: str, value: str, bias: str = "") -> str:
        """The buffers and the new tokens side by side, scores, softmax."""
        heads = self._heads
        query, key, value = (layers.split(one, heads.count, heads.size) for one in (query, key, value))
        both = {}
        for what, new in (("key", key), ("value", value)):
            both[what] = layers.appended(past(number, what), new)
            layers.output(present(number, what), new, (-1, heads.count, -1, heads.size))
        self._seen = self._seen or (layers.add(bias, "mask") if bias else "mask")
        return layers.join(layers.attention(query, both["key"], both["value"], heads.scale, self._seen), heads.width)

    def last(self, x: str) -> str:
        """A product, which every engine has."""
        return self._layers.picked("pick", x)

    def distances(self, x: str) -> str:
        """As they are given."""
        return self._layers.input("distances", (-1, -1), "int64")

    def hiding(self, layers: Layers, name: str) -> str:
        """The bias itself, float32 (rows, 1, 1, tokens)."""
        return layers.input(name, (-1, 1, 1, -1))


def host_prompt(layers: Layers) -> tuple[str, str]:
    """Declare what the host tells an encoder of its prompt; see `Layers.prompt`."""
    return layers.input("mask", (-1, 1, 1, -1)), layers.input("distances", (-1, -1), "int64")


def distances(writer: GraphWriter, x: str, total: str) -> str:
    """int64 (tokens, total): how far each of ``total`` keys is from the last tokens, ``x`` (rows, tokens, width)."""
    node, constant = writer.node, writer.constant
    places, keys = _positions(writer, node("Gather", node("Shape", x), constant(1, np.int64)), total)
    return node("Sub", node("Unsqueeze", keys, constant([0], np.int64)), places)


def _positions(writer: GraphWriter, size: str, total: str) -> tuple[str, str]:
    """Positions (tokens, 1) of the last ``size`` of ``total`` tokens, and (total,) of all of them."""
    node, constant = writer.node, writer.constant
    keys = node("Range", constant(0, np.int64), total, constant(1, np.int64))
    reading = node("Range", node("Sub", total, size), total, constant(1, np.int64))
    return node("Unsqueeze", reading, constant([1], np.int64)), keys
