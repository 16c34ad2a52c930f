"""BLIP-2 bundles, and what Python says with them: what other platforms are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import ROOT

import edgekit
from edgekit.runtimes.bundle.folder import open_bundle

GREEDY: dict[str, Any] = {"max_new_tokens": 24}
BEAMS: dict[str, Any] = {"beams": 4, "returned": 2, "max_new_tokens": 16}
PENALTIES: dict[str, Any] = {**GREEDY, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 6}
QUESTIONS = ("how many circles are there?", "what color is the square?")
SENTENCES = ("a red circle", "two blue squares above a green triangle", "Größe, 三つ 🙂")


SCORES = {"fp32": 1e-3, "int4": 0.05}
"""How far scores may be apart: products of INT4 weights round their inputs, each engine in its own way."""


def converted_language(family: str, target: str, precision: str, out: Path, pictures: Path) -> Path:
    """A model of examples/blip2 as a bundle."""
    source = str(ROOT / "examples" / "blip2" / family)
    (outcome,) = edgekit.convert(source, target, precision=precision, data=pictures, out=out, gated=False)
    assert outcome.bundle is not None, outcome.error
    return outcome.bundle.path


def expected_language(bundle: Path, pictures: list[Path], unit: str = "") -> dict[str, Any]:
    """What Python says with these pictures: texts of a generation bundle, or matches of one for retrieval."""
    score = SCORES[open_bundle(bundle).manifest.precision]
    texts: list[dict[str, Any]] = []
    matches: list[dict[str, Any]] = []
    with edgekit.load(bundle, edgekit.VisionLanguage, unit=unit) as model:
        for picture in map(str, pictures):
            if model.kind == "retrieval":
                found = model.match(picture, list(SENTENCES))
                matches += [
                    {"image": picture, "text": one.text, "probability": one.probability, "similarity": one.similarity}
                    for one in found
                ]
                continue
            for question, options in ((None, GREEDY), (None, BEAMS), (QUESTIONS[0], PENALTIES), (QUESTIONS[1], GREEDY)):
                made = (
                    model.caption(picture, **options) if question is None else model.ask(picture, question, **options)
                )
                others = [list(one.tokens) for one in made.others]
                told = {"text": made.text, "tokens": list(made.tokens), "others": others, "score": made.score}
                texts.append({"image": picture, "question": question, "options": options, **told})
    return {"bundle": str(bundle), "score": score, "texts": texts, "matches": matches}
