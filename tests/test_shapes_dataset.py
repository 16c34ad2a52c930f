"""The COCO folder, read back by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import InputError
from edgekit.shapes import (
    CLASSES,
    KEYPOINTS,
    captions,
    coco_dataset,
    moving_scene,
    questions,
    scene,
    write_coco,
    write_scenes,
)
from edgekit.shapes.dataset import run_lengths

SEEDS = (3, 4, 5, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shapes")
    assert write_coco(path, SEEDS) == path / "annotations.json"
    return path


def test_pycocotools_reads_boxes_masks_and_keypoints(folder: Path) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "annotations.json"))
    assert [coco.cats[index]["name"] for index in sorted(coco.cats)] == list(CLASSES)
    assert coco.cats[0]["keypoints"] == list(KEYPOINTS)
    for seed, image_id in zip(SEEDS, coco.getImgIds(), strict=True):
        drawn, record = scene(seed), coco.imgs[image_id]
        pixels = cv2.imread(str(folder / record["file_name"]))
        assert np.array_equal(pixels, drawn.image)
        assert record["captions"] == captions(drawn)
        asked = [(one["question"], one["answer"], one["kind"]) for one in record["questions"]]
        assert asked == [(one.text, one.answer, one.kind) for one in questions(drawn)]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(drawn.objects)
        for annotation, item in zip(annotations, drawn.objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), item.mask)
            x, y, width, height = annotation["bbox"]
            assert np.allclose([x, y, x + width, y + height], item.box, atol=0.002)
            assert annotation["area"] == item.mask.sum()
            assert annotation["iscrowd"] == 0
            assert annotation["category_id"] == item.class_id
            assert np.allclose(np.reshape(annotation["keypoints"], (-1, 3)), item.keypoints, atol=0.001)
            assert annotation["num_keypoints"] == (item.keypoints[:, 2] > 0).sum()


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_the_truth_scores_one_against_itself(folder: Path, kind: str) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(folder / "annotations.json"))
    results = [{**annotation, "score": 1.0} for annotation in truth.dataset["annotations"]]
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    if kind == "keypoints":
        evaluation.params.kpt_oks_sigmas = np.full(len(KEYPOINTS), 0.05)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(deadline=None)
def test_run_lengths_are_read_back_by_pycocotools(mask: npt.NDArray[np.bool_]) -> None:
    from pycocotools import mask as coding

    encoded = run_lengths(mask)
    height, width = mask.shape
    assert sum(encoded["counts"]) == mask.size
    assert np.array_equal(coding.decode(coding.frPyObjects(encoded, height, width)).astype(bool), mask)


def test_objects_hardly_seen_are_crowds() -> None:
    moving = moving_scene(0, frames=40)
    dataset = coco_dataset(((f"{found.frame}.png", found) for found in moving), min_visibility=0.4)
    crowds = [bool(annotation["iscrowd"]) for annotation in dataset["annotations"]]
    assert crowds == [item.visibility < 0.4 for found in moving for item in found.objects]
    assert any(crowds)
    assert not all(crowds)


def test_frames_of_a_moving_scene_are_written(tmp_path: Path) -> None:
    moving = moving_scene(1, frames=3)
    path = write_scenes(tmp_path / "new" / "clip", ((f"{found.frame:04d}.png", found) for found in moving))
    dataset = json.loads(path.read_text(encoding="utf-8"))
    assert [image["file_name"] for image in dataset["images"]] == ["0000.png", "0001.png", "0002.png"]
    tracks = [annotation["track_id"] for annotation in dataset["annotations"]]
    assert tracks == [item.track_id for found in moving for item in found.objects]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "0000.png", "0001.png", "0002.png", "annotations.json",
    ]  # fmt: skip


def test_an_image_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*missing.*1\.png"):
        write_scenes(tmp_path, [("missing/1.png", scene(0))])
    assert not (tmp_path / "annotations.json").exists()
