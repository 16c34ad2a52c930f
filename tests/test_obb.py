"""The task of oriented boxes: decoding, results, drawing, accuracy and proofs, against formulas written out plainly."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.arrays import Floats
from edgekit.errors import ContractError, InputError
from edgekit.evaluation.agreement import ANGLES, GATES, Tally, judge, quality
from edgekit.evaluation.coco import measure_kinds
from edgekit.evaluation.formats import format_of
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.results import Detections, OrientedBoxes
from edgekit.runtimes.results.oriented import corners_of
from edgekit.runtimes.tasks import open_task
from edgekit.shapes.bars import LONG_CLASSES, long_scene, outline_of, write_long_scenes

SIZE, STRIDES, BINS = (64, 96), (8, 16), 16


def contract(**options: Any) -> Contract:
    outputs = [
        Output(name=f"{role}_{level}", role=role, level=level)
        for level in range(len(STRIDES))
        for role in ("boxes", "classes", "angles")
    ]
    return Contract(
        task="obb",
        image=ImageRule(size=SIZE),
        classes=("ship", "car"),
        decoder=Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": BINS, **options}),
        outputs=tuple(outputs),
    )


def raw(seed: int = 0) -> list[Floats]:
    random = np.random.default_rng(seed)
    shapes = [(1, count, SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES for count in (4 * BINS, 2, 1)]
    return [random.normal(0, 2, shape).astype(np.float32) for shape in shapes]


def plainly(outputs: list[Floats], radians: bool) -> list[list[float]]:
    """Every anchor by itself: distances as expectations, and YOLOv8-obb's formula of the centre and the angle."""
    found = []
    for level, stride in enumerate(STRIDES):
        boxes, _, angles = (one[0] for one in outputs[3 * level : 3 * level + 3])
        for row, column in np.ndindex(boxes.shape[1:]):
            sides = []
            for side in range(4):
                logits = boxes[side * BINS : (side + 1) * BINS, row, column].astype(np.float64)
                weights = np.exp(logits - logits.max())
                sides.append(float((weights * np.arange(BINS)).sum() / weights.sum()))
            value = float(angles[0, row, column])
            angle = value if radians else (1 / (1 + math.exp(-value)) - 0.25) * math.pi
            x, y = (sides[2] - sides[0]) / 2, (sides[3] - sides[1]) / 2
            centre_x = column + 0.5 + x * math.cos(angle) - y * math.sin(angle)
            centre_y = row + 0.5 + x * math.sin(angle) + y * math.cos(angle)
            size = [(sides[0] + sides[2]) * stride, (sides[1] + sides[3]) * stride]
            found.append([centre_x * stride, centre_y * stride, *size, angle])
    return found


@pytest.mark.parametrize("angle", ["sigmoid", "radians"])
def test_every_anchor_is_decoded_as_the_formula_says(angle: str) -> None:
    task, outputs = open_task(contract(angle=angle)), raw()
    found = task.candidates(outputs, -1.0)
    np.testing.assert_allclose(found.attached, plainly(outputs, angle == "radians"), rtol=1e-4, atol=1e-3)
    corners = corners_of(np.asarray(found.attached))
    np.testing.assert_allclose(found.boxes, np.concatenate([corners.min(1), corners.max(1)], 1), atol=1e-3)


def test_the_same_boxes_decoded_by_the_graph() -> None:
    """(1, 4 + classes + 1, anchors) as published files end: centre, size, scores, and the angle behind them."""
    task, outputs = open_task(contract()), raw()
    ours = task.candidates(outputs, -1.0)
    scores = np.concatenate([1 / (1 + np.exp(-one.reshape(2, -1))) for one in outputs[1::3]], 1)
    table = np.concatenate([np.asarray(ours.attached).T[:4], scores, np.asarray(ours.attached).T[4:]])[None]
    options = {"box_format": "xywh", "attached": 1}
    given = msgspec.structs.replace(
        contract(), decoder=Decoder(name="decoded", options=options), outputs=(Output(name="p", role="predictions"),)
    )
    whole = open_task(given).candidates([table.astype(np.float32)], -1.0)
    np.testing.assert_allclose(whole.attached, ours.attached, atol=1e-4)
    np.testing.assert_allclose(whole.scores, ours.scores, atol=1e-6)
    corners = msgspec.structs.replace(given, decoder=Decoder(name="decoded", options={**options, "box_format": "xyxy"}))
    with pytest.raises(ContractError, match="decoded oriented boxes are box_format: xywh with attached: 1"):
        open_task(corners).candidates([table.astype(np.float32)], -1.0)


def test_contracts_that_do_not_fit_are_refused() -> None:
    wide = raw()
    wide[2] = np.repeat(wide[2], 2, 1)
    with pytest.raises(ContractError, match="2 channels of angles, but 1 is needed"):
        open_task(contract()).candidates(wide, -1.0)
    left = [place for place, output in enumerate(contract().outputs) if output.role != "angles"]
    without = msgspec.structs.replace(contract(), outputs=tuple(contract().outputs[place] for place in left))
    with pytest.raises(ContractError, match="no output has the role 'angles'"):
        open_task(without).candidates([raw()[place] for place in left], -1.0)
    grid = msgspec.structs.replace(contract(), decoder=Decoder(name="grid", options={"strides": list(STRIDES)}))
    with pytest.raises(ContractError, match="'grid' is not one for the task 'obb'; valid: anchor_free, decoded"):
        open_task(grid)


# --- results ---


def result(seed: int = 0) -> OrientedBoxes:
    task = open_task(contract())
    found = task.result(raw(seed), transform(ImageRule(size=SIZE), 192, 128), score=0.8)
    assert isinstance(found, OrientedBoxes)
    assert len(found) > 3
    return found


def test_results_are_in_original_pixels_and_written_one_way() -> None:
    task, outputs = open_task(contract()), raw()
    mapping = transform(ImageRule(size=SIZE), 192, 128)  # twice the input
    found = result()
    kept = task.suppressed(task.candidates(outputs, 0.8))
    np.testing.assert_allclose(found.oriented[:, :2], np.asarray(kept.attached)[:, :2] * 2, rtol=1e-4, atol=1e-2)
    assert (found.oriented[:, 2] >= found.oriented[:, 3]).all()
    np.testing.assert_allclose(found.degrees, np.degrees(found.oriented[:, 4]), rtol=1e-6)
    around = np.concatenate([found.corners.min(1), found.corners.max(1)], 1)
    np.testing.assert_allclose(found.boxes, np.clip(around, 0, (192, 128, 192, 128)), atol=1e-2)
    assert mapping.scale_x == 0.5


def test_json_and_coco_and_supervision_lose_nothing() -> None:
    found = result()
    assert OrientedBoxes.from_json(found.to_json()) == found
    first = json.loads(found.to_json())["detections"][0]
    assert np.allclose(first["oriented"], found.oriented[0])
    row = found.to_coco(7)[0]
    assert np.allclose(row["segmentation"], found.corners[0].ravel())
    assert np.allclose(row["oriented"], found.oriented[0])
    assert len(found[:2].oriented) == 2
    assert OrientedBoxes.empty(found.classes, found.size).corners.shape == (0, 4, 2)
    supervision = pytest.importorskip("supervision")
    other = found.to_supervision()
    assert isinstance(other, supervision.Detections)
    np.testing.assert_array_equal(other.data["xyxyxyxy"], found.corners)


def test_drawing_follows_the_sides() -> None:
    box = np.array([[96, 64, 80, 30, math.pi / 4]], np.float32)
    found = OrientedBoxes(
        boxes=[[57, 25, 135, 103]], scores=[0.9], class_ids=[0], classes=("ship", "car"), size=(192, 128), oriented=box
    )
    image = np.zeros((128, 192, 3), np.uint8)
    drawn = found.draw(image, labels=False)
    middle = corners_of(box)[0].mean(0)
    for start, end in zip(corners_of(box)[0], np.roll(corners_of(box)[0], -1, 0), strict=True):
        x, y = ((start + end) / 2).astype(int)
        assert drawn[y - 1 : y + 2, x - 1 : x + 2].any()
    assert not drawn[int(middle[1]), int(middle[0])].any()
    assert not drawn[25:28, 57:60].any(), "no corner of the upright box is drawn"
    assert not image.any()
    assert (found.draw(image) != drawn).any()


# --- proofs ---


def test_evidence_has_the_angle_and_the_gate_bounds_it() -> None:
    """The boxes of a bundle that are all turned by ten degrees overlap enough for INT8; their angle does not pass."""
    task = open_task(contract())
    source = task.candidates(raw(), 0.5)
    source = source[np.arange(min(12, len(source)))]
    long = np.array(source.attached)
    long[:, 2:4] = (60, 25)
    long[:, :2] += np.arange(len(long))[:, None] * 200  # apart from one another
    source = _with(source, long)
    agreements = {}
    for degrees in (0.0, 2.0, 10.0):
        turned = long.copy()
        turned[:, 4] += math.radians(degrees) + math.pi  # half a turn cannot be seen
        tally = Tally.of(task, 0.5)
        tally.add_detections(source, _with(source, turned))
        agreements[degrees] = tally.agreement()
        assert agreements[degrees].angle == pytest.approx(degrees, abs=0.01)
        assert (agreements[degrees].matched, agreements[degrees].measure) == (1, "rotated IoU")
        assert list(agreements[degrees].by_size or {}) == ["medium"]  # 60 x 25, whatever box is around it
    gate = msgspec.structs.replace(GATES["int8"], angle=ANGLES["int8"])
    assert judge(agreements[2.0], (), gate) == ()
    assert judge(agreements[10.0], (), gate) == ("mean angle between boxes 10.00 degrees, at most 5",)
    assert quality(agreements[0.0]) > quality(agreements[10.0])


def _with(found: Any, attached: Floats) -> Any:
    return dataclasses.replace(found, attached=attached)


# --- accuracy ---


def read(labels: Path) -> Any:
    form = format_of(labels)
    assert form is not None
    return form.read(labels, None)


def as_found(seed: int, size: tuple[int, int], turn: float = 0.0) -> OrientedBoxes:
    drawn = long_scene(seed, size)
    boxes = drawn.boxes.copy()
    boxes[:, 4] += turn
    corners = corners_of(boxes)
    return OrientedBoxes(
        boxes=np.concatenate([corners.min(1), corners.max(1)], 1),
        scores=np.linspace(0.9, 0.5, len(boxes)),
        class_ids=drawn.class_ids,
        classes=LONG_CLASSES,
        size=size[::-1],
        oriented=boxes,
    )


def test_accuracy_on_labels_of_coco_and_yolo(tmp_path: Path) -> None:
    """The truth itself has an mAP of 1, boxes that are turned by a right angle find nothing, and both formats agree."""
    size, seeds = (160, 200), range(4)
    file = write_long_scenes(tmp_path / "coco", seeds, size)
    for kind in ("images", "labels"):
        (tmp_path / "yolo" / kind).mkdir(parents=True)
    (tmp_path / "yolo" / "data.yaml").write_text(f"names: {list(LONG_CLASSES)}\nval: images\n")
    for seed in seeds:
        name = f"{seed:08d}"
        (file.parent / f"{name}.png").rename(tmp_path / "yolo" / "images" / f"{name}.png")
        drawn = long_scene(seed, size)
        lines = [
            " ".join(str(one) for one in (class_id, *(outline_of(0, box) / size[::-1]).ravel().round(6)))
            for class_id, box in zip(drawn.class_ids, drawn.boxes.tolist(), strict=True)
        ]
        (tmp_path / "yolo" / "labels" / f"{name}.txt").write_text("\n".join(lines))
    for labels in (file, tmp_path / "yolo"):
        truth = read(labels)
        ids = [image.id for image in truth.images]
        for turn, least, most in ((0.0, 0.999, 1.0), (math.pi, 0.999, 1.0), (math.pi / 2, 0.0, 0.05)):
            found = [(image, as_found(seed, size, turn)) for image, seed in zip(ids, seeds, strict=True)]
            oriented, upright = measure_kinds(truth, found)
            assert least <= oriented.main <= most
            assert (oriented.kind, upright.kind) == ("oriented", "boxes")
            assert next(iter(oriented.figures)) == "oriented mAP"


def test_labels_without_polygons_are_refused(tmp_path: Path) -> None:
    file = write_long_scenes(tmp_path, range(1), (160, 200))
    document = json.loads(file.read_text())
    del document["annotations"][0]["segmentation"]
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="has no single polygon, so oriented boxes cannot be measured; give the four"):
        measure_kinds(read(file), [(1, as_found(0, (160, 200)))])


def test_scenes_of_long_things_repeat_and_hold_what_they_say() -> None:
    first, again = long_scene(5), long_scene(5)
    np.testing.assert_array_equal(first.image, again.image)
    assert len(first.boxes) >= 2
    assert (first.boxes[:, 2] >= first.boxes[:, 3] * 1.2).all()
    corners = corners_of(first.boxes)
    assert (corners > 0).all()
    assert (corners < 256).all()
    for box, outline in zip(first.boxes.tolist(), corners, strict=True):
        np.testing.assert_allclose(outline_of(0, box), outline, atol=1e-3)


def test_tracks_are_of_upright_boxes_and_keep_the_oriented_ones() -> None:
    from edgekit.runtimes.inputs.media import SourceFrame
    from edgekit.runtimes.track import follow, tracker_of

    class Model:
        contract = contract()

        def predict(self, image: Any, **_: Any) -> Detections:
            return result()

    frames = [SourceFrame(np.zeros((128, 192, 3), np.uint8), f"{number}", number, number / 25) for number in range(4)]
    seen = [found for _, found in follow(Model(), frames, tracker_of("bytetrack", {}, contract()))]  # type: ignore[arg-type]
    assert isinstance(seen[-1], OrientedBoxes)
    assert len(seen[-1]) > 0
    assert seen[-1].track_ids is not None


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_files_that_decode_themselves_are_cut_to_their_heads(suffix: str, tmp_path: Path) -> None:
    """The trained network as a file whose graph ends as YOLOv8-obb's does, (1, 4 + classes + 1, anchors): with the
    contract that `edgekit inspect` writes, the heads give the boxes that the graph itself decodes."""
    torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
    from edgekit.conversion.inspect import work
    from edgekit.conversion.jobs import InspectJob, PrepareJob
    from edgekit.conversion.reading import read_source
    from edgekit.runtimes.inputs.images import Preprocessor
    from edgekit.shapes.detector import REG_MAX, STRIDES
    from edgekit.shapes.oriented import trained_oriented

    class Published(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = trained_oriented()

        def forward(self, images: Any) -> Any:
            raw = self.network(images)
            parts = []
            for boxes, classes, angles, stride in zip(raw[::3], raw[1::3], raw[2::3], STRIDES, strict=True):
                height, width = boxes.shape[2:]
                bins = torch.arange(REG_MAX, dtype=torch.float32).reshape(1, 1, -1, 1)
                left, top, right, bottom = (boxes.reshape(1, 4, REG_MAX, -1).softmax(2) * bins).sum(2).split(1, 1)
                angle = (angles.flatten(2).sigmoid() - 0.25) * math.pi
                y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
                across, down = (right - left) / 2, (bottom - top) / 2
                centre_x = x.reshape(1, 1, -1) + 0.5 + across * angle.cos() - down * angle.sin()
                centre_y = y.reshape(1, 1, -1) + 0.5 + across * angle.sin() + down * angle.cos()
                sides = [left + right, top + bottom]
                scaled = [one * stride for one in (centre_x, centre_y, *sides)]
                parts.append(torch.cat([*scaled, classes.flatten(2).sigmoid(), angle], 1))
            return torch.cat(parts, 2)

    network, path = Published().eval(), tmp_path / f"ships{suffix}"
    example = (torch.rand(1, 3, 256, 256),)
    if suffix == ".onnx":
        torch.onnx.export(network, example, path, dynamo=False, opset_version=17)
    else:
        torch.export.save(torch.export.export(network, example), path)
    seen = work(InspectJob(folder=str(tmp_path), source=str(path)), lambda text, share: None)
    stated = tmp_path / "ships.yaml"
    stated.write_text(seen.contract, encoding="utf-8")
    read = read_source(PrepareJob(folder="", source=str(path), contract=str(stated)))
    assert (read.contract.task, read.contract.decoder.name, len(read.contract.classes)) == ("obb", "anchor_free", 3)
    cut = [(output.role, output.level) for output in read.contract.outputs]
    assert sorted(cut) == [(role, level) for role in ("angles", "boxes", "classes") for level in range(3)]
    tensor = torch.from_numpy(Preprocessor(read.contract.image)(long_scene(7).image)[0].copy())
    with torch.no_grad():
        heads, table = [one.numpy() for one in read.heads(tensor)], network(tensor).numpy()
    ours = open_task(read.contract).candidates(heads, 0.3)
    decoder = Decoder(name="decoded", options={"box_format": "xywh", "attached": 1})
    whole = msgspec.structs.replace(read.contract, decoder=decoder, outputs=(Output(name="table", role="predictions"),))
    theirs = open_task(whole).candidates([table], 0.3)
    assert len(ours) >= 3
    np.testing.assert_array_equal(ours.anchors, theirs.anchors)
    np.testing.assert_allclose(ours.attached, theirs.attached, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
