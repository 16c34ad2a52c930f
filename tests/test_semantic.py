"""Semantic segmentation: label maps against a plain computation, their files, their agreement and their mIoU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.arrays import Floats
from edgekit.errors import ContractError, EngineError, InputError, UsageError
from edgekit.evaluation.agreement import GATES, Tally, judge, quality
from edgekit.evaluation.labelled import evaluate
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.inputs.label_maps import read_label_map
from edgekit.runtimes.results import Classification, LabelMap
from edgekit.runtimes.tasks import open_task

Picture = pytest.importorskip("PIL.Image", reason="Pillow writes the palettes")

SIZE, CELLS = (64, 96), 8
"""Input (height, width), and pixels to a cell."""
CLASSES = ("background", "road", "sky")


def contract(classes: tuple[str, ...] = CLASSES, rule: dict[str, Any] | None = None, **options: Any) -> Contract:
    return Contract(
        task="semantic",
        image=ImageRule(size=SIZE, **(rule or {})),
        classes=classes,
        decoder=Decoder(name="semantic", options=options),
        outputs=(Output(name="logits", role="logits"),),
    )


def logits(seed: int, channels: int = len(CLASSES)) -> list[Floats]:
    coarse = np.random.default_rng(seed).normal(0, 2, (1, channels, SIZE[0] // CELLS, SIZE[1] // CELLS))
    return [coarse.astype(np.float32)]


# --- decoding ---


def plainly(planes: Floats, mapping: Any) -> Any:
    """The largest logit of every pixel by itself, and how far ahead it is, from the four cells round it."""
    rows, columns = planes.shape[1:]
    found = np.zeros((mapping.height, mapping.width), int)
    ahead = np.zeros(found.shape)
    for y, x in np.ndindex(found.shape):
        cell_x = ((x + 0.5) * mapping.scale_x + mapping.offset_x) / CELLS - 0.5
        cell_y = ((y + 0.5) * mapping.scale_y + mapping.offset_y) / CELLS - 0.5
        left, top = int(np.floor(cell_x)), int(np.floor(cell_y))
        total = np.zeros(len(planes))
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            share = (1 - abs(cell_x - column)) * (1 - abs(cell_y - row))
            total += share * planes[:, min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
        order = np.sort(total)
        found[y, x], ahead[y, x] = total.argmax(), order[-1] - order[-2]
    return found, ahead


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([(96, 64), (192, 128), (70, 64), (120, 50)]),
    st.sampled_from([{}, {"align": "corner"}, {"resize": "stretch"}]),
)
def test_label_maps_are_those_of_a_plain_computation(seed: int, size: tuple[int, int], rule: dict[str, Any]) -> None:
    """Where the two best classes are near each other, the second interpolation may decide otherwise."""
    task = open_task(contract(rule=rule))
    raw, mapping = logits(seed), transform(task.contract.image, *size)
    result = task.result(raw, mapping)
    assert isinstance(result, LabelMap)
    assert (result.labels.shape, result.labels.dtype) == ((size[1], size[0]), np.uint8)
    wanted, ahead = plainly(raw[0][0], mapping)
    clear = ahead > 0.6
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(result.labels[clear], wanted[clear])


def test_one_channel_is_a_class_beside_the_background() -> None:
    task = open_task(contract(("background", "road"), score="sigmoid"))
    raw = logits(3, channels=1)
    result = task.result(raw, transform(task.contract.image, 96, 64))
    fine = cv2.resize(raw[0][0, 0], SIZE[::-1])
    np.testing.assert_array_equal(result.labels, fine > 0)
    found = task.candidates(raw, 0.0)
    assert found.class_ids.tolist() == [0, 1]
    probability = 1 / (1 + np.exp(-raw[0][0, 0]))
    np.testing.assert_allclose(found.scores[1], probability[probability > 0.5].mean(), rtol=1e-5)


def test_candidates_are_the_regions_of_classes() -> None:
    task = open_task(contract())
    raw = logits(5)
    found = task.candidates(raw, 0.0)
    labels = raw[0][0].argmax(0)
    assert found.class_ids.tolist() == np.unique(labels).tolist()
    assert found.attached is not None
    for class_id, mask in zip(found.class_ids.tolist(), found.attached, strict=True):
        np.testing.assert_array_equal(mask, labels == class_id)
    tiny = np.zeros((1, 2, 64, 64), np.float32)
    tiny[0, 0], tiny[0, 1, 0, :2] = 5.0, 10.0  # two of 4096 cells: a quarter of SMALL
    scores = open_task(contract(("a", "b"))).candidates([tiny], 0.0).scores
    np.testing.assert_allclose(scores, (0.993307, 0.25 * 0.976562 * 0.993307), atol=2e-3)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (np.zeros((1, 4, 8, 12), np.float32), r"\(1, 4, 8, 12\) where \(1, 3, rows, columns\) is needed"),
        (np.zeros((1, 8, 12, 3), np.float32), r"where \(1, 3, rows, columns\)"),
    ],
)
def test_logits_of_another_shape(raw: Floats, problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        open_task(contract()).candidates([raw], 0.5)


def test_no_numbers() -> None:
    raw = logits(1)
    raw[0][0, 0, 0, 0] = np.nan
    with pytest.raises(EngineError, match="NaN or infinite"):
        open_task(contract()).result(raw, transform(ImageRule(size=SIZE), 96, 64))


def test_contracts_that_are_refused() -> None:
    with pytest.raises(ContractError, match="must be letterbox or stretch for the task 'semantic', not crop"):
        open_task(contract(rule={"resize": "crop"}))
    with pytest.raises(ContractError, match="decoder 'classes' is not one for the task 'semantic'; valid: semantic"):
        open_task(msgspec.structs.replace(contract(), decoder=Decoder(name="classes")))


# --- the result ---


def label_map(seed: int = 0, classes: tuple[str, ...] = CLASSES, size: tuple[int, int] = (31, 17)) -> LabelMap:
    labels = np.random.default_rng(seed).integers(0, len(classes), size[::-1])
    labels[5:12, 4:20] = len(classes) - 1
    return LabelMap(labels=labels, classes=classes, size=size, source="street.jpg")


def test_what_it_says() -> None:
    labels = np.zeros((2, 4), int)
    labels[:, 3] = 2
    result = LabelMap(labels=labels, classes=CLASSES, size=(4, 2), source="a.jpg")
    assert result.shares == {"background": 0.75, "sky": 0.25}
    assert repr(result) == "a.jpg: background 75%, sky 25%"
    np.testing.assert_array_equal(result.mask("sky"), labels == 2)
    assert not result.mask("road").any()
    with pytest.raises(UsageError, match="class 'tree' is not one of: background, road, sky"):
        result.mask("tree")
    assert edgekit.LabelMap is LabelMap


@pytest.mark.parametrize("classes", [CLASSES, tuple(f"class {number}" for number in range(300))])
def test_written_and_read_back(classes: tuple[str, ...], tmp_path: Path) -> None:
    result = label_map(classes=classes)
    assert result.labels.dtype == (np.uint8 if len(classes) < 257 else np.uint16)
    assert LabelMap.from_json(result.to_json()) == result
    assert LabelMap.from_json(result.to_json()) != label_map(1, classes)
    read = LabelMap.from_png(result.to_png(tmp_path / "map.png"), classes)
    np.testing.assert_array_equal(read.labels, result.labels)


def test_documents_that_are_refused() -> None:
    document = label_map().to_dict()
    for change in ({"lengths": [3]}, {"class_ids": []}, {"lengths": "x"}, {"width": 30}):
        with pytest.raises(InputError, match="not a result that edgekit wrote"):
            LabelMap.from_dict(document | change)
    with pytest.raises(InputError, match=r"labels must be class ids 0\.\.2, not 0\.\.9"):
        LabelMap.from_dict(document | {"class_ids": [9, 0], "lengths": [1, 31 * 17 - 1]})


@pytest.mark.parametrize("labels", [np.zeros((2, 3)), np.zeros((3, 2), int), np.full((2, 3), -1), np.full((2, 3), 3)])
def test_labels_that_are_refused(labels: Any) -> None:
    with pytest.raises(UsageError, match="labels must be "):
        LabelMap(labels=labels, classes=CLASSES, size=(3, 2))


def test_drawn() -> None:
    result = label_map(size=(200, 160))
    image = np.full((160, 200, 3), 100, np.uint8)
    plain = result.draw(image, labels=False)
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == len(CLASSES)
    assert (result.draw(image) != plain).any()
    assert (image == 100).all()
    assert (plain[result.mask("background")] == 100).all()
    assert (plain[result.mask("road")] != 100).any()
    np.testing.assert_array_equal(result.draw(image, labels=False, opacity=0), image)
    with pytest.raises(UsageError, match=r"opacity must be 0\.\.1, not 2"):
        result.draw(image, opacity=2)


# --- label maps in files ---


def test_palettes_and_grey_levels(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 4, (9, 11), dtype=np.uint8)
    palette = Picture.fromarray(labels, mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 7, 8, 9])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "small.png", bits=2)
    Picture.fromarray(labels).save(tmp_path / "grey.png")
    for name in ("palette", "small", "grey"):
        np.testing.assert_array_equal(read_label_map(tmp_path / f"{name}.png"), labels, name)
    Picture.fromarray((labels > 1).astype(np.uint8) * 255).convert("1").save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "one.png"), labels > 1)


def test_files_that_are_no_label_maps(tmp_path: Path) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Picture.fromarray(np.stack([labels] * 3, -1)).save(tmp_path / "rgb.png")
    Picture.fromarray(labels).save(tmp_path / "a.jpg")
    twice = Picture.fromarray(labels % 2, mode="P")
    twice.putpalette([1, 1, 1, 1, 1, 1])
    twice.save(tmp_path / "twice.png")
    for name, problem in (
        ("rgb.png", "has colours; a label map has class ids as grey levels or in a palette"),
        ("a.jpg", "a label map is a PNG file: other formats change the labels"),
        ("twice.png", "a colour stands twice in its palette"),
        ("none.png", "no such file"),
    ):
        with pytest.raises(InputError, match=problem):
            read_label_map(tmp_path / name)


# --- agreement with the source ---


def test_equal_runs_agree_and_shifted_ones_do_not() -> None:
    task = open_task(contract())
    tallies = {name: Tally.of(task, 0.5) for name in ("same", "shifted", "one class")}
    first = np.array([9, 0, 0]).reshape(1, 3, 1, 1)
    for seed in range(8):
        smooth = cv2.resize(logits(seed)[0][0].transpose(1, 2, 0), (48, 32)).transpose(2, 0, 1)[None]
        runs = {"same": smooth, "shifted": np.roll(smooth, 12, 3), "one class": smooth + first}
        source = task.suppressed(task.candidates([smooth], 0.15))
        for name, tally in tallies.items():
            tally.add_detections(source, task.suppressed(task.candidates([runs[name].astype(np.float32)], 0.15)))
    same, shifted, one = (tally.agreement() for tally in tallies.values())
    assert (same.matched, same.pixels, same.miou, same.measure) == (1, 1, 1, "region IoU")
    assert quality(same) == 1
    assert not judge(same, (), GATES["fp32"])
    for wrong in (shifted, one):
        assert isinstance(wrong.pixels, float)
        assert wrong.pixels < 0.6
        assert "of all cells have the same class, at least 0.9" in " ".join(judge(wrong, (), GATES["int8"]))
        assert quality(wrong) < 0.2


def test_cells_are_counted_by_hand() -> None:
    task = open_task(contract(("a", "b")))
    source, target = (np.zeros((1, 2, 4, 5), np.float32) for _ in range(2))
    source[0, 1, :, :2], target[0, 1, :, :3] = 9, 9  # 8 of 20 cells are b, and 12 of the target's
    source[0, 0, :, 2:], target[0, 0, :, 3:] = 9, 9
    tally = Tally.of(task, 0.5)
    tally.add_detections(*(task.candidates([one], 0.15) for one in (source, target)))
    agreement = tally.agreement()
    assert agreement.pixels == 16 / 20
    assert agreement.miou == pytest.approx((8 / 12 + 8 / 12) / 2)
    assert agreement.matched_at == {"0.5": 1, "0.75": 0, "0.9": 0, "0.95": 0}


# --- accuracy ---


def dataset(folder: Path, images: str = "images", labels: str = "labels") -> list[Any]:
    """Three grey images whose levels tell their labels, of 3 classes; the top row is not counted."""
    for name in (images, labels):
        (folder / name).mkdir(parents=True, exist_ok=True)
    truth = []
    for number in range(3):
        true = np.random.default_rng(number).integers(0, 2, (12, 16), dtype=np.uint8)
        cv2.imwrite(str(folder / images / f"{number}.bmp"), np.stack([true * 50] * 3, -1))
        true[0] = 255
        cv2.imwrite(str(folder / labels / f"{number}.png"), true)
        truth.append(true)
    return truth


def seeing(image: Any) -> LabelMap:
    """Right, but for the first three columns, which it takes for the third class."""
    labels = image[..., 0] // 50
    labels[:, :3] = 2
    return LabelMap(labels=labels, classes=CLASSES, size=(16, 12))


def test_miou_by_hand(tmp_path: Path) -> None:
    truth = np.stack(dataset(tmp_path))
    found = truth.copy()
    found[..., :3] = 2
    known = truth != 255
    wanted = {}
    for class_id, name in enumerate(CLASSES):
        one, other = (truth == class_id) & known, (found == class_id) & known
        wanted[name] = (one & other).sum() / (one | other).sum()
    (metrics,) = evaluate(seeing, tmp_path)
    assert metrics.per_class == pytest.approx(wanted)
    assert metrics.main == pytest.approx(np.mean(list(wanted.values())))
    assert metrics.figures["pixel accuracy"] == pytest.approx(13 / 16)
    assert metrics.images == 3


def test_places_of_images_and_label_maps(tmp_path: Path) -> None:
    dataset(tmp_path)
    wanted = evaluate(seeing, tmp_path)
    assert evaluate(seeing, tmp_path / "labels") == wanted
    assert evaluate(seeing, tmp_path / "labels", tmp_path / "images") == wanted
    lines = "".join(f"images/{number}.bmp,labels/{number}.png\n" for number in range(3))
    (tmp_path / "maps.csv").write_text(f"image,labels\n{lines}", encoding="utf-8")
    assert evaluate(seeing, tmp_path / "maps.csv") == wanted
    together = tmp_path / "together"
    dataset(together, ".", ".")
    assert evaluate(seeing, together) == wanted


def test_label_maps_that_cannot_be_used(tmp_path: Path) -> None:
    dataset(tmp_path)
    with pytest.raises(InputError, match="has a class for every pixel, and this model gives Classification"):
        evaluate(lambda image: Classification(scores=np.ones(1), classes=("a",), size=(16, 12)), tmp_path)
    with pytest.raises(InputError, match=r"0\.png: 16x12 pixels, but its image has 8x12"):
        evaluate(lambda image: LabelMap(labels=np.zeros((12, 8), int), classes=CLASSES, size=(8, 12)), tmp_path)
    cv2.imwrite(str(tmp_path / "labels" / "0.png"), np.full((12, 16), 7, np.uint8))
    with pytest.raises(InputError, match=r"0\.png: class id 7, but the model has 3 classes \(0 to 2\); 255 is for"):
        evaluate(seeing, tmp_path)
    cv2.imwrite(str(tmp_path / "labels" / "9.png"), np.zeros((12, 16), np.uint8))
    with pytest.raises(InputError, match=r"9\.png: no image of this name in .*images and .*labels; give the folder"):
        evaluate(seeing, tmp_path)
    (tmp_path / "maps.csv").write_text("images/8.bmp,labels/0.png\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"maps\.csv: .*8\.bmp: no such file; paths of images start from"):
        evaluate(seeing, tmp_path / "maps.csv")


def test_other_labels_for_a_model_of_label_maps(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), np.zeros((12, 16, 3), np.uint8))
    with pytest.raises(InputError, match=r"the model gives label maps, which .* does not have; give a folder of PNG"):
        evaluate(seeing, tmp_path)
