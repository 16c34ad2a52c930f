"""Masks as COCO's compressed run lengths, there and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError
from edgekit.runtimes.results import Masks
from golden.cases import Case, Planned, Recurrence, Tree


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; short ones by COCO's format, worked out by hand."""
    one = np.zeros((3, 4), np.uint8)
    one[1, 2] = 1
    yield _mask("pixel", "one pixel: 7 pixels of background, 1, 4", one, "714")
    yield _mask("full", "all of the picture: a run of 0 first", np.ones((3, 4), np.uint8), "0<")
    yield _mask("empty", "nothing: one run", np.zeros((3, 4), np.uint8), "<")
    yield _mask("single", "a picture of one pixel", np.ones((1, 1), np.uint8), "01")
    noise = Recurrence((37, 53), 21, 0, 2).array().astype(np.uint8)
    yield _mask("noise", "short runs", noise)
    blocks = np.kron(Recurrence((5, 4), 22, 0, 2).array().astype(np.uint8), np.ones((40, 50), np.uint8))
    yield _mask("blocks", "long runs, whose differences are negative, too", blocks)
    row, column = np.mgrid[0:150, 0:200]
    disc = ((row - 75) ** 2 + (column - 95) ** 2 < 60**2).astype(np.uint8)
    yield _mask("disc", "numbers of several groups", disc)
    touching = np.zeros((6, 5), np.uint8)
    touching[3:, 1] = touching[:2, 2] = 1
    yield _mask("joined", "a run that goes on at the top of the next column", touching)
    for name, counts in (("short", "11"), ("letters", "1~1"), ("cut", "P")):
        given = {"rle": {"size": [3, 4], "counts": counts}}
        yield Planned(f"bad-{name}", f"counts that are no mask of 3 x 4: {counts}", given, expected={"error": "input"})

    def other(expected: Tree) -> None:
        expected["rle"]["counts"] = "723"

    yield dataclasses.replace(_mask("must-fail-counts", "planted: another mask", one), spoil=other)


def _mask(name: str, about: str, mask: Any, counts: str | None = None) -> Planned:
    size = [int(mask.shape[0]), int(mask.shape[1])]
    expected = None if counts is None else {"rle": {"size": size, "counts": counts}, "area": int(mask.sum())}
    return Planned(name, about, {"mask": mask}, expected=expected)


def answer(given: Tree, folder: Path) -> Tree:
    """The run lengths of a mask; of run lengths the mask."""
    if "rle" in given:
        try:
            return {"mask": Masks.from_rle([given["rle"]]).bitmap(0)}
        except InputError:
            return {"error": "input"}
    masks = Masks.from_bitmaps(given["mask"][None].astype(bool))
    return {"rle": masks.to_rle()[0], "area": int(masks.areas[0])}


def differences(case: Case, answered: Tree) -> list[str]:
    """Other run lengths, or another mask when they are read back."""
    if answered != case.expected:
        return [f"gives {answered}, not {case.expected}"]
    if "error" in answered:
        return []
    back = Masks.from_rle([case.expected["rle"]]).bitmap(0)
    return [] if np.array_equal(back, case.given["mask"] > 0) else ["reads back as another mask"]
