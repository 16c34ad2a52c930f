"""OPT (Zhang et al. 2022, arXiv:2205.01068): embeddings to the logits of the next token."""

from __future__ import annotations

import msgspec

from edgekit.graph.blip2.forms import Form
from edgekit.graph.blip2.layers import Cache, Heads, Layers

PREFIX = "language_model.model.decoder."
OFFSET = 2
"""Positions of OPT begin at this row of its table."""

EPSILON = 1e-5


class OptConfig(msgspec.Struct, frozen=True):
    """The part of an ``OPTConfig`` that the graph depends on; the defaults are its own."""

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 2048
    word_embed_proj_dim: int | None = None
    activation_function: str = "relu"
    do_layer_norm_before: bool = True
    removed_final_layer_norm: bool = msgspec.field(default=False, name="_remove_final_layer_norm")

    @property
    def heads(self) -> Heads:
        """Of its attention."""
        size = self.hidden_size // self.num_attention_heads
        return Heads(self.num_hidden_layers, self.num_attention_heads, size, size**-0.5)


def write_opt(layers: Layers, config: OptConfig, head: Form) -> None:
    """Write the decoder; `Cache` says what else it takes.

    ``inputs_embeds`` [rows, tokens, embedding width], ``position_ids`` int64 [rows, tokens] -> ``logits`` [rows,
    vocabulary] of each row's next token.
    """
    prefix = PREFIX
    x = layers.input("inputs_embeds", (-1, -1, config.word_embed_proj_dim or config.hidden_size))
    places = layers.input("position_ids", (-1, -1), "int64")
    cache = layers.cache(config.heads)
    if f"{prefix}project_in.weight" in layers.checkpoint:
        x = layers.linear(x, f"{prefix}project_in")
    x = layers.add(x, layers.looked_up(f"{prefix}embed_positions.weight", places, OFFSET))
    for number in range(config.num_hidden_layers):
        x = _layer(layers, config, cache, number, x)
    x = cache.last(x)
    if config.do_layer_norm_before and not config.removed_final_layer_norm:
        x = layers.normalisation(x, f"{prefix}final_layer_norm", EPSILON)
    if f"{prefix}project_out.weight" in layers.checkpoint:
        x = layers.linear(x, f"{prefix}project_out")
    own = "language_model.lm_head"
    tied = f"{own}.weight" not in layers.checkpoint
    layers.output("logits", layers.linear(x, f"{prefix}embed_tokens" if tied else own, head), (-1, config.vocab_size))


def _layer(layers: Layers, config: OptConfig, cache: Cache, number: int, x: str) -> str:
    prefix = f"{PREFIX}layers.{number}."

    def normal(x: str, name: str, now: bool) -> str:
        return layers.normalisation(x, prefix + name, EPSILON) if now else x

    first = config.do_layer_norm_before
    y = normal(x, "self_attn_layer_norm", first)
    query, key, value = (layers.linear(y, f"{prefix}self_attn.{name}_proj") for name in "qkv")
    attended = cache.attend(layers, number, query, key, value)
    x = layers.add(x, layers.linear(attended, f"{prefix}self_attn.out_proj"))
    x = normal(x, "self_attn_layer_norm", not first)
    y = layers.linear(normal(x, "final_layer_norm", first), f"{prefix}fc1")
    y = layers.linear(layers.activation(y, config.activation_function), f"{prefix}fc2")
    return normal(layers.add(x, y), "final_layer_norm", not first)
