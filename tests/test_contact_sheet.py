"""The picture of both results beside a bundle: which images are on it, and what is drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.arrays import Image
from edgekit.conversion.contact_sheet import COLUMNS, IMAGES, PANEL, ContactSheet
from edgekit.errors import BundleError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.tasks import open_task

TASK = open_task(
    Contract(
        task="detect", image=ImageRule(size=(32, 64)), classes=("thing",), decoder=Decoder(
            name="fastestdet", options={"activated": True}
        ), outputs=(Output(name="all", role="predictions"),),
    )
)  # fmt: skip


def outputs(score: float) -> list[np.ndarray]:
    """One box of half the image in the middle, with this score."""
    row = np.array([score, 0, 0, 0, 0, 1], np.float32)[None, :, None, None]
    return [np.ascontiguousarray(row)]


def drawn(path: Path, count: int, views: int, *, bundle: float = 0.9) -> tuple[Image, list[int]]:
    """The sheet of grey images, and which of them are on it (their levels)."""
    sheet = ContactSheet(path, ("source", "onnx int8"), count, views)
    for index in range(count):
        image = np.full((32, 64, 3), 10 * index, np.uint8)
        sheet.add(index, image, (TASK, outputs(0.9)), (TASK, outputs(bundle)))
    sheet.write("matched 98.0% of 50 at IoU 0.5")
    read = np.asarray(cv2.imread(str(path)))
    levels = sorted({round(float(np.median(pair)) / 10) for pair in pairs(read)})
    return read, levels


def pairs(sheet: Image) -> list[Image]:
    """The lower right corner of every source's picture, where no box is."""
    height = PANEL // 2 + 22
    rows = (sheet.shape[0] - 8) // (height + 8)
    columns = round(sheet.shape[1] / (2 * PANEL + 20))
    spots = [(8 + r * (height + 8), 8 + c * (2 * PANEL + 20)) for r in range(rows) for c in range(columns)]
    return [sheet[top + height - 12 : top + height - 4, left + 4 : left + 20] for top, left in spots]


def test_evenly_spaced_photographs_are_shown_and_no_mirrored_ones(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.jpg", 20, 2)[1] == [0, 4, 8, 10, 14, 18]
    sheet, levels = drawn(tmp_path / "b.jpg", 3, 1)
    assert levels[:3] == [0, 1, 2]
    assert sheet.shape[1] == COLUMNS * (2 * PANEL + 20)
    assert len(drawn(tmp_path / "c.jpg", 24, 1)[1]) == IMAGES
    assert drawn(tmp_path / "d.jpg", 1, 1)[0].shape[1] == 2 * PANEL + 20


def test_both_results_are_drawn(tmp_path: Path) -> None:
    """Alike on both sides; a bundle that finds nothing has a picture without a box."""
    for bundle, same in ((0.9, True), (0.01, False)):
        sheet, _ = drawn(tmp_path / "sheet.jpg", 1, 1, bundle=bundle)
        left, right = sheet[30:-30, 8 : 8 + PANEL].astype(int), sheet[30:-30, 12 + PANEL : 12 + 2 * PANEL].astype(int)
        assert left.max() > 100
        assert bool(np.abs(left - right).max() < 60) is same


def test_the_figures_stand_below_the_pictures(tmp_path: Path) -> None:
    foot = drawn(tmp_path / "sheet.jpg", 1, 1)[0][-22:]
    assert foot.min() < 100 < 250 < np.median(foot)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere.*sheet\.jpg"):
        drawn(tmp_path / "nowhere" / "sheet.jpg", 1, 1)
