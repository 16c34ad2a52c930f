"""The network of poses, masks and labels that edgekit ships: its outputs, its weights, and what it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import SourceError
from edgekit.shapes import CLASSES, KEYPOINTS, scene
from edgekit.shapes.trained import classify, of_tasks, pose, segment

pytest.importorskip("torch", reason="the networks are torch modules (extra 'convert')")

import torch
from detectors.scores import held_out, main_figures, opened_source

from edgekit.runtimes.model import Model
from edgekit.shapes import tasks
from edgekit.sources.session import TorchSession

SCENES = 40
SOURCES = {name: f"edgekit.shapes.trained:{name}" for name in ("pose", "segment", "classify")}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return held_out(tmp_path_factory.mktemp("scenes"), SCENES)


def test_outputs_in_the_order_of_the_contract() -> None:
    blank = torch.zeros(1, 3, 256, 256)
    grids = (32, 16, 8)
    with torch.no_grad():
        shapes = {build: [tuple(one.shape) for one in build()(blank)] for build in (pose, segment)}
        (labels,) = classify()(blank)
    sides = [(64, len(CLASSES), 3 * len(KEYPOINTS)), (64, len(CLASSES), tasks.PROTOTYPES)]
    for build, depths in zip((pose, segment), sides, strict=True):
        assert shapes[build][:9] == [(1, depth, side, side) for side in grids for depth in depths]
    assert shapes[segment][9:] == [(1, tasks.PROTOTYPES, 64, 64)]
    assert labels.shape == (len(CLASSES),)


def test_it_is_small() -> None:
    assert tasks.WEIGHTS.stat().st_size <= 2_000_000
    assert sum(value.numel() for value in tasks.trained_tasks().parameters()) <= 700_000


LEAST = {
    "pose": {"OKS mAP": 0.5, "mAP": 0.85},
    "segment": {"mask mAP": 0.8, "mAP": 0.85},
    "classify": {"label mAP": 0.95},
}


@pytest.mark.parametrize("task", SOURCES)
def test_it_sees_what_is_in_scenes_it_never_saw(task: str, scenes: Path) -> None:
    found = main_figures(opened_source(SOURCES[task]), scenes)
    assert found.keys() == LEAST[task].keys()
    assert all(found[name] >= least for name, least in LEAST[task].items()), found


@pytest.mark.parametrize("task", SOURCES)
def test_without_its_further_heads_training_it_sees_little(task: str, scenes: Path) -> None:
    """Negative control: the figures above are the weights', not the measure's."""
    torch.manual_seed(0)
    blank = tasks.ShapesTasks()
    blank.detector.load_state_dict(tasks.trained_tasks().detector.state_dict())
    network = of_tasks(task, blank.eval())  # type: ignore[arg-type]
    found = main_figures(Model(network.contract, TorchSession(network)), scenes)
    name = next(iter(LEAST[task]))
    assert found[name] < 0.6 * LEAST[task][name]


def test_a_square_turned_is_told_from_one_that_is_not() -> None:
    """Keypoints follow the turn of a shape that looks the same four times over, but for the dot below its top."""
    model = opened_source(SOURCES["pose"])
    errors = []
    for seed in range(500_000, 500_060):
        drawn = scene(seed)
        found = model.predict(drawn.image, score=0.5)
        for item in drawn.objects:
            if item.name != "square" or item.visibility < 0.95 or (item.keypoints[:, 2] < 2).any() or not len(found):
                continue
            nearest = int(np.abs(found.boxes - item.box).sum(1).argmin())  # type: ignore[attr-defined]
            points = found.keypoints[nearest, :, :2]  # type: ignore[attr-defined]
            size = np.sqrt(np.prod(item.box[2:] - item.box[:2]))
            errors.append(float(np.linalg.norm(points - item.keypoints[:, :2], axis=1).max() / size))
    assert len(errors) >= 10
    assert np.median(errors) < 0.15, sorted(errors)


def test_missing_or_unfitting_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr(tasks, "WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(SourceError, match=r"gone\.safetensors is missing"):
        pose()
    save_file({"other": torch.zeros(1)}, tmp_path / "gone.safetensors")
    with pytest.raises(SourceError, match="does not fit the network"):
        classify()
