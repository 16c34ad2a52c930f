"""What each precision of each part of a BLIP-2 costs, measured on held-out scenes of shapes.

    python docs/blip2_table.py                              all models of examples/blip2
    python docs/blip2_table.py --model opt --scenes 100     one of them; the others' figures are kept

One part at a time leaves float32 (onnx), then all of them as the presets say (onnx and openvino). Bundles are written
with ``--no-gate``: those outside their gate are measured too, and marked. The figures go to docs/figures/blip2.json,
from which docs/tables.py makes the table of docs/BLIP2.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.conversion.convert import Conversion, convert
from edgekit.evaluation.described import DescribedImage, read_described
from edgekit.evaluation.vision_language import evaluate
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.runtimes.load import load
from edgekit.shapes.talk import FIRST_EVALUATION_SEED
from edgekit.shapes.talk_dataset import write_talk
from edgekit.sources.blip2.reference import open_source, parameter_bytes

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures" / "blip2.json"
MODELS = {name: ROOT / "examples" / "blip2" / name for name in ("opt", "t5", "retrieval")}
PARTS = ("vision", "qformer", "language")
PRECISIONS, PRESETS = ("fp16", "int8", "int4"), ("fp32", "fp16", "int8", "int4")
TARGETS = ("onnx", "openvino")
RETRIEVED = 100
"""Images among which a retrieval model has to find one: recall depends on their number."""

CALIBRATION, FIRST_CALIBRATION_SEED = 120, FIRST_EVALUATION_SEED + 50_000


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """Figures of one model, converted in one way; the source itself has no ``target``.

    ``part`` is the one that left float32, empty where a preset was taken; ``passed`` is whether it is inside its gate.
    """

    model: str
    target: str
    part: str
    precision: str
    figures: dict[str, float]
    bytes: int
    images: int
    passed: bool = True


def variants(model: str) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Target, part, its precision, and what ``--precision`` is told."""
    for part in PARTS if model != "retrieval" else PARTS[:2]:
        for precision in PRECISIONS:
            words = {**dict.fromkeys(PARTS, "fp32"), part: precision}
            yield "onnx", part, precision, tuple(f"{name}={word}" for name, word in words.items())
    for target in TARGETS:
        for precision in PRESETS:
            # A model for retrieval has no language part, so that int4 would be int8 once more.
            if model != "retrieval" or precision != "int4":
                yield target, "", precision, (precision,)


def of_source(model: str, data: Sequence[DescribedImage], threads: int) -> Row:
    """Figures of a source in PyTorch."""
    folder = MODELS[model]
    report = evaluate(open_source(folder, threads), data).report
    figures = {name: value for metrics in report for name, value in metrics.figures.items()}
    return Row(model, "", "", "fp32", figures, parameter_bytes(Blip2(folder)), len(data))


def of_bundle(
    model: str,
    variant: tuple[str, str, str, tuple[str, ...]],
    photos: Path,
    data: Sequence[DescribedImage],
    threads: int,
) -> Row:
    """Figures of a conversion, which is thrown away."""
    target, part, precision, words = variant
    with tempfile.TemporaryDirectory() as folder:
        made = convert(
            Conversion(
                source=str(MODELS[model]),
                targets=(target,),
                precisions=words,
                out=Path(folder),
                data=str(photos),
                gated=False,
                threads=threads,
            )
        )
        (outcome,) = made.outcomes
        if outcome.bundle is None:
            raise outcome.error or RuntimeError(f"{model} {words}: nothing was written")
        report = evaluate(load(outcome.bundle, threads=threads), data).report
        figures = {name: value for metrics in report for name, value in metrics.figures.items()}
        passed = outcome.bundle.manifest.proven
        return Row(model, target, part, precision, figures, outcome.bundle.bytes, len(data), passed)


def kept(measured: str) -> list[Row]:
    """Rows in the file of the models that are not measured now."""
    if not FIGURES.is_file():
        return []
    rows: list[Row] = msgspec.json.decode(FIGURES.read_bytes(), type=list[Row])
    return [row for row in rows if row.model != measured]


def main() -> None:
    """Measure the models that the command line names and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=tuple(MODELS), help="may be repeated; all by default")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    models = given.model or list(MODELS)
    with tempfile.TemporaryDirectory() as folder:
        photos = write_talk(Path(folder) / "calibration", CALIBRATION, FIRST_CALIBRATION_SEED).parent
        data = read_described(write_talk(Path(folder) / "scenes", given.scenes))
        for model in models:
            rows = kept(model)
            shown = data[:RETRIEVED] if model == "retrieval" else data
            rows.append(of_source(model, shown, given.threads))
            sys.stderr.write(f"{rows[-1]}\n")
            for variant in variants(model):
                rows.append(of_bundle(model, variant, photos, shown, given.threads))
                sys.stderr.write(f"{rows[-1]}\n")
            rows.sort(key=lambda row: list(MODELS).index(row.model))
            FIGURES.write_text(json.dumps(msgspec.to_builtins(rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
