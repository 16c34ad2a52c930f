"""Random configurations of generation for the tiny BLIP-2 models, and what transformers generates for each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import numpy as np
import tiny_blip2
import torch
from blip2_writing import Written, pixels, torch_model

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.language import Generated, GenerationOptions, LanguageGraph, generate

CONFIGURATIONS = 120
"""Random ones for each kind of model on each engine that computes in float32."""


class Case(NamedTuple):
    """A batch of images with prompts of different lengths, and how to write."""

    pixels: Floats
    ids: Ints
    mask: Ints
    options: GenerationOptions
    eos: tuple[int, ...]

    def theirs(self) -> dict[str, Any]:
        """The options under transformers' names."""
        options = self.options
        given = {
            "num_beams": options.beams, "max_new_tokens": options.max_new_tokens, "do_sample": options.sample,
            "min_new_tokens": options.min_new_tokens or None, "repetition_penalty": options.repetition_penalty,
            "no_repeat_ngram_size": options.no_repeat_ngram_size, "num_return_sequences": options.returned,
            "eos_token_id": list(self.eos),
        }  # fmt: skip
        if options.beams > 1:
            given |= {"length_penalty": options.length_penalty, "early_stopping": options.early_stopping}
        if options.sample:
            given |= {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        return given


def case(kind: str, model: Any, seed: int, **fixed: Any) -> Case:
    """A random case: up to three images, prompts padded on the left. One with ``fixed`` options never samples."""
    rng = np.random.default_rng([seed, kind == "t5"])
    rows, words = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    ids = rng.integers(5, 90, (rows, 3 + tiny_blip2.QUERIES + words))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, : rng.integers(0, 4)] = 0
    ids[mask == 0] = model.config.text_config.pad_token_id
    ids[:, 3 : 3 + tiny_blip2.QUERIES] = model.config.image_token_index
    beams = int(rng.integers(1, 5))
    options: dict[str, Any] = {"beams": beams, "max_new_tokens": int(rng.integers(2, 16))}
    if beams > 1:
        early: list[Any] = [True, False, "never"]
        options |= {
            "length_penalty": float(rng.choice([-1, 0, 0.5, 1, 2])), "early_stopping": early[rng.integers(3)],
            "returned": int(rng.integers(1, beams + 1)),
        }  # fmt: skip
    if rng.random() < 0.4:
        options["repetition_penalty"] = float(rng.choice([0.8, 1.3]))
    if rng.random() < 0.3:
        options["no_repeat_ngram_size"] = int(rng.integers(1, 4))
    if rng.random() < 0.3:
        options["min_new_tokens"] = int(rng.integers(1, options["max_new_tokens"] + 1))
    eos = (model.config.text_config.eos_token_id, *rng.choice(np.arange(5, 140), 30, replace=False).tolist())
    if not fixed and rng.random() < 0.25:
        options |= {
            "sample": True, "beams": 1, "returned": int(rng.integers(1, 4)), "seed": seed,
            "temperature": float(rng.choice([0.5, 1, 1.5])), "top_k": int(rng.choice([0, 0, 5, 40])),
            "top_p": float(rng.choice([1, 1, 0.9, 0.5])), "min_p": float(rng.choice([0, 0, 0.05])),
        }  # fmt: skip
    return Case(pixels(rows, seed), ids, mask, GenerationOptions(**{**options, **fixed}), eos)


def ours(written: Written, graph: LanguageGraph, given: Case) -> Generated:
    """From pixels to tokens on an engine."""
    language = written.language
    image = written.network("vision").run({"pixel_values": given.pixels})["image_embeds"]
    queries = written.network("qformer").run({"image_embeds": np.array(image)})["language_inputs"]
    embeddings = written.source.embeddings()[given.ids]
    embeddings[:, 3 : 3 + language.queries] = queries
    ids = given.ids if language.family == "opt" else np.full((len(given.ids), 1), language.start)
    return generate(graph, embeddings, given.mask, ids, given.options, eos=given.eos, pad=language.pad)


class Texts(msgspec.Struct):
    """Generated tokens of each sequence up to its end token; of a beam search the score of each."""

    tokens: list[list[int]]
    scores: list[float] = []


def theirs(model: Any, given: Case) -> Texts:
    """From pixels to tokens by transformers."""
    rows = len(given.ids) * given.options.returned
    with mock.patch.object(torch, "multinomial", Draws(given.options.seed, rows)):
        made = model.generate(
            pixel_values=torch.from_numpy(given.pixels), input_ids=torch.from_numpy(given.ids),
            attention_mask=torch.from_numpy(given.mask), return_dict_in_generate=True, output_scores=True,
            **given.theirs(),
        )  # fmt: skip
    begin = given.ids.shape[1] if model.config.use_decoder_only_language_model else 1
    scores = made.sequences_scores.tolist() if given.options.beams > 1 else []
    return Texts(ended(made.sequences[:, begin:].numpy(), given.eos), scores)


class Draws:
    """In place of ``torch.multinomial``, whose generator numpy does not have: the draws that edgekit promises.

    Each row has a generator made of the seed and its number, and takes the token at that place of the cumulative
    distribution. What is drawn from is transformers' own.
    """

    def __init__(self, seed: int | None, rows: int) -> None:
        self._rows = [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(rows)]

    def __call__(self, likely: Any, num_samples: int) -> Any:
        rising = likely.double().cumsum(-1)
        places = torch.tensor([row.random() for row in self._rows], dtype=torch.float64)[:, None] * rising[:, -1:]
        return torch.searchsorted(rising, places, right=True)


def ended(tokens: Ints, eos: tuple[int, ...]) -> list[list[int]]:
    """Each text up to its end token."""
    texts = []
    for row in tokens.tolist():
        ends = [place for place, token in enumerate(row) if token in eos]
        texts.append(row[: ends[0] + 1] if ends else row)
    return texts


def difference(made: Generated, reference: Texts, scores: float = 1e-4) -> str:
    """How tokens, or scores of beams, differ from transformers'; empty when they do not."""
    found = [row.tolist() for row in made.sequences]
    if found != reference.tokens:
        return f"{found}, not {reference.tokens}"
    if not reference.scores:
        return ""
    off = float(np.abs(made.scores - np.array(reference.scores)).max())
    return "" if off <= scores * max(1.0, *map(abs, reference.scores)) else f"scores differ by {off}"


class References:
    """What transformers generates for each configuration of a model: found once for all engines of a test run."""

    def __init__(self, source: Path, shared: Path) -> None:
        self.model = torch_model(source)
        self.kind = self.model.config.text_config.model_type
        weights = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
        self._folder = shared / f"texts-{weights[:16]}"
        self._folder.mkdir(exist_ok=True)

    def __call__(self, seed: int) -> tuple[Case, Texts]:
        given, path = case(self.kind, self.model, seed), self._folder / f"{seed}.json"
        if not path.is_file():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(msgspec.json.encode(theirs(self.model, given)))
            partial.replace(path)
        return given, msgspec.json.decode(path.read_bytes(), type=Texts)


def differences(
    written: Written, graph: LanguageGraph, references: References, seeds: Iterable[int], scores: float = 1e-4
) -> list[str]:
    """Those of random configurations in which an engine's tokens or scores are not transformers'."""
    wrong = []
    for seed in seeds:
        given, reference = references(seed)
        if found := difference(ours(written, graph, given), reference, scores):
            wrong.append(f"{seed}: {found} ({given.options})")
    return wrong
