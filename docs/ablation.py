"""What each method of the quantisation plan is worth: switched off one at a time, on every target that runs here.

    python docs/ablation.py                       all models and targets; what is in the file already is kept
    python docs/ablation.py --target onnx,litert  only these

Each model is converted with ``--no-gate`` and scored on held-out scenes; the figures go to docs/figures/ablation.json,
from which docs/tables.py makes the table of docs/CALIBRATION.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from edgekit import converters
from edgekit.calibration.plan import FILE, Methods
from edgekit.conversion.convert import Conversion, convert
from edgekit.converters import PLAN
from edgekit.emulators import proof_device
from edgekit.evaluation.coco import SCORE_THRESHOLD, evaluate
from edgekit.runtimes.model import load
from edgekit.shapes import write_coco

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures" / "ablation.json"

MODELS = {
    "demo detector (SiLU)": "edgekit.shapes.trained:detector",
    "ReLU detector, channels 1:100": "tests.detectors.hard:detector",
}
CALIBRATION, SCENES = range(100_000, 100_100), range(500_000, 500_300)

OFF = Methods(cross_layer_equalization=False, ranges="min-max", bias_correction=False, float_fallback=False)
VARIANTS: dict[str, Methods] = {
    "all on": Methods(),
    "no equalization": Methods(cross_layer_equalization=False),
    "min-max ranges": Methods(ranges="min-max"),
    "no bias correction": Methods(bias_correction=False),
    "no float fallback": Methods(float_fallback=False),
    "all off": OFF,
    "inputs only": Methods(),
    "weights only": Methods(),
    "vendor's default": OFF,
}
"""Columns of the table. Without float fallback the NPU of ethosu has no layers of 16 bits either. Inputs only and
weights only are our recipes of these names: Q/DQ at the inputs of layers instead of everywhere, and float activations.
The vendor's default is the target's own calibrator with everything of ours off."""

OURS = {"inputs only": "inputs", "weights only": "weights"}


class Row(msgspec.Struct, frozen=True):
    """mAP of one model, converted to one target in one way."""

    model: str
    target: str
    variant: str
    map: float


def recipe(target: str, variant: str) -> str:
    """The recipe that a variant takes; empty where the target has none."""
    offered = converters.target(target).recipes
    if variant in OURS:
        return OURS[variant] if OURS[variant] in offered else ""
    if variant == "vendor's default":
        return next((name for name in offered if name not in (PLAN, *OURS.values())), "")
    return PLAN if PLAN in offered else offered[0]


def run(model: str, variant: str, targets: list[str], scenes: dict[str, Path], threads: int) -> list[Row]:
    """Convert one model in one way to several targets and score what came of it."""
    rows = []
    by_recipe: dict[str, list[str]] = {}
    for target in targets:
        if chosen := recipe(target, variant):
            by_recipe.setdefault(chosen, []).append(target)
    with tempfile.TemporaryDirectory() as name:
        plan = str(Path(name) / "plan")
        for chosen, several in by_recipe.items():
            done = convert(
                Conversion(
                    source=MODELS[model],
                    targets=tuple(several),
                    precisions=("int8",) if "coreml" not in several else ("int8", "w8a8"),
                    out=Path(name) / "out",
                    data=str(scenes["calibration"].parent / "*.png"),
                    methods=Methods() if (Path(plan) / FILE).is_file() else VARIANTS[variant],  # a plan made is taken
                    recipe=chosen,
                    plan=plan,
                    gated=False,
                    threads=threads,
                )
            )
            for outcome in done.outcomes:
                if outcome.target == "coreml" and outcome.precision == "int8":  # weights only
                    continue
                value = score(str(outcome.path), scenes["held-out"], threads) if outcome.bundle else float("nan")
                rows.append(Row(model, outcome.target, variant, value))
    return rows


def score(bundle: str, annotations: Path, threads: int) -> float:
    """mAP of a bundle."""
    manifest = json.loads((Path(bundle) / "manifest.json").read_text(encoding="utf-8"))
    from edgekit.runtimes.bundle.folder import open_bundle

    device = proof_device(manifest["engine"], open_bundle(bundle).manifest.graphs[0])
    opened = load(bundle, unit=device, threads=threads)
    return float(evaluate(lambda image: opened.predict(image, score=SCORE_THRESHOLD), annotations).map)


def main() -> None:
    """Fill the file of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="", help="comma-separated; all that make int8 and run here when left out")
    parser.add_argument("--model", default="", help="beginning of a model's name")
    parser.add_argument("--variant", default="", help="comma-separated columns")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    every = [name for name in converters.target_names() if _possible(name)]
    targets = given.target.split(",") if given.target else every
    known = {(row.model, row.target, row.variant): row for row in _read()}
    with tempfile.TemporaryDirectory() as name:
        scenes = {
            "calibration": write_coco(Path(name) / "calibration", CALIBRATION),
            "held-out": write_coco(Path(name) / "held-out", SCENES),
        }
        for model in (one for one in MODELS if one.startswith(given.model)):
            if (model, "PyTorch", "") not in known:
                known[model, "PyTorch", ""] = Row(model, "PyTorch", "", _source(MODELS[model], scenes["held-out"]))
            for variant in given.variant.split(",") if given.variant else VARIANTS:
                left = [target for target in targets if (model, target, variant) not in known]
                for row in run(model, variant, left, scenes, given.threads) if left else ():
                    known[row.model, row.target, row.variant] = row
                    sys.stdout.write(f"{row.model}  {row.target}  {row.variant}  {row.map:.4f}\n")
                    sys.stdout.flush()
                _write(list(known.values()))


def _possible(name: str) -> bool:
    spec = converters.target(name)
    return not spec.missing and {"int8", "w8a8"} & set(spec.calibrated) != set()


def _source(spec: str, annotations: Path) -> float:
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source
    from edgekit.runtimes.model import Model
    from edgekit.sources.session import TorchSession

    read = read_source(PrepareJob(folder="", source=spec))
    model = Model(read.contract, TorchSession(read.heads))
    return float(evaluate(lambda image: model.predict(image, score=SCORE_THRESHOLD), annotations).map)


def _read() -> list[Row]:
    return msgspec.json.decode(FIGURES.read_bytes(), type=list[Row]) if FIGURES.is_file() else []


def _write(rows: list[Row]) -> None:
    data: Any = msgspec.json.encode(rows)
    FIGURES.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


if __name__ == "__main__":
    main()
