"""The proof of every target that takes BLIP-2: the models of examples/blip2, all parts on one target, in each preset.

    python docs/blip2_matrix.py                            all of them, into docs/figures/blip2_matrix.json
    python docs/blip2_matrix.py --target ncnn --model opt  some; the others' figures are kept

Each bundle is made as ``edgekit convert`` makes it, outside its gate too, and thrown away. docs/tables.py makes the
tables of README.md and docs/BLIP2.md. Targets whose toolchain is not installed are left out, and said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from blip2_table import FIRST_CALIBRATION_SEED, MODELS

from edgekit import converters
from edgekit.conversion.convert import Conversion, convert
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.shapes.talk_dataset import write_talk

FIGURES = Path(__file__).parent / "figures" / "blip2_matrix.json"
SCENES = 60
COMPANION = "onnx"
"""Takes the language part where a target does not."""


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One bundle: the word of its proof, the share that matched of ``compared`` tokens or decisions, the score drift.

    ``language`` is the target of the language part, where that is another one.
    """

    target: str
    model: str
    precision: str
    word: str
    matched: float
    drift: float
    compared: int
    images: int
    passed: bool = True
    language: str = ""


def request(target: str) -> tuple[str, str]:
    """What ``--target`` is told, and the target of the language part if it is another."""
    if "language" in converters.target(target).parts:
        return target, ""
    return f"vision={target},qformer={target},language={COMPANION}", COMPANION


def proven(target: str, model: str, photos: Path) -> Iterator[Row]:
    """Convert a model in every preset of a target."""
    asked, language = request(target)
    with tempfile.TemporaryDirectory() as folder:
        done = convert(
            Conversion(
                source=str(MODELS[model]),
                targets=tuple(asked.split(",")),
                precisions=converters.target(target).part_precisions,
                out=Path(folder),
                data=str(photos),
                gated=False,
                name=model,
            )
        )
        for outcome in done.outcomes:
            if outcome.evidence is None or outcome.evidence.texts is None:
                raise outcome.error or RuntimeError(f"{model} {target} {outcome.precision}: nothing was compared")
            found, texts = outcome.evidence, outcome.evidence.texts
            yield Row(
                target,
                model,
                outcome.precision,
                found.word,
                texts.matched,
                texts.score_drift,
                texts.positions,
                found.images,
                found.passed,
                language,
            )


def main() -> None:
    """Convert what the command line names, and keep the other figures."""
    every = tuple(name for name in converters.target_names() if set(PART_NAMES) & set(converters.target(name).parts))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=every, help="may be repeated; all by default")
    parser.add_argument("--model", action="append", choices=tuple(MODELS), help="may be repeated; all by default")
    given = parser.parse_args()
    rows = msgspec.json.decode(FIGURES.read_bytes(), type=list[Row]) if FIGURES.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        photos = write_talk(Path(folder) / "scenes", SCENES, FIRST_CALIBRATION_SEED).parent
        for target in given.target or every:
            if missing := converters.target(target).missing:
                sys.stderr.write(f"{target}: left out: {missing}\n")
                continue
            for model in given.model or MODELS:
                made = list(proven(target, model, photos))
                rows = [row for row in rows if (row.target, row.model) != (target, model)] + made
                rows.sort(key=lambda row: (row.target, tuple(MODELS).index(row.model)))
                FIGURES.write_text(json.dumps(msgspec.to_builtins(rows), indent=1) + "\n", encoding="utf-8")
                sys.stderr.write("".join(f"{row}\n" for row in made))


if __name__ == "__main__":
    main()
