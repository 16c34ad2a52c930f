"""Several models side by side: ``edgekit evaluate`` with bundles and a source, its page, and its plot."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bundles import sample_manifest
from tiny_conversions import edgekit as child
from tiny_conversions import write_pictures
from tiny_models import SIZE, picture
from tiny_onnx import write_tiny_bundle

from edgekit.cli import main
from edgekit.errors import UsageError
from edgekit.evaluation.comparison import Candidate, MeasuredModel, ModelComparison, compare
from edgekit.evaluation.labelled import evaluate
from edgekit.evaluation.metrics import ClassMetrics, Metrics
from edgekit.report.charts import HEIGHT, WIDTH, ChartPoint, scatter
from edgekit.report.evaluation import write_evaluation
from edgekit.runtimes.bundle.folder import open_bundle, stage
from edgekit.runtimes.bundle.manifest import Contract, Decoder, Graph, ImageRule, Output, Tensor
from edgekit.runtimes.model import load

Cli = Callable[..., tuple[int, str, str]]
COLOURS = ("blue", "green", "red")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def cli(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return cli


def write_classifier(path: Path, activation: str = "softmax", gain: float = 8.0) -> Path:
    """A bundle that names the brightest colour of an image; with a negative ``gain`` the darkest."""
    onnx = pytest.importorskip("onnx", reason="needs the extra 'convert'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Mul", ["mean", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["moved"]),
        helper.make_node("Flatten", ["moved"], ["logits"]),
    ]
    constants = {"gain": np.array(gain, np.float32), "offset": np.array(-gain / 2, np.float32)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "colours",
        [value("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [value("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    contract = Contract(
        task="classify",
        image=ImageRule(size=(32, 32), resize="stretch", color="bgr"),
        classes=COLOURS,
        decoder=Decoder(name="classes", options={"activation": activation}),
        outputs=(Output(name="logits", role="logits"),),
    )
    with stage(path) as staging:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save_model(model, staging.folder / "model.onnx")
        tensors = (Tensor(name="images", shape=(1, 3, 32, 32)), Tensor(name="logits", shape=(1, 3)))
        shape = Graph(files=("model.onnx",), inputs=tensors[:1], outputs=tensors[1:])
        staging.seal(sample_manifest(name="colours", contract=contract, graphs=(shape,)))
        staging.commit()
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each colour in a folder of its name."""
    folder = tmp_path_factory.mktemp("colours")
    for place, name in enumerate(COLOURS):
        (folder / name).mkdir()
        for number in range(2):
            image = np.full((20, 30, 3), 30, np.uint8)
            image[..., place] = 200 + number
            cv2.imwrite(str(folder / name / f"{number}.png"), image)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that finds coloured cells."""
    for package in ("onnx", "onnxruntime", "pycocotools"):
        pytest.importorskip(package, reason="needs the extra 'convert'")
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "cells")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures and where their cells are, as `tiny_models` gives them their size."""
    folder = write_pictures(tmp_path_factory.mktemp("cells"), 3)
    boxes: list[dict[str, Any]] = []
    for seed in range(3):
        image = picture(seed)
        for row, column in np.ndindex(4, 4):
            blue, green, red = (int(value) for value in image[16 * row + 8, 16 * column + 8])
            if max(red, green) >= 150:
                reach = 16 * (0.35 + 0.1 * (red + green + blue) / 255)
                centre = np.array([column, row]) * 16 + 8
                low, high = np.clip([centre - reach, centre + reach], 0, SIZE)
                box = [*low.tolist(), *(high - low).tolist()]
                boxes.append({"image_id": seed, "category_id": int(green > red), "bbox": box})
    document = {
        "images": [{"id": seed, "file_name": f"{seed:03}.png"} for seed in range(3)],
        "annotations": boxes,
        "categories": [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


class TestClassification:
    def test_one_bundle(self, cli: Cli, colours: Path, tmp_path: Path) -> None:
        bundle = write_classifier(tmp_path / "colours.onnx.fp32")
        code, out, _ = cli("evaluate", bundle, "--labels", colours, "--json")
        document = json.loads(out)
        assert (code, document["kind"], document["top1"], document["top5"], document["main"]) == (0, "classes", 1, 1, 1)
        assert document["per_class"] == dict.fromkeys(COLOURS, 1.0)
        assert document["bytes"] == open_bundle(bundle).bytes
        assert 0 < document["latency_ms"] < document["total_ms"]
        code, out, _ = cli("evaluate", bundle, "--labels", colours)
        assert out.startswith("top-1 1.0000  top-5 1.0000  on 6 images\n")

    def test_two_bundles_and_a_page(self, cli: Cli, colours: Path, tmp_path: Path) -> None:
        good = write_classifier(tmp_path / "good")
        bad = write_classifier(tmp_path / "bad", gain=-8.0)
        page = tmp_path / "pages" / "page.html"
        code, out, _ = cli("evaluate", good, bad, "--labels", colours, "--json", "--html", page)
        document = json.loads(out)
        assert code == 0
        assert document["reference"] == str(good)
        assert [(one["bundle"], one["top1"], one["difference"]) for one in document["models"]] == [
            (str(good), 1.0, None),
            (str(bad), 0.0, -1.0),
        ]
        text = page.read_text("utf-8")
        assert "-1.0000" in text
        assert text.count('class="flagged"') == 3, "every class loses"
        code, out, _ = cli("evaluate", bad, good, "--labels", colours)
        assert re.search(r"good +1\.0000 +\+1\.0000 +1\.0000", out)
        assert "on 6 images; difference to bad" in out

    @pytest.mark.nightly
    def test_multi_label(self, cli: Cli, colours: Path, tmp_path: Path) -> None:
        pytest.importorskip("sklearn", reason="needs scikit-learn, which measures it")
        bundle = write_classifier(tmp_path / "labels", "sigmoid")
        code, out, _ = cli("evaluate", bundle, "--labels", colours, "--json")
        document = json.loads(out)
        assert (code, document["kind"], document["mAP"]) == (0, "labels", 1.0)

    def test_wrong_data_is_a_sentence(self, cli: Cli, colours: Path, tmp_path: Path, cells: Path) -> None:
        bundle = write_classifier(tmp_path / "colours")
        code, _, err = cli("evaluate", bundle, "--labels", cells)
        assert code == 2
        assert "a classification has no boxes" in err
        code, _, err = cli("evaluate", bundle, "--labels", tmp_path / "labels.csv")
        assert (code, "labels.csv: no such file" in err) == (2, True)


class TestDetection:
    @pytest.mark.convert
    @pytest.mark.nightly
    def test_the_first_source_is_what_bundles_are_compared_with(self, tiny: Path, cells: Path) -> None:
        models = (tiny, "tiny_models:recoloured", "tiny_models:detector")
        done = child("evaluate", *models, "--labels", cells / "annotations.json", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["reference"] == "tiny_models:recoloured"
        bundle, wrong, right = document["models"]
        assert wrong["difference"] is None
        assert bundle["mAP"] == pytest.approx(1.0, abs=1e-6)
        assert wrong["mAP"] < right["mAP"] < 1.0, "its boxes are of a slightly different size than the bundle's"
        for one in (bundle, right):
            assert one["difference"] == pytest.approx(one["mAP"] - wrong["mAP"])
        assert right["bytes"] == wrong["bytes"] > 0

    def test_names_that_would_be_alike_are_told_whole(self, cli: Cli, tiny: Path, cells: Path, tmp_path: Path) -> None:
        other = write_tiny_bundle(tmp_path / "cells")
        code, out, _ = cli("evaluate", tiny, other, "--labels", cells)
        assert code == 0
        for path in (tiny, other):
            assert str(path) in out.replace("\n", "")

    def test_a_model_that_is_not_there_is_named_before_anything_runs(self, cli: Cli, tiny: Path, cells: Path) -> None:
        (cells.parent / "empty").mkdir(exist_ok=True)
        code, _, err = cli("evaluate", tiny, cells.parent / "empty", "--labels", "no-such-file.json")
        assert code == 2
        assert "no bundle there" in err

    def test_models_of_several_tasks_are_refused(self, cli: Cli, tiny: Path, cells: Path, tmp_path: Path) -> None:
        code, _, err = cli("evaluate", tiny, write_classifier(tmp_path / "colours"), "--labels", cells)
        assert code == 2
        assert "models of one task can be compared, these are of several (cells: detect, colours: classify)" in err

    def test_no_model(self) -> None:
        with pytest.raises(UsageError, match="name at least one bundle or source"):
            compare([], lambda model, told: ())

    def test_tracks(self, cli: Cli, tiny: Path, cells: Path, tmp_path: Path) -> None:
        code, _, err = cli("evaluate", tiny, "--labels", tmp_path / "gt.txt", "--track", "sort")
        assert (code, "--track needs the video" in err) == (2, True)
        code, _, err = cli("evaluate", tiny, "--labels", tmp_path / "gt.txt", "--track", "none", "--data", cells)
        assert (code, "tracker 'none' is not one of" in err) == (2, True)
        pytest.importorskip("trackeval", reason="needs trackeval (pip install trackeval)")
        still = tmp_path / "still"
        still.mkdir()
        for number in range(12):
            cv2.imwrite(str(still / f"{number:02}.png"), picture(1))
        result = load(tiny)(picture(1))
        rows = [
            f"{frame},{track},{x1},{y1},{x2 - x1},{y2 - y1},1,-1,-1,-1"
            for frame in range(1, 13)
            for track, (x1, y1, x2, y2) in enumerate(result.boxes.tolist(), 1)
        ]
        (tmp_path / "gt.txt").write_text("\n".join(rows))
        arguments = ("evaluate", tiny, "--labels", tmp_path / "gt.txt", "--data", still, "--track", "sort", "--json")
        code, out, _ = cli(*arguments)
        document = json.loads(out)
        assert (code, document["kind"], document["frames"], document["switches"]) == (0, "tracks", 12, 0)
        assert document["HOTA"] > 0.8


def test_one_model_in_memory_at_a_time_and_progress_of_each(tiny: Path, cells: Path) -> None:
    opened: list[str] = []
    seen: list[tuple[str, int, int]] = []

    def candidate(name: str) -> Candidate:
        return Candidate(name, "detect", 1, lambda: opened.append(f"{name} after {len(seen)}") or load(tiny))  # type: ignore[func-returns-value]

    done = compare(
        [candidate("a"), candidate("b")],
        lambda model, told: evaluate(model, cells, None, told),
        lambda *told: seen.append(told),
    )
    assert opened == ["a after 0", "b after 3"]
    assert seen == [(name, done, 3) for name in "ab" for done in (1, 2, 3)]
    assert done.reference is done.measured[0]
    assert done.difference(done.measured[1]) == 0.0
    assert done.difference(done.reference) is None


# ---- the page ----


def made(name: str, main: float, latency: float, size: int, **more: Any) -> MeasuredModel:
    metrics = Metrics(main, main, main, {"a": main, "<b>": main / 2}, 10, 20, 30)
    return MeasuredModel(Candidate(name, "detect", size, lambda: None, **more), (metrics,), latency, latency + 1)  # type: ignore[arg-type,return-value]


class Tags(HTMLParser):
    """Counts elements and checks that they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_takes_no_name_for_markup(tmp_path: Path) -> None:
    measured = (
        made("source", 0.9, 30.0, 4_000_000, source=True),
        made("<script>x</script>", 0.8, 3.0, 1_000_000, proof="interpreted"),
        made("good", 0.9, 4.0, 2_000_000, proof="executed"),
    )
    write_evaluation(ModelComparison(measured, measured[0]), "photos & more", tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text("utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert tags.seen.count("script") == 1
    assert tags.seen.count("circle") == 6
    assert "photos &amp; more" in text
    assert "Not run by the device's own engine there: &lt;script&gt;" in text
    assert text.count('class="flagged"') == 1, "class a loses 0.1, class b exactly 0.05"
    with pytest.raises(UsageError, match="give another path"):
        write_evaluation(ModelComparison(measured, measured[0]), "x", tmp_path / "p.html" / "q.html")


def test_the_page_of_one_model_of_classes(tmp_path: Path) -> None:
    one = MeasuredModel(
        Candidate("a", "classify", 10, lambda: None),  # type: ignore[arg-type,return-value]
        (ClassMetrics(0.5, 1.0, {"cat": 0.5}, 3),),
        2.0,
        3.0,
    )
    write_evaluation(ModelComparison((one,), one), "x", tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text("utf-8")
    assert "Best top-1" in text
    assert "Highlighted" not in text


points = st.builds(
    ChartPoint,
    name=st.text("abcdefg.-", min_size=1, max_size=40),
    latency=st.floats(0, 1e6),
    accuracy=st.floats(0, 1),
    bytes=st.integers(0, 10**10),
    reference=st.booleans(),
)


@given(st.lists(points, min_size=1, max_size=15))
@settings(deadline=None)
def test_whatever_is_plotted_lies_inside_the_plot(given_points: list[ChartPoint]) -> None:
    drawn = ElementTree.fromstring(scatter(given_points, measure="mAP", alt="a plot"))
    dots = [one for one in drawn.iter("circle") if one.get("r") == "3.5"]
    assert len(dots) == len(given_points)
    for dot in dots:
        assert 0 <= float(dot.get("cx", "nan")) <= WIDTH
        assert 0 <= float(dot.get("cy", "nan")) <= HEIGHT
    assert sorted(point.name for point in given_points) == sorted(
        str(text.text) for text in drawn.iter("text") if text.get("class") == "label"
    )
    for one in drawn.iter():
        assert all("nan" not in value and "inf" not in value for key, value in one.attrib.items() if key != "class")


def test_further_right_is_slower_and_higher_is_better() -> None:
    given_points = [ChartPoint("slow", 100, 0.5, 4), ChartPoint("fast", 1, 0.5, 4), ChartPoint("good", 10, 0.9, 1)]
    drawn = ElementTree.fromstring(scatter(given_points, measure="mAP", alt="a plot"))
    circles = list(drawn.iter("circle"))
    told = {str(one[0].text).split(":")[0]: one for one in circles if len(one)}
    x, y, r = ({name: float(str(one.get(key))) for name, one in told.items()} for key in ("cx", "cy", "r"))
    assert x["fast"] < x["good"] < x["slow"]
    assert x["good"] - x["fast"] == pytest.approx(x["slow"] - x["good"], abs=0.2), "logarithmic"
    assert y["good"] < y["fast"] == y["slow"], "upwards is towards 0"
    assert r["good"] / r["fast"] == pytest.approx(math.sqrt(1 / 4), abs=0.01), "the area is the size"


# ---- what a budget of accuracy is kept by ----


def measured(bundle: Path, labels: Path, folder: Path) -> Any:
    """The measuring step of ``edgekit convert --max-drop --labels``, on a prepared folder made by hand."""
    from edgekit.conversion import measure
    from edgekit.conversion.jobs import MeasureJob, Prepared, Reference
    from edgekit.conversion.workspace import Workspace

    manifest = open_bundle(bundle).manifest
    size = manifest.contract.image.size
    folder.mkdir(exist_ok=True)
    workspace = Workspace(folder)
    np.save(workspace.proof, np.zeros((2, *size, 3), np.uint8))
    prepared = Prepared(
        name="x",
        parts=(),
        contract=manifest.contract,
        origin=manifest.origin,
        shapes={},
        operators={},
        calibration=None,
        proof_sha256="",
        proof_views=2,
        photographs=2,
        reference=Reference(how=""),
        versions={},
    )
    workspace.write_prepared(prepared)
    told: list[str] = []
    job = MeasureJob(folder=str(folder), bundle=str(bundle), labels=str(labels))
    done = measure.work(job, lambda text, share: told.append(text))
    assert told[-1].startswith("accuracy, ")
    return done


def test_a_budget_is_kept_by_the_main_figure_of_the_task(
    tiny: Path, cells: Path, colours: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'convert'")
    assert measured(tiny, cells / "annotations.json", tmp_path / "a").score == pytest.approx(1.0, abs=1e-6)
    assert measured(write_classifier(tmp_path / "good"), colours, tmp_path / "b").score == 1.0
    bad = measured(write_classifier(tmp_path / "bad", gain=-8.0), colours, tmp_path / "c")
    assert bad.score == 0.0
    assert bad.milliseconds > 0
