"""Labels in YOLO's and Pascal VOC's formats: the same objects give the figures that COCO's json gives; what is wrong is
named with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.evaluation.formats import format_of
from edgekit.evaluation.labelled import evaluate
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.results import Detections, Instances, Masks, Poses, Result

pytest.importorskip("pycocotools", reason="needs pycocotools (pip install edgekit[convert])")

CLASSES = ("cat", "dog")
WIDTH, HEIGHT = 200, 100
OBJECTS = {"a": [(1, (20, 10, 60, 40))], "b": [(0, (100, 30, 50, 60)), (1, (0, 0, 30, 20))], "c": []}
"""Class id and box (x, y, width, height) of the objects in each image."""

FINDS = {"a": [(1, (22, 10, 60, 42), 0.9)], "b": [(0, (100, 30, 50, 60), 0.8), (1, (60, 50, 20, 20), 0.7)], "c": []}
POINTS = Skeleton(names=("left", "right"), sigmas=(0.05, 0.05))


def line(class_id: int, box: tuple[int, ...], *more: float) -> str:
    x, y, width, height = box
    centre = ((x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT)
    return " ".join(map(str, (class_id, *centre, *more)))


def outline(class_id: int, box: tuple[int, ...]) -> str:
    x, y, width, height = box
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return " ".join(map(str, (class_id, *(value for a, b in corners for value in (a / WIDTH, b / HEIGHT)))))


def coco(x: Any) -> list[dict[str, Any]]:
    return [
        {"id": number, "image_id": "abc".index(name), "category_id": class_id, "bbox": box, **x(box)}
        for number, (name, class_id, box) in enumerate((n, *o) for n, found in OBJECTS.items() for o in found)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The images, in ``images``, each with its number as a colour."""
    for number, name in enumerate(OBJECTS):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8))
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\nval: images\n")
    return tmp_path


def write_coco(data: Path, extra: Any = lambda box: {}, keypoints: tuple[str, ...] = ()) -> Path:
    images = [{"id": n, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT} for n, name in enumerate(OBJECTS)]
    kinds = [{"id": n, "name": name, "keypoints": keypoints} for n, name in enumerate(CLASSES)]
    path = data / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": coco(extra), "categories": kinds}))
    return path


def model(image: Image) -> Result:
    return Detections(**columns(image))


def columns(image: Image) -> dict[str, Any]:
    found = FINDS["abc"[int(image[0, 0, 0]) // 10]]
    boxes = np.array([box for _, box, _ in found], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": boxes,
        "scores": np.array([score for *_, score in found], np.float32),
        "class_ids": np.array([class_id for class_id, *_ in found], np.int64),
        "classes": CLASSES,
        "size": (WIDTH, HEIGHT),
    }


def test_boxes_in_yolo_are_those_in_coco(data: Path) -> None:
    for name, found in OBJECTS.items():
        (data / "labels" / f"{name}.txt").write_text("\n".join(line(*one) for one in found))
    expected = evaluate(model, write_coco(data))
    assert 0 < expected[0].main < 1
    for given in (data, data / "data.yaml"):
        (found,) = evaluate(model, given)
        assert found.figures == pytest.approx(expected[0].figures)
        assert found.images == 3, "an image without objects counts, too"


def test_polygons_are_masks(data: Path) -> None:
    def masks(image: Image) -> Result:
        given = columns(image)
        drawn = np.zeros((len(given["boxes"]), HEIGHT, WIDTH), bool)
        for mask, (x1, y1, x2, y2) in zip(drawn, given["boxes"].astype(int), strict=True):
            mask[y1:y2, x1:x2] = True
        return Instances(**given, masks=Masks.from_bitmaps(drawn))

    for name, found in OBJECTS.items():
        (data / "labels" / f"{name}.txt").write_text("\n".join(outline(*one) for one in found))
    ring = lambda b: {"segmentation": [[b[0], b[1], b[0] + b[2], b[1], b[0] + b[2], b[1] + b[3], b[0], b[1] + b[3]]]}  # noqa: E731
    expected = evaluate(masks, write_coco(data, ring))
    found = evaluate(masks, data)
    assert [one.kind for one in found] == ["masks", "boxes"]
    assert [one.figures for one in found] == [pytest.approx(one.figures) for one in expected]


@pytest.mark.parametrize("values", [2, 3])
def test_poses_have_two_or_three_values_a_keypoint(data: Path, values: int) -> None:
    def ends(box: Any) -> list[tuple[float, float]]:
        return [(box[0] + 1, box[1] + 1), (box[0] + box[2], box[1] + box[3])]

    def poses(image: Image) -> Result:
        given = columns(image)
        points = np.ones((len(given["boxes"]), 2, 3), np.float32)
        points[:, 0, :2], points[:, 1, :2] = given["boxes"][:, :2] + 1, given["boxes"][:, 2:]
        return Poses(**given, keypoints=points, skeleton=POINTS)

    (data / "data.yaml").write_text(
        f"names: [cat, dog]\nval: images\nkpt_shape: [2, {values}]\nkpt_names: {{0: [left, right], 1: [left, right]}}\n"
    )
    for name, found in OBJECTS.items():
        rows = [
            line(c, box, *(v for x, y in ends(box) for v in (x / WIDTH, y / HEIGHT, *[2] * (values - 2))))
            for c, box in found
        ]
        (data / "labels" / f"{name}.txt").write_text("\n".join(rows))
    truth = write_coco(data, lambda b: {"keypoints": [v for p in ends(b) for v in (*p, 2)]}, ("left", "right"))
    assert [one.figures for one in evaluate(poses, data)] == [
        pytest.approx(one.figures, abs=1e-6) for one in evaluate(poses, truth)
    ]


def test_names_may_be_in_classes_txt_and_images_where_the_user_says(data: Path, tmp_path: Path) -> None:
    (data / "data.yaml").unlink()
    for name, found in OBJECTS.items():
        (data / "labels" / f"{name}.txt").write_text("\n".join(line(*one) for one in found))
    with pytest.raises(InputError, match=r"data\.yaml: no such file; it names the classes of labels/\*\.txt"):
        evaluate(model, data)
    (data / "classes.txt").write_text("cat\ndog\n")
    (first,) = evaluate(model, data)
    (given,) = evaluate(model, data, data / "images")
    assert given.figures == first.figures


def voc(name: str, body: str = "", boxes: bool = True) -> str:
    objects = "".join(
        f"<object><name>{CLASSES[c]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
        f"<ymax>{y + h}</ymax></bndbox></object>\n"
        for c, (x, y, w, h) in (OBJECTS[name] if boxes else ())
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name}.png</filename>\n{size}\n{objects}{body}</annotation>\n"


def test_boxes_in_pascal_voc_are_those_in_coco(data: Path) -> None:
    (data / "labels").rmdir()
    (data / "data.yaml").unlink()
    expected = evaluate(model, write_coco(data))
    (data / "images").rename(data / "JPEGImages")
    (data / "Annotations").mkdir()
    for name in OBJECTS:
        (data / "Annotations" / f"{name}.xml").write_text(voc(name))
    assert evaluate(model, data)[0].figures == pytest.approx(expected[0].figures)
    (data / "ImageSets" / "Main").mkdir(parents=True)
    (data / "ImageSets" / "Main" / "val.txt").write_text("b -1\nc 1\n")
    assert evaluate(model, data / "ImageSets" / "Main" / "val.txt")[0].images == 2
    difficult = "<object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax>"
    difficult += "<ymax>20</ymax></bndbox></object>"
    (data / "Annotations" / "c.xml").write_text(voc("c", difficult))
    assert evaluate(model, data)[0].figures == pytest.approx(expected[0].figures), "it is not missed"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 0.5 0.5 0.1", r"a\.txt:2: 4 numbers; a line has 5 \(class and box\), or class and a polygon"),
        ("0 0.5 0.5 0.1 x", r"a\.txt:2: not a class id and numbers: '0 0\.5 0\.5 0\.1 x'"),
        ("2 0.5 0.5 0.1 0.1", r"a\.txt:2: class 2 is not in names, which has 2 classes, from 0"),
        ("0 120 0.5 0.1 0.1", r"a\.txt:2: 120 is no share of the image \(0\.\.1\); YOLO's labels are not in pixels"),
        ("0 nan 0.5 0.1 0.1", r"a\.txt:2: nan is no share of the image"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(data: Path, text: str, says: str) -> None:
    (data / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{text}\n")
    with pytest.raises(InputError, match=says):
        evaluate(model, data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [cat\n", r"data\.yaml:2: not a data\.yaml of YOLO, which has names and val: expected"),
        ("val: images\n", r"data\.yaml: not a data\.yaml of YOLO.*`names`"),
        ("names: [cat]\n", r"data\.yaml: names no images; add val: FOLDER, or give their folder with --data"),
        ("names: [cat]\nval: nowhere\n", r"data\.yaml: val: nowhere: no such file or folder"),
        (
            "names: [cat]\nval: images\nkpt_shape: [2, 5]\n",
            r"kpt_shape: \[2, 5\]; it is \[number of keypoints, 2 or 3\]",
        ),
        ("names: [cat]\nval: images\n", r"data\.yaml: no object is labelled in 3 images; the label file of .*a\.txt"),
    ],
)
def test_a_wrong_data_yaml_is_named(data: Path, text: str, says: str) -> None:
    (data / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        evaluate(model, data)


BOX = "<object><name>cat</name>\n<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<annotation>\n<object>", r"a\.xml:2: not an xml file \("),
        ("<html/>", r"a\.xml:1: <html> where Pascal VOC has <annotation>"),
        ("<annotation>\n<object><name>cat</name></object></annotation>", r"a\.xml:2: 'cat' has no <bndbox>"),
        (f"<annotation>\n{BOX.format('x')}</annotation>", r"a\.xml:3: <xmin>: 'x' is not a number"),
        (f"<annotation>\n{BOX.format('50')}</annotation>", r"a\.xml:3: a box from 50, 1 to 9, 9 ends before it begins"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<annotation>&x;</annotation>',
            r"a\.xml:1: has a document type \(<!DOCTYPE>\), which is not read",
        ),
        ("<annotation/>", "no annotated object in 1 files"),
    ],
)
def test_a_wrong_xml_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match=says):
        evaluate(model, tmp_path)


def test_what_is_no_label_file_is_told_the_formats(tmp_path: Path) -> None:
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"labels of no known kind; give COCO annotations .*Pascal VOC .* YOLO"):
        evaluate(model, tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=r"nothing: no such file or folder; give COCO"):
        evaluate(model, tmp_path / "nothing")
    assert format_of(tmp_path) is None


def test_a_roboflow_export_counts_from_one_folder_further_down(data: Path) -> None:
    (data / "labels" / "a.txt").write_text(line(1, (20, 10, 60, 40)))
    (data / "data.yaml").write_text("names: [cat, dog]\nval: ../images\n")
    assert evaluate(model, data)[0].images == 3


def test_ids_are_those_of_coco_where_the_classes_are() -> None:
    from edgekit.sources.class_names import NAMED

    boxes = np.zeros((3, 4), np.float32)
    classes = NAMED["coco"]
    ids = np.array([0, classes.index("stop sign"), 79])
    found = Detections(boxes=boxes, scores=np.ones(3, np.float32), class_ids=ids, classes=classes, size=(9, 9))
    assert [row["category_id"] for row in found.to_coco(1)] == [1, 13, 90]
    assert [row["category_id"] for row in found.to_coco(1, category_ids=range(80))] == ids.tolist()
    own = Detections(boxes=boxes[:1], scores=np.ones(1, np.float32), class_ids=ids[:1], classes=("a",), size=(9, 9))
    assert [row["category_id"] for row in own.to_coco(1)] == [0]
