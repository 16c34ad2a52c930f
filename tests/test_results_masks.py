"""Masks: run lengths as pycocotools writes them, outlines, overlaps, and instances made of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.errors import InputError, UsageError
from edgekit.runtimes import drawing
from edgekit.runtimes.results import Detections, Instances, Masks

bitmaps = st.tuples(st.integers(0, 4), st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: arrays.arrays(np.bool_, shape)
)


def disc(size: int = 21, radius: float = 8.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size // 2
    return rows**2 + columns**2 <= radius**2


def widened(masks: Masks) -> Masks:
    """The same masks in windows as large as the image."""
    return Masks(list(masks.bitmaps()), np.zeros((len(masks), 2), int), masks.size)


def make(**changes: Any) -> Instances:
    parts: dict[str, Any] = {
        "boxes": [[5, 5, 40, 40], [20, 20, 60, 50], [0, 0, 3, 3]],
        "scores": [0.9, 0.5, 0.3],
        "class_ids": [1, 0, 1],
        "classes": ("circle", "square"),
        "size": (80, 60),
        "masks": Masks(
            [np.ones((35, 35), np.bool_), np.ones((30, 40), np.bool_), np.zeros((0, 0), np.bool_)],
            [(5, 5), (20, 20), (0, 0)],
            (80, 60),
        ),
    }
    return Instances(**{**parts, **changes})


class TestMasks:
    @settings(deadline=None)
    @given(bitmaps)
    def test_bitmaps_come_back(self, given_bitmaps: np.ndarray) -> None:
        masks = Masks.from_bitmaps(given_bitmaps)
        assert np.array_equal(masks.bitmaps(), given_bitmaps)
        assert all(np.array_equal(one, other) for one, other in zip(masks, given_bitmaps, strict=True))
        assert masks.size == given_bitmaps.shape[:0:-1]
        assert masks.areas.tolist() == given_bitmaps.sum(axis=(1, 2)).tolist()
        assert masks.windows.dtype == np.int64

    @settings(deadline=None)
    @given(bitmaps, st.data())
    def test_selection_is_that_of_the_bitmaps(self, given_bitmaps: np.ndarray, data: st.DataObject) -> None:
        count = len(given_bitmaps)
        masks = Masks.from_bitmaps(given_bitmaps)
        positions = st.lists(st.integers(0, count - 1)) if count else st.just([])
        chosen = data.draw(positions | st.slices(count) | st.lists(st.booleans(), min_size=count, max_size=count))
        by = chosen if isinstance(chosen, slice) else np.array(chosen, None if chosen else int)
        assert masks[chosen] == Masks.from_bitmaps(given_bitmaps[by])

    def test_one_position(self) -> None:
        masks = make().masks
        assert len(masks[0]) == len(masks[-1]) == 1
        assert masks[1].areas.tolist() == [1200]
        for index in (3, -4, [0, 3], [True]):
            with pytest.raises(IndexError):
                masks[index]

    @settings(deadline=None)
    @given(bitmaps)
    def test_equal_by_pixels_not_by_windows(self, given_bitmaps: np.ndarray) -> None:
        masks = Masks.from_bitmaps(given_bitmaps)
        assert masks == widened(masks)
        assert masks.to_rle() == widened(masks).to_rle()
        if given_bitmaps.size:
            other = given_bitmaps.copy()
            other[0, 0, 0] ^= True
            assert masks != Masks.from_bitmaps(other)

    def test_not_equal(self) -> None:
        masks = make().masks
        assert masks != masks[:2]
        assert masks[:0] == Masks((), (), (80, 60))
        assert masks[:0] != Masks((), (), (60, 80))
        moved = Masks(masks.crops, masks.corners + 1, masks.size)
        assert masks != moved
        assert masks != "masks"

    def test_repr(self) -> None:
        assert repr(make().masks) == "3 masks in 80x60 pixels"
        assert repr(make().masks[0]) == "1 mask in 80x60 pixels"

    @pytest.mark.parametrize(
        ("crops", "corners", "size", "says"),
        [
            ([np.ones((2, 2))], [(0, 0)], (9, 9), r"mask 0 must be a bool array \(h, w\), not float64 \(2, 2\)"),
            ([np.ones(2, bool)], [(0, 0)], (9, 9), r"mask 0 must be a bool array .* not bool \(2,\)"),
            (["x"], [(0, 0)], (9, 9), "mask 0 must be a bool array .* not str"),
            ([np.ones((2, 2), bool)], [(0, 0), (1, 1)], (9, 9), r"corners must be whole numbers \(1, 2\)"),
            ([np.ones((2, 2), bool)], [(0.5, 0)], (9, 9), r"corners must be whole numbers .* float64 \(1, 2\)"),
            ([np.ones((2, 2), bool)], [(0,), (0, 1)], (9, 9), r"corners must be whole numbers \(n, 2\): "),
            ([np.ones((2, 2), bool)], [(8, 0)], (9, 9), r"mask 0 covers the pixels \[8, 0, 10, 2\] .* 9x9 image"),
            ([np.ones((2, 2), bool)] * 2, [(0, 0), (0, -1)], (9, 9), r"mask 1 covers the pixels \[0, -1, 2, 1\]"),
            ([], [], (0, 9), r"size must be \(width, height\)"),
        ],
    )
    def test_what_does_not_fit_is_named(self, crops: Any, corners: Any, size: Any, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            Masks(crops, corners, size)

    def test_other_bitmaps_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"bitmaps must be bool \(n, height, width\), not uint8 \(1, 2, 2\)"):
            Masks.from_bitmaps(np.ones((1, 2, 2), np.uint8))  # type: ignore[arg-type]


class TestRunLengths:
    @settings(deadline=None)
    @given(bitmaps)
    @example(np.ones((1, 3, 3), np.bool_))
    @example(np.zeros((1, 3, 3), np.bool_))
    @example(np.tri(12, dtype=np.bool_)[None])
    def test_as_pycocotools_writes_and_reads_them(self, given_bitmaps: np.ndarray) -> None:
        coco = pytest.importorskip("pycocotools.mask", reason="the oracle is pycocotools")
        masks = Masks.from_bitmaps(given_bitmaps)
        expected = coco.encode(np.asfortranarray(given_bitmaps.transpose(1, 2, 0).astype(np.uint8)))
        encoded = masks.to_rle()
        assert [one["counts"] for one in encoded] == [one["counts"].decode() for one in expected]
        assert [one["size"] for one in encoded] == [list(one["size"]) for one in expected]
        assert Masks.from_rle(expected, masks.size) == Masks.from_rle(encoded, masks.size) == masks

    def test_large_masks_with_long_runs(self) -> None:
        """Differences of runs in both directions that need several groups of bits."""
        coco = pytest.importorskip("pycocotools.mask", reason="the oracle is pycocotools")
        rng = np.random.default_rng(0)
        for _ in range(20):
            height, width = rng.integers(300, 2500, 2).tolist()
            bitmap = np.zeros((height, width), np.bool_)
            for _ in range(4):
                x, y = int(rng.integers(width)), int(rng.integers(height))
                bitmap[y : y + int(rng.integers(1, height)), x : x + int(rng.integers(1, width))] ^= True
            (encoded,) = Masks.from_bitmaps(bitmap[None]).to_rle()
            assert encoded["counts"] == coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"].decode()
            assert np.array_equal(Masks.from_rle([encoded]).bitmap(0), bitmap)

    def test_any_runs_in_plain_numbers(self) -> None:
        """COCO's uncompressed form, with runs of length 0 in it."""
        masks = Masks.from_rle([{"size": [2, 3], "counts": [1, 1, 0, 2, 2]}])
        assert masks.bitmap(0).astype(int).tolist() == [[0, 1, 0], [1, 1, 0]]
        nothing = Masks.from_rle([{"size": [2, 3], "counts": [3, 0, 3]}])
        assert nothing.areas.tolist() == [0]
        last = Masks.from_rle([{"size": [2, 3], "counts": [0, 0, 5, 1]}])
        assert last.windows.tolist() == [[2, 1, 3, 2]], "the smallest window, whatever runs of no pixels there are"
        assert Masks.from_rle([], (4, 3)) == Masks((), (), (4, 3))

    @pytest.mark.parametrize(
        ("encoded", "says"),
        [
            ({"size": [2, 3]}, r"mask 1 cannot be read: not \{'size': .*KeyError\('counts'\)"),
            ({"size": 5, "counts": "6"}, "not {'size': .*TypeError"),
            ({"size": [2, 3, 4], "counts": "6"}, "not {'size': .*ValueError"),
            ({"size": [2, 3], "counts": ["x"]}, "not {'size': .*ValueError"),
            ({"size": [2, 0], "counts": "0"}, r"its size is \(0, 2\)"),
            ({"size": [2, 3], "counts": [[6]]}, "its counts have 2 dimensions"),
            ({"size": [2, 3], "counts": [5]}, "its runs cover 5 pixels, where the image has 3x2"),
            ({"size": [2, 3], "counts": [7, -1]}, "its runs cover 6 pixels, where the image has 3x2"),
            ({"size": [2, 3], "counts": [*[2**62] * 4, 6]}, "its runs cover 18446744073709551622 pixels"),
            ({"size": [2, 3], "counts": []}, "its runs cover 0 pixels"),
            ({"size": [2, 3], "counts": ""}, "its counts '' are not COCO's compressed runs, or cut short"),
            ({"size": [2, 3], "counts": "6P"}, "its counts '6P' are not .* cut short"),
            ({"size": [2, 3], "counts": " 6"}, "its counts ' 6' are not"),
            ({"size": [2, 3], "counts": "é"}, "its counts are not COCO's compressed runs"),
            ({"size": [2, 3], "counts": "PPPPPPPPP0"}, "have a number of 50 bits"),
            ({"size": [3, 2], "counts": "6"}, "it is of a 2x3 image, not 3x2"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, encoded: dict[str, object], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Masks.from_rle([{"size": [2, 3], "counts": "6"}, encoded])

    @settings(deadline=None)
    @given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
    def test_any_text_is_masks_or_an_input_error(self, text: str) -> None:
        try:
            masks = Masks.from_rle([{"size": [5, 4], "counts": text}])
        except InputError:
            return
        assert Masks.from_rle(masks.to_rle()) == masks

    def test_an_empty_list_needs_a_size(self) -> None:
        with pytest.raises(UsageError, match=r"pass size=\(width, height\)"):
            Masks.from_rle([])


class TestOutlines:
    @settings(deadline=None)
    @given(bitmaps)
    def test_outlines_enclose_the_filled_parts_exactly(self, given_bitmaps: np.ndarray) -> None:
        """By another way: the area outside is what can be reached from the border, moving to four neighbours."""
        masks = Masks.from_bitmaps(given_bitmaps)
        for index, bitmap in enumerate(given_bitmaps):
            outside = np.pad(~bitmap, 1, constant_values=True).astype(np.uint8)
            _, parts = cv2.connectedComponents(outside, connectivity=4)
            filled = (parts != parts[0, 0])[1:-1, 1:-1]
            outlines = masks.polygons(index)
            assert sum(abs(shoelace(one)) for one in outlines) == filled.sum()
            inside = [crossings(one, *bitmap.shape) for one in outlines]
            assert np.array_equal(np.any([*inside, np.zeros_like(bitmap)], axis=0), filled)

    def test_one_pixel_is_a_unit_square(self) -> None:
        masks = Masks([np.ones((1, 1), np.bool_)], [(3, 2)], (9, 9))
        (outline,) = masks.polygons(0)
        assert outline.dtype == np.float32
        assert sorted(map(tuple, outline.tolist())) == [(3, 2), (3, 3), (4, 2), (4, 3)]

    def test_parts_and_holes(self) -> None:
        ring = np.ones((5, 5), np.bool_)
        ring[2, 2] = False
        both = np.concatenate([ring, np.zeros((5, 1), np.bool_), np.ones((5, 2), np.bool_)], axis=1)
        outlines = Masks([both], [(0, 0)], (20, 20)).polygons(0)
        assert sorted(abs(shoelace(one)) for one in outlines) == [10, 25]
        assert make().masks.polygons(2) == []

    def test_simplified(self) -> None:
        masks = Masks([disc()], [(10, 10)], (50, 50))
        (exact,), (simple,) = masks.polygons(0), masks.polygons(0, tolerance=1.0)
        assert len(simple) < len(exact) / 2
        assert abs(shoelace(simple)) == pytest.approx(masks.areas[0], rel=0.1)
        assert Masks([np.ones((1, 1), np.bool_)], [(0, 0)], (5, 5)).polygons(0, tolerance=5.0) == []


def shoelace(outline: np.ndarray) -> float:
    x, y = outline.astype(np.float64).T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def crossings(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether the centre of each pixel is inside an outline, by the even-odd rule."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), np.bool_)
    for (x1, y1), (x2, y2) in zip(outline.tolist(), np.roll(outline, -1, axis=0).tolist(), strict=True):
        if x1 == x2:
            inside ^= (rows > min(y1, y2)) & (rows < max(y1, y2)) & (columns < x1)
    return inside


class TestOverlap:
    @settings(deadline=None)
    @given(st.integers(1, 12), st.integers(1, 12), st.data())
    def test_iou_is_that_of_the_bitmaps(self, height: int, width: int, data: st.DataObject) -> None:
        one, other = (
            data.draw(arrays.arrays(np.bool_, st.tuples(st.integers(0, 4), st.just(height), st.just(width))))
            for _ in range(2)
        )
        both = (one[:, None] & other[None]).sum(axis=(2, 3))
        either = (one[:, None] | other[None]).sum(axis=(2, 3))
        found = Masks.from_bitmaps(one).iou(Masks.from_bitmaps(other))
        assert (found.shape, found.dtype) == ((len(one), len(other)), np.float32)
        assert np.allclose(found, np.divide(both, either, out=np.zeros(both.shape), where=either > 0), atol=1e-7)

    def test_of_two_images(self) -> None:
        with pytest.raises(UsageError, match=r"masks of \(80, 60\) and \(60, 80\) pixels .* cannot be compared"):
            make().masks.iou(Masks((), (), (60, 80)))


class TestRefinement:
    def speckled(self) -> np.ndarray:
        """A disc with a hole, a speck beside it, and a smaller disc."""
        image = np.zeros((40, 60), np.bool_)
        image[5:26, 5:26] = disc()
        image[15, 15] = False
        image[30, 40:42] = True
        image[20:31, 45:56] |= disc(11, 4)
        return image

    @pytest.mark.parametrize("options", [{"open": 1}, {"close": 2}, {"open": 2, "close": 3}, {"largest": True}])
    def test_the_same_as_on_the_whole_image(self, options: dict[str, Any]) -> None:
        """The windows make no difference: neither their borders nor those of the image."""
        image = self.speckled()
        image[:, :8] = disc(40, 19)[:, :8]  # something at the border of the image
        around = np.pad(image, 20)
        found = Masks.from_bitmaps(image[None]).refined(**options)
        expected = Masks.from_bitmaps(around[None]).refined(**options)
        assert np.array_equal(found.bitmap(0), expected.bitmap(0)[20:-20, 20:-20])
        assert expected.areas[0] == found.areas[0], "nothing grew out of the image"

    def test_what_each_does(self) -> None:
        masks = Masks.from_bitmaps(self.speckled()[None])
        assert not masks.refined(open=1).bitmap(0)[30, 40:42].any(), "the speck is gone"
        assert masks.refined(close=1).bitmap(0)[15, 15], "the hole is filled"
        largest = masks.refined(largest=True).bitmap(0)
        assert largest.sum() == disc().sum() - 1
        assert largest[10, 15]
        assert masks.refined(close=1, largest=True).areas[0] == disc().sum()
        assert masks.refined() == masks
        assert masks.refined(open=9, largest=True).areas.tolist() == [0]
        assert make().masks[2].refined(open=1, close=1, largest=True) == make().masks[2]

    def test_parts_that_touch_in_a_corner_are_one(self) -> None:
        masks = Masks([np.eye(4, dtype=np.bool_)], [(0, 0)], (9, 9))
        assert masks.refined(largest=True) == masks

    def test_negative_radius(self) -> None:
        with pytest.raises(UsageError, match="open and close are radii in pixels, at least 0, not 0 and -1"):
            make().masks.refined(close=-1)


class TestInstances:
    @settings(deadline=None)
    @given(bitmaps, st.booleans(), st.data())
    def test_json_round_trip_loses_nothing(self, given_bitmaps: np.ndarray, tracked: bool, data: st.DataObject) -> None:
        count = len(given_bitmaps)
        ids = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count)
        before = Instances(
            boxes=data.draw(arrays.arrays(np.float32, (count, 4), elements=st.floats(-1e5, 1e5, width=32))),
            scores=data.draw(arrays.arrays(np.float32, count, elements=st.floats(0, 1, width=32))),
            class_ids=[1] * count,
            track_ids=np.array(data.draw(ids), np.int64) if tracked else None,
            classes=("circle", "square"),
            size=given_bitmaps.shape[:0:-1],
            masks=Masks.from_bitmaps(given_bitmaps),
            time=1.5,
        )
        after = Instances.from_json(before.to_json())
        if count == 0 and tracked:  # no row tells of its track id
            assert dataclasses.replace(after, track_ids=before.track_ids) == before
        else:
            assert after == before
        assert np.array_equal(after.masks.bitmaps(), given_bitmaps)

    def test_a_row_of_json(self) -> None:
        row = make().to_dict()["detections"][2]
        assert row["mask"] == {"size": [60, 80], "counts": "Pf4"}
        assert list(row) == ["box", "score", "class_id", "mask", "name"]

    def test_selected_together(self) -> None:
        chosen = make()[[2, 0]]
        assert chosen.masks.areas.tolist() == [0, 35 * 35]
        assert make().filter(classes="square").masks.areas.tolist() == [35 * 35, 0]
        assert Instances.empty(("a",), (7, 5)).masks == Masks((), (), (7, 5))
        assert make() != make(masks=make().masks[[0, 1, 1]])

    @pytest.mark.parametrize(
        ("masks", "says"),
        [
            (np.ones((3, 60, 80), np.bool_), "masks must be edgekit.results.Masks, not ndarray"),
            (None, "masks must be edgekit.results.Masks, not NoneType"),
            (make().masks[:2], "masks must be 3 masks, one per row, in 80x60 pixels, not 2 masks"),
            (Masks.from_bitmaps(np.ones((3, 8, 9), np.bool_)), "in 80x60 pixels, not 3 masks in 9x8 pixels"),
        ],
    )
    def test_what_does_not_fit_is_named(self, masks: object, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            make(masks=masks)

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            ({"size": [60, 80], "counts": "5"}, "'mask' cannot be read .mask 1 cannot be read: its runs cover 5"),
            ({"size": [6, 8], "counts": "`1"}, "it is of a 8x6 image, not 80x60"),
            ("Pf4", "'mask' cannot be read"),
            (None, "'mask' cannot be read"),
        ],
    )
    def test_other_documents_are_refused(self, entry: object, says: str) -> None:
        document = make().to_dict()
        document["detections"][1]["mask"] = entry
        with pytest.raises(InputError, match=says):
            Instances.from_dict(document)
        del document["detections"][1]["mask"]
        with pytest.raises(InputError, match="a detection without 'mask'"):
            Instances.from_dict(document)

    def test_label_map(self) -> None:
        labels = make().label_map()
        assert (labels.shape, labels.dtype) == ((60, 80), np.int32)
        assert labels[30, 30] == 1, "the best score is on top"
        assert labels[45, 50] == 0
        assert labels[0, 0] == -1
        assert (labels == 1).sum() == 35 * 35
        assert make()[::-1].label_map(background=7)[30, 30] == 1, "whatever the order of the rows"
        assert set(np.unique(make()[[2]].label_map(background=7))) == {7}

    def test_coco_results_are_read_by_pycocotools(self) -> None:
        coco = pytest.importorskip("pycocotools.mask", reason="the oracle is pycocotools")
        rows = make().to_coco(3, category_ids=[18, 44])
        assert [row["category_id"] for row in rows] == [44, 18, 44]
        assert rows[0]["bbox"] == [5.0, 5.0, 35.0, 35.0]
        assert coco.area([row["segmentation"] for row in rows]).tolist() == [1225, 1200, 0]
        assert np.array_equal(coco.decode(rows[0]["segmentation"]), make().masks.bitmap(0))

    def test_supervision(self) -> None:
        pytest.importorskip("supervision", reason="needs the optional package supervision")
        other = make(track_ids=[4, 5, 6]).to_supervision()
        assert np.array_equal(other.mask, make().masks.bitmaps())
        assert other.tracker_id.tolist() == [4, 5, 6]
        assert other[other.tracker_id == 5].mask.sum() == 1200

    def test_drawn_fill_outline_and_box(self) -> None:
        image = np.full((60, 80, 3), 100, np.uint8)
        drawn = make().draw(image, boxes=False, opacity=0.5, thickness=1)
        square, circle = np.array(drawing.color_of(1)), np.array(drawing.color_of(0))
        assert np.abs(drawn[12, 12] - (100 + square) / 2).max() <= 1
        assert np.abs(drawn[45, 50] - (100 + circle) / 2).max() <= 1
        assert tuple(drawn[20, 5]) == tuple(square), "the outline is in full colour"
        assert (drawn[55, 5] == 100).all()
        assert (image == 100).all()
        assert (make().draw(image, labels=False) != drawn).any(), "with boxes"
        with pytest.raises(UsageError, match=r"opacity must be 0\.\.1, not 2"):
            make().draw(image, opacity=2)
        with pytest.raises(UsageError, match="pixels of a 80x60 image, not 8x6"):
            make().draw(image[:6, :8])

    @settings(deadline=None)
    @given(bitmaps)
    def test_any_masks_can_be_drawn(self, given_bitmaps: np.ndarray) -> None:
        masks = Masks.from_bitmaps(given_bitmaps)
        image = np.zeros((*given_bitmaps.shape[1:], 3), np.uint8)
        drawn = drawing.draw_masks(image, masks.crops, masks.corners, range(len(masks)), opacity=1, thickness=1)
        assert np.array_equal(drawn.any(axis=2), given_bitmaps.any(axis=0)), "the pixels of the masks and no others"

    def test_a_plain_reader_sees_boxes(self) -> None:
        assert len(Detections.from_json(make().to_json())) == 3
