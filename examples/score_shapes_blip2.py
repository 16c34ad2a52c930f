"""Score the small BLIP-2 models of shapes on held-out scenes: greedy, through plain transformers.

    python examples/score_shapes_blip2.py opt t5 retrieval --models examples/blip2 --scenes 300
    python examples/score_shapes_blip2.py wide --models /tmp/shapes-blip2

Beside every figure stands what a model reaches that is shown the image of another scene: what the questions give away.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes_blip2_models import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, Blip2Processor
from torch import Tensor

from edgekit.shapes.language import KINDS
from edgekit.shapes.talk import (
    CAPTION_PROMPT,
    FIRST_EVALUATION_SEED,
    Talked,
    balanced,
    contradicted,
    normalised,
    prompt_of,
    talked,
)

BATCH = 50
RETRIEVED = 100
"""Images and texts to find among each other."""


def images_of(scenes: list[Talked]) -> list[Any]:
    """The scenes as PIL images."""
    from PIL import Image

    return [Image.fromarray(np.ascontiguousarray(given.scene.image[..., ::-1])) for given in scenes]


def generated(model: Any, processor: Any, images: list[Any], prompts: list[str]) -> list[str]:
    """What the model says, normalised."""
    said: list[str] = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        inputs = processor(images=images[part], text=prompts[part], padding=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        if model.config.use_decoder_only_language_model:
            ids = ids[:, inputs["input_ids"].shape[1] :]  # OPT repeats image tokens and prompt
        said += [normalised(text) for text in processor.batch_decode(ids, skip_special_tokens=True)]
    return said


def score_language(folder: Path, scenes: list[Talked]) -> str:
    """Accuracy of answers, all and by kind, and the share of captions that are one of the right ones."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Blip2Processor.from_pretrained(folder)
    images = images_of(scenes)
    told: list[str] = []
    for name, shown in (("seeing", images), ("another scene's image", images[1:] + images[:1])):
        asked = [(image, q) for image, given in zip(shown, scenes, strict=True) for q in balanced(given)]
        said = generated(model, processor, [image for image, _ in asked], [prompt_of(q.text) for _, q in asked])
        right: dict[str, list[bool]] = defaultdict(list)
        for answer, (_, question) in zip(said, asked, strict=True):
            right[question.kind].append(answer == normalised(question.answer))
        overall = np.mean([one for many in right.values() for one in many])
        kinds = ", ".join(f"{kind} {np.mean(right[kind]):.3f} of {len(right[kind])}" for kind in KINDS)
        captions = generated(model, processor, shown, [CAPTION_PROMPT] * len(shown))
        exact = np.mean(
            [text in {normalised(one) for one in given.captions} for text, given in zip(captions, scenes, strict=True)]
        )
        told.append(f"{name}: VQA {overall:.3f} ({kinds}); captions {exact:.3f} of {len(shown)}")
    return "\n".join(told)


def matched(model: Any, processor: Any, images: list[Any], texts: list[str]) -> Tensor:
    """Whether each text belongs to its image, bool (n,)."""
    found: list[Tensor] = []
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        inputs = processor(images=images[part], text=texts[part], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs, use_image_text_matching_head=True).logits_per_image
        found.append(logits.argmax(-1) == 1)
    return torch.cat(found)


def score_retrieval(folder: Path, scenes: list[Talked]) -> str:
    """Recall at 1 among scenes with different captions, and accuracy of matching with one word of a caption changed."""
    model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Blip2Processor.from_pretrained(folder)
    different = list({given.captions[0]: given for given in reversed(scenes)}.values())[-RETRIEVED:]
    texts = [given.captions[0] for given in different]
    inputs = processor(images=images_of(different), text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        similar = model(**inputs).logits_per_image
    truth = torch.arange(len(texts))
    to_text, to_image = ((similar.argmax(axis) == truth).float().mean() for axis in (1, 0))
    shown = images_of(scenes)
    true = [given.captions[0] for given in scenes]
    altered = [contradicted(text, given.scene.seed) for text, given in zip(true, scenes, strict=True)]
    accepted = matched(model, processor, shown, true).float().mean()
    refused = 1 - matched(model, processor, shown, altered).float().mean()
    return (
        f"R@1 among {len(texts)}: image to text {to_text:.3f}, text to image {to_image:.3f}; matching"
        f" {(accepted + refused) / 2:.3f} (true {accepted:.3f}, altered {refused:.3f}) of {len(true)} each"
    )


def main() -> None:
    """Score the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models_of", nargs="+", choices=("opt", "t5", "retrieval", "wide"))
    parser.add_argument("--models", type=Path, default=Path("examples/blip2"))
    parser.add_argument("--scenes", type=int, default=300)
    given = parser.parse_args()
    scenes = [talked(seed) for seed in range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + given.scenes)]
    scenes = [one for one in scenes if one.scene.objects and one.captions]
    for kind in given.models_of:
        score = score_retrieval if kind == "retrieval" else score_language
        print(f"{kind}: {score(given.models / kind, scenes)}", flush=True)


if __name__ == "__main__":
    main()
