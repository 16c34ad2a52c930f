"""BLIP-2's Q-Former: queries that look at an image, a text, or both."""

from __future__ import annotations

import msgspec

from edgekit.graph.blip2.layers import Layers


class QFormerConfig(msgspec.Struct, frozen=True):
    """The part of a ``Blip2QFormerConfig`` that the graphs depend on; the defaults are its own."""

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
        layers = self._layers
        image = layers.input("image_embeds", (-1, *self._image))
        x = self._encoded(layers.repeated("query_tokens", image), image=image, bias="", texts=False)
        layers.output("query_output", x, (-1, self._queries, self._config.hidden_size))
        projected = layers.linear(x, projection)
        layers.output(output, layers.unit(projected) if unit else projected, (-1, self._queries, size))

    def write_text(self, size: int) -> None:
        """``input_ids``, ``attention_mask`` [rows, tokens] -> ``text_vector`` [rows, size] of length 1."""
        layers = self._layers
        ids, mask = self._text_inputs()
        x = self._encoded(self._words(ids), image="", bias=layers.hiding(mask), texts=True)
        vector = layers.unit(layers.linear(layers.token(x, 0), "text_projection"))
        layers.output("text_vector", vector, (-1, size))

    def write_match(self) -> None:
        """``image_embeds``, ``input_ids``, ``attention_mask`` -> ``logits`` [rows, 2], the second for a match."""
        layers = self._layers
        image = layers.input("image_embeds", (-1, *self._image))
        ids, mask = self._text_inputs()
        both = layers.joined(layers.repeated("query_tokens", image), self._words(ids))
        x = self._encoded(both, image=image, bias=layers.hiding(mask, self._queries), texts=True)
        logits = layers.linear(layers.tokens(x, 0, self._queries), "itm_head")
        layers.output("logits", layers.mean(logits), (-1, 2))

    def _text_inputs(self) -> tuple[str, str]:
        ids, mask = (self._layers.input(name, (-1, -1), "int64") for name in ("input_ids", "attention_mask"))
        return ids, mask

    def _words(self, ids: str) -> str:
        words = self._layers.looked_up("embeddings.word_embeddings.weight", ids)
        return self._layers.add(words, self._layers.begun("embeddings.position_embeddings.weight", words))

    def _encoded(self, x: str, *, image: str, bias: str, texts: bool) -> str:
        """All layers. Without an image, ``x`` is text alone; with ``texts`` it is queries followed by text."""
        x = self._layers.normalisation(x, "qformer.layernorm", self._config.layer_norm_eps)
        for number in range(self._config.num_hidden_layers):
            prefix = f"qformer.encoder.layer.{number}."
            x = self._attended(x, x, f"{prefix}attention.", bias)
            if not image:
                x = self._forward(x, prefix, "")
                continue
            queries = self._layers.tokens(x, 0, self._queries) if texts else x
            seen = queries
            if number % self._config.cross_attention_frequency == 0:
                seen = self._attended(queries, image, f"{prefix}crossattention.", "")
            out = self._forward(seen, prefix, "_query")
            if texts:
                words = self._forward(self._layers.tokens(x, self._queries, 2**31), prefix, "")
                out = self._layers.joined(out, words)
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
        return self._layers.normalisation(self._layers.add(x, residual), norm, self._config.layer_norm_eps)
