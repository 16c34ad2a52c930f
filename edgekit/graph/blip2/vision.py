"""BLIP-2's vision tower: pixels to image embeddings."""

from __future__ import annotations

import msgspec

from edgekit.graph.blip2.layers import Layers


class VisionConfig(msgspec.Struct, frozen=True):
    """The part of a ``Blip2VisionConfig`` that the graph depends on; the defaults are its own."""

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
    pixels = layers.input("pixel_values", (-1, 3, config.image_size, config.image_size))
    x = _embeddings(layers, config, pixels, f"{prefix}embeddings.")
    for number in range(config.num_hidden_layers):
        x = _layer(layers, config, x, f"{prefix}encoder.layers.{number}.")
    x = layers.normalisation(x, f"{prefix}post_layernorm", config.layer_norm_eps)
    layers.output("image_embeds", x, (-1, config.tokens, config.hidden_size))


def _embeddings(layers: Layers, config: VisionConfig, pixels: str, prefix: str) -> str:
    name = f"{prefix}position_embedding"
    positions = layers.checkpoint[name][:, : config.tokens].copy()
    positions[:, :1] += layers.checkpoint[f"{prefix}class_embedding"]
    return layers.patches(pixels, f"{prefix}patch_embedding", config.patch_size, name, positions)


def _layer(layers: Layers, config: VisionConfig, x: str, prefix: str) -> str:
    width = config.hidden_size
    heads, size = config.num_attention_heads, width // config.num_attention_heads
    mixed = layers.normalised_linear(x, f"{prefix}layer_norm1", f"{prefix}self_attn.qkv", config.layer_norm_eps)
    parts = layers.thirds(mixed, [f"{prefix}{name}" for name in ("query", "key", "value")])
    query, key, value = (layers.split(part, heads, size) for part in parts)
    attended = layers.join(layers.attention(query, key, value, size**-0.5), width)
    x = layers.add(layers.linear(attended, f"{prefix}self_attn.projection"), x)
    inner = layers.normalised_linear(x, f"{prefix}layer_norm2", f"{prefix}mlp.fc1", config.layer_norm_eps)
    return layers.add(layers.linear(layers.activation(inner, config.hidden_act), f"{prefix}mlp.fc2"), x)
