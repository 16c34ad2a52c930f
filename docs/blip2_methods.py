"""What each way of rounding each part of a BLIP-2 costs, with and without large channels, measured on held-out scenes.

    python docs/blip2_methods.py                              print the table, and write docs/figures/blip2_methods.json
    python docs/blip2_methods.py --model outliers --scenes 60  one model; the others' figures are kept
    python docs/blip2_methods.py --target openvino --no-write  another target, printed only

One part at a time leaves float32. `outliers` is the OPT of examples/blip2 with large channels in its language model
(benchmarks/blip2_outliers.py); its other parts are the same. Scenes of calibration, proof and evaluation are different
ones. docs/tables.py makes the table of docs/BLIP2.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from blip2_table import CALIBRATION, FIRST_CALIBRATION_SEED, MODELS, PARTS, RETRIEVED

from edgekit.conversion.convert import Conversion, convert
from edgekit.evaluation.described import DescribedImage, read_described
from edgekit.evaluation.vision_language import evaluate
from edgekit.runtimes.load import load
from edgekit.shapes.talk_dataset import write_talk

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import blip2_outliers

FIGURES = Path(__file__).parent / "figures" / "blip2_methods.json"
OUTLIERS = "outliers"
NAMES = ("opt", OUTLIERS, "t5", "retrieval")
FORMS = ("fp16", "int8", "int4", "int4-awq", "int4-gptq", "int4-awq-gptq", "int4.5")
METHODS = ("", "-awq", "-gptq", "-awq-gptq", "-scale", "-awq-scale")
FURTHER = ("int4.5-awq-gptq", "int4-scale", "int4-awq-scale", *(f"int4-g128{method}" for method in METHODS))
"""For the model that int4 costs something; blocks as wide as its layers among them."""


class Row(msgspec.Struct, frozen=True):
    """Figures of one model, of which ``part`` is in a precision and the others in float32; ``bytes`` of the bundle."""

    model: str
    target: str
    part: str
    precision: str
    matched: float
    drift: float
    figures: dict[str, float]
    bytes: int
    images: int


def variants(model: str, parts: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each part of a model that is measured, and its precisions."""
    own = {OUTLIERS: PARTS[2:], "retrieval": PARTS[:2]}.get(model, PARTS)
    for part in own:
        if part in parts:
            yield part, (*FORMS, *FURTHER) if model == OUTLIERS else FORMS


def measured(
    model: str, source: Path, target: str, part: str, precisions: Sequence[str], photos: Path,
    data: Sequence[DescribedImage],
) -> Iterator[Row]:  # fmt: skip
    """Convert a part in every precision, prove and evaluate; the source runs once, the bundles are thrown away."""
    words = (*(f"{name}=fp32" for name in PARTS if name != part), *(f"{part}={one}" for one in precisions))
    with tempfile.TemporaryDirectory() as folder:
        given = Conversion(
            source=str(source), targets=(target,), precisions=words, out=Path(folder), data=str(photos), gated=False,
            name=model, threads=1,
        )  # fmt: skip
        for precision, outcome in zip(precisions, convert(given).outcomes, strict=True):
            if outcome.bundle is None or outcome.evidence is None or outcome.evidence.texts is None:
                raise outcome.error or RuntimeError(f"{model} {part}={precision}: nothing was written")
            texts = outcome.evidence.texts
            report = evaluate(load(outcome.bundle, threads=1), data, meteor=False).report
            figures = {name: value for metrics in report for name, value in metrics.figures.items()}
            size = outcome.bundle.bytes
            yield Row(model, target, part, precision, texts.matched, texts.score_drift, figures, size, len(data))


def kept(models: Sequence[str], parts: Sequence[str], target: str, precisions: Sequence[str]) -> list[Row]:
    """Rows in the file that are not measured now."""
    if not FIGURES.is_file():
        return []
    rows: list[Row] = msgspec.json.decode(FIGURES.read_bytes(), type=list[Row])
    return [
        row
        for row in rows
        if (row.model not in models or row.part not in parts or row.target != target)
        or (precisions and row.precision not in precisions)
    ]


def place(row: Row) -> tuple[int, str, int, int]:
    """Where a row stands in the file."""
    return NAMES.index(row.model), row.target, PARTS.index(row.part), (*FORMS, *FURTHER).index(row.precision)


def main() -> None:
    """Measure the models that the command line names."""
    from tables import methods_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=NAMES, help="may be repeated; all by default")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; all by default")
    parser.add_argument("--precision", action="append", help="may be repeated; all by default")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    models = given.model or list(NAMES)
    parts = given.part or list(PARTS)
    ordered: list[Row] = []
    rows = [] if given.no_write else kept(models, parts, given.target, given.precision or ())
    with tempfile.TemporaryDirectory() as folder:
        photos = write_talk(Path(folder) / "calibration", CALIBRATION, FIRST_CALIBRATION_SEED).parent
        data = read_described(write_talk(Path(folder) / "scenes", given.scenes))
        for model in models:
            made = model == OUTLIERS
            source = blip2_outliers.write(MODELS["opt"], Path(folder) / OUTLIERS) if made else MODELS[model]
            shown = data[:RETRIEVED] if model == "retrieval" else data
            for part, every in variants(model, parts):
                precisions = [one for one in every if one in (given.precision or every)]
                for row in measured(model, source, given.target, part, precisions, photos, shown):
                    rows.append(row)
                    sys.stderr.write(f"{row}\n")
                ordered = sorted(rows, key=place)
                if not given.no_write:
                    FIGURES.write_text(json.dumps(msgspec.to_builtins(ordered), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(methods_of(msgspec.to_builtins(ordered)) + "\n")


if __name__ == "__main__":
    main()
