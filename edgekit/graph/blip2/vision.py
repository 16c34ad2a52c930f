"""BLIP-2's vision tower: pixels to image embeddings."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edgekit.graph.blip2.layers import Layers


class VisionConfig(msgspec.Struct, frozen=True):
    """What of a ``Blip2VisionConfig`` the graph depends on; the defaults are its own."""

    hidden_size: int = 1408
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6

    @property
    def tokens(self) -> int:
        """Image embeddings of an image: one for each patch, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


def write_vision(layers: Layers, config: VisionConfig, prefix: str = "vision_model.") -> None:
    """``pixel_values`` [rows, 3, size, size] -> ``image_embeds`` [rows, tokens, width]."""
    writer = layers.writer
    pixels = writer.input("pixel_values", (-1, 3, config.image_size, config.image_size))
    x = _embeddings(layers, config, pixels, f"{prefix}embeddings.")
    for number in range(config.num_hidden_layers):
        x = _layer(layers, config, x, f"{prefix}encoder.layers.{number}.")
    x = layers.normalisation(x, f"{prefix}post_layernorm", config.layer_norm_eps)
    writer.output("image_embeds", x, (-1, config.tokens, config.hidden_size))


def _embeddings(layers: Layers, config: VisionConfig, pixels: str, prefix: str) -> str:
    node, constant = layers.writer.node, layers.writer.constant
    kernel, bias = (layers.constant(f"{prefix}patch_embedding.{name}") for name in ("weight", "bias"))
    sides: dict[str, Any] = {"strides": [config.patch_size] * 2, "kernel_shape": [config.patch_size] * 2}
    patches = node("Conv", pixels, kernel, bias, **sides)
    flat = node("Reshape", patches, constant([0, config.hidden_size, config.tokens - 1], np.int64))
    patches = node("Transpose", flat, perm=[0, 2, 1])
    # The class token is joined by a sum: one (1, 1, width) tensor cannot be concatenated to rows of any number.
    positions = layers.checkpoint[f"{prefix}position_embedding"][:, : config.tokens].copy()
    positions[:, :1] += layers.checkpoint[f"{prefix}class_embedding"]
    room = node("Pad", patches, constant([0, 1, 0, 0, 0, 0], np.int64))
    return node("Add", room, layers.kept(f"{prefix}position_embedding", positions))


def _layer(layers: Layers, config: VisionConfig, x: str, prefix: str) -> str:
    node, width = layers.writer.node, config.hidden_size
    heads, size = config.num_attention_heads, width // config.num_attention_heads
    mixed = layers.normalised_linear(x, f"{prefix}layer_norm1", f"{prefix}self_attn.qkv", config.layer_norm_eps)
    parts = [f"{prefix}{name}" for name in ("query", "key", "value")]
    node("Split", mixed, outputs=parts, axis=-1, num_outputs=3)
    query, key, value = (layers.split(part, heads, size) for part in parts)
    attended = layers.join(layers.attention(query, key, value, size**-0.5), width)
    x = node("Add", layers.linear(attended, f"{prefix}self_attn.projection"), x)
    inner = layers.normalised_linear(x, f"{prefix}layer_norm2", f"{prefix}mlp.fc1", config.layer_norm_eps)
    return node("Add", layers.linear(layers.activation(inner, config.hidden_act), f"{prefix}mlp.fc2"), x)
