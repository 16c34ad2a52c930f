"""Reference results of a BLIP-2 in PyTorch, which its bundles are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Ints
from edgekit.calibration.samples import Samples, new_stack
from edgekit.conversion.workspace import Workspace
from edgekit.errors import InputError, SourceError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.runtimes.bundle.manifest import Contract, Record
from edgekit.sources.blip2.reference import load_model, load_tokenizer

POSITIONS = 512
"""The minimum number of tokens that are compared."""

ANSWER = 20
"""Tokens of an answer that goes its own way."""

QUESTIONS = ("what is in the picture?", "how many objects are there?", "what color is it?")
SUBJECTS = (
    "a person", "two people", "a dog", "a cat", "a car", "a building", "a tree", "food on a table", "a street",
    "a red circle", "a blue square", "a green triangle", "the sea", "a bird", "a room", "text on a sign", "an animal",
    "a toy", "a machine", "the sky", "a flower", "nothing",
)  # fmt: skip
"""Prompts and texts where the user gives none; whether they fit the images does not matter to a comparison."""


class Asked(Record, frozen=True, kw_only=True):
    """What was asked of the source: ``prompts`` of each image, for ``tokens`` positions each; or texts to match."""

    prompts: tuple[str, ...]
    tokens: int = 0


def read_texts(path: str, contract: Contract) -> tuple[str, ...]:
    """Read prompts from a file, one per line, or return the built-in ones.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if path:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text: {error}") from error
        found = tuple(line.strip() for line in lines if line.strip())
        if not found:
            raise InputError(f"{path}: no prompt in it; write one on each line")
        return found
    prompts = contract.language.prompts if contract.language else {}
    if not prompts:
        return SUBJECTS
    return (prompts["caption"], *(prompts["ask"].replace("{}", question) for question in QUESTIONS))


def answer(
    source: Blip2, contract: Contract, proof: Samples, prompts: tuple[str, ...], workspace: Workspace, threads: int
) -> None:
    """Generate the source's text for every image and prompt, and store the logits of each token.

    Left in the folder, with one row for each image and prompt: ``image_embeds``, ``query_output`` and
    ``language_inputs`` (one for each image), ``tokens`` (rows, positions) and ``logits`` of a text that may not end,
    ``answers`` of one that may (-1 behind its end).
    """
    import torch

    torch.set_num_threads(threads)
    model, tokenizer = load_model(source), load_tokenizer(source)
    if contract.language is None:
        raise SourceError(f"{source.folder}: no language model")
    language = contract.language
    rows = len(proof) * len(prompts)
    coded = [tokenizer(prompt).input_ids for prompt in prompts]
    room = language.positions - language.queries - max(map(len, coded)) if language.positions else POSITIONS
    if room < ANSWER:
        raise InputError(f"the longest prompt leaves {room} tokens of {language.positions} for an answer: shorten it")
    count = min(-(-POSITIONS // rows), room)
    tokens, answers = np.zeros((rows, count), np.int64), np.full((rows, ANSWER), -1, np.int64)
    stacks = _Stacks(workspace, len(proof))
    logits: NDArray[np.float32] | None = None
    greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    prefix = [language.image] * language.queries
    for number, pixels in enumerate(proof):
        pixel_values = torch.from_numpy(pixels)
        with torch.no_grad():
            image = model.vision_model(pixel_values).last_hidden_state
            queries = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=image).last_hidden_state
            projected = model.language_projection(queries)
        stacks.keep(number, image_embeds=image, query_output=queries, language_inputs=projected)
        for place, own_ids in enumerate(coded):
            row = number * len(prompts) + place
            ids = torch.tensor([prefix + own_ids])
            given = {"pixel_values": pixel_values, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                free = model.generate(**given, **greedy, max_new_tokens=ANSWER, min_new_tokens=0)
                long = model.generate(
                    **given, **greedy, max_new_tokens=count, min_new_tokens=count, output_logits=True,
                    return_dict_in_generate=True,
                )  # fmt: skip
            begin = ids.shape[1] if language.family == "opt" else 1
            own = free[0, begin:].numpy()
            answers[row, : len(own)] = own
            tokens[row] = long.sequences[0, begin:].numpy()
            every = torch.stack(long.logits, 1)[0].float().numpy()
            if logits is None:
                logits = _memory(workspace, "logits", (rows, *every.shape))
            logits[row] = every
    np.save(workspace.tokens, tokens)
    np.save(workspace.answers, _cut(answers, language.eos))
    workspace.questions.write_bytes(msgspec.json.encode(Asked(prompts=prompts, tokens=count)))


def _cut(answers: Ints, eos: tuple[int, ...]) -> Ints:
    """Answers with -1 behind the first end token: transformers fills up with tokens of its choice."""
    ended = np.isin(answers, eos).cumsum(1) - np.isin(answers, eos)
    return np.where(ended > 0, -1, answers)


def match_all(
    source: Blip2, contract: Contract, proof: Samples, texts: tuple[str, ...], workspace: Workspace, threads: int
) -> None:
    """Match every image with every text in the source, and store the scores.

    Left in the folder: ``image_embeds``, ``query_output`` and ``image_vectors`` of each image, ``text_vector`` of each
    text, and for each pair ``logits`` (images, texts, 2) and ``similarity`` (images, texts).
    """
    import torch

    torch.set_num_threads(threads)
    model, tokenizer = load_model(source), load_tokenizer(source)
    coded = tokenizer(list(texts), padding=True, return_tensors="pt")
    ids, mask = coded.input_ids, coded.attention_mask
    queries = source.queries
    if model.config.image_token_index is not None:  # then transformers expects placeholders in front, and skips them
        ids = torch.nn.functional.pad(ids, (queries, 0), value=model.config.image_token_index)
        mask = torch.nn.functional.pad(mask, (queries, 0), value=1)
    stacks = _Stacks(workspace, len(proof))
    with torch.no_grad():
        for number, pixels in enumerate(proof):
            pixel_values = torch.from_numpy(pixels)
            image = model.vision_model(pixel_values).last_hidden_state
            seen = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=image).last_hidden_state
            compared = model(pixel_values, ids, mask)
            many = pixel_values.expand(len(texts), -1, -1, -1)
            matched = model(many, ids, mask, use_image_text_matching_head=True).logits_per_image
            stacks.keep(
                number,
                image_embeds=image,
                query_output=seen,
                image_vectors=compared.image_embeds,
                logits=matched[None],
                similarity=compared.logits_per_image.reshape(1, -1),
            )
    np.save(workspace.reference("text_vector"), compared.text_embeds.numpy())
    workspace.questions.write_bytes(msgspec.json.encode(Asked(prompts=texts)))


class _Stacks:
    """What the source gave for each image, in memory-mapped files."""

    def __init__(self, workspace: Workspace, count: int) -> None:
        self._workspace, self._count = workspace, count
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def keep(self, number: int, **values: Any) -> None:
        """Store the tensors (1, ...) of one image."""
        for name, tensor in values.items():
            array = tensor[0].float().numpy()
            if not np.isfinite(array).all():
                raise SourceError(f"the source gives NaN or infinite values itself, in {name!r}")
            if name not in self._arrays:
                self._arrays[name] = _memory(self._workspace, name, (self._count, *array.shape))
            self._arrays[name][number] = array


def _memory(workspace: Workspace, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return new_stack(workspace.reference(name), np.float32, shape)
