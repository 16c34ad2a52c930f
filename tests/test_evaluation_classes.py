"""Accuracy of classification: known answers, scikit-learn as an oracle, and every way in which data can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation import classes
from edgekit.evaluation.class_labels import ClassLabels, LabelledImage, class_ids, read_class_labels
from edgekit.evaluation.labelled import evaluate
from edgekit.evaluation.metrics import ClassMetrics, LabelMetrics
from edgekit.runtimes.results import Classification, Detections, Result
from edgekit.shapes import write_coco
from edgekit.shapes.outlines import CLASSES as SHAPES

NAMES = ("cat", "dog", "horse")


def labels(*names: str | tuple[str, ...], folders: bool = False) -> ClassLabels:
    each = ((name,) if isinstance(name, str) else name for name in names)
    return ClassLabels(tuple(LabelledImage(Path(f"{i}.png"), one) for i, one in enumerate(each)), "the labels", folders)


def found(scores: Any, names: tuple[str, ...] = NAMES, multi_label: bool = False) -> list[Result]:
    rows = np.atleast_2d(np.asarray(scores, np.float32))
    return [Classification(scores=row, classes=names, size=(4, 4), multi_label=multi_label) for row in rows]


class TestAccuracy:
    def test_known_answers(self) -> None:
        names = tuple("abcdefgh")
        scores = np.linspace(0.1, 0.01, 8)[None].repeat(4, 0)  # a is always best, then b, c ...
        metrics = classes.measure(labels("a", "A", "e", "f"), found(scores, names))
        assert isinstance(metrics, ClassMetrics)
        assert (metrics.top1, metrics.top5, metrics.images, metrics.kind) == (0.5, 0.75, 4, "classes")
        assert metrics.main == metrics.top1
        assert metrics.per_class == {"A": 1.0, "a": 1.0, "e": 0.0, "f": 0.0}

    def test_fewer_than_five_classes(self) -> None:
        metrics = classes.measure(labels("horse"), found([0.9, 0.1, 0.0]))
        assert metrics.figures == {"top-1": 0.0, "top-5": 1.0}

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_the_same_as_scikit_learn(self, seed: int) -> None:
        sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn as the oracle")
        generator = np.random.default_rng(seed)
        names = tuple(f"class {i}" for i in range(9))
        true = generator.integers(0, 9, 30)
        scores = generator.random((30, 9)).astype(np.float32)
        metrics = classes.measure(labels(*(names[i] for i in true)), found(scores, names))
        for k, value in ((1, metrics.main), (5, metrics.figures["top-5"])):
            oracle = sklearn.top_k_accuracy_score(true, scores, k=k, labels=range(9))
            assert value == pytest.approx(oracle)
        recall = sklearn.recall_score(true, scores.argmax(1), labels=np.unique(true), average=None)
        assert [metrics.per_class[names[i]] for i in np.unique(true)] == pytest.approx(recall.tolist())

    def test_classes_that_share_a_name_are_all_right(self) -> None:
        """ImageNet has two cranes."""
        names = ("crane", "dog", "Crane")
        assert class_ids(names, labels("crane")) == {"crane": (0, 2)}
        metrics = classes.measure(labels("crane", "crane", "crane"), found(np.eye(3), names))
        assert metrics.main == pytest.approx(2 / 3)


class TestLabels:
    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_mean_average_precision_as_it_is_defined(self, seed: int) -> None:
        pytest.importorskip("sklearn", reason="needs scikit-learn, which measures it")
        generator = np.random.default_rng(seed)
        true = generator.random((20, 3)) < 0.4
        true[0] = True
        scores = generator.permutation(60).reshape(20, 3) / 60
        given_labels = labels(*(tuple(name for name, shown in zip(NAMES, row, strict=True) if shown) for row in true))
        metrics = classes.measure(given_labels, found(scores, multi_label=True))
        assert isinstance(metrics, LabelMetrics)
        for place, name in enumerate(NAMES):
            assert metrics.per_class[name] == pytest.approx(average_precision(true[:, place], scores[:, place]))
        assert metrics.main == pytest.approx(np.mean(list(metrics.per_class.values())))

    def test_an_image_may_show_nothing(self) -> None:
        pytest.importorskip("sklearn", reason="needs scikit-learn, which measures it")
        metrics = classes.measure(labels((), "cat"), found([[0.1, 0, 0], [0.9, 0, 0]], multi_label=True))
        assert metrics == LabelMetrics(1.0, {"cat": 1.0}, 2)
        with pytest.raises(InputError, match="no image shows any class"):
            classes.measure(labels(()), found([0.1, 0, 0], multi_label=True))

    def test_one_of_all_cannot_be_measured_by_several(self) -> None:
        for names in (("cat", "dog"), ()):
            with pytest.raises(InputError, match=rf"0\.png has {len(names)} classes, but the model gives one"):
                classes.measure(labels(names), found([1, 0, 0]))

    def test_scikit_learn_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
        with pytest.raises(UsageError, match="pip install scikit-learn"):
            classes.measure(labels("cat"), found([1, 0, 0], multi_label=True))
        assert classes.measure(labels("cat"), found([1, 0, 0])).main == 1.0


def average_precision(true: Any, scores: Any) -> float:
    """The mean over the true ones of the precision where each is found."""
    order = np.argsort(-scores)
    hits = true[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


class TestNames:
    def test_numbers_are_ids_from_zero(self) -> None:
        assert class_ids(NAMES, labels("2", "0")) == {"0": (0,), "2": (2,)}
        with pytest.raises(InputError, match="'1', '3' of the labels; it knows 'cat', 'dog', 'horse'"):
            class_ids(NAMES, labels("1", "3"))

    def test_as_many_folders_as_classes_are_in_sorted_order_where_names_cannot_be_compared(self) -> None:
        wordnet = labels("n02000000", "n01000000", "n10000000", folders=True)
        assert class_ids(NAMES, wordnet) == {"n01000000": (0,), "n02000000": (1,), "n10000000": (2,)}
        birds = labels("wren", "crow", folders=True)
        for numbered in (("0", "1"), ("class_0", "class_1"), ("Label 7", "Label 8")):
            assert class_ids(numbered, birds) == {"crow": (0,), "wren": (1,)}
        for classes_, wrong in (
            (("cat", "dog"), birds),
            (NAMES, labels("n02000000", "n01000000", folders=True)),
            (NAMES, labels("n02000000", "n01000000", "n10000000")),
            (("0", "1"), labels("wren", "crow")),
        ):
            with pytest.raises(InputError, match=r"the model does not know '(crow|n01000000)'"):
                class_ids(classes_, wrong)

    def test_one_name_that_is_unknown_among_known_ones(self) -> None:
        with pytest.raises(InputError, match="does not know 'bird' of the labels"):
            class_ids(NAMES, labels("bird", "cat", "dog", folders=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of cats, one of a horse; each image's first pixel is its class. Other files lie about."""
    for name, value in (("cat/1.png", 0), ("cat/old/2.JPG", 0), ("horse/3.png", 2)):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(file.suffix.lower(), np.full((8, 9, 3), 100 * value, np.uint8))[1].tobytes())
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "photos" / "cat" / "._1.png").write_bytes(b"x")
    (tmp_path / "photos" / ".cache").mkdir()
    return tmp_path / "photos"


def seeing(image: Image) -> Result:
    """Knows each image's class."""
    return found(np.eye(3)[round(int(image[0, 0, 0]) / 100)])[0]


class TestFiles:
    def test_a_folder_of_folders(self, folder: Path) -> None:
        read = read_class_labels(folder)
        assert [(one.path.name, one.names) for one in read.images] == [
            ("1.png", ("cat",)),
            ("2.JPG", ("cat",)),
            ("3.png", ("horse",)),
        ]
        assert evaluate(seeing, folder) == (ClassMetrics(1.0, 1.0, {"cat": 1.0, "horse": 1.0}, 3),)

    @pytest.mark.parametrize(
        "text",
        [
            "path,class\ncat/1.png,cat\nhorse/3.png,HORSE\n",
            "\ufeffcat/1.png\tcat\n\n# old\nhorse/3.png\thorse",
            "cat/1.png 0\nhorse/3.png   2\n",
            '"cat/1.png","cat"\r\n"horse/3.png","horse"\r\n',
        ],
    )
    @pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "labels.TSV"])
    def test_a_text_file(self, folder: Path, text: str, name: str) -> None:
        path = folder / name
        path.write_text(text, "utf-8")
        (metrics,) = evaluate(seeing, path)
        assert (metrics.main, metrics.images) == (1.0, 2)
        moved = folder.parent / name
        path.rename(moved)
        assert evaluate(seeing, moved, folder) == (metrics,)

    def test_several_classes_of_an_image(self, folder: Path) -> None:
        (folder / "labels.csv").write_text("cat/1.png,cat,dog,cat\nhorse/3.png,\n")
        assert [one.names for one in read_class_labels(folder / "labels.csv").images] == [("cat", "dog"), ()]

    def test_progress(self, folder: Path) -> None:
        seen: list[tuple[int, int]] = []
        evaluate(seeing, folder, progress=lambda *done: seen.append(done))
        assert seen == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "names no image"),
            ("path,class\n", "names no image"),
            ("cat/1.png\n", r"line 1: 'cat/1.png' has no class"),
            ("cat/1.png,cat\n\ncat/9.png,cat\n", r"line 3: .*9\.png: no such image; paths start from"),
            ("cat/1.png,cat\nnothing,cat\n", "line 2: .*nothing: no such image"),
        ],
    )
    def test_what_is_wrong_in_a_text_is_named(self, folder: Path, text: str, says: str) -> None:
        (folder / "labels.csv").write_text(text)
        with pytest.raises(InputError, match=says):
            read_class_labels(folder / "labels.csv")

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a\.csv: no such file; give a text file"):
            evaluate(seeing, tmp_path / "a.csv")
        (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match=r"a\.csv: not a text file with 'path,class'"):
            evaluate(seeing, tmp_path / "a.csv")
        with pytest.raises(InputError, match="no sub-folder with images; make one for each class"):
            evaluate(seeing, tmp_path)


class TestTasks:
    def test_a_detector_needs_annotations(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"the model finds objects \(Detections\), .* give a COCO annotations"):
            evaluate(lambda _: Detections.empty(NAMES, (9, 8)), folder)

    def test_a_model_of_other_classes_is_refused_at_the_first_image(self, folder: Path) -> None:
        calls: Iterator[int] = iter([0])

        def model(_: Image) -> Result:
            next(calls)
            return found([1.0, 0.0], ("bus", "car"))[0]

        with pytest.raises(InputError, match=r"does not know 'cat', 'horse' of .*photos; it knows 'bus', 'car'"):
            evaluate(model, folder)

    def test_a_classification_needs_classes(self, tmp_path: Path) -> None:
        path = write_coco(tmp_path, [1, 2], (64, 64))
        with pytest.raises(InputError, match=r"a classification has no boxes .* one sub-folder of images for each"):
            evaluate(lambda _: found([1, 0, 0])[0], path)

    def test_multi_label_models_take_the_classes_of_annotated_objects(self, tmp_path: Path) -> None:
        pytest.importorskip("sklearn", reason="needs scikit-learn, which measures it")
        from edgekit.shapes import scene

        write_coco(tmp_path, range(20, 28), (128, 128))
        seeds = iter(range(20, 28))

        def model(_: Image) -> Result:
            shown = {one.class_id for one in scene(next(seeds), (128, 128)).objects if one.visibility >= 0.3}
            return found([float(i in shown) for i in range(len(SHAPES))], SHAPES, multi_label=True)[0]

        (metrics,) = evaluate(model, tmp_path)
        assert isinstance(metrics, LabelMetrics)
        assert (metrics.map, metrics.images) == (1.0, 8)

    def test_as_many_results_as_images(self) -> None:
        with pytest.raises(UsageError, match="one result for each image is measured, not 1 for 2"):
            classes.measure(labels("cat", "dog"), found([1, 0, 0]))
