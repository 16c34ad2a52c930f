"""The demonstration: a trained detector of shapes converted, measured on held-out scenes and drawn, and a small BLIP-2
asked about one of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arrays import Image
from edgekit.conversion.bundle_builder import Outcome
from edgekit.conversion.convert import Conversions, convert
from edgekit.conversion.request import Request
from edgekit.emulators import proof_device
from edgekit.errors import EngineError, InputError
from edgekit.evaluation.coco import SCORE_THRESHOLD, evaluate, read_annotations
from edgekit.progress import Progress
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.model import Model, load
from edgekit.runtimes.results import Result
from edgekit.shapes import write_coco
from edgekit.shapes.trained import SOURCE, detector

CALIBRATION_SEEDS = range(100_000, 100_080)
EVALUATION_SEEDS = range(200_000, 300_000)
TALKED = 40
"""Scenes that the BLIP-2 is calibrated and compared on."""
DESCRIBED_SEED = 500_060
"""A scene that it has not seen, and that is none of those."""

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
class Described:
    """The texts of the BLIP-2 bundle for one held-out scene; ``picture`` shows the scene with them."""

    bundle: Bundle
    caption: str
    question: str
    answer: str
    picture: Path


@dataclass(frozen=True)
class Demonstration:
    """All results of the demonstration: the float source first, then every target.

    ``described`` is None where no BLIP-2 was asked for, or where its conversion failed (see ``conversions``).
    """

    conversions: tuple[Conversions, ...]
    measured: tuple[Measured, ...]
    scenes: int
    picture: Path
    described: Described | None = None

    @property
    def ok(self) -> bool:
        """Whether every bundle that was asked for is there and proven."""
        return all(conversions.ok for conversions in self.conversions)


def demonstrate(
    out: Path,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    scenes: int,
    jobs: int,
    progress: Progress,
    blip2: Path | None = None,
) -> Demonstration:
    """Convert, measure and draw.

    Args:
        out: folder for the bundles, the scenes and the picture.
        targets: names, or ("all",).
        precisions: of each target.
        scenes: how many held-out scenes to measure on; none of them was used to train, calibrate or prove.
        jobs: targets built at once.
        progress: called as it goes on.
        blip2: folder of a BLIP-2 that was trained on shapes; converted to onnx in int4 and asked about a scene.
    """
    progress("scenes", "drawing", 0.0)
    calibration = write_coco(out / "calibration", CALIBRATION_SEEDS).parent
    annotations = write_coco(out / "scenes", EVALUATION_SEEDS[:scenes])
    progress("scenes", "drawn", 1.0)
    conversions = convert(
        Request(
            source=SOURCE,
            targets=targets,
            precisions=precisions,
            out=out,
            data=str(calibration / "*.png"),
            name="shapes",
            jobs=jobs,
        ),
        progress,
    )
    made = [outcome for outcome in conversions.outcomes if outcome.bundle is not None]
    measured = [_measure("torch", "fp32", _source(), annotations, _part(progress, 0, len(made) + 1))]
    for number, outcome in enumerate(made, 1):
        if outcome.bundle is not None:
            told = _part(progress, number, len(made) + 1)
            model = _open(outcome.bundle)
            measured.append(_measure(outcome.target, outcome.precision, model, annotations, told, outcome))
    picture = out / "shapes.png"
    # The last precision of each target is the one that asks most of it.
    last = {outcome.target: outcome for outcome in conversions.outcomes if outcome.bundle}
    _draw(list(last.values()), picture)
    if blip2 is None:
        return Demonstration((conversions,), tuple(measured), scenes, picture)
    talked = _convert_blip2(blip2, out, progress)
    bundle = next((outcome.bundle for outcome in talked.outcomes if outcome.bundle), None)
    described = _describe(bundle, out / "blip2.png") if bundle else None
    return Demonstration((conversions, talked), tuple(measured), scenes, picture, described)


def _convert_blip2(source: Path, out: Path, progress: Progress) -> Conversions:
    from edgekit.shapes.talk_dataset import write_talk

    data = write_talk(out / "talk", TALKED).parent
    request = Request(
        source=str(source), targets=("onnx",), precisions=("int4",), out=out, data=str(data), name="blip2"
    )
    return convert(request, lambda what, text, share: progress(f"blip2 {what}", text, share))


def _describe(bundle: Bundle, picture: Path) -> Described:
    """Caption a held-out scene, ask about it, and draw the scene with both texts beside it."""
    from edgekit.runtimes.language.vision_language import open_vision_language
    from edgekit.shapes.talk import balanced, talked

    given = talked(DESCRIBED_SEED)
    model = open_vision_language(bundle)
    question = balanced(given)[0].text
    caption, answer = str(model.caption(given.scene.image)), str(model.ask(given.scene.image, question))
    _draw_texts(given.scene.image, [caption, f"{question} {answer}"], picture)
    return Described(bundle, caption, question, answer, picture)


def _draw_texts(image: Image, texts: list[str], path: Path, scale: int = 4, columns: int = 30, line: int = 28) -> None:
    """An image, enlarged, with texts on white to the right of it."""
    import textwrap

    import cv2

    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    page = np.full((large.shape[0], 16 * columns, 3), 255, np.uint8)
    row = 2 * line
    for text in texts:
        for words in textwrap.wrap(text, columns):
            cv2.putText(page, words, (20, row), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 40, 40), 1, cv2.LINE_AA)
            row += line
        row += line
    if not cv2.imwrite(str(path), np.hstack([np.asarray(large, np.uint8), page])):
        raise InputError(f"{path}: cannot be written; free space or choose another -o")


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
    target: str,
    precision: str,
    model: Model[Result],
    annotations: Path,
    progress: Progress,
    outcome: Outcome | None = None,
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

    metrics = evaluate(
        run, annotations, None, lambda done, of: progress("mAP", f"{target} {precision}", done / max(of, 1))
    )
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


def _part(progress: Progress, number: int, total: int) -> Progress:
    """Progress of one of several equal parts."""
    return lambda what, text, share: progress(what, text, (number + share) / total)


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
