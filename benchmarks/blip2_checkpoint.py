"""A BLIP-2 of published widths with random weights, in a folder as Hugging Face saves it, written tensor by tensor.

The language model is an OPT as wide as OPT-2.7B. Only depths are chosen, so that a machine with 8 GB can hold what it
is compared with. Weights have 16 bits, as the published ones; one shard for each layer or table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, VOCABULARY, QUERIES = 2560, 50304, 32
LARGEST = WIDTH * VOCABULARY * 4
"""Bytes of the largest tensor, the token embedding, in float32."""


@dataclass(frozen=True)
class Depths:
    """Numbers of layers; OPT-2.7B's BLIP-2 has 32, 39 and 12."""

    language: int = 6
    vision: int = 4
    qformer: int = 6

    def __str__(self) -> str:
        return f"language-{self.language}-vision-{self.vision}-qformer-{self.qformer}"


def config(depths: Depths, transformers: Any) -> Any:
    """The configuration of that model."""
    vision = transformers.Blip2VisionConfig(
        hidden_size=1408, intermediate_size=6144, num_hidden_layers=depths.vision, num_attention_heads=16,
        image_size=224, patch_size=14,
    )  # fmt: skip
    qformer = transformers.Blip2QFormerConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=depths.qformer, num_attention_heads=12,
        encoder_hidden_size=1408,
    )  # fmt: skip
    text = transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=10240,
        num_hidden_layers=depths.language, num_attention_heads=32, max_position_embeddings=2048,
        pad_token_id=1, bos_token_id=2, eos_token_id=50118,
    )  # fmt: skip
    made = transformers.Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=50265,
    )
    made.architectures = ["Blip2ForConditionalGeneration"]
    return made


def write(folder: Path, depths: Depths, dtype: str = "float16") -> Path:
    """Write the folder unless it is there; ``dtype`` is float16 or bfloat16. One shard is in memory at a time."""
    if (folder / "config.json").is_file():
        return folder
    import ml_dtypes
    import torch
    from safetensors.numpy import save_file

    from edgekit.sources._pretrained import import_transformers

    transformers = import_transformers(folder)
    made = config(depths, transformers)
    with torch.device("meta"):  # names and shapes, without a byte of weights
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in transformers.Blip2ForConditionalGeneration(made).state_dict().items()
            if not name.endswith("lm_head.weight")  # the token embedding once more
        }
    folder.mkdir(parents=True, exist_ok=True)
    kind = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}[dtype]
    rng = np.random.default_rng(0)
    places: dict[str, str] = {}
    for number, names in enumerate(_shards(list(shapes))):
        file = f"model-{number:05d}.safetensors"
        save_file({name: _random(rng, name, shapes[name]).astype(kind) for name in names}, folder / file)
        places.update(dict.fromkeys(names, file))
    total = sum(int(np.prod(shape)) for shape in shapes.values()) * kind.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    made.save_pretrained(folder)  # last: what is there is whole
    return folder


def _shards(names: list[str]) -> list[list[str]]:
    """Names by layer: the tensors of each lie beside each other in a state."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdigit()]
        grouped.setdefault(".".join(parts[: numbers[0] + 1] if numbers else parts[:-1]), []).append(name)
    return list(grouped.values())


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal with deviation 0.02; gains of normalisations lie around 1."""
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(0.02)
    if "norm" in name.lower() and name.endswith("weight"):
        values += 1
    return values
