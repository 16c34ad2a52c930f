"""T5 (Raffel et al. 2019, arXiv:1910.10683) and Flan-T5: an encoder, and a decoder that attends to its output."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.graph.blip2.forms import Form
from edgekit.graph.blip2.layers import Cache, Heads, Layers

PREFIX = "language_model."


class T5Config(msgspec.Struct, frozen=True):
    """The part of a ``T5Config`` that the graphs depend on; the defaults are its own.

    transformers 5 sets ``tie_word_embeddings`` whatever the checkpoint says, and keeps what it said as
    ``scale_decoder_outputs``; older configurations have the former alone.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None

    @property
    def heads(self) -> Heads:
        """Of the decoder's attention to itself."""
        return Heads(self.num_decoder_layers or self.num_layers, self.num_heads, self.d_kv, 1.0)

    @property
    def scaled(self) -> bool:
        """Whether the decoder's output is divided by the root of the width before the head."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers multiply two branches."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """Name of the activation; "gated-gelu" stands for the approximate one."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name


def cross(number: int, what: str) -> str:
    """Name of what the encoder gives to a layer of the decoder."""
    return f"cross.{number}.{what}"


def write_encoder(layers: Layers, config: T5Config) -> None:
    """``inputs_embeds`` [rows, tokens, width] -> ``cross.N.key`` and ``.value``; `Layers.prompt` has its other inputs.

    Those are the keys and values of every layer of the decoder, [rows, heads, tokens, size].
    """
    heads = config.heads
    x = layers.input("inputs_embeds", (-1, -1, config.d_model))
    hidden, away = layers.prompt(x)
    bias = layers.add(_biases(layers, config, "encoder", away), hidden)
    for number in range(config.num_layers):
        prefix = f"{PREFIX}encoder.block.{number}.layer."
        y = layers.root_mean_square(x, f"{prefix}0.layer_norm.weight", config.layer_norm_epsilon)
        parts = (layers.linear(y, f"{prefix}0.SelfAttention.{name}") for name in "qkv")
        query, key, value = (layers.split(part, heads.count, heads.size) for part in parts)
        y = layers.join(layers.attention(query, key, value, 1.0, bias), heads.width)
        x = layers.add(x, layers.linear(y, f"{prefix}0.SelfAttention.o"))
        x = _forward(layers, config, x, f"{prefix}1.")
    x = layers.root_mean_square(x, f"{PREFIX}encoder.final_layer_norm.weight", config.layer_norm_epsilon)
    for number in range(heads.layers):
        prefix = f"{PREFIX}decoder.block.{number}.layer.1.EncDecAttention."
        for what, name in (("key", "k"), ("value", "v")):
            split = layers.split(layers.linear(x, f"{prefix}{name}"), heads.count, heads.size)
            layers.output(cross(number, what), split, (-1, heads.count, -1, heads.size))


def write_decoder(layers: Layers, config: T5Config, head: Form) -> None:
    """Write the decoder, one token at a time; `Cache` says what else it takes.

    ``inputs_embeds`` [rows, 1, width], ``encoder_mask`` (see `Cache.hiding`), ``cross.N.key`` and ``.value`` ->
    ``logits`` [rows, vocabulary].
    """
    heads = config.heads
    x = layers.input("inputs_embeds", (-1, -1, config.d_model))
    cache = layers.cache(heads)
    hidden = cache.hiding(layers, "encoder_mask")
    for number in range(heads.layers):
        for what in ("key", "value"):
            layers.input(cross(number, what), (-1, heads.count, -1, heads.size))
    bias = _biases(layers, config, "decoder", cache.distances(x))
    for number in range(heads.layers):
        x = _decoder_layer(layers, config, cache, number, x, bias, hidden)
    x = layers.root_mean_square(x, f"{PREFIX}decoder.final_layer_norm.weight", config.layer_norm_epsilon)
    x = cache.last(x)
    if config.scaled:
        x = layers.scaled(x, config.d_model**-0.5)
    own = f"{PREFIX}lm_head"
    tied = f"{own}.weight" not in layers.checkpoint
    layers.output("logits", layers.linear(x, f"{PREFIX}shared" if tied else own, head), (-1, config.vocab_size))


def _decoder_layer(layers: Layers, config: T5Config, cache: Cache, number: int, x: str, bias: str, hidden: str) -> str:
    heads, epsilon = config.heads, config.layer_norm_epsilon
    prefix = f"{PREFIX}decoder.block.{number}.layer."
    y = layers.root_mean_square(x, f"{prefix}0.layer_norm.weight", epsilon)
    query, key, value = (layers.linear(y, f"{prefix}0.SelfAttention.{name}") for name in "qkv")
    attended = cache.attend(layers, number, query, key, value, bias)
    x = layers.add(x, layers.linear(attended, f"{prefix}0.SelfAttention.o"))
    y = layers.root_mean_square(x, f"{prefix}1.layer_norm.weight", epsilon)
    query = layers.split(layers.linear(y, f"{prefix}1.EncDecAttention.q"), heads.count, heads.size)
    seen = layers.attention(query, cross(number, "key"), cross(number, "value"), 1.0, hidden)
    x = layers.add(x, layers.linear(layers.join(seen, heads.width), f"{prefix}1.EncDecAttention.o"))
    return _forward(layers, config, x, f"{prefix}2.")


def _forward(layers: Layers, config: T5Config, x: str, prefix: str) -> str:
    y = layers.root_mean_square(x, f"{prefix}layer_norm.weight", config.layer_norm_epsilon)
    prefix = f"{prefix}DenseReluDense."
    if config.gated:
        opened = layers.activation(layers.linear(y, f"{prefix}wi_0"), config.activation)
        y = layers.multiply(opened, layers.linear(y, f"{prefix}wi_1"))
    else:
        y = layers.activation(layers.linear(y, f"{prefix}wi"), config.activation)
    return layers.add(x, layers.linear(y, f"{prefix}wo"))


def _biases(layers: Layers, config: T5Config, side: str, away: str) -> str:
    """The biases (1, heads, tokens, all tokens) of scores by how far away the key is from the query."""
    name = f"{PREFIX}{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return layers.biases(name, layers.checkpoint[name][buckets(config, two_sided=side == "encoder")], away)


def buckets(config: T5Config, *, two_sided: bool) -> NDArray[np.int64]:
    """The bucket of each distance -reach..reach, key less query: exact when near, wider and wider when far.

    Beyond the reach all distances share the last bucket. A decoder looks back only.
    """
    count, reach = config.relative_attention_num_buckets, config.relative_attention_max_distance
    away = np.arange(-reach, reach + 1)
    side = np.zeros_like(away)
    if two_sided:
        count //= 2
        side = np.where(away > 0, count, 0)
        distance = np.abs(away)
    else:
        distance = np.maximum(-away, 0)
    exact = count // 2
    # float32 throughout: a distance on the border of two buckets has to fall to the side it falls to in torch.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    wide = ratio / np.float32(np.log(reach / exact)) * np.float32(count - exact)
    far = np.minimum(exact + wide.astype(np.int64), count - 1)
    found: NDArray[np.int64] = side + np.where(distance < exact, distance, far)
    return found
