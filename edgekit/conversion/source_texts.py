"""Reference results of a BLIP-2 in PyTorch, which its bundles are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.calibration.samples import Samples, new_stack
from edgekit.conversion.workspace import Workspace
from edgekit.errors import InputError, SourceError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import Contract, Language, Record
from edgekit.sources.blip2.reference import is_large, load_model, load_tokenizer

POSITIONS = 512
"""The minimum number of tokens that are compared."""

ANSWER = 20
"""Tokens of an answer that goes its own way."""

OF_IMAGES = 0.15
"""Share of the time that the vision tower and the Q-Former take."""

IMAGES, ROWS = 8, 32
"""Images that pass the vision tower together, and texts that are written together."""

QUESTIONS = ("what is in the picture?", "how many objects are there?", "what color is it?")
SUBJECTS = (
    "a person", "two people", "a dog", "a cat", "a car", "a building", "a tree", "food on a table", "a street",
    "a red circle", "a blue square", "a green triangle", "the sea", "a bird", "a room", "text on a sign", "an animal",
    "a toy", "a machine", "the sky", "a flower", "nothing",
)  # fmt: skip
"""Prompts and texts where the user gives none; whether they fit the images does not matter to a comparison."""


class Asked(Record, frozen=True, kw_only=True):
    """The questions for the source: ``prompts`` of each image, for ``tokens`` positions each; or texts to match.

    ``sparing``: a token costs seconds, so the comparison derives what it can from the logits along the source's texts.
    """

    prompts: tuple[str, ...]
    tokens: int = 0
    sparing: bool = False


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
    source: Blip2,
    contract: Contract,
    proof: Samples,
    prompts: tuple[str, ...],
    workspace: Workspace,
    threads: int,
    report: Report,
) -> None:
    """Generate the source's text for every image and prompt, and store the logits of each token.

    Many rows run together: a large source reads all of its weights for every token.

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
    stacks = _Stacks(workspace, len(proof))
    for start, pixels in batches(proof, IMAGES):
        report("running the source on images", OF_IMAGES * start / len(proof))
        with torch.no_grad():
            image = model.vision_model(pixels).last_hidden_state
            given = model.query_tokens.expand(len(image), -1, -1)
            queries = model.qformer(query_embeds=given, encoder_hidden_states=image).last_hidden_state
            projected = model.language_projection(queries)
        stacks.keep(start, image_embeds=image, query_output=queries, language_inputs=projected)
    inputs = np.load(workspace.reference("language_inputs"), mmap_mode="r")
    tokens, answers = np.zeros((rows, count), np.int64), np.full((rows, ANSWER), -1, np.int64)
    logits = _memory(workspace, "logits", (rows, count, model.language_model.config.vocab_size))
    for start in range(0, rows, ROWS):
        some = slice(start, min(start + ROWS, rows))
        given = [(np.array(inputs[row // len(prompts)]), coded[row % len(prompts)]) for row in range(rows)[some]]
        done = start / rows

        def told(token: int, done: float = done, count: int = max(count, ANSWER), of: int = len(given)) -> None:
            share = done + of / rows * token / count
            report(f"running the source, token {token + 1} of {count}", OF_IMAGES + (1 - OF_IMAGES) * share)

        written, every = generated(model, language, given, max(count, ANSWER), told)
        tokens[some], logits[some] = written[:, :count], every[:, :count]
        answers[some] = _ended(written, every, language.eos)[:, :ANSWER]
    np.save(workspace.tokens, tokens)
    np.save(workspace.answers, answers)
    asked = Asked(prompts=prompts, tokens=count, sparing=is_large(source) and count >= ANSWER)
    workspace.questions.write_bytes(msgspec.json.encode(asked))


def batches(images: Iterable[Floats], size: int) -> Iterator[tuple[int, Any]]:
    """Images (1, 3, height, width) together, as tensors (at most ``size``, ...), and the number of the first."""
    import torch

    left, first = iter(images), 0
    while some := list(itertools.islice(left, size)):
        yield first, torch.from_numpy(np.concatenate(some))
        first += len(some)


def generated(
    model: Any,
    language: Language,
    asked: Sequence[tuple[Floats, Sequence[int]]],
    count: int,
    told: Callable[[int], None],
) -> tuple[Ints, Floats]:
    """The source's greedy texts of ``count`` tokens without an end, int64 (rows, count), and their logits (rows, count,
    vocabulary), by ``generate`` of transformers.

    Args:
        model: the source.
        language: its contract.
        asked: of each row the image's embeddings (queries, width) and the ids of the prompt.
        count: tokens of each text.
        told: called with the number of every token, before it is computed.
    """
    import torch

    tokens = itertools.count(1)
    told(0)

    def going_on(ids: torch.Tensor, scores: object) -> torch.Tensor:
        """A criterion of ``generate``: no text stops. It is asked after every token."""
        told(min(next(tokens), count - 1))
        return torch.zeros(len(ids), dtype=torch.bool)

    table = model.get_input_embeddings()
    longest = max(len(ids) for _, ids in asked) + language.queries
    embeddings = torch.zeros(len(asked), longest, language.width)
    mask = torch.zeros(len(asked), longest, dtype=torch.int64)
    words = torch.tensor([number for _, ids in asked for number in ids])
    with torch.no_grad():
        coded = iter(table(words).split([len(ids) for _, ids in asked]))
        for row, (image, ids) in enumerate(asked):
            place = slice(longest - language.queries - len(ids), None)  # padding stands on the left
            embeddings[row, place], mask[row, place] = torch.cat([torch.from_numpy(image), next(coded)]), 1
        made = model.language_model.generate(
            inputs_embeds=embeddings, attention_mask=mask, do_sample=False, num_beams=1, repetition_penalty=1.0,
            no_repeat_ngram_size=0, max_new_tokens=count, min_new_tokens=count, output_logits=True,
            return_dict_in_generate=True, stopping_criteria=[going_on],
        )  # fmt: skip
    return made.sequences[:, -count:].numpy(), torch.stack(made.logits, 1).float().numpy()


def _ended(tokens: Ints, logits: Floats, eos: tuple[int, ...]) -> Ints:
    """The texts that the source would have written had it been allowed to end: an end token where its logits (rows,
    tokens, vocabulary) put one first, and -1 behind it."""
    best = logits.argmax(-1)
    ends = np.isin(best, eos)
    behind = (ends.cumsum(1) - ends) > 0
    return np.where(behind, -1, np.where(ends, best, tokens))


def match_all(
    source: Blip2,
    contract: Contract,
    proof: Samples,
    texts: tuple[str, ...],
    workspace: Workspace,
    threads: int,
    report: Report,
) -> None:
    """Match every image with every text in the source, and store the scores.

    Left in the folder: ``image_embeds``, ``query_output`` and ``image_vectors`` of each image, ``text_vector`` of each
    text, and for each pair ``logits`` (images, texts, 2) and ``similarity`` (images, texts).
    """
    import torch

    torch.set_num_threads(threads)
    model, tokenizer = load_model(source), load_tokenizer(source)
    ids, mask = tokenised(model, tokenizer, texts, source.queries)
    stacks = _Stacks(workspace, len(proof))
    with torch.no_grad():
        for number, pixels in enumerate(proof):
            report("running the source", number / len(proof))
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


def tokenised(model: Any, tokenizer: Any, texts: Sequence[str], queries: int) -> tuple[Any, Any]:
    """Texts for a model of retrieval: ids and mask as tensors (texts, tokens)."""
    import torch

    coded = tokenizer(list(texts), padding=True, return_tensors="pt")
    ids, mask = coded.input_ids, coded.attention_mask
    if model.config.image_token_index is not None:  # then transformers expects placeholders in front, and skips them
        ids = torch.nn.functional.pad(ids, (queries, 0), value=model.config.image_token_index)
        mask = torch.nn.functional.pad(mask, (queries, 0), value=1)
    return ids, mask


class _Stacks:
    """The source's results for each image, in memory-mapped files."""

    def __init__(self, workspace: Workspace, count: int) -> None:
        self._workspace, self._count = workspace, count
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def keep(self, first: int, **values: Any) -> None:
        """Store the tensors (n, ...) of ``n`` images, of which ``first`` is the number of the first."""
        for name, tensor in values.items():
            array = tensor.float().numpy()
            if not np.isfinite(array).all():
                raise SourceError(f"the source gives NaN or infinite values itself, in {name!r}")
            if name not in self._arrays:
                self._arrays[name] = _memory(self._workspace, name, (self._count, *array.shape[1:]))
            self._arrays[name][first : first + len(array)] = array


def _memory(workspace: Workspace, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return new_stack(workspace.reference(name), np.float32, shape)
