"""BLIP-2's Q-Former: queries that look at an image, a text, or both."""

from __future__ import annotations

import msgspec
import numpy as np

from edgekit.graph.blip2.layers import Layers


class QFormerConfig(msgspec.Struct, frozen=True):
    """What of a ``Blip2QFormerConfig`` the graphs depend on; the defaults are its own."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2


class QFormer:
    """Writes graphs with a Q-Former in them; each graph has its own `Layers`."""

    def __init__(self, layers: Layers, config: QFormerConfig, queries: int, image: tuple[int, int]) -> None:
        self._layers, self._config, self._queries, self._image = layers, config, queries, image

    def write_queries(self, projection: str, output: str, size: int, *, unit: bool) -> None:
        """``image_embeds`` -> ``query_output`` [rows, queries, width] and its projection [rows, queries, size].

        With ``unit`` the projections have length 1.
        """
        writer = self._layers.writer
        image = writer.input("image_embeds", (-1, *self._image))
        x = self._encoded(self._query_tokens(image), image=image, bias="", texts=False)
        writer.output("query_output", x, (-1, self._queries, self._config.hidden_size))
        projected = self._layers.linear(x, projection)
        writer.output(output, self._unit(projected) if unit else projected, (-1, self._queries, size))

    def write_text(self, size: int) -> None:
        """``input_ids``, ``attention_mask`` [rows, tokens] -> ``text_vector`` [rows, size] of length 1."""
        writer = self._layers.writer
        ids, mask = self._text_inputs()
        x = self._encoded(self._words(ids), image="", bias=self._layers.hiding(mask), texts=True)
        first = writer.node("Gather", x, writer.constant(0, np.int64), axis=1)
        writer.output("text_vector", self._unit(self._layers.linear(first, "text_projection")), (-1, size))

    def write_match(self) -> None:
        """``image_embeds``, ``input_ids``, ``attention_mask`` -> ``logits`` [rows, 2], the second for a match."""
        writer = self._layers.writer
        image = writer.input("image_embeds", (-1, *self._image))
        ids, mask = self._text_inputs()
        both = writer.node("Concat", self._query_tokens(image), self._words(ids), axis=1)
        seen = writer.node(
            "Pad", mask, writer.constant([0, self._queries, 0, 0], np.int64), writer.constant(1, np.int64)
        )
        x = self._encoded(both, image=image, bias=self._layers.hiding(seen), texts=True)
        logits = self._layers.linear(self._part(x, 0, self._queries), "itm_head")
        mean = writer.node("ReduceMean", logits, writer.constant([1], np.int64), keepdims=0)
        writer.output("logits", mean, (-1, 2))

    def _text_inputs(self) -> tuple[str, str]:
        writer = self._layers.writer
        return writer.input("input_ids", (-1, -1), "int64"), writer.input("attention_mask", (-1, -1), "int64")

    def _query_tokens(self, image: str) -> str:
        """The learned queries, once for each image."""
        node, constant = self._layers.writer.node, self._layers.writer.constant
        rows = node("Slice", node("Shape", image), constant([0], np.int64), constant([1], np.int64))
        shape = node("Concat", rows, constant([1, 1], np.int64), axis=0)
        return node("Expand", self._layers.constant("query_tokens"), shape)

    def _words(self, ids: str) -> str:
        node, constant = self._layers.writer.node, self._layers.writer.constant
        words = node("Gather", self._layers.constant("embeddings.word_embeddings.weight"), ids)
        length = node("Slice", node("Shape", ids), constant([1], np.int64), constant([2], np.int64))
        table = self._layers.constant("embeddings.position_embeddings.weight")
        positions = node("Slice", table, constant([0], np.int64), length, constant([0], np.int64))
        return node("Add", words, positions)

    def _encoded(self, x: str, *, image: str, bias: str, texts: bool) -> str:
        """All layers. Without an image, ``x`` is text alone; with ``texts`` it is queries followed by text."""
        x = self._layers.normalisation(x, "qformer.layernorm", self._config.layer_norm_eps)
        for number in range(self._config.num_hidden_layers):
            prefix = f"qformer.encoder.layer.{number}."
            x = self._attended(x, x, f"{prefix}attention.", bias)
            if not image:
                x = self._forward(x, prefix, "")
                continue
            queries = self._part(x, 0, self._queries) if texts else x
            seen = queries
            if number % self._config.cross_attention_frequency == 0:
                seen = self._attended(queries, image, f"{prefix}crossattention.", "")
            out = self._forward(seen, prefix, "_query")
            if texts:
                words = self._forward(self._part(x, self._queries, 2**31), prefix, "")
                out = self._layers.writer.node("Concat", out, words, axis=1)
            x = out
        return x

    def _attended(self, x: str, seen: str, prefix: str, bias: str) -> str:
        layers, config = self._layers, self._config
        heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        query = layers.split(layers.linear(x, f"{prefix}attention.query"), heads, size)
        key, value = (
            layers.split(layers.linear(seen, f"{prefix}attention.{name}"), heads, size) for name in ("key", "value")
        )
        attended = layers.join(layers.attention(query, key, value, size**-0.5, bias), config.hidden_size)
        return self._added(layers.linear(attended, f"{prefix}output.dense"), x, f"{prefix}output.LayerNorm")

    def _forward(self, x: str, prefix: str, which: str) -> str:
        inner = self._layers.linear(x, f"{prefix}intermediate{which}.dense")
        outer = self._layers.linear(
            self._layers.activation(inner, self._config.hidden_act), f"{prefix}output{which}.dense"
        )
        return self._added(outer, x, f"{prefix}output{which}.LayerNorm")

    def _added(self, x: str, residual: str, norm: str) -> str:
        return self._layers.normalisation(
            self._layers.writer.node("Add", x, residual), norm, self._config.layer_norm_eps
        )

    def _part(self, x: str, start: int, end: int) -> str:
        constant = self._layers.writer.constant
        bounds = (constant([start], np.int64), constant([end], np.int64), constant([1], np.int64))
        return self._layers.writer.node("Slice", x, *bounds)

    def _unit(self, x: str) -> str:
        return self._layers.writer.node("LpNormalization", x, axis=-1, p=2)
