"""Classification: the best classes, labels over a threshold, drawing, and a round trip through JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.errors import InputError, UsageError
from edgekit.runtimes import drawing
from edgekit.runtimes.results import Classification, Result, Timings

TEXT = st.text(st.characters(codec="utf-8"))
CLASSES = ("cat", "dog", "bird", "fish")


def make(**changes: Any) -> Classification:
    parts: dict[str, Any] = {"scores": [0.1, 0.6, 0.05, 0.25], "classes": CLASSES, "size": (160, 120)}
    return Classification(**{**parts, **changes})


class TestScores:
    def test_the_best(self) -> None:
        found = make()
        assert found.scores.dtype == np.float32
        assert found.best == ("dog", pytest.approx(0.6))
        assert [name for name, _ in found.top(2)] == ["dog", "fish"]
        assert found.top_ids() == [1, 3, 0, 2], "all of them where there are fewer than k"
        assert make(scores=[0.3, 0.3, 0.3, 0.1]).best[0] == "cat", "the first of equals"
        with pytest.raises(UsageError, match="k must be at least 1, not 0"):
            found.top(0)

    def test_labels(self) -> None:
        found = make(scores=[0.9, 0.2, 0.5, 0.6], multi_label=True)
        assert found.labels() == ["cat", "fish", "bird"]
        assert found.labels(0.9) == ["cat"], "the threshold itself counts, in float32 as well"
        assert found.labels(0.95) == []
        assert make(scores=[0.9, 0.2, 0.5, 0.6], threshold=0.2).labels() == ["cat", "fish", "bird", "dog"]

    def test_repr(self) -> None:
        assert repr(make(source="a.jpg")) == "a.jpg: dog 60%, fish 25%, cat 10%"
        assert repr(make(scores=[0.9, 0.2, 0.5, 0.6], multi_label=True)) == "cat 90%, fish 60%, bird 50%"
        assert repr(make(multi_label=True, threshold=0.7)) == "nothing"

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"scores": [0.5, 0.5]}, r"scores must have the shape \(4,\), one entry per row, not \(2,\)"),
            ({"scores": [[0.1, 0.6, 0.05, 0.25]]}, r"scores must have the shape \(4,\)"),
            ({"scores": [0, 0, 0, np.inf]}, "scores must be finite numbers, not inf"),
            ({"scores": "abcd"}, "scores must be an array of float32"),
            ({"scores": None}, "scores must"),
            ({"scores": [], "classes": ()}, "classes must have at least one name"),
            ({"size": (0, 1)}, r"size must be \(width, height\)"),
        ],
    )
    def test_what_does_not_fit_is_named(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            make(**changes)

    def test_equality(self) -> None:
        assert make() == make()
        assert make() != make(scores=[0.1, 0.6, 0.06, 0.24])
        assert make() != make(multi_label=True)
        assert make() != "dog"

    def test_named_at_the_top(self) -> None:
        assert edgekit.Classification is Classification
        assert {edgekit.Poses, edgekit.Instances, edgekit.Detections} <= set(Result.__subclasses__()) | set(
            edgekit.Detections.__subclasses__()
        )
        assert edgekit.Masks.__name__ == "Masks"


class TestExport:
    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.text(st.characters(codec="utf-8")), st.floats(-(2.0**100), 2.0**100, width=32)), min_size=1
        ),
        st.booleans(),
        st.floats(0, 1),
        st.none() | st.floats(0, 1e6),
        st.none() | st.builds(Timings, *[st.floats(0, 1e5)] * 3),
    )
    def test_json_round_trip_loses_nothing(
        self, classes: list[tuple[str, float]], multi: bool, threshold: float, time: float | None, took: Timings | None
    ) -> None:
        before = make(
            scores=[score for _, score in classes],
            classes=[name for name, _ in classes],
            multi_label=multi,
            threshold=threshold,
            time=time,
            timings=took,
        )
        after = Classification.from_json(before.to_json())
        assert after == before
        assert after.scores.tobytes() == before.scores.tobytes()
        assert Classification.from_dict(json.loads(json.dumps(before.to_dict()))) == before

    def test_the_layout(self) -> None:
        document = make(source="a.jpg").to_dict()
        assert document == {
            "image": "a.jpg",
            "width": 160,
            "height": 120,
            "top": [
                {"class_id": 1, "name": "dog", "score": 0.6},
                {"class_id": 3, "name": "fish", "score": 0.25},
                {"class_id": 0, "name": "cat", "score": 0.1},
                {"class_id": 2, "name": "bird", "score": 0.05},
            ],
            "scores": [0.1, 0.6, 0.05, 0.25],
            "multi_label": False,
            "threshold": 0.5,
            "classes": list(CLASSES),
        }
        text = make().to_json(classes=False)
        assert Classification.from_json(text, CLASSES) == make()
        with pytest.raises(InputError, match="written without its class names; pass classes="):
            Classification.from_json(text)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"scores": "many"}, "Expected `array`, got `str`"),
            ({"scores": [None] * 4}, "Expected `float`, got `null`"),
            ({"scores": [1]}, r"scores must have the shape \(4,\)"),
            ({"multi_label": 7}, "Expected `bool`"),
            ({"threshold": "high"}, "Expected `float`"),
        ],
    )
    def test_other_documents_are_refused(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=f"not a result that edgekit wrote: .*{says}"):
            Classification.from_dict({**make().to_dict(), **change})

    def test_brackets_without_end(self) -> None:
        with pytest.raises(InputError, match="not a result that edgekit wrote"):
            Classification.from_json("[" * 100_000)


class TestDrawing:
    def image(self, width: int = 160, height: int = 120) -> np.ndarray:
        return np.full((height, width, 3), 128, np.uint8)

    def test_plates_in_the_corner(self) -> None:
        drawn = make().draw(self.image(), k=2)
        assert tuple(drawn[0, 0]) == drawing.color_of(1)
        changed = np.flatnonzero((drawn != 128).any(axis=(1, 2)))
        assert tuple(drawn[changed[-1], 0]) == drawing.color_of(3)
        assert changed[-1] == len(changed) - 1, "one under the other without a gap"
        assert (drawn[:, 130:] == 128).all()
        assert (make().draw(self.image(), scores=False) != make().draw(self.image())).any()
        assert (make().draw(self.image(), labels=False) == 128).all()

    @settings(deadline=None)
    @given(st.integers(1, 300), st.integers(1, 300), st.text(max_size=40))
    def test_any_size_and_name(self, width: int, height: int, name: str) -> None:
        found = make(size=(width, height), classes=(name, "dog", "bird", "fish"))
        assert found.draw(self.image(width, height)).shape == (height, width, 3)

    def test_another_image_is_refused(self) -> None:
        with pytest.raises(UsageError, match="pixels of a 160x120 image, not 120x160"):
            make().draw(self.image(120, 160))
        with pytest.raises(InputError, match="must be uint8"):
            make().draw(np.zeros((120, 160), np.uint8))
