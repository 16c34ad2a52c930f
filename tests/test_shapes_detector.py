"""The detector that edgekit ships: shapes of its outputs, its weights, and that it finds what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgekit.errors import SourceError
from edgekit.shapes import CLASSES, SceneOptions, scene

torch = pytest.importorskip("torch")
detector = pytest.importorskip("edgekit.shapes.detector")

HELD_OUT = range(500_000, 500_012)
GRIDS = (32, 16, 8)


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    torch.set_num_threads(1)
    return detector.demo_detector()


def find(model: torch.nn.Module, image: npt.NDArray[np.uint8], least: float = 0.4) -> list[tuple[int, float, list]]:
    """Decode and suppress without edgekit's decoder: DFL as an expectation over bins, greedy NMS within a class."""
    pixels = torch.from_numpy(image[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 255)
    with torch.no_grad():
        outputs = [output.numpy()[0] for output in model(pixels)]
    found = []
    for index, stride in enumerate((8, 16, 32)):
        boxes, scores = outputs[2 * index], 1 / (1 + np.exp(-outputs[2 * index + 1]))
        for class_id, row, column in zip(*np.nonzero(scores >= least), strict=True):
            logits = boxes[:, row, column].reshape(4, 16)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            left, top, right, bottom = (weights @ np.arange(16)) / weights.sum(1) * stride
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            found.append(
                (int(class_id), float(scores[class_id, row, column]), [x - left, y - top, x + right, y + bottom])
            )
    kept: list[tuple[int, float, list]] = []
    for item in sorted(found, key=lambda one: -one[1]):
        if all(item[0] != other[0] or iou(item[2], other[2]) < 0.5 for other in kept):
            kept.append(item)
    return kept


def iou(a: list, b: npt.NDArray[np.float32] | list) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def test_six_raw_outputs_in_order(trained: torch.nn.Module) -> None:
    assert not trained.training
    with torch.no_grad():
        outputs = trained(torch.zeros(1, 3, 256, 256))
    assert isinstance(outputs, tuple)
    expected = [(1, depth, side, side) for side in GRIDS for depth in (64, len(CLASSES))]
    assert [tuple(output.shape) for output in outputs] == expected


def test_it_is_small_and_depthwise(trained: torch.nn.Module) -> None:
    assert sum(value.numel() for value in trained.parameters()) <= 500_000
    assert detector.WEIGHTS.stat().st_size <= 2_000_000
    convolutions = [layer for layer in trained.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert sum(layer.groups > 1 for layer in convolutions) >= 20
    assert any(isinstance(layer, torch.nn.SiLU) for layer in trained.modules())


def test_it_finds_the_shapes_of_scenes_it_never_saw(trained: torch.nn.Module) -> None:
    wanted = hit = extra = 0
    for seed in HELD_OUT:
        drawn = scene(seed)
        found = find(trained, drawn.image)
        for item in drawn.objects:
            wanted += 1
            hit += any(kind == item.class_id and iou(box, item.box) >= 0.75 for kind, _, box in found)
        extra += sum(
            all(kind != item.class_id or iou(box, item.box) < 0.5 for item in drawn.objects) for kind, _, box in found
        )
    assert wanted > 25
    assert hit / wanted >= 0.85
    assert extra / wanted <= 0.15


def test_it_finds_nothing_where_nothing_is(trained: torch.nn.Module) -> None:
    empty = SceneOptions(min_objects=0, max_objects=0)
    assert sum(len(find(trained, scene(seed, options=empty).image)) for seed in HELD_OUT) <= 3


def test_the_torch_decoder_agrees_with_the_test_s(trained: torch.nn.Module) -> None:
    image = scene(500_001).image
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        boxes, scores = detector.decode(trained(pixels))
    assert boxes.shape == (1, 1344, 4)
    assert scores.shape == (1, 1344, len(CLASSES))
    best = find(trained, image)[0]
    anchor = int(scores[0].max(1).values.argmax())
    assert int(scores[0, anchor].argmax()) == best[0]
    assert np.allclose(boxes[0, anchor].numpy(), best[2], atol=1e-3)


def test_it_exports_with_its_outputs_unchanged(trained: torch.nn.Module) -> None:
    sample = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trained(sample)
        exported = torch.export.export(trained, (sample,)).module()(sample)
        traced = torch.jit.trace(trained, (sample,))(sample)
    for one, two, three in zip(expected, exported, traced, strict=True):
        assert torch.allclose(one, two, atol=1e-4)
        assert torch.allclose(one, three, atol=1e-4)


def test_missing_or_unfitting_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr(detector, "WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(SourceError, match=r"gone\.safetensors is missing"):
        detector.demo_detector()
    save_file({"other": torch.zeros(1)}, tmp_path / "gone.safetensors")
    with pytest.raises(SourceError, match="does not fit the network"):
        detector.demo_detector()
