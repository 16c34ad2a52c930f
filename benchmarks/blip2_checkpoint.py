"""A BLIP-2 of published widths with made-up weights, in a folder as Hugging Face saves it, written tensor by tensor.

The language model is an OPT as wide as OPT-2.7B. Depths can be chosen, so that a machine with 8 GB can hold what it is
compared with. Weights have 16 bits, as the published ones; one shard for each layer or table.

Weights are random, but for a table of successors in the last layers of the language model: random weights alone make
every token a near tie, which any rounding decides anew, and no trained model is like that. The first token follows from
the image, and every later one from the token before it.

    python benchmarks/blip2_checkpoint.py FOLDER [--language 32 --vision 39 --qformer 12]
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HIDDEN, VOCABULARY, QUERIES = 2560, 10240, 50304, 32
LARGEST = WIDTH * VOCABULARY * 4
"""Bytes of the largest tensor, the token embedding, in float32."""


EXAMPLE = Path(__file__).parents[1] / "examples" / "blip2" / "opt"
"""Its tokenizer and its processor's settings are taken."""

WORDS = 608
"""Tokens of that tokenizer."""

DEVIATION = 0.02

BRANCH = 0.0037
"""Factor of what the layers of the language model add to the residual stream: together they weigh 1.5 times as much as
the embedding of the token."""


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
        vocab_size=VOCABULARY, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=HIDDEN,
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
    rng, successors = np.random.default_rng(0), Successors(depths.language)
    places: dict[str, str] = {}
    for number, names in enumerate(_shards(list(shapes))):
        file = f"model-{number:05d}.safetensors"
        tensors = {name: successors(name, _random(rng, name, shapes[name])).astype(kind) for name in names}
        save_file(tensors, folder / file)
        places.update(dict.fromkeys(names, file))
    total = sum(int(np.prod(shape)) for shape in shapes.values()) * kind.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EXAMPLE / name, folder / name)
    processor = json.loads((EXAMPLE / "preprocessor_config.json").read_text())
    processor["size"] = {"height": made.vision_config.image_size, "width": made.vision_config.image_size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
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
    values *= np.float32(DEVIATION)
    if "norm" in name.lower() and name.endswith("weight"):
        values += 1
    if name.startswith("language_model.") and name.endswith(("fc2.weight", "out_proj.weight")):
        values *= np.float32(BRANCH)
    return values


class Successors:
    """Which token follows which, in the feed-forward networks of the last layers.

    A neuron of the first product fires where the residual stream holds one token's embedding; its column of the second
    adds three times the successor's. The last token of a prompt is taken away in place of that: what is left came from
    the image. Successors are keys of the first of these layers, so that none of them fires in a later one.
    """

    def __init__(self, layers: int) -> None:
        from tokenizers import Tokenizer

        rng = np.random.default_rng(1)
        self._embeddings = rng.standard_normal((VOCABULARY, WIDTH), np.float32) * np.float32(DEVIATION)
        blocks = -(-VOCABULARY // HIDDEN)
        self._first = layers - blocks
        tokenizer = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
        self._ends = {tokenizer.encode(prompt).ids[-1] for prompt in ("a photo of", "Answer:")}
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        words = [number for number in range(WORDS) if (tokenizer.id_to_token(number) or "</s>") not in special]
        self._next = rng.choice([number for number in words if number not in self._ends], VOCABULARY)

    def __call__(self, name: str, values: np.ndarray) -> np.ndarray:
        """A tensor, with the table where it belongs."""
        if name.endswith("embed_tokens.weight"):
            return self._embeddings
        *_, layer, part, what = ("", "", *name.split("."))
        block = int(layer) - self._first if name.startswith("language_model.") and layer.isdigit() else -1
        if block < 0 or part not in ("fc1", "fc2"):
            return values
        keys = np.arange(block * HIDDEN, min((block + 1) * HIDDEN, VOCABULARY))
        if (part, what) == ("fc1", "weight"):  # 2 where it is that token, hardly 0.3 where it is not
            values[: len(keys)] = self._embeddings[keys] * np.float32(0.08)
        elif (part, what) == ("fc1", "bias"):
            values[: len(keys)] = -1
        elif (part, what) == ("fc2", "weight"):
            values[:, : len(keys)] = 3 * self._embeddings[self._next[keys]].T
            for end in self._ends.intersection(keys.tolist()):
                values[:, end - keys[0]] = -self._embeddings[end]
        return values


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--language", type=int, default=32)
    parser.add_argument("--vision", type=int, default=39)
    parser.add_argument("--qformer", type=int, default=12)
    given = parser.parse_args()
    write(given.folder, Depths(given.language, given.vision, given.qformer))


if __name__ == "__main__":
    main()
