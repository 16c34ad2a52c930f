"""The inputs of a BLIP-2's linear layers on calibration data: the source runs, and files keep them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.calibration.samples import Samples
from edgekit.conversion.source_texts import ANSWER, IMAGES, batches, generated, tokenised
from edgekit.graph.blip2.blip2 import Blip2, part_of
from edgekit.graph.blip2.fitted import StoredInputs
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import Contract, Record
from edgekit.sources.blip2.reference import load_model, load_tokenizer
from edgekit.structures import from_json

if TYPE_CHECKING:
    import torch
    from torch import nn

TEXTS = 64
"""Pairs of an image and a prompt that are run; each prompt with as many images as the others."""

INDEX = "inputs.json"
_HEAD = "language_model.lm_head"


class _Index(Record, frozen=True, kw_only=True):
    """The file of each weight's inputs, and its columns."""

    files: dict[str, tuple[str, int]]


def observe_inputs(
    source: Blip2,
    contract: Contract,
    images: Samples,
    prompts: Sequence[str],
    parts: Sequence[str],
    folder: Path,
    report: Report,
) -> None:
    """Run the source on calibration images and prompts, and write what the linear layers of some parts read.

    The language model reads prompts and the answers that it gives itself. Rows of one prompt are equally long, so that
    no layer sees padding.
    """
    import torch

    model, tokenizer = load_model(source), load_tokenizer(source)
    known = list(itertools.islice(images, TEXTS))
    share = min(-(-TEXTS // len(prompts)), len(known))
    folder.mkdir(exist_ok=True)
    with _Recorder(model, parts, folder) as recorder, torch.no_grad():
        for number, prompt in enumerate(prompts):
            report(f"observing {', '.join(parts)}, prompt {number + 1} of {len(prompts)}", number / len(prompts))
            # Each prompt begins with another image, so that few images are all seen.
            some = [known[(number * share + place) % len(known)] for place in range(share)]
            if source.retrieval:
                _match(model, tokenizer, source, some, prompt)
            else:
                _answer(model, tokenizer, source, contract, some, prompt, speaks="language" in parts)
        recorder.save()


def _answer(
    model: Any, tokenizer: Any, source: Blip2, contract: Contract, images: Sequence[Any], prompt: str, *, speaks: bool
) -> None:
    given = []
    for _, pixels in batches(images, IMAGES):
        image = model.vision_model(pixels).last_hidden_state
        queries = model.query_tokens.expand(len(image), -1, -1)
        seen = model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
        given += list(model.language_projection(seen).numpy())
    if speaks and contract.language is not None:
        ids = tokenizer(prompt).input_ids
        generated(model, contract.language, [(one, ids) for one in given], ANSWER, lambda token: None)


def _match(model: Any, tokenizer: Any, source: Blip2, images: Sequence[Any], text: str) -> None:
    ids, mask = tokenised(model, tokenizer, [text], source.queries)
    for _, pixels in batches(images, IMAGES):
        rows = [one.expand(len(pixels), -1) for one in (ids, mask)]
        model(pixels, *rows)
        model(pixels, *rows, use_image_text_matching_head=True)


class _Recorder:
    """Appends the inputs of layers to files while the model runs; layers that read one tensor share its file."""

    def __init__(self, model: Any, parts: Sequence[str], folder: Path) -> None:
        from torch import nn

        self._folder = folder
        self._files: dict[str, tuple[str, int]] = {}
        self._last: tuple[torch.Tensor | None, str] = (None, "")
        self._shared: dict[str, str] = {}
        self._hooks = [
            self._watched(f"{name}.weight", module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and part_of(name) in parts and name != _HEAD
        ]

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _watched(self, name: str, module: nn.Module) -> Any:
        def look(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            self._keep(name, given[0])

        return module.register_forward_pre_hook(look)

    def _keep(self, name: str, given: torch.Tensor) -> None:
        last, reader = self._last
        if name not in self._files:
            known = self._files[reader][0] if given is last else f"{len(self._files)}.f32"
            self._files[name] = (known, given.shape[-1])
            if given is last:
                self._shared[name] = reader
        if name in self._shared:
            return
        self._last = (given, name)
        with (self._folder / self._files[name][0]).open("ab") as file:
            file.write(given.float().contiguous().numpy().data)

    def save(self) -> None:
        """Write the index of the files."""
        (self._folder / INDEX).write_bytes(msgspec.json.encode(_Index(files=self._files)))


def read_inputs(folder: Path) -> StoredInputs:
    """The observed inputs; nothing where there is no folder."""
    if not (folder / INDEX).is_file():
        return StoredInputs(folder, {})
    return StoredInputs(folder, from_json((folder / INDEX).read_bytes(), _Index).files)
