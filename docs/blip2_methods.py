"""What each way of rounding each part of a BLIP-2 costs, with and without large channels, measured on held-out scenes.

    python docs/blip2_methods.py                              print the table, and write docs/figures/blip2_methods.json
    python docs/blip2_methods.py --model outliers --scenes 60  one model; the others' figures are kept
    python docs/blip2_methods.py --model outliers --target litert --target mnn --scenes 0   other targets, proof alone
    python docs/blip2_methods.py --model wide --wide FOLDER    what examples/train_shapes_blip2.py makes

One part at a time leaves float32; on other targets than onnx that is the language part. `outliers` is the OPT of
examples/blip2 with large channels in its language model (benchmarks/blip2_outliers.py); its other parts are the same.
`wide` has a trained language part as wide as OPT-125m's, `wide-outliers` is that with large channels. Scenes of
calibration, proof and evaluation are different ones. Where an engine is not here, its emulator runs. docs/tables.py
makes the tables of docs/BLIP2.md.
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

from edgekit import converters
from edgekit.conversion.convert import Conversion, convert
from edgekit.emulators import proof_device
from edgekit.evaluation.described import DescribedImage, read_described
from edgekit.evaluation.vision_language import evaluate
from edgekit.graph.blip2.precision import GPTQ, SCALE, read_part
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.language.vision_language import VisionLanguage
from edgekit.runtimes.load import load
from edgekit.shapes.talk_dataset import write_talk

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import blip2_outliers

FIGURES = Path(__file__).parent / "figures" / "blip2_methods.json"
OUTLIERS, WIDE, WIDE_OUTLIERS = "outliers", "wide", "wide-outliers"
NAMES = ("opt", OUTLIERS, WIDE, WIDE_OUTLIERS, "t5", "retrieval")
LANGUAGE = PARTS[2:]
TARGETS = tuple(name for name in converters.target_names() if "language" in converters.target(name).parts)
MADE = Path(tempfile.gettempdir()) / "shapes-blip2" / "wide"
"""Where examples/train_shapes_blip2.py writes it."""

FORMS = ("fp16", "int8", "int4", "int4-awq", "int4-gptq", "int4-awq-gptq", "int4.5")
METHODS = ("", "-awq", "-gptq", "-awq-gptq", "-scale", "-awq-scale")
FURTHER = ("int4.5-awq-gptq", "int4-scale", "int4-awq-scale", *(f"int4-g128{method}" for method in METHODS))
"""For the model that int4 costs something; blocks as wide as its layers among them."""

BLOCKS_OF_32 = (*FORMS, *FURTHER[:3])


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


def variants(model: str, target: str, parts: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each part of a model that is measured on a target, and its precisions."""
    own = LANGUAGE if model in (OUTLIERS, WIDE, WIDE_OUTLIERS) or target != "onnx" else PARTS
    if model == "retrieval":
        own = tuple(part for part in PARTS[:2] if part in own)
    for part in own:
        if part in parts:
            yield part, tuple(one for one in forms(model, target, part) if taken(target, one))


def forms(model: str, target: str, part: str) -> tuple[str, ...]:
    """The precisions that are measured of a part, where the target has them."""
    if model == OUTLIERS and target == "onnx":
        return (*FORMS, *FURTHER)
    if model in (WIDE, WIDE_OUTLIERS) or target != "onnx" or (model, part) == ("opt", "qformer"):
        return BLOCKS_OF_32
    return FORMS


def taken(target: str, precision: str) -> bool:
    """Whether a target has a precision; one that rounds by itself leaves GPTQ and `scale` nothing to do."""
    spec, asked = converters.target(target), read_part(precision)
    kept = spec.grid is not None or not (asked.uses(GPTQ) or asked.uses(SCALE))
    return asked.word in spec.part_precisions and kept


def source_of(model: str, wide: Path, folder: Path) -> Path:
    """The folder of a model; those with large channels are made."""
    if model in MODELS:
        return MODELS[model]
    if model != OUTLIERS and not wide.is_dir():
        raise SystemExit(f"{model}: no folder {wide}; run python examples/train_shapes_blip2.py wide, or give --wide")
    if model == WIDE:
        return wide
    return blip2_outliers.write(MODELS["opt"] if model == OUTLIERS else wide, folder / model)


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
            figures = evaluated(outcome.bundle, data) if data else {}
            size = outcome.bundle.bytes
            yield Row(model, target, part, precision, texts.matched, texts.score_drift, figures, size, len(data))


def evaluated(bundle: Bundle, data: Sequence[DescribedImage]) -> dict[str, float]:
    """Figures of a bundle of one engine, or of its emulator where the engine is not here."""
    with load(bundle, VisionLanguage, threads=1, unit=proof_device(bundle.manifest.engine)) as model:
        report = evaluate(model, data, meteor=False).report
    return {name: value for metrics in report for name, value in metrics.figures.items()}


def kept(models: Sequence[str], parts: Sequence[str], targets: Sequence[str], precisions: Sequence[str]) -> list[Row]:
    """Rows in the file that are not measured now."""
    if not FIGURES.is_file():
        return []
    rows: list[Row] = msgspec.json.decode(FIGURES.read_bytes(), type=list[Row])
    return [
        row
        for row in rows
        if (row.model not in models or row.part not in parts or row.target not in targets)
        or (precisions and row.precision not in precisions)
    ]


def place(row: Row) -> tuple[int, str, int, int]:
    """Where a row stands in the file."""
    return NAMES.index(row.model), row.target, PARTS.index(row.part), (*FORMS, *FURTHER).index(row.precision)


def written(rows: list[Row]) -> list[Row]:
    """Write the rows in their order, and give them back."""
    ordered = sorted(rows, key=place)
    FIGURES.write_text(json.dumps(msgspec.to_builtins(ordered), indent=1) + "\n", encoding="utf-8")
    return ordered


def main() -> None:
    """Measure the models that the command line names."""
    from tables import methods_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", action="append", choices=NAMES, help="may be repeated; all that are there by default"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; all by default")
    parser.add_argument("--precision", action="append", help="may be repeated; all by default")
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated; onnx by default")
    parser.add_argument("--scenes", type=int, default=120, help="that are evaluated; with 0 the proof alone is made")
    parser.add_argument("--wide", type=Path, default=MADE, help="the trained model with a wide language part")
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    models = given.model or [name for name in NAMES if given.wide.is_dir() or name not in (WIDE, WIDE_OUTLIERS)]
    parts, targets = given.part or list(PARTS), given.target or ["onnx"]
    rows = [] if given.no_write else kept(models, parts, targets, given.precision or ())
    with tempfile.TemporaryDirectory() as folder:
        photos = write_talk(Path(folder) / "calibration", CALIBRATION, FIRST_CALIBRATION_SEED).parent
        data = read_described(write_talk(Path(folder) / "scenes", given.scenes)) if given.scenes else []
        for model in models:
            source = source_of(model, given.wide, Path(folder))
            shown = data[:RETRIEVED] if model == "retrieval" else data
            for target in targets:
                for part, every in variants(model, target, parts):
                    precisions = [one for one in every if one in (given.precision or every)]
                    for row in measured(model, source, target, part, precisions, photos, shown):
                        rows.append(row)
                        sys.stderr.write(f"{row}\n")
                    rows = rows if given.no_write else written(rows)
    sys.stdout.write(methods_of(msgspec.to_builtins(rows)) + "\n")


if __name__ == "__main__":
    main()
