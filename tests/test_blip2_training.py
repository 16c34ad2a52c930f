"""The training of the small BLIP-2 models: what a wide language part starts from, and the loss that it learns by."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
SCENES = 6

pytestmark = pytest.mark.nightly


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(EXAMPLES)
    import train_shapes_blip2

    yield train_shapes_blip2
    for name in set(sys.modules) - before:
        if "shapes_blip2" in name:
            sys.modules.pop(name)


def some(trainer: Any) -> Any:
    """A batch of a few scenes."""
    import shapes_blip2_data as data

    rows = [data.example(data.FIRST_SEED + number) for number in range(SCENES)]
    images, objects, sayings = zip(*rows, strict=True)
    scenes = data.Scenes(np.stack(images), np.stack(objects), [json.loads(one) for one in sayings])
    return next(data.batches(scenes, SCENES, 1, seed=4))


def test_a_wide_language_part_says_what_the_trained_one_says(trainer: Any) -> None:
    import shapes_blip2_models as models

    source = EXAMPLES / "blip2" / "opt"
    before = models.Blip2ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    model, processor = models.widened(source)
    batch, words = some(trainer), torch.tensor([processor.tokenizer("Question: how many stars").input_ids] * SCENES)
    with torch.no_grad():
        torch.testing.assert_close(trainer.queried(model, batch.pixels), trainer.queried(before, batch.pixels))
    given = {"input_ids": torch.cat([torch.full((SCENES, trainer.QUERIES), before.config.image_token_index), words], 1)}
    with torch.no_grad():
        expected, found = (one(batch.pixels, **given).logits[:, trainer.QUERIES :] for one in (before, model))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.5
    copies = model.language_model.model.decoder.layers[0].fc1.weight
    assert not torch.equal(copies[:512], copies[512:1024])
    assert 25e6 < sum(value.numel() for value in model.language_model.parameters()) < 60e6
    learnt = {name.partition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert learnt == {"language_projection", "language_model"}
    assert processor.tokenizer("a red star").input_ids == models.Blip2Processor.from_pretrained(source).tokenizer(
        "a red star"
    ).input_ids  # fmt: skip


def test_texts_that_share_an_image_lose_what_each_loses_alone(trainer: Any) -> None:
    """The loss of a batch, by transformers' own forward pass over image, prompt and answer, one text at a time."""
    import shapes_blip2_models as models

    source = EXAMPLES / "blip2" / "opt"
    model = models.Blip2ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    processor = models.Blip2Processor.from_pretrained(source)
    batch, asked = some(trainer), 3
    pairs = trainer.exchanges(batch.sayings, asked, np.random.default_rng(0))
    tokenizer = processor.tokenizer
    losses = []
    with torch.no_grad():
        loss, right = trainer.language_loss(model, processor, batch, asked, np.random.default_rng(0))
        for row, (prompt, answer) in enumerate(pairs):
            image = torch.full((1, trainer.QUERIES), model.config.image_token_index)
            ids = torch.tensor([[*tokenizer(f"{prompt} {answer}").input_ids, tokenizer.eos_token_id]])
            words = torch.cat([image, ids], 1)
            start = trainer.QUERIES + len(tokenizer(prompt).input_ids)
            pixels = batch.pixels[row // (asked + 1)][None]
            logits = model(pixel_values=pixels, input_ids=words, attention_mask=torch.ones_like(words)).logits
            losses.append(
                torch.nn.functional.cross_entropy(logits[0, start - 1 : -1], words[0, start:], reduction="none")
            )
    torch.testing.assert_close(loss, torch.cat(losses).mean(), rtol=1e-4, atol=1e-5)
    assert right > 0.8  # It is the trained model.
    other = list(reversed(batch.sayings))  # The negative control: texts of other images.
    with torch.no_grad():
        wrong, _ = trainer.language_loss(
            model, processor, trainer.Batch(batch.pixels, batch.objects, other), asked, np.random.default_rng(0)
        )
    assert wrong > 2 * loss
