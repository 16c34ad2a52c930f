"""Pascal VOC: an xml file for each image, usually in ``Annotations`` beside ``JPEGImages``.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/: boxes are in pixels that count from 1, both ends included.
Objects marked ``difficult`` are neither right nor wrong to find, as the VOC challenges measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from edgekit.errors import InputError
from edgekit.evaluation.annotations import Annotations, CocoBox, CocoCategory, CocoImage
from edgekit.evaluation.formats import LabelFormat
from edgekit.runtimes.inputs import files

FOLDER, IMAGES = "Annotations", "JPEGImages"


@dataclass
class Node:
    """An element of an xml file, with the line that it begins at."""

    tag: str
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, tag: str) -> list[Node]:
        """The elements of a tag that are directly in this one."""
        return [child for child in self.children if child.tag == tag]

    def of(self, tag: str) -> str:
        """The text of the first element of a tag, empty without one."""
        return next((child.text.strip() for child in self.children if child.tag == tag), "")


def _matches(path: Path) -> bool:
    if path.suffix.lower() == ".xml":
        return True
    if path.is_dir():
        return any((path / FOLDER).glob("*.xml")) or any(path.glob("*.xml"))
    return path.suffix == ".txt" and path.parent.parent.name == "ImageSets"


def _read(path: Path, images: Path | None) -> Annotations:
    found = _files(path)
    entries, boxes, names = [], [], set[str]()
    pending: list[tuple[int, Node, Path]] = []
    for number, file in enumerate(found):
        root = read_xml(file)
        if root.tag != "annotation":
            raise InputError(f"{file}:{root.line}: <{root.tag}> where Pascal VOC has <annotation>")
        name = root.of("filename") or f"{file.stem}.jpg"
        size = next(iter(root.all("size")), Node("size", 0))
        width, height = (_number(size.of(side) or "0", f"{file}:{size.line}: <{side}>") for side in ("width", "height"))
        entries.append(CocoImage(number, str(_image(file, name, images)), int(width), int(height)))
        pending += [(number, one, file) for one in root.all("object")]
        names |= {one.of("name") for one in root.all("object")}
    if not pending:
        raise InputError(f"{path}: no annotated object in {len(found)} files, so there is nothing to measure against")
    ids = {name: number for number, name in enumerate(sorted(names), 1)}
    boxes = [_box(number, one, ids, file) for number, one, file in pending]
    return Annotations(tuple(entries), tuple(boxes), tuple(CocoCategory(number, name) for name, number in ids.items()))


def _files(path: Path) -> list[Path]:
    """The xml files of a folder, of a file of ``ImageSets`` (an image's name in each line), or the one given."""
    if path.is_dir():
        return sorted((path / FOLDER if (path / FOLDER).is_dir() else path).glob("*.xml"))
    if path.suffix.lower() == ".xml":
        return [path]
    folder, found = path.parent.parent.parent / FOLDER, []
    for number, line in enumerate(files.read_file(path).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        file = folder / f"{line.split()[0]}.xml"
        if not file.is_file():
            raise InputError(f"{path}:{number}: {file}: no such file")
        found.append(file)
    return found


def _image(file: Path, name: str, images: Path | None) -> Path:
    if images is not None:
        return images / name
    beside = file.parent.parent / IMAGES / name
    return beside if beside.parent.is_dir() else file.parent / name


def _box(image: int, found: Node, ids: dict[str, int], file: Path) -> CocoBox:
    where = f"{file}:{found.line}"
    if not found.of("name"):
        raise InputError(f"{where}: an object without a <name>")
    corners = next(iter(found.all("bndbox")), None)
    if corners is None:
        raise InputError(f"{where}: {found.of('name')!r} has no <bndbox>")
    sides = ("xmin", "ymin", "xmax", "ymax")
    left, top, right, bottom = (_number(corners.of(side), f"{file}:{corners.line}: <{side}>") for side in sides)
    if right < left or bottom < top:
        raise InputError(
            f"{file}:{corners.line}: a box from {left:g}, {top:g} to {right:g}, {bottom:g} ends before it begins"
        )
    difficult = int(found.of("difficult") == "1")
    box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    return CocoBox(image, ids[found.of("name")], box, iscrowd=difficult)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is not a number") from error
    if not abs(value) < 1e6:
        raise InputError(f"{where}: {text} is no place in an image")
    return value


def read_xml(path: Path) -> Node:
    """The elements of an xml file. Document types are refused, so nothing is expanded and nothing else is read.

    Raises:
        InputError: it cannot be read, is no xml, or has a document type.
    """
    parser = expat.ParserCreate()
    top = Node("", 0)
    stack = [top]

    def begin(tag: str, attributes: dict[str, str]) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)

    def end(tag: str) -> None:
        stack.pop()

    def text(characters: str) -> None:
        stack[-1].text += characters

    def refuse(*given: object) -> None:
        raise InputError(
            f"{path}:{parser.CurrentLineNumber}: has a document type (<!DOCTYPE>), which is not read; remove it"
        )

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(files.read_file(path), True)
    except expat.ExpatError as error:
        raise InputError(f"{path}:{error.lineno}: not an xml file ({expat.ErrorString(error.code)})") from error
    return top.children[0]


FORMAT = LabelFormat("Pascal VOC (Annotations/*.xml)", _matches, _read)
