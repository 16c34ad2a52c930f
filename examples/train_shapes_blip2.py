"""Train three small BLIP-2 models on the world of shapes, and one with a wide language part, on two cores.

    python examples/train_shapes_blip2.py tower opt t5 retrieval --out examples/blip2 --cache /tmp/shapes-blip2
    python examples/train_shapes_blip2.py wide --scenes 2000 --cache /tmp/shapes-blip2

Stages: `tower` trains the vision tower and the Q-Former to tell what is where; `opt` and `t5` then teach a language
model to answer questions and to caption, and `retrieval` trains matching of images and texts, all three with the tower
frozen, as BLIP-2 does (Li et al. 2023). Every stage starts from the tower's checkpoint in the cache, so that stages can
also run side by side. `wide` makes the language part of a trained `opt` (--start) as wide as OPT-125m's, which changes
nothing of what it says, and trains it on, behind the same tower and Q-Former; it goes to the cache, being too large for
a repository. Scenes, guises and order come from seeds. What is written are folders as transformers reads them,
float16; score_shapes_blip2.py tells how good they are. `--steps-scale 0` writes untrained models.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes_blip2_data import (
    CELLS,
    COLOUR_NAMES,
    COLUMNS,
    MOST,
    Batch,
    Scenes,
    batches,
    corpus,
    drawn,
    exchanges,
)
from shapes_blip2_models import QUERIES, WIDTH, built, widened, written
from torch import Tensor, nn
from torch.nn import functional

from edgekit.shapes.outlines import CLASSES
from edgekit.shapes.talk import contradicted

BATCH = {"tower": 32, "opt": 32, "t5": 32, "retrieval": 32, "wide": 2}
STEPS = {"tower": 2000, "opt": 2600, "t5": 2600, "retrieval": 2600, "wide": 120}
LEARNING_RATE = {"tower": 1.2e-3, "opt": 1.5e-3, "t5": 1.5e-3, "retrieval": 1e-3, "wide": 1e-4}
ASKED = {"opt": 3, "t5": 3, "wide": 7}
"""Questions to an image in a batch, beside its caption."""

HALF = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether products run in bfloat16: older processors have no instructions for it and are slower with it."""

CHECK_EVERY = 200
WHAT = len(CLASSES) + 1 + len(COLOUR_NAMES)
"""Logits that tell what something is: that it is, its class, its colour."""


# ----------------------------------------------------------------------------------------------------------- tower


class Tower(nn.Module):
    """Vision tower, Q-Former and the heads that teach them what is in each cell of the image."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision, self.qformer = model.vision_model, model.qformer
        self.queries = nn.Parameter(model.query_tokens.detach().clone())
        self.patches, self.cells = nn.Linear(WIDTH, WHAT), nn.Linear(WIDTH, WHAT)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, 16, 16) of patches and of queries: being there, class and colour."""
        seen = self.vision(pixels).last_hidden_state
        queries = self.queries.expand(len(pixels), -1, -1)
        asked = self.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return self.patches(seen[:, 1:]).float(), self.cells(asked).float()


def in_cells(objects: Tensor) -> Tensor:
    """Objects (n, 4, 6) by the cell of their centre: (n, 16, 6), class -1 where there is none."""
    centres = (objects[..., 2:4] + objects[..., 4:6]) / 2
    place = (centres * CELLS).long().clamp(0, CELLS - 1)
    index = torch.where(objects[..., 0] >= 0, place[..., 1] * CELLS + place[..., 0], QUERIES)
    cells = objects.new_full((len(objects), QUERIES + 1, COLUMNS), -1)
    for row in range(MOST):
        cells[torch.arange(len(objects)), index[:, row]] = objects[:, row]
    return cells[:, :QUERIES]


def what_loss(outputs: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of what is there, and the share of the things there whose class and colour are right."""
    there = truth[..., 0] >= 0
    found, wanted = outputs[there], truth[there]
    name, colour = wanted[:, 0].long(), wanted[:, 1].long()
    classes, colours = found[:, 1 : len(CLASSES) + 1], found[:, len(CLASSES) + 1 :]
    loss = functional.binary_cross_entropy_with_logits(outputs[..., 0], there.float())
    loss = loss + functional.cross_entropy(classes, name) + functional.cross_entropy(colours, colour)
    right = (classes.argmax(-1) == name) & (colours.argmax(-1) == colour)
    return loss, right.float().mean()


def tower_loss(tower: Tower, batch: Batch) -> tuple[Tensor, float]:
    """Loss of patches and queries, and the share of objects whose query tells class and colour."""
    patches, cells = tower(batch.pixels)
    truth = in_cells(batch.objects)
    (dense, _), (sparse, right) = what_loss(patches, truth), what_loss(cells, truth)
    return dense + sparse, float(right)


def load_tower(model: Any, cache: Path) -> None:
    """Start a model from the tower's checkpoint and freeze its vision tower."""
    from safetensors.torch import load_file

    state = load_file(cache / "tower.safetensors")
    model.query_tokens.data.copy_(state["queries"])
    for part, name in ((model.vision_model, "vision."), (model.qformer, "qformer.")):
        part.load_state_dict({k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}, strict=False)
    for layer in model.qformer.encoder.layer:
        if hasattr(layer, "intermediate"):  # Text starts with the queries' feed-forward layers.
            layer.intermediate.load_state_dict(layer.intermediate_query.state_dict())
            layer.output.load_state_dict(layer.output_query.state_dict())
    model.vision_model.requires_grad_(False)


# -------------------------------------------------------------------------------------------------------- language


def padded(rows: list[list[int]], value: int) -> Tensor:
    """Lists of ids as one int64 tensor, padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def queried(model: Any, pixels: Tensor) -> Tensor:
    """What the Q-Former hands on (n, 16, 128), without gradients into the frozen tower."""
    with torch.no_grad():
        seen = model.vision_model(pixels).last_hidden_state
    queries = model.query_tokens.expand(len(pixels), -1, -1)
    return model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state


def language_loss(
    model: Any, processor: Any, batch: Batch, asked_of_each: int, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Cross-entropy of answers and captions, and the share of their tokens that are right."""
    pairs = exchanges(batch.sayings, asked_of_each, rng)
    image = model.language_projection(queried(model, batch.pixels))
    given = decoded if model.config.use_decoder_only_language_model else encoded_and_decoded
    hidden, labels = given(model.language_model, processor.tokenizer, image, pairs)
    wanted = labels != -100
    logits = model.language_model.lm_head(hidden[wanted]).float()
    loss = functional.cross_entropy(logits, labels[wanted])
    return loss, float((logits.argmax(-1) == labels[wanted]).float().mean())


def decoded(language: Any, tokenizer: Any, image: Tensor, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """What OPT makes of images and texts in front of each token, and the tokens, -100 where none is asked for.

    An image is read once for all of its texts, which continue it over its keys and values.
    """
    asked = tokenizer([prompt for prompt, _ in pairs]).input_ids
    said = tokenizer([f" {answer}" for _, answer in pairs], add_special_tokens=False).input_ids
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = padded([a + s + [end] for a, s in zip(asked, said, strict=True)], pad)
    labels = padded([[-100] * len(a) + s + [end] for a, s in zip(asked, said, strict=True)], -100)
    read = language.model(inputs_embeds=image, use_cache=True).past_key_values
    read.batch_repeat_interleave(len(pairs) // len(image))
    mask = torch.cat([torch.ones(len(ids), QUERIES, dtype=torch.long), (labels != -100) | (ids != pad)], 1)
    embed = language.get_input_embeddings()(ids).to(image.dtype)
    hidden = language.model(inputs_embeds=embed, attention_mask=mask, past_key_values=read).last_hidden_state
    return hidden[:, :-1], labels[:, 1:]


def encoded_and_decoded(
    language: Any, tokenizer: Any, image: Tensor, pairs: list[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """The same of T5."""
    pad = tokenizer.pad_token_id
    labels = padded(tokenizer([answer for _, answer in pairs]).input_ids, -100)
    ids = padded(tokenizer([prompt for prompt, _ in pairs]).input_ids, pad)
    image = image.repeat_interleave(len(pairs) // len(image), 0)
    inputs = torch.cat([image, language.get_input_embeddings()(ids).to(image.dtype)], 1)
    mask = torch.cat([torch.ones(image.shape[:2], dtype=torch.long), (ids != pad).long()], 1)
    encoded = language.encoder(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
    hidden = language.decoder(
        input_ids=language._shift_right(labels),
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    return hidden, labels


# ------------------------------------------------------------------------------------------------------- retrieval


def retrieval_loss(
    model: Any, processor: Any, temperature: Tensor, batch: Batch, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Contrast of images and texts in the batch, and matching of true, altered and most similar texts."""
    tokenizer = processor.tokenizer
    true = [saying["captions"][0] for saying in batch.sayings]
    altered = [contradicted(text, int(rng.integers(2**31))) for text in true]
    ids = padded(tokenizer(true + altered).input_ids, tokenizer.pad_token_id)
    mask, count = (ids != tokenizer.pad_token_id).long(), len(true)
    with torch.no_grad():
        seen = model.vision_model(batch.pixels).last_hidden_state
    queries = model.query_tokens.expand(count, -1, -1)
    asked = model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    images = functional.normalize(model.vision_projection(asked).float(), dim=-1)
    read = model.qformer(
        query_embeds=model.embeddings(input_ids=ids), query_length=0, attention_mask=mask
    ).last_hidden_state
    texts = functional.normalize(model.text_projection(read[:, 0]).float(), dim=-1)
    similar = torch.einsum("nqd,td->nqt", images, texts).amax(1) * temperature.exp()
    same = torch.tensor([[one == other for other in true] for one in true])
    others = same & ~torch.eye(count, dtype=torch.bool)  # Two scenes with the same listing are no contrast.
    of_images = torch.cat([similar[:, :count].masked_fill(others, -1e4), similar[:, count:]], 1)
    target = torch.arange(count)
    contrast = functional.cross_entropy(of_images, target) + functional.cross_entropy(
        similar[:, :count].t().masked_fill(others, -1e4), target
    )
    tempting = similar[:, :count].detach().masked_fill(same, -1e4).softmax(1).multinomial(1)[:, 0]
    chosen = torch.cat([target, target + count, tempting])
    fused = model.qformer(
        query_embeds=model.embeddings(input_ids=ids[chosen], query_embeds=queries.repeat(3, 1, 1)),
        query_length=QUERIES,
        attention_mask=torch.cat([torch.ones(3 * count, QUERIES, dtype=torch.long), mask[chosen]], 1),
        encoder_hidden_states=seen.repeat(3, 1, 1),
    ).last_hidden_state
    logits = model.itm_head(fused[:, :QUERIES]).mean(1).float()
    label = torch.cat([torch.ones(count), torch.zeros(2 * count)]).long()
    matching = functional.cross_entropy(logits, label, torch.tensor([0.75, 1.5]))
    right = (logits.argmax(-1) == label).float()
    return contrast + 2 * matching, float((right[:count].mean() + right[count : 2 * count].mean()) / 2)


# -------------------------------------------------------------------------------------------------------- training


def trained(
    name: str,
    parameters: list[nn.Parameter],
    loss_of: Callable[[Batch], tuple[Tensor, float]],
    given: Iterator[Batch],
    steps: int,
    check: Callable[[], None],
) -> None:
    """AdamW with one cycle of the learning rate; progress goes to standard output."""
    if steps == 0:
        check()
        return
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE[name], betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE[name], steps, pct_start=0.05)
    began, loss_mean, right_mean = time.monotonic(), math.nan, math.nan
    for step, batch in enumerate(given, start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            loss, right = loss_of(batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        loss_mean = loss.item() if step == 1 else 0.98 * loss_mean + 0.02 * loss.item()
        right_mean = right if step == 1 else 0.98 * right_mean + 0.02 * right
        if step % 50 == 0:
            took = time.monotonic() - began
            print(f"{name} {step}/{steps} loss {loss_mean:.3f} right {right_mean:.3f} {took:.0f} s", flush=True)
        if step % CHECK_EVERY == 0 or step == steps:
            check()


def stage(kind: str, scenes: Scenes, start: Path, out: Path, cache: Path, scale: float) -> None:
    """Train one stage and write what it gives; ``start`` is the trained model that `wide` starts from."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    steps = round(STEPS[kind] * scale)
    given = batches(scenes, BATCH[kind], steps, seed=3 if kind == "tower" else 4)
    if kind == "wide":
        model, processor = widened(start)
    else:
        model, processor = built("opt" if kind == "tower" else kind, corpus(scenes))
    if kind == "tower":
        tower = Tower(model)

        def check() -> None:
            save_file(tower.state_dict(), cache / "tower.safetensors")

        trained(kind, list(tower.parameters()), lambda batch: tower_loss(tower, batch), given, steps, check)
        return
    if steps and kind != "wide":
        load_tower(model, cache)
    parameters = [value for value in model.parameters() if value.requires_grad]
    temperature = nn.Parameter(torch.tensor(math.log(14.0)))

    def loss_of(batch: Batch) -> tuple[Tensor, float]:
        if kind == "retrieval":
            return retrieval_loss(model, processor, temperature, batch, rng)
        return language_loss(model, processor, batch, ASKED[kind], rng)

    folder = (cache if kind == "wide" else out) / kind
    trained(kind, [*parameters, temperature], loss_of, given, steps, lambda: written(model, processor, folder))


def main() -> None:
    """Run the stages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=tuple(STEPS))
    parser.add_argument("--out", type=Path, default=Path("examples/blip2"))
    parser.add_argument("--start", type=Path, default=Path("examples/blip2/opt"), help="that wide starts from")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/shapes-blip2"), help="drawn scenes and the tower")
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of the steps; 0 writes untrained models")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    scenes = drawn(given.scenes, given.cache, given.threads)
    for kind in given.stages:
        stage(kind, scenes, given.start, given.out, given.cache, given.steps_scale)


if __name__ == "__main__":
    main()
