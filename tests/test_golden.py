"""The golden set: Python gives what it says, no planted error passes, and the files are what the writer writes."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT

from edgekit.runtimes.inputs.media import read_image
from edgekit.runtimes.tasks import task_names
from edgekit.runtimes.tasks.decoders import every_decoder
from edgekit.runtimes.tracking import tracker_names

sys.path.insert(0, str(ROOT))

from golden.cases import Case, Picture, Planned, Recurrence, Tree, read, save, stored
from golden.kinds import every_kind
from golden.kinds.preprocess import upright
from golden.write import write

KINDS = every_kind()

LARGEST = 3_000_000
"""Bytes of the whole set: it is read by every platform's tests."""


@pytest.mark.parametrize("kind", KINDS)
def test_python_gives_what_every_case_expects_and_no_planted_error_passes(kind: str) -> None:
    module, cases = KINDS[kind], stored(kind)
    found = {case.name: module.differences(case, module.answer(case.given, case.folder)) for case in cases}
    planted = {case.name for case in cases if case.must_fail}
    assert not {name: wrong for name, wrong in found.items() if wrong and name not in planted}
    assert planted
    assert not [name for name in planted if not found[name]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_what_the_writer_writes(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    now, there = stored(kind, tmp_path), stored(kind)
    assert [case.name for case in now] == [case.name for case in there]
    for fresh, kept in zip(now, there, strict=True):
        assert (fresh.about, fresh.tolerance, fresh.must_fail) == (kept.about, kept.tolerance, kept.must_fail)
        assert alike(fresh.given, kept.given), kept.name
        assert kept.must_fail or not KINDS[kind].differences(kept, fresh.expected), kept.name
        assert listed(fresh.folder) == listed(kept.folder), kept.name


def listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def alike(one: Any, other: Any) -> bool:
    """Whether two trees are equal, arrays and pictures number by number."""
    if isinstance(one, Picture):
        return isinstance(other, Picture) and np.array_equal(one.pixels, other.pixels)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def test_nothing_is_left_out() -> None:
    decoded = [case.given["contract"] for case in stored("decode") if "error" not in case.expected]
    assert {contract["decoder"]["name"] for contract in decoded} == set(every_decoder())
    assert {contract["task"] for contract in decoded} == set(task_names())
    assert {case.given["tracker"] for case in stored("track")} == set(tracker_names())
    rules = [case.given["rule"] for case in stored("preprocess")]
    for key, count in {"resize": 3, "align": 2, "color": 2, "interpolation": 3}.items():
        assert len({rule[key] for rule in rules}) == count, key
    assert {case.given["orientation"] for case in stored("preprocess")} == set(range(1, 9))


def test_the_set_stays_small() -> None:
    sizes = Counter({kind: sum(file.stat().st_size for file in files(kind)) for kind in KINDS})
    assert sizes.total() < LARGEST, sizes
    assert not [path for path in (ROOT / "golden").rglob("*.bin") if path.stat().st_size > 200_000]


def files(kind: str) -> Iterator[Path]:
    return (path for path in (ROOT / "golden" / kind).rglob("*") if path.is_file())


def test_the_readme_counts_the_cases() -> None:
    text = (ROOT / "golden" / "README.md").read_text(encoding="utf-8")
    for kind in KINDS:
        cases = stored(kind)
        row = f"| {kind} | {len(cases)} | {sum(case.must_fail for case in cases)} |"
        assert row in text, row


# The set against what is not of edgekit.


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_exif(orientation: int, tmp_path: Path) -> None:
    blocks = np.kron(np.array([[0, 90], [160, 220], [255, 30]], np.uint8), np.ones((16, 16), np.uint8))
    data = cv2.imencode(".jpg", np.repeat(blocks[..., None], 3, 2), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    plain = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(upright(np.asarray(plain), orientation, mirrored=False), read_image(path))


def test_the_recurrence_is_the_one_that_the_readme_tells() -> None:
    array = Recurrence((2, 5), 9, -1.5, 3.0, ((3, 7.0),)).array()
    state, found = 9, []
    for _ in range(10):
        state = (1664525 * state + 1013904223) % 2**32
        found.append(-1.5 + 3.0 * (state >> 8) / 2**24)
    found[3] = 7.0
    assert array.ravel().tolist() == np.array(found, np.float32).tolist()


def bilinear(image: Any, width: int, height: int) -> Any:
    """Bilinear interpolation between centres of pixels in float64, rounded: what a port would write first."""
    (top, bottom, down), (left, right, across) = axis(image.shape[0], height), axis(image.shape[1], width)
    wide = image[:, left] * (1 - across)[:, None] + image[:, right] * across[:, None]
    return np.floor(wide[top] * (1 - down)[:, None, None] + wide[bottom] * down[:, None, None] + 0.5)


def axis(old: int, new: int) -> tuple[Any, Any, Any]:
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(np.floor(place).astype(int), max(old - 2, 0))
    return first, np.minimum(first + 1, old - 1), place - first


def test_a_plain_loop_keeps_the_tolerance_of_linear_resizing() -> None:
    """The README's description is enough, and the tolerance is one that floating point keeps."""
    checked = 0
    for case in stored("preprocess"):
        rule = case.given["rule"]
        if rule["interpolation"] != "linear" or case.name.startswith("strip") or case.must_fail:
            continue
        answered = KINDS["preprocess"].answer(case.given, case.folder)
        answered["tensor"] = portable(case)
        assert not KINDS["preprocess"].differences(case, answered), case.name
        checked += 1
    assert checked > 50


def portable(case: Case) -> Any:
    """The tensor of a case by plain loops."""
    rule, place = case.given["rule"], case.expected["transform"]
    image = upright(case.given["image"].pixels, case.given["orientation"], case.given["mirrored"])
    small = bilinear(image.astype(np.float64), *place["resized"])
    rows, columns = rule["size"]
    pad = rule["pad"] if isinstance(rule["pad"], list) else [rule["pad"]] * 3
    canvas = np.full((rows, columns, 3), pad if rule["color"] == "bgr" else pad[::-1], np.float64)
    left, top = int(place["offset_x"]), int(place["offset_y"])
    shown = small[max(-top, 0) :, max(-left, 0) :][: rows - max(top, 0), : columns - max(left, 0)]
    canvas[max(top, 0) : max(top, 0) + len(shown), max(left, 0) : max(left, 0) + shown.shape[1]] = shown
    ordered = canvas if rule["color"] == "bgr" else canvas[..., ::-1]
    levels = (ordered * rule["scale"] - rule["mean"]) / rule["std"]
    return levels.transpose(2, 0, 1)[None].astype(np.float32)


def test_a_case_can_be_read_as_it_was_planned(tmp_path: Path) -> None:
    large = np.arange(100, dtype=np.float32).reshape(4, 25)
    strange = np.array([np.nan, np.inf, 0.1], np.float32)
    given: Tree = {
        "large": large,
        "strange": strange,
        "small": np.array([1, -2]),
        "heads": [Recurrence((2, 2), 1, 0, 1)],
    }
    save(tmp_path / "one", "decode", Planned("one", "a case", given, expected={"x": 0.5}), lambda *_: {})
    case = read(tmp_path / "one")
    assert np.array_equal(case.given["large"], large)
    assert np.array_equal(case.given["strange"], strange, equal_nan=True)
    assert case.given["small"].tolist() == [1, -2]
    assert case.given["heads"][0].shape == (2, 2)
    assert case.expected == {"x": 0.5}
    assert "NaN" not in (tmp_path / "one" / "case.json").read_text()
