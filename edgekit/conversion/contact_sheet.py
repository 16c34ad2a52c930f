"""A contact sheet: the results of source and bundle on some proof images, side by side, to check the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.runtimes.bundle.folder import writing
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.tasks import Task

IMAGES = 6
"""Proof images on a sheet, at most."""

PANEL = 360
"""Width of one picture in pixels."""

COLUMNS = 2
"""Pairs of pictures in a row."""

SUFFIX = "-contact-sheet.jpg"
"""Behind the name of the bundle."""

_HEADING, _GAP, _PAPER, _INK = 22, 8, 255, 0


class ContactSheet:
    """Draws pairs of results on the images as the network sees them, in input size and with their padding.

    Args:
        path: the JPEG file to write.
        headings: above the source's results and the bundle's.
        count: of proof images.
        views: of each photograph; only the first view is drawn.
    """

    def __init__(self, path: Path, headings: tuple[str, str], count: int, views: int) -> None:
        self._path, self._headings = path, headings
        photographs = count // views
        places = np.linspace(0, photographs - 1, min(IMAGES, photographs)).round().astype(int)
        self._places = frozenset((places * views).tolist())
        self._pairs: list[Image] = []

    def add(
        self, index: int, image: Image, source: tuple[Task, Sequence[Floats]], bundle: tuple[Task, Sequence[Floats]]
    ) -> None:
        """Draw one proof image, if it is among the chosen ones.

        Args:
            index: of the image.
            image: uint8 (height, width, 3) BGR in input size.
            source: its task and raw outputs.
            bundle: the same of the bundle.
        """
        if index not in self._places:
            return
        panels = [_panel(image, *one, heading) for one, heading in zip((source, bundle), self._headings, strict=True)]
        self._pairs.append(np.concatenate([panels[0], _white(len(panels[0]), _GAP // 2), panels[1]], 1))

    def write(self, caption: str) -> None:
        """Write the file, with a line of figures below the pictures.

        Raises:
            BundleError: it cannot be written.
        """
        import cv2

        if not self._pairs:
            return
        height, width = self._pairs[0].shape[:2]
        columns = min(COLUMNS, len(self._pairs))
        rows = -(-len(self._pairs) // columns)
        sheet = _white(rows * (height + _GAP) + _GAP, columns * (width + 2 * _GAP))
        for number, pair in enumerate(self._pairs):
            row, column = divmod(number, columns)
            top, left = _GAP + row * (height + _GAP), _GAP + column * (width + 2 * _GAP)
            sheet[top : top + height, left : left + width] = pair
        foot = _white(_HEADING, sheet.shape[1])
        cv2.putText(foot, caption, (_GAP, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (_INK,) * 3, 1, cv2.LINE_AA)
        sheet = np.concatenate([sheet, foot])
        with writing(self._path):
            self._path.write_bytes(cv2.imencode(".jpg", sheet)[1].tobytes())


def _panel(image: Image, task: Task, outputs: Sequence[Floats], heading: str) -> Image:
    """One image with one result and a line of text above it."""
    import cv2

    height, width = image.shape[:2]
    size = (PANEL, max(1, round(height * PANEL / width)))
    mapping = Transform(width / size[0], height / size[1], 0.0, 0.0, *size, (width, height))
    larger = np.asarray(cv2.resize(np.ascontiguousarray(image), size), np.uint8)
    drawn = task.result(outputs, mapping).draw(larger)
    title = _white(_HEADING, PANEL)
    cv2.putText(title, heading, (2, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (_INK,) * 3, 1, cv2.LINE_AA)
    return np.concatenate([title, drawn])


def _white(height: int, width: int) -> Image:
    return np.full((height, width, 3), _PAPER, np.uint8)
