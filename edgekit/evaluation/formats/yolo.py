"""YOLO, as ultralytics trains with: ``data.yaml`` names the images and classes, each image has a text file of objects.

https://docs.ultralytics.com/datasets/detect/, .../segment/ and .../pose/: a line is a class id and, in shares of the
image's width and height, a box (centre, width, height), a box with keypoints (``kpt_shape`` in the yaml), or a polygon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError, UsageError
from edgekit.evaluation.annotations import Annotations, CocoBox, CocoCategory, CocoImage
from edgekit.evaluation.formats import LabelFormat
from edgekit.runtimes.inputs import files, headers
from edgekit.runtimes.inputs.media import IMAGE_SUFFIXES, read_image
from edgekit.structures import from_builtins

DATA = "data.yaml"
"""A folder with a file of this name is a YOLO dataset."""

CLASSES = "classes.txt"
"""Names of the classes, a line each, where there is no ``data.yaml``."""

SPLITS = ("val", "test", "train")
"""The keys that name images, the one to measure on first."""

OUTSIDE = 0.01
"""How far a coordinate may be outside the image, in shares of it: exports round, and labels touch the border."""


class DataFile(msgspec.Struct, frozen=True):
    """The parts of ``data.yaml`` that say what is labelled; where to download it and the like are ignored."""

    names: list[str | int] | dict[int, str | int]
    path: str = ""
    train: str | list[str] | None = None
    val: str | list[str] | None = None
    test: str | list[str] | None = None
    kpt_shape: tuple[int, int] | None = None
    kpt_names: dict[int, list[str]] | None = None

    @property
    def classes(self) -> dict[int, str]:
        """Names of the classes by id."""
        named = self.names if isinstance(self.names, dict) else dict(enumerate(self.names))
        return {class_id: str(name) for class_id, name in named.items()}


def _matches(path: Path) -> bool:
    if path.suffix.lower() in (".yaml", ".yml") or (path / DATA).is_file():
        return True
    return (path / "images").is_dir() and (path / "labels").is_dir()


def _read(path: Path, images: Path | None) -> Annotations:
    path = path / DATA if path.is_dir() else path
    data = _data_file(path) if path.is_file() or not (path.parent / CLASSES).is_file() else _classes(path.parent)
    pictures = _images_in(images) if images else _images_of(path, data)
    entries, boxes = [], []
    for number, picture in enumerate(pictures):
        found = list(_objects(_label_file(picture), data))
        width, height = _size(picture) if found else (0, 0)
        entries.append(CocoImage(number, str(picture), width, height))
        boxes += [_box(number, values, data, (width, height)) for values in found]
    if not boxes:
        raise InputError(
            f"{path}: no object is labelled in {len(pictures)} images; the label file of {pictures[0]} would be "
            f"{_label_file(pictures[0])}"
        )
    kinds = [
        CocoCategory(class_id, name, tuple((data.kpt_names or {}).get(class_id, ())))
        for class_id, name in data.classes.items()
    ]
    return Annotations(tuple(entries), tuple(boxes), tuple(kinds))


def _data_file(path: Path) -> DataFile:
    try:
        import yaml
    except ImportError as error:
        raise UsageError("labels in YOLO's format need PyYAML: pip install pyyaml") from error
    try:
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; it names the classes of labels/*.txt: write names: [...] and val: images"
            )
        data = from_builtins(yaml.safe_load(files.read_file(path).decode("utf-8-sig")), DataFile)
    except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or error
        raise InputError(f"{where}: not a data.yaml of YOLO, which has names and val: {what}") from error
    if data.kpt_shape is not None and (data.kpt_shape[1] not in (2, 3) or data.kpt_shape[0] < 1):
        raise InputError(f"{path}: kpt_shape: {list(data.kpt_shape)}; it is [number of keypoints, 2 or 3]")
    return data


def _classes(folder: Path) -> DataFile:
    """The description in a folder of a labelling tool: ``classes.txt`` with one name per line, and ``images``."""
    text = files.read_file(folder / CLASSES).decode("utf-8-sig", "replace")
    return DataFile(names=[line.strip() for line in text.splitlines() if line.strip()], val="images")


def _images_of(path: Path, data: DataFile) -> list[Path]:
    """The images of the first split that the file names."""
    split = next((name for name in SPLITS if getattr(data, name)), None)
    if split is None:
        raise InputError(f"{path}: names no images; add val: FOLDER, or give their folder with --data")
    given = getattr(data, split)
    root = path.parent / data.path
    found: list[Path] = []
    for text in [given] if isinstance(given, str) else given:
        place = root / text
        if not place.exists() and text.startswith("../"):  # exports of Roboflow count from one folder further down
            place = root / text[3:]
        if not place.exists():
            raise InputError(f"{path}: {split}: {text}: no such file or folder ({place}); give the folder with --data")
        found += _images_in(place)
    return found


def _images_in(place: Path) -> list[Path]:
    """The images of a folder, or of a text file with a path in each line."""
    if place.is_file():
        lines = files.read_file(place).decode("utf-8", "replace").splitlines()
        return [place.parent / line.strip() for line in lines if line.strip()]
    found = sorted(file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not found:
        raise InputError(f"{place}: no images in this folder")
    return found


def _label_file(image: Path) -> Path:
    """Where the objects of an image are: its path with the last ``images`` replaced by ``labels``."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _objects(path: Path, data: DataFile) -> Iterator[tuple[int, list[float]]]:
    """Class id and values of each object; an image without a file, or with an empty one, shows none."""
    if not path.is_file():
        return
    for number, line in enumerate(files.read_file(path).decode("utf-8", "replace").splitlines(), 1):
        if line.strip():
            yield _object(line.split(), data, f"{path}:{number}")


def _object(cells: Sequence[str], data: DataFile, where: str) -> tuple[int, list[float]]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise InputError(f"{where}: not a class id and numbers: {' '.join(cells)[:60]!r}") from error
    _check_count(len(values), data, where)
    if values[0] not in data.classes:
        raise InputError(f"{where}: class {cells[0]} is not in names, which has {len(data.classes)} classes, from 0")
    places = values[1:5] if data.kpt_shape else values[1:]
    wrong = [value for value in places if not -OUTSIDE <= value <= 1 + OUTSIDE]  # true of NaN, too
    if wrong or not all(map(math.isfinite, values)):
        raise InputError(
            f"{where}: {(wrong or values)[0]:g} is no share of the image (0..1); YOLO's labels are not in pixels"
        )
    return int(values[0]), values[1:]


def _check_count(count: int, data: DataFile, where: str) -> None:
    if data.kpt_shape:
        keypoints, values = data.kpt_shape
        if count != 5 + keypoints * values:
            raise InputError(
                f"{where}: {count} numbers; with kpt_shape {[keypoints, values]} a line has {5 + keypoints * values}: "
                "class, box (4) and keypoints"
            )
    elif count != 5 and (count < 7 or count % 2 == 0):
        raise InputError(
            f"{where}: {count} numbers; a line has 5 (class and box), or class and a polygon of at least three points"
        )


def _box(image: int, found: tuple[int, list[float]], data: DataFile, size: tuple[int, int]) -> CocoBox:
    class_id, values = found
    width, height = size
    if len(values) > 4 and data.kpt_shape is None:
        x, y = [width * value for value in values[0::2]], [height * value for value in values[1::2]]
        outline: list[Any] = [[value for point in zip(x, y, strict=True) for value in point]]
        return CocoBox(image, class_id, (min(x), min(y), max(x) - min(x), max(y) - min(y)), segmentation=outline)
    x_centre, y_centre, wide, high = values[:4]
    box = (width * (x_centre - wide / 2), height * (y_centre - high / 2), width * wide, height * high)
    return CocoBox(image, class_id, box, keypoints=_keypoints(values[4:], data, size))


def _keypoints(values: list[float], data: DataFile, size: tuple[int, int]) -> tuple[float, ...] | None:
    """x, y in pixels and visibility; of two values a keypoint one at 0, 0 is not labelled."""
    if data.kpt_shape is None:
        return None
    step, points = data.kpt_shape[1], []
    for place in range(0, len(values), step):
        x, y, *rest = values[place : place + step]
        points += [size[0] * x, size[1] * y, rest[0] if rest else 2.0 * bool(x or y)]
    return tuple(points)


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is read: upright. Its header tells, where no EXIF data may turn it."""
    data = files.read_file(path)
    claimed = None if b"Exif\0" in data or data[:2] in (b"II", b"MM") else headers.claimed_size(data)
    if claimed is None:
        height, width = read_image(path).shape[:2]
        return width, height
    return claimed


FORMAT = LabelFormat("YOLO (data.yaml, labels/*.txt)", _matches, _read)
