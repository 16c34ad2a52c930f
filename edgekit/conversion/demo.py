"""The demonstration: the trained detector of shapes to every target available, each measured on held-out scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arrays import Image
from edgekit.conversion.convert import Conversion, Conversions, Watch, convert
from edgekit.conversion.making import Outcome
from edgekit.emulators import proof_device
from edgekit.errors import EngineError, InputError
from edgekit.evaluation.coco import SCORE_THRESHOLD, evaluate, read_annotations
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.model import Model, load
from edgekit.runtimes.results import Result
from edgekit.shapes import write_coco
from edgekit.shapes.trained import SOURCE, detector

CALIBRATION_SEEDS = range(100_000, 100_200)
EVALUATION_SEEDS = range(200_000, 300_000)

PATIENCE = 90.0
"""Seconds that measuring one bundle may take; a simulator of a whole chip needs longer, and its evidence has to do."""


@dataclass(frozen=True)
class Measured:
    """One bundle, or the source, on the held-out scenes; latency is the median of inference alone, in ms.

    There is no mAP where the device is simulated so slowly that it would take minutes.
    """

    target: str
    precision: str
    latency: float
    map: float | None = None
    map50: float | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Demonstration:
    """Everything the demonstration gave: the float source first, then every target."""

    conversions: Conversions
    measured: tuple[Measured, ...]
    scenes: int
    picture: Path


def demonstrate(
    out: Path, targets: tuple[str, ...], precisions: tuple[str, ...], scenes: int, jobs: int, watch: Watch
) -> Demonstration:
    """Convert, measure and draw.

    Args:
        out: folder for the bundles, the scenes and the picture.
        targets: names, or ("all",).
        precisions: of each target.
        scenes: how many held-out scenes to measure on; none of them was used to train, calibrate or prove.
        jobs: targets built at once.
        watch: told of progress.
    """
    watch("scenes", "drawing", 0.0)
    calibration = write_coco(out / "calibration", CALIBRATION_SEEDS).parent
    annotations = write_coco(out / "scenes", EVALUATION_SEEDS[:scenes])
    watch("scenes", "drawn", 1.0)
    conversions = convert(
        Conversion(
            source=SOURCE,
            targets=targets,
            precisions=precisions,
            out=out,
            data=str(calibration / "*.png"),
            name="shapes",
            jobs=jobs,
        ),
        watch,
    )
    measured = [_measure("torch", "fp32", _source(), annotations, watch)]
    for outcome in conversions.outcomes:
        if outcome.bundle is not None:
            model = _open(outcome.bundle)
            measured.append(_measure(outcome.target, outcome.precision, model, annotations, watch, outcome))
    picture = out / "shapes.png"
    # The last precision of each target is the one that asks most of it.
    last = {outcome.target: outcome for outcome in conversions.outcomes if outcome.bundle}
    _draw(list(last.values()), picture)
    return Demonstration(conversions, tuple(measured), scenes, picture)


def _source() -> Model[Result]:
    """The source in PyTorch, behind the same runtime as its bundles."""
    from edgekit.runtimes.bundle.manifest import Contract
    from edgekit.sources.session import TorchSession

    module = detector()
    contract = module.contract
    if not isinstance(contract, Contract):
        raise TypeError("the demo detector carries a contract")
    return Model(contract, TorchSession(module))


def _measure(
    target: str, precision: str, model: Model[Result], annotations: Path, watch: Watch, outcome: Outcome | None = None
) -> Measured:
    spent: list[float] = []
    pace = _pace(model)
    if pace * len(read_annotations(annotations).images) > PATIENCE:
        return Measured(target, precision, 1e3 * pace, outcome=outcome)

    def run(image: Image) -> Result:
        result = model.predict(image, score=SCORE_THRESHOLD)
        if result.timings is not None:
            spent.append(result.timings.inference)
        return result

    metrics = evaluate(run, annotations, None, _told(watch, f"{target} {precision}"))
    if not spent:
        raise EngineError("nothing was timed")
    return Measured(target, precision, float(np.median(spent)), metrics.map, metrics.map50, outcome)


def _open(bundle: Bundle) -> Model[Result]:
    """A bundle, opened by what proves it here."""
    return load(bundle, unit=proof_device(bundle.manifest.engine, bundle.manifest.graphs[0]))


def _pace(model: Model[Result]) -> float:
    """Seconds that one image takes, once warm."""
    start = time.perf_counter()
    model.warm_up()
    return time.perf_counter() - start


def _told(watch: Watch, what: str) -> Callable[[int, int], None]:
    return lambda done, total: watch(what, "measuring mAP", done / max(total, 1))


def _draw(outcomes: list[Outcome], path: Path, columns: int = 5, size: int = 512) -> None:
    """A contact sheet: one scene per bundle, with the boxes that this bundle found and its name above."""
    import cv2

    from edgekit.shapes import scene

    tiles = []
    for index, outcome in enumerate(outcomes):
        if outcome.bundle is None:
            continue
        image = scene(EVALUATION_SEEDS[index], (size, size)).image
        drawn = _open(outcome.bundle).predict(image).draw(image)
        band = np.full((36, size, 3), 32, np.uint8)
        text = f"{outcome.target} {outcome.precision}"
        cv2.putText(band, text, (10, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(np.vstack([band, drawn]))
    if not tiles:
        return
    columns = min(columns, len(tiles))
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])
    if not cv2.imwrite(str(path), sheet):
        raise InputError(f"{path}: cannot be written; free space or choose another -o")
