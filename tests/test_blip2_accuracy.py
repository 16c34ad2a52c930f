"""What integers cost the trained BLIP-2 models of the examples, on held-out scenes: bundles beside their source."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("transformers", reason="needs the extra 'convert'")
pytest.importorskip("pycocoevalcap", reason="needs the extra 'captions'")

from edgekit.conversion.convert import Conversion, convert
from edgekit.evaluation.described import DescribedImage, read_described
from edgekit.evaluation.vision_language import evaluate
from edgekit.runtimes.load import load
from edgekit.shapes.talk import FIRST_EVALUATION_SEED
from edgekit.shapes.talk_dataset import write_talk
from edgekit.sources.blip2.reference import open_source

MODELS = Path(__file__).parents[1] / "examples" / "blip2"
SCENES = 100
TARGETS = ("onnx", "openvino")

pytestmark = [pytest.mark.convert, pytest.mark.nightly]


class Scenes(NamedTuple):
    photos: Path
    held_out: list[DescribedImage]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    root = tmp_path_factory.mktemp("talk")
    photos = write_talk(root / "calibration", 60, FIRST_EVALUATION_SEED + 50_000).parent
    return Scenes(photos, list(read_described(write_talk(root / "scenes", SCENES))))


def figures(model: object, data: list[DescribedImage]) -> dict[str, float]:
    report = evaluate(model, data).report  # type: ignore[arg-type]
    return {name: value for metrics in report for name, value in metrics.figures.items()}


def bundles(kind: str, target: str, precisions: tuple[str, ...], scenes: Scenes, out: Path) -> dict[str, Path]:
    """Proven bundles by precision."""
    source = str(MODELS / kind)
    made = convert(
        Conversion(source=source, targets=(target,), precisions=precisions, out=out, data=str(scenes.photos))
    )
    assert made.ok, [str(outcome.error) for outcome in made.outcomes if outcome.error]
    return {outcome.precision: outcome.path for outcome in made.outcomes}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_answers_survive_integers(kind: str, target: str, scenes: Scenes, tmp_path: Path) -> None:
    source = figures(open_source(MODELS / kind, threads=1), scenes.held_out)
    assert source["VQA accuracy"] >= 0.83  # .85 on 300 scenes
    assert source["CIDEr"] > 3
    made = bundles(kind, target, ("int8", "int4"), scenes, tmp_path)
    int8, int4 = (figures(load(made[precision], threads=1), scenes.held_out) for precision in ("int8", "int4"))
    assert int8["VQA accuracy"] >= source["VQA accuracy"] - 0.01
    assert int4["VQA accuracy"] >= source["VQA accuracy"] - 0.03


@pytest.mark.parametrize("target", TARGETS)
def test_images_are_found_with_integers(target: str, scenes: Scenes, tmp_path: Path) -> None:
    made = bundles("retrieval", target, ("int8",), scenes, tmp_path)
    found = figures(load(made["int8"], threads=1), scenes.held_out)
    assert found["R@1"] >= 0.8
    assert found["ITM"] >= 0.9
