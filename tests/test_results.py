"""Detections: selecting, filtering, drawing, and a round trip through JSON that loses nothing."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, UsageError
from edgekit.runtimes import drawing
from edgekit.runtimes.results import Detection, Detections, Timings, column

CLASSES = ("circle", "square", "star")


def make(**changes: object) -> Detections:
    parts: dict[str, object] = {
        "boxes": [[10, 20, 110, 70], [0, 0, 30.5, 30.25], [150, 5, 199, 99]],
        "scores": [0.9, 0.5, 0.3],
        "class_ids": [2, 0, 0],
        "classes": CLASSES,
        "size": (200, 100),
    }
    return Detections(**{**parts, **changes})  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Tracked(Detections):
    """What a later task may return: two more columns, one of them optional."""

    keypoints: np.ndarray = dataclasses.field(metadata=column("keypoints", np.float32, (2, 3)))
    ages: np.ndarray | None = dataclasses.field(default=None, metadata=column("age", np.int64, optional=True))


class TestConstruction:
    def test_arrays_have_the_promised_types(self) -> None:
        found = make()
        assert (found.boxes.dtype, found.boxes.shape) == (np.float32, (3, 4))
        assert (found.scores.dtype, found.class_ids.dtype) == (np.float32, np.int64)
        assert found.names == ["star", "circle", "circle"]
        assert len(found) == 3

    def test_arrays_of_the_right_type_are_not_copied(self) -> None:
        boxes = np.zeros((1, 4), np.float32)
        assert make(boxes=boxes, scores=[1], class_ids=[0]).boxes is boxes

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"boxes": np.zeros((2, 4))}, r"boxes must have the shape \(3, 4\).* not \(2, 4\)"),
            ({"boxes": np.zeros((3, 5))}, r"boxes .* not \(3, 5\)"),
            ({"class_ids": [0, 1]}, r"class_ids must have the shape \(3,\).* not \(2,\)"),
            ({"scores": [[0.1], [0.2], [0.3]]}, r"scores must have the shape \(3,\)"),
            ({"scores": [0.1, float("nan"), 0.3]}, "scores must be finite numbers, not nan"),
            ({"boxes": np.full((3, 4), np.inf)}, "boxes must be finite numbers, not inf"),
            ({"class_ids": [0, 1, 3]}, r"class ids must be 0..2, one per name in classes, not 0..3"),
            ({"class_ids": [0, -1, 1]}, r"not -1..1"),
            ({"size": (0, 100)}, r"size must be \(width, height\).* not \(0, 100\)"),
        ],
    )
    def test_what_does_not_fit_is_named(self, changes: dict[str, object], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            make(**changes)

    def test_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            make().time = 1.0  # type: ignore[misc]

    def test_empty(self) -> None:
        nothing = Detections.empty(CLASSES, (200, 100), source="a.jpg")
        assert len(nothing) == 0
        assert nothing.boxes.shape == (0, 4)
        assert nothing.names == []
        assert list(nothing) == []
        assert not nothing
        assert repr(nothing) == "a.jpg: 0 detections"
        assert Detections.from_json(nothing.to_json()) == nothing
        assert make(boxes=[], scores=[], class_ids=[]) == Detections.empty(CLASSES, (200, 100))


class TestSelection:
    def test_by_position_slice_mask_and_indices(self) -> None:
        found = make(time=1.5, source="v.mp4#3")
        assert found[0].names == ["star"]
        assert found[-1].scores.tolist() == [np.float32(0.3)]
        assert found[np.int64(1)].names == ["circle"]
        assert found[1:].names == ["circle", "circle"]
        assert found[::-1].names == ["circle", "circle", "star"]
        assert found[found.scores > 0.4].names == ["star", "circle"]
        assert found[[True, False, False]].names == ["star"]
        assert found[[2, 0]].names == ["circle", "star"]
        assert len(found[[]]) == 0
        assert len(found[np.array([], int)]) == 0
        assert (found[0].time, found[0].source, found[0].classes) == (1.5, "v.mp4#3", CLASSES)

    @pytest.mark.parametrize("index", [3, -4, [0, 3], [True, False], [0.5]])
    def test_out_of_range_is_an_index_error(self, index: object) -> None:
        with pytest.raises(IndexError):
            make()[index]  # type: ignore[index]

    def test_rows(self) -> None:
        rows = list(make())
        assert rows[1] == Detection((0.0, 0.0, 30.5, 30.25), 0.5, 0, "circle")
        assert len({*rows}) == 3

    def test_filter(self) -> None:
        found = make()
        assert found.filter(score=0.5).names == ["star", "circle"]
        assert found.filter(score=0.9).names == ["star"], "the threshold itself stays, in float32 as well"
        assert found.filter(classes="circle").names == ["circle", "circle"]
        assert found.filter(classes=2).names == ["star"]
        assert found.filter(classes=["star", 0], score=0.4).names == ["star", "circle"]
        assert len(found.filter(classes=[])) == 0
        assert found.filter() == found

    def test_filter_refuses_unknown_classes(self) -> None:
        with pytest.raises(UsageError, match="class 'moon' is not one of: circle, square, star"):
            make().filter(classes="moon")
        with pytest.raises(UsageError, match=r"class id 3 is not one of 0\.\.2"):
            make().filter(classes=[3])

    def test_repr_counts_by_class(self) -> None:
        assert repr(make()) == "3 detections: 2 circle, 1 star"
        assert repr(make()[0]) == "1 detection: 1 star"
        assert repr(make(source="a.jpg")) == "a.jpg: 3 detections: 2 circle, 1 star"

    def test_equality_is_exact(self) -> None:
        assert make() == make()
        assert make() != make(scores=[np.nextafter(np.float32(0.9), np.float32(1)), 0.5, 0.3])
        assert make() != make(source="other")
        assert make() != make()[:2]
        assert make() != "something"


floats = st.floats(-1e5, 1e5, width=32)
rows = st.lists(st.tuples(st.tuples(floats, floats, floats, floats), st.floats(0, 1, width=32), st.integers(0, 2)))


class TestExport:
    @settings(deadline=None)
    @given(rows, st.none() | st.floats(0, 1e6), st.none() | st.tuples(*[st.floats(0, 1e5)] * 3), st.text())
    def test_json_round_trip_loses_nothing(
        self, found: list[tuple[tuple[float, ...], float, int]], time: float | None, took: object, source: str
    ) -> None:
        before = Detections(
            boxes=np.array([row[0] for row in found], np.float32).reshape(-1, 4),
            scores=np.array([row[1] for row in found], np.float32),
            class_ids=np.array([row[2] for row in found], np.int64),
            classes=CLASSES,
            size=(640, 480),
            source=source.encode("utf-8", "ignore").decode(),
            time=time,
            timings=None if took is None else Timings(*took),  # type: ignore[misc]
        )
        after = Detections.from_json(before.to_json())
        assert after == before
        assert after.boxes.tobytes() == before.boxes.tobytes()
        assert Detections.from_dict(json.loads(json.dumps(before.to_dict()))) == before

    def test_the_layout(self) -> None:
        document = make(source="a/b.jpg", time=0.04, timings=Timings(1.0, 2.5, 0.5)).to_dict()
        assert list(document)[:4] == ["image", "width", "height", "detections"]
        assert (document["image"], document["width"], document["height"]) == ("a/b.jpg", 200, 100)
        assert document["detections"][0] == {
            "box": [10.0, 20.0, 110.0, 70.0],
            "score": 0.9,
            "class_id": 2,
            "name": "star",
        }
        assert document["classes"] == list(CLASSES)
        assert document["time"] == 0.04
        assert document["timings"] == {"pre": 1.0, "inference": 2.5, "post": 0.5}
        assert json.loads(json.dumps(document)) == document, "plain Python values throughout"

    def test_one_line_without_the_class_names(self) -> None:
        text = make().to_json(classes=False)
        assert "\n" not in text
        assert "classes" not in json.loads(text)
        assert Detections.from_json(text, CLASSES) == make()
        with pytest.raises(InputError, match="written without its class names; pass classes="):
            Detections.from_json(text)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"width": "wide"}, "Expected `int`, got `str`"),
            ({"detections": [{"score": 0.5, "class_id": 0}]}, "a detection without 'box'"),
            ({"detections": [{"box": [1, 2, 3], "score": 0.5, "class_id": 0}]}, "'box' cannot be read"),
            ({"detections": [{"box": [1, 2, 3, "x"], "score": 0.5, "class_id": 0}]}, "'box' cannot be read"),
            ({"detections": [{"box": [1, 2, 3, 4], "score": 0.5, "class_id": 7}]}, r"class ids must be 0\.\.2"),
            ({"detections": [{"box": [1, 2, 3, 4], "score": None, "class_id": 0}]}, "score"),
            ({"detections": 5}, "Expected `array`"),
        ],
    )
    def test_other_documents_are_refused(self, change: dict[str, object], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Detections.from_dict({**make().to_dict(), **change})

    @pytest.mark.parametrize("text", ["", "{", "[1]", b"\xff\xfe", '{"image": "a"}'])
    def test_other_text_is_refused(self, text: str | bytes) -> None:
        with pytest.raises(InputError, match="not a result that edgekit wrote"):
            Detections.from_json(text)

    def test_supervision(self) -> None:
        supervision = pytest.importorskip("supervision", reason="needs the optional package supervision")
        found = make()
        other = found.to_supervision()
        assert isinstance(other, supervision.Detections)
        assert np.array_equal(other.xyxy, found.boxes)
        assert np.array_equal(other.confidence, found.scores)
        assert np.array_equal(other.class_id, found.class_ids)
        assert list(other.data["class_name"]) == found.names
        assert len(found[[]].to_supervision()) == 0
        other.xyxy[:] = 0
        assert found.boxes.any(), "its arrays are its own"

    def test_supervision_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(UsageError, match="pip install supervision"):
            make().to_supervision()


class TestFamily:
    """A subclass that adds columns needs nothing else."""

    def tracked(self, ages: object = (7, 8, 9)) -> Tracked:
        points = np.arange(18, dtype=np.float32).reshape(3, 2, 3) / 7
        parts = {field.name: getattr(make(), field.name) for field in dataclasses.fields(Detections)}
        return Tracked(**parts, keypoints=points, ages=ages)

    def test_new_columns_are_selected_with_the_old(self) -> None:
        chosen = self.tracked()[[2, 0]]
        assert isinstance(chosen, Tracked)
        assert chosen.ages is not None
        assert chosen.ages.tolist() == [9, 7]
        assert np.array_equal(chosen.keypoints, self.tracked().keypoints[[2, 0]])
        assert self.tracked().filter(classes="star").ages.tolist() == [7]  # type: ignore[union-attr]

    @pytest.mark.parametrize("ages", [(7, 8, 9), None])
    def test_new_columns_come_through_json(self, ages: object) -> None:
        before = self.tracked(ages)
        assert Tracked.from_json(before.to_json()) == before
        assert ("age" in before.to_dict()["detections"][0]) == (ages is not None)

    def test_new_columns_are_checked_and_can_be_empty(self) -> None:
        with pytest.raises(UsageError, match=r"ages must have the shape \(3,\)"):
            self.tracked((1, 2))
        assert Tracked.empty(CLASSES, (10, 10)).keypoints.shape == (0, 2, 3)
        assert self.tracked() != make()


class TestDrawing:
    def image(self, width: int = 200, height: int = 100, level: int = 128) -> np.ndarray:
        return np.full((height, width, 3), level, np.uint8)

    def test_a_new_image_with_the_boxes_in_their_colours(self) -> None:
        image = self.image()
        drawn = make().draw(image, labels=False, thickness=1)
        assert (image == 128).all()
        assert drawn.shape == image.shape
        star, circle = drawing.color_of(2), drawing.color_of(0)
        assert tuple(drawn[45, 10]) == star, "left edge on the first column of the box"
        assert tuple(drawn[45, 109]) == star, "right edge on its last column, not behind it"
        assert tuple(drawn[69, 50]) == star
        assert (drawn[45, 11] == 128).all()
        assert (drawn[45, 110] == 128).all()
        assert tuple(drawn[98, 170]) == circle

    @settings(deadline=None)
    @given(
        st.integers(1, 300),
        st.integers(1, 300),
        st.lists(st.tuples(*[st.floats(-400, 700, width=32)] * 4), min_size=1, max_size=4),
        st.integers(0, 2),
    )
    def test_any_box_on_any_size_can_be_drawn(
        self, width: int, height: int, boxes: list[tuple[float, ...]], class_id: int
    ) -> None:
        found = make(boxes=boxes, scores=[0.5] * len(boxes), class_ids=[class_id] * len(boxes), size=(width, height))
        assert found.draw(self.image(width, height)).shape == (height, width, 3)

    @pytest.mark.parametrize(
        "box", [(0, 0, 50, 40), (170, 0, 200, 20), (180, 90, 200, 100), (-30, 95, 40, 130), (0, 0, 200, 100)]
    )
    def test_the_whole_label_stays_inside(self, box: tuple[float, ...]) -> None:
        """The plate at any place is the plate in the middle, moved: the same area of it is in the picture."""

        def plate_area(place: tuple[float, ...]) -> int:
            one = make(boxes=[place], scores=[0.5], class_ids=[1])
            with_label, without = one.draw(self.image()), one.draw(self.image(), labels=False)
            return int(np.count_nonzero((with_label != without).any(axis=2)))

        outline = 40  # pixels of the box that the plate may cover, which then do not differ
        assert abs(plate_area(box) - plate_area((60, 50, 150, 90))) <= 4 * outline
        assert plate_area(box) > 500

    def test_colours_are_stable_and_different(self) -> None:
        colors = [drawing.color_of(class_id) for class_id in range(80)]
        assert len(set(colors)) == 80
        assert colors == [drawing.color_of(class_id) for class_id in range(80)]
        assert drawing.color_of(5) == drawing.color_of(5)

    def test_text_is_readable_on_every_colour(self) -> None:
        assert drawing.text_color_on((255, 255, 255)) == (0, 0, 0)
        assert drawing.text_color_on((0, 0, 0)) == (255, 255, 255)
        assert drawing.text_color_on((255, 0, 0)) == (255, 255, 255), "blue is dark"
        assert drawing.text_color_on((0, 255, 255)) == (0, 0, 0), "yellow is bright"

    def test_lines_follow_the_size_of_the_image(self) -> None:
        assert drawing.line_width(100, 100) == 1
        assert drawing.line_width(640, 480) == 2
        assert drawing.line_width(4000, 3000) > drawing.line_width(1920, 1080) > 2

    def test_read_only_and_reversed_images(self) -> None:
        image = self.image()
        image.setflags(write=False)
        assert np.array_equal(make().draw(image), make().draw(image[:, ::-1]))

    def test_names_beyond_ascii(self) -> None:
        assert make(classes=("größe", "鳥", "ж")).draw(self.image()).shape == (100, 200, 3)

    def test_another_image_is_refused(self) -> None:
        with pytest.raises(UsageError, match="pixels of a 200x100 image, not 100x200"):
            make().draw(self.image(100, 200))
        with pytest.raises(InputError, match="must be uint8"):
            make().draw(np.zeros((100, 200), np.uint8))
