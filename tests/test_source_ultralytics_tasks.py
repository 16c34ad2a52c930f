"""ultralytics pose, segment and classify checkpoints: raw heads, decoded by edgekit, are what ultralytics returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_source_ultralytics import SIZE, image, save, seeded, tasks

from edgekit.errors import SourceError
from edgekit.runtimes.inputs.images import ImageRule, transform
from edgekit.runtimes.results import Classification, Instances, Poses
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.skeletons import COCO
from edgekit.sources import SourceRequest, TrainedModel
from edgekit.sources import ultralytics as source

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

pytestmark = pytest.mark.ultralytics

__all__ = ["tasks"]  # the fixture, which pytest finds by its name in this module

MODELS = {
    "yolov8n-pose": "PoseModel",
    "yolo11n-pose": "PoseModel",
    "yolo26n-pose": "PoseModel",
    "yolov8n-seg": "SegmentationModel",
    "yolo11n-seg": "SegmentationModel",
    "yolo26n-seg": "SegmentationModel",
    "yolov8n-obb": "OBBModel",
    "yolo11n-obb": "OBBModel",
    "yolo26n-obb": "OBBModel",
    "yolov8n-cls": "ClassificationModel",
    "yolo11n-cls": "ClassificationModel",
    "yolo26n-cls": "ClassificationModel",
}


@pytest.fixture(scope="session")
def loaded(tasks: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedModel]:
    folder = tmp_path_factory.mktemp("task-checkpoints")
    models = {}
    for name, kind in MODELS.items():
        path = save(seeded(getattr(tasks, kind)(f"{name}.yaml", verbose=False)), folder / f"{name}.pt")
        models[name] = source.load(SourceRequest(str(path), size=None if name.endswith("cls") else SIZE))
    return models


def decoded(model: TrainedModel) -> tuple[Any, Any, list[Any], list[Any]]:
    """The tasks of the raw heads and of the model as it was given, and the outputs of both."""
    import msgspec

    assert model.contract is not None
    assert model.uncut is not None
    assert model.heads is not None
    tensor = image(model.contract.image.size)
    with torch.no_grad():
        raw = [output.numpy() for output in model.heads(tensor)]
        whole = model.module(tensor)
    given = [output.numpy() for output in (whole if isinstance(whole, tuple) else (whole,))]
    uncut = msgspec.structs.replace(model.contract, decoder=model.uncut.decoder, outputs=model.uncut.outputs)
    return open_task(model.contract), open_task(uncut), raw, given


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith(("pose", "seg"))])
def test_every_anchor_has_the_keypoints_or_coefficients_of_ultralytics(
    name: str, loaded: dict[str, TrainedModel]
) -> None:
    task, whole, raw, given = decoded(loaded[name])
    ours, theirs = task.candidates(raw, -1.0), whole.candidates(given, -1.0)
    if "26" in name:  # the graph has chosen its best itself: find the same ones by their boxes
        assert not loaded[name].contract.postprocess.nms  # type: ignore[union-attr]
        away = np.abs(theirs.boxes[:100, None] - ours.boxes[None]).max(2)
        same = np.flatnonzero((away.min(1) < 1e-2) & (theirs.scores[:100] >= ours.scores[away.argmin(1)] - 1e-6))
        assert len(same) > 10
        ours, theirs = ours[away.argmin(1)[same]], theirs[same]
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=2e-2)
    attached = task.with_attached(raw, ours).attached
    assert attached.shape[1:] == ((17, 3) if "pose" in name else (32,))
    np.testing.assert_allclose(attached, whole.with_attached(given, theirs).attached, atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("obb")])
def test_every_anchor_has_the_oriented_box_of_ultralytics(name: str, loaded: dict[str, TrainedModel]) -> None:
    task, whole, raw, given = decoded(loaded[name])
    ours, theirs = task.candidates(raw, -1.0), whole.candidates(given, -1.0)
    if "26" in name:  # the graph has chosen its best itself: find the same ones by their boxes
        away = np.abs(theirs.attached[:100, None, :4] - ours.attached[None, :, :4]).max(2)
        same = np.flatnonzero((away.min(1) < 1e-2) & (theirs.scores[:100] >= ours.scores[away.argmin(1)] - 1e-6))
        assert len(same) > 10
        ours, theirs = ours[away.argmin(1)[same]], theirs[same]
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    np.testing.assert_allclose(ours.attached, theirs.attached, atol=2e-2)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=5e-2)
    assert np.ptp(ours.attached[:, 4]) > 0


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo11n-seg"])
def test_masks_are_those_of_ultralytics(name: str, loaded: dict[str, TrainedModel]) -> None:
    """Against `process_mask_native`: masks upsampled to the photograph, then cut to their boxes."""
    from ultralytics.utils.ops import process_mask_native  # type: ignore[attr-defined]

    task, _, raw, _ = decoded(loaded[name])
    random = np.random.default_rng(1)  # an untrained network's masks are empty
    raw = [
        random.normal(size=output.shape).astype(np.float32) if entry.role in ("coefficients", "prototypes") else output
        for entry, output in zip(task.contract.outputs, raw, strict=True)
    ]
    mapping = transform(task.contract.image, 200, 150)  # 128 x 96, letterboxed without a border
    found = task.kept(raw, 0.0, 0.9)[np.arange(20)]
    result = task.result(raw, mapping, score=0.0, iou=0.9)[np.arange(20)]
    assert isinstance(result, Instances)
    prototypes = torch.from_numpy(raw[-1][0])
    theirs = process_mask_native(
        prototypes, torch.from_numpy(found.attached), torch.from_numpy(result.boxes.copy()), (150, 200)
    ).numpy()
    ours = result.masks.bitmaps()
    assert ours.any()
    union = (ours | theirs.astype(bool)).sum()
    same = (ours & theirs.astype(bool)).sum()
    # ultralytics rounds the box to the pixels whose corner is inside; edgekit takes every pixel that it touches.
    assert same / union > 0.95


def test_a_classifier_gives_the_probabilities_of_ultralytics(loaded: dict[str, TrainedModel]) -> None:
    for name in ("yolov8n-cls", "yolo11n-cls", "yolo26n-cls"):
        task, whole, raw, given = decoded(loaded[name])
        size = task.contract.image.size
        assert size == (100, 100), "imgsz of the training: a classifier has no stride to round it to"
        mapping = transform(task.contract.image, 300, 200)
        ours, theirs = task.result(raw, mapping), whole.result(given, mapping)
        assert isinstance(ours, Classification)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
        assert ours.scores.sum() == pytest.approx(1, abs=1e-5)
        assert ours.size == (300, 200)


def test_contracts(loaded: dict[str, TrainedModel]) -> None:
    pose = loaded["yolo11n-pose"].contract
    assert pose is not None
    assert (pose.task, pose.skeleton) == ("pose", COCO)
    assert [output.name for output in pose.outputs[:3]] == ["boxes_0", "classes_0", "keypoints_0"]
    assert loaded["yolo26n-pose"].contract.decoder.options["keypoint_offset"] == 0.5  # type: ignore[union-attr]
    segment = loaded["yolov8n-seg"].contract
    assert segment is not None
    assert segment.outputs[-1].role == "prototypes"
    classify = loaded["yolov8n-cls"].contract
    assert classify is not None
    assert (classify.image.resize, len(classify.classes), classify.skeleton) == ("crop", 1000, None)


def test_poses_are_in_original_pixels(loaded: dict[str, TrainedModel]) -> None:
    task, _, raw, _ = decoded(loaded["yolov8n-pose"])
    rule = ImageRule(size=SIZE)
    small, large = transform(rule, 128, 96), transform(rule, 1280, 960)
    one, ten = (task.result(raw, mapping, score=0.0) for mapping in (small, large))
    assert isinstance(one, Poses)
    np.testing.assert_allclose(ten.keypoints[..., :2], one.keypoints[..., :2] * 10, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(ten.keypoints[..., 2], one.keypoints[..., 2])


def test_other_keypoints_have_numbers_for_names(tasks: Any, tmp_path: Path) -> None:
    model = seeded(tasks.PoseModel("yolov8n-pose.yaml", data_kpt_shape=[4, 2], nc=1, verbose=False))
    loaded = source.load(SourceRequest(str(save(model, tmp_path / "four.pt")), size=SIZE))
    assert loaded.contract is not None
    assert loaded.contract.skeleton is not None
    assert loaded.contract.skeleton.names == ("keypoint_0", "keypoint_1", "keypoint_2", "keypoint_3")
    task, whole, raw, given = decoded(loaded)
    ours = task.with_attached(raw, task.candidates(raw, -1.0)).attached
    np.testing.assert_allclose(ours, whole.with_attached(given, whole.candidates(given, -1.0)).attached, atol=2e-2)
    assert (ours[..., 2] == 1).all()


def test_inconsistent_class_names(tasks: Any, tmp_path: Path) -> None:
    model = tasks.ClassificationModel("yolov8n-cls.yaml", verbose=False)
    model.names = {0: "one"}
    with pytest.raises(SourceError, match="1 class names for 1000 classes"):
        source.load(SourceRequest(str(save(model, tmp_path / "few.pt"))))


@pytest.mark.parametrize("name", ["yolo11n-pose", pytest.param("yolov8n-seg", marks=pytest.mark.nightly)])
def test_the_heads_are_found_in_an_export_too(name: str, loaded: dict[str, TrainedModel], tmp_path: Path) -> None:
    """As a .pt2 that knows nothing of ultralytics, with a contract file: cut by channels, the same raw heads."""
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source, uncut_task

    model = loaded[name]
    pose = name.endswith("pose")
    with torch.no_grad():
        torch.export.save(torch.export.export(model.module, (model.example,)), tmp_path / "model.pt2")
    (tmp_path / "contract.yaml").write_text(
        f"task: {'pose' if pose else 'segment'}\n"
        f"image: {{size: [{SIZE[0]}, {SIZE[1]}]}}\n"
        "classes: coco\n"
        "decoder: {name: anchor_free, strides: [8, 16, 32]}\n" + ("skeleton: coco\n" if pose else "")
    )
    job = PrepareJob(folder="", source=str(tmp_path / "model.pt2"), contract=str(tmp_path / "contract.yaml"))
    read = read_source(job)
    assert read.contract.outputs == model.contract.outputs  # type: ignore[union-attr]
    tensor = image()
    with torch.no_grad():
        for ours, theirs in zip(read.heads(tensor), model.heads(tensor), strict=True):  # type: ignore[misc]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        given = [output.numpy() for output in flat(read.model.module(tensor))]
        raw = [output.numpy() for output in read.heads(tensor)]
    whole = uncut_task(read.model, read.contract)
    assert whole is not None
    task = open_task(read.contract)
    ours, theirs = task.candidates(raw, -1.0), whole.candidates(given, -1.0)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=2e-2)
    one, other = (
        opened.with_attached(outputs, found).attached
        for opened, outputs, found in ((task, raw, ours), (whole, given, theirs))
    )  # type: ignore[attr-defined]
    np.testing.assert_allclose(one, other, atol=2e-2, rtol=1e-4)


def flat(outputs: Any) -> list[Any]:
    return [one for output in outputs for one in flat(output)] if isinstance(outputs, (tuple, list)) else [outputs]
