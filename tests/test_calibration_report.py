"""The page and the plot that a plan is shown in: well-formed, whole, escaped, and complete without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_page import FLAGS, chromium

from edgekit.calibration.plan import (
    Advice,
    Equalization,
    Fp16Issue,
    Layer,
    Methods,
    Outlier,
    Plan,
    PlannedGraph,
    TensorRange,
    Tuning,
)
from edgekit.errors import UsageError
from edgekit.report.calibration import clipped, write_report, write_sensitivity_plot
from edgekit.report.numbers import number

GAINS = {
    "onnx": {"float": 0.8843, "vendor default": 0.8431, "plan": 0.8831},
    "litert": {"float": 0.8843, "vendor default": 0.7923, "plan": 0.8815},
    "ethosu": {"float": 0.8843, "vendor default": 0.7102, "plan": 0.8769},
    "imx500": {"float": 0.8843, "plan": 0.8744},
}


def layer_names(count: int) -> list[str]:
    return ["conv2d", *(f"conv2d_{number}" for number in range(1, count))]


def demo_layers(*, damage: bool, integer: bool) -> tuple[Layer, ...]:
    """Seventy-three layers like the demo detector's, with spreads from 2 to 300."""
    draw = random.Random(4)
    layers = []
    for place, name in enumerate(layer_names(73)):
        depthwise = place % 3 == 1
        spread = math.exp(draw.uniform(math.log(2), math.log(28)))
        spread = {4: 46.0, 19: 61.5, 31: 33.0, 1: 2.4 if integer else 300.0, 7: 3.1 if integer else 128.0}.get(
            place, spread
        )
        stays = "stem" if place < 3 else "head" if place in (60, 64, 66, 68, 70, 72) else ""
        if not stays and spread > 100:
            stays = "channels"
        layers.append(
            Layer(
                name=name,
                kind="Conv",
                input="x" if place == 0 else f"silu_{place - 1}",
                depthwise=depthwise,
                weights=72 * 9 if depthwise else 4608,
                macs=1_327_104 if depthwise else draw.choice((4_718_592, 9_437_184, 2_359_296)),
                channel_ratio=spread,
                noise_to_signal=1e-5 * spread**1.3 * draw.uniform(0.5, 2),
                float_reason=stays,
                sensitivity=round(min(0.05, 1e-4 * spread**1.2 * draw.uniform(0, 1.5)), 5) if damage else None,
            )
        )
    return tuple(layers)


def demo_ranges() -> dict[str, TensorRange]:
    draw = random.Random(5)
    found = {}
    for name in (
        f"{kind}{end}" for end in ("", *(f"_{place}" for place in range(1, 73))) for kind in ("conv2d", "silu")
    ):
        highest = math.exp(draw.uniform(0, 4))
        lowest = -0.2785 if name.startswith("silu") else -highest * draw.uniform(0.4, 1.2)
        keep, keep_low = draw.choice((1, 1, draw.uniform(0.4, 1))), draw.choice((1, draw.uniform(0.3, 1)))
        low, high = lowest * (1 if name.startswith("silu") else keep_low), highest * keep
        found[name] = TensorRange(
            lowest=lowest,
            highest=highest,
            low=low,
            high=high,
            limit=max(-low, high),
            method="min-max"
            if keep == keep_low == 1
            else draw.choice(("squared", "squared", "absolute", "kl", "percentile")),
            symmetric_method=draw.choice(("squared", "absolute", "kl")),
            error=draw.uniform(0.002, 0.02),
        )
    return found


def demo_advice() -> Advice:
    return Advice(
        curve=(
            (1, 0.31),
            (2, 0.22),
            (4, 0.151),
            (8, 0.102),
            (16, 0.066),
            (32, 0.038),
            (64, 0.019),
            (128, 0.006),
            (200, 0.0),
        ),
        enough=True,
        outliers=(
            Outlier(image=17, distance=3.2, tensor="conv2d_12"),
            Outlier(image=133, distance=5.9, tensor="silu_3"),
        ),
        unlike=0.0,
        sentences=(
            "200 images; the ranges changed by 0.6 % over the last 72: more images would not help",
            "image 133 reaches 5.9 times further than the others at silu_3: look at it or leave it out.",
            "Image 17 reaches 3.2 times further than the others at conv2d_12: look at it or leave it out.",
        ),
    )


def demo_plan() -> Plan:
    """A plan as the demo detector's, with everything that a plan can hold."""
    mixed = PlannedGraph(
        tensors=demo_ranges(),
        layers=demo_layers(damage=True, integer=False),
        equalized=(Equalization(layer="conv2d_20", readers=("conv2d_21",), through="", before=14.2, after=1.0),),
    )
    integer = PlannedGraph(
        tensors=demo_ranges(),
        layers=demo_layers(damage=False, integer=True),
        equalized=(
            Equalization(
                layer="conv2d", readers=("conv2d_1",), through="silu", before=300.0, after=2.4, gate="conv2d_73"
            ),
            Equalization(
                layer="conv2d_6", readers=("conv2d_7",), through="silu", before=128.0, after=3.1, gate="conv2d_74"
            ),
            Equalization(layer="conv2d_20", readers=("conv2d_21", "conv2d_22"), through="", before=14.2, after=1.0),
        ),
    )
    return Plan(
        edgekit="0.1.0",
        model="9f2c1be07a5d44e1b0c6a7f83e5d1b2c9f2c1be07a5d44e1b0c6a7f83e5d1b2c",
        images=200,
        images_sha256="41d07a" * 10 + "beef",
        methods=Methods(),
        mixed=mixed,
        integer=integer,
        fp16_issues=(
            Fp16Issue(node="node_conv2d_3", tensor="conv2d_3", reason="overflow", largest=81234.5),
            Fp16Issue(node="node_exp", tensor="exp", reason="flushed", largest=2.1e-6),
        ),
        corrected=71,
        tuning=Tuning(minutes=2.0, steps=412, before=0.0213, after=0.0148, kept=True),
        advice=demo_advice(),
        seconds={"observing": 71.2, "ranges": 18.4, "rounding": 9.9, "sensitivity": 212.0},
    )


def small_plan(**changes: Any) -> Plan:
    """A plan without advice, damage, integer graph, equalization, issues or tuning."""
    layers = tuple(
        msgspec.structs.replace(layer, sensitivity=None, float_reason="")
        for layer in demo_layers(damage=False, integer=True)
    )
    given = {
        "edgekit": "0.1.0",
        "model": "ab" * 32,
        "images": 40,
        "images_sha256": "cd" * 32,
        "methods": Methods(),
        "mixed": PlannedGraph(tensors={"conv2d": demo_ranges()["conv2d"]}, layers=layers[5:9]),
        **changes,
    }
    return Plan(**given)


VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """An HTML page as its text, elements and attributes; fails where a tag is not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def text(self) -> str:
        """What a reader can see, without styles and scripts."""
        return " ".join("".join(text for tag, text in self.texts if tag not in ("style", "script")).split())

    @property
    def cells(self) -> list[str]:
        return [text for tag, text in self.texts if tag in ("td", "th")]

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] or "" for tag, attributes in self.elements if tag in ("section", "details")]


def written(plan: Plan, folder: Path, **given: Any) -> Parsed:
    write_report(plan, folder / "report.html", **given)
    return Parsed(folder / "report.html")


@pytest.fixture(scope="module")
def demo_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write_report(demo_plan(), path, gains=GAINS)
    return path


def test_the_page_is_whole_and_names_everything(demo_page: Path) -> None:
    page, plan = Parsed(demo_page), demo_plan()
    assert page.sections == ["summary", "gains", "data", "sensitivity", "mixed", "integer", "half", "tuning"]
    for graph in (plan.mixed, plan.integer):
        assert graph
        assert not {layer.name for layer in graph.layers} - set(page.cells)
        assert not set(graph.tensors) - set(page.cells)
        assert not {one.gate for one in graph.equalized if one.gate} - set(page.cells)
    assert {"node_conv2d_3", "node_exp", "81,234", "overflows", "is flushed to zero"} <= set(page.cells)
    assert "Image 133 reaches 5.9 times further than the others at silu_3: look at it or leave it out." in page.text
    assert "over the last 72: more images would not help." in page.text
    assert plan.model in page.text
    assert plan.images_sha256 in page.text


def test_the_summary_says_what_was_done_and_what_it_gained(demo_page: Path) -> None:
    text = Parsed(demo_page).text
    for sentence in (
        "Worst of 4 targets, imx500: INT8 with this plan scores 0.874, float 0.884.",
        "It gained most on ethosu: 0.710 with vendor default, 0.877 with this plan.",
        "63 of 73 layers become INT8. 10 stay in float where the target can do that,",
        "head (6), stem (3), channels too unequal for one scale (1).",
        "Channels were equalized in 1 place; the worst, behind conv2d_20 , differed 14 times and now 1.",
        "in 3 places for integer-only targets; the worst, behind conv2d , differed 300 times",
        "Ranges were chosen for 146 tensors, each by the method with the least error: min-max (51)",
        "Weights were rounded to the nearest step, with a scale for each output channel; 71 biases corrected",
        "Fine-tuning took 2 min and 412 steps; the loss on the hold-out images went from 0.0213 to 0.0148.",
        "Look at image 17, image 133 among the calibration images: unlike the others.",
        "conv2d_19 , conv2d_4 , conv2d_22 and 3 more alone cost up to 0.0129 each in INT8; --max-drop 0.01 returns",
        "5 layers read channels that differ more than 30 times (one 8-bit scale holds about 100): conv2d_1 300×",
        "edgekit convert SOURCE --target onnx,litert --precision int8 --data DIR --plan plan/",
    ):
        assert loose(sentence) in loose(text), sentence


def loose(text: str) -> str:
    """Without blanks, which the borders of elements add."""
    return "".join(text.split())


def test_wide_layers_are_highlighted_and_no_others(demo_page: Path) -> None:
    rows = re.findall(
        r'<tr( class="flagged")?><th scope="row" class="name" data-value="(conv2d\w*)">', demo_page.read_text()
    )
    assert {name for flagged, name in rows if flagged} == {"conv2d_1", "conv2d_4", "conv2d_7", "conv2d_19", "conv2d_31"}


def test_ranges_come_with_the_most_cut_off_first(demo_page: Path) -> None:
    ranges = demo_plan().mixed.tensors
    text = demo_page.read_text().split("Ranges of tensors</h3>")[1].split("</table>")[0]
    names = re.findall(r'<th scope="row" class="name" data-value="(\w+)">', text)
    shares = [clipped(ranges[name]) for name in names]
    assert len(names) == len(ranges)
    assert shares == sorted(shares, reverse=True)


def test_a_page_reaches_for_nothing(demo_page: Path) -> None:
    text, page = demo_page.read_text(encoding="utf-8"), Parsed(demo_page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|srcset", text.replace("// Sorting", ""))
    assert not {"img", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.elements}
    (script,) = (attributes for tag, attributes in page.elements if tag == "script")
    assert script == {}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#")[:1] == "#" or attributes["href"] == "data:,"
    (policy,) = (attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    body = "".join(text for tag, text in page.texts if tag == "script")
    assert base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() in (policy or "")
    assert "default-src 'none'" in (policy or "")


def test_anchors_lead_to_sections_and_ids_are_single(demo_page: Path) -> None:
    page = Parsed(demo_page)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {f"#{key}" for key in ids}


def test_tables_are_rectangular_and_described(demo_page: Path) -> None:
    for table in demo_page.read_text().split("<table")[1:]:
        head, _, body = table.split("</table>")[0].partition("<tbody>")
        columns = len(re.findall(r"<th [^>]*scope=\"col\"", head))
        assert columns > 1
        assert "aria-label=" in head.partition(">")[0]
        for row in body.split("</tr>")[:-1]:
            assert len(re.findall(r"<t[hd][ >]", row)) == columns


def test_a_plan_with_little_in_it(tmp_path: Path) -> None:
    page = written(small_plan(), tmp_path)
    assert page.sections == ["summary", "data", "mixed", "half", "tuning"]
    assert not [text for text in page.cells if text.startswith("Sensitivity")]
    for sentence in (
        "All 4 layers become INT8.",
        "No channels had to be equalized.",
        "0 biases corrected",
        "This plan was made without advice",
        "edgekit calibrate SOURCE --data DIR -o plan/ --sensitivity",
        "Every value fits float16",
        "one scale holds each input",
    ):
        assert loose(sentence) in loose(page.text), sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": 12}, "Calibrate on more than 12 images: 32 or more"),
        ({"images": 1}, "Calibrate on more than 1 image: 32 or more"),
        ({"advice": Advice(enough=False)}, "Calibrate on more images: the last ones still moved the ranges."),
        (
            {"advice": Advice(outliers=(Outlier(image=3, distance=9, tensor="x", name="night.jpg"),)), "name": "yunet"},
            "Look at night.jpg among the calibration images: unlike",
        ),
        (
            {"advice": Advice(outliers=(Outlier(image=3, distance=9, tensor="x"),))},
            "Look at image 3 among the calibration images: unlike",
        ),
        (
            {"methods": Methods(cross_layer_equalization=False, float_fallback=False)},
            "Switch cross-layer equalization and float fallback on again",
        ),
        ({"methods": Methods(cross_layer_equalization=False)}, "Cross-layer equalization is switched off."),
        ({"methods": Methods(bias_correction=False)}, "bias correction is switched off"),
        (
            {"methods": Methods(rounding="adaptive"), "corrected": 1},
            "by adaptive rounding, with a scale for each output channel; 1 bias corrected",
        ),
        ({"methods": Methods(ranges="kl")}, "Ranges were chosen for 1 tensor, by kl alone."),
        ({"tuning": Tuning(minutes=1, steps=1, before=2.0, after=2.5, kept=False)}, "its result was dropped"),
        (
            {"fp16_issues": (Fp16Issue(node="n", tensor="t", reason="overflow", largest=7e4),)},
            "1 operator cannot be computed in float16",
        ),
        ({"seconds": {"observing": 3900.0}}, "1 h 5 min"),
    ],
)
def test_what_to_do_follows_from_the_plan(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert loose(sentence) in loose(written(small_plan(**changes), tmp_path).text)
    assert loose(sentence) not in loose(written(small_plan(), tmp_path).text)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"depthwise": True, "channel_ratio": 320.0}, True),
        ({"depthwise": True, "channel_ratio": 99.0}, False),
        ({"depthwise": False, "channel_ratio": 320.0}, False),
        ({"depthwise": False, "noise_to_signal": 0.2}, True),
        ({"depthwise": True, "channel_ratio": 320.0, "float_reason": "channels"}, False),
    ],
)
def test_a_layer_that_one_scale_cannot_hold_is_worth_a_warning(
    tmp_path: Path, change: dict[str, Any], fails: bool
) -> None:
    (layer,) = demo_layers(damage=False, integer=True)[5:6]
    layer = msgspec.structs.replace(layer, **change)
    warning = loose(f"{layer.name} has channels that one scale cannot hold and still becomes INT8")
    graph = PlannedGraph(tensors={}, layers=(layer,))
    assert (warning in loose(written(small_plan(mixed=graph), tmp_path).text)) is fails
    # What a target without float is given becomes INT8 whatever the reasons against it.
    page = written(small_plan(integer=graph), tmp_path)
    assert (warning in loose(page.text)) is (fails or bool(layer.float_reason))
    assert not [text for text in page.cells if text.startswith("float")]


def test_gains_without_float_or_plan_are_a_table_only(tmp_path: Path) -> None:
    page = written(small_plan(), tmp_path, gains={"ncnn": {"some": 0.25, "other": math.nan}})
    assert {"ncnn", "some", "other", "0.2500"} <= set(page.cells)
    assert "this plan scores" not in page.text


HOSTILE = "</script><script>alert(1)</script>&amp;<b onclick='x'>\"x\" \u2028 \x00\x1b"


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    (layer,) = demo_layers(damage=True, integer=False)[4:5]
    layer = msgspec.structs.replace(layer, name=HOSTILE, kind=HOSTILE, float_reason=HOSTILE, sensitivity=0.02)
    graph = PlannedGraph(
        tensors={HOSTILE: msgspec.structs.replace(demo_ranges()["conv2d"], method=HOSTILE)},
        layers=(layer,),
        equalized=(Equalization(layer=HOSTILE, readers=(HOSTILE,), through=HOSTILE, before=9, after=1, gate=HOSTILE),),
    )
    plan = small_plan(
        mixed=graph,
        integer=graph,
        edgekit=HOSTILE,
        model=HOSTILE,
        images_sha256=HOSTILE,
        fp16_issues=(Fp16Issue(node=HOSTILE, tensor=HOSTILE, reason="flushed", largest=0),),
        advice=Advice(outliers=(Outlier(image=1, distance=2, tensor=HOSTILE),), sentences=(HOSTILE,)),
        seconds={HOSTILE: 1.0},
    )
    page = written(plan, tmp_path, gains={HOSTILE: {HOSTILE: 1.0}})
    assert page.count("script") == 1
    assert page.count("b") == 0
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert page.cells.count(shown) >= 9
    ElementTree.fromstring(plot_text(graph.layers, tmp_path))


def plot_text(layers: Sequence[Layer], folder: Path) -> str:
    write_sensitivity_plot(layers, folder / "sensitivity.svg")
    return (folder / "sensitivity.svg").read_text(encoding="utf-8")


SVG = "{http://www.w3.org/2000/svg}"


def labels(text: str) -> list[str]:
    """The names of the bars, from top to bottom."""
    found = ElementTree.fromstring(text).iter(f"{SVG}title")
    return [title.text or "" for title in found]


def test_the_plot_shows_the_worst_forty_in_order(tmp_path: Path) -> None:
    layers = demo_layers(damage=True, integer=False)
    text = plot_text(layers, tmp_path)
    worst = sorted(layers, key=lambda layer: -(layer.sensitivity or 0))[:40]
    assert labels(text) == [layer.name for layer in worst]
    assert "the worst 40 of 73 layers" in text
    widths = bar_widths(text)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 420
    assert widths[2] == pytest.approx(420 * (worst[2].sensitivity or 0) / (worst[0].sensitivity or 1), abs=0.01)


def bar_widths(text: str) -> list[float]:
    bars = [rect for rect in ElementTree.fromstring(text).iter(f"{SVG}rect") if rect.get("class") != "track"]
    return [float(rect.get("width") or "nan") for rect in bars]


def with_damage(*damages: float | None) -> list[Layer]:
    (layer,) = demo_layers(damage=False, integer=True)[5:6]
    return [msgspec.structs.replace(layer, name=f"layer {n}", sensitivity=d) for n, d in enumerate(damages)]


def test_one_layer_that_loses_all_does_not_hide_the_others(tmp_path: Path) -> None:
    steep = plot_text(with_damage(0.9, 0.001, 0.0005, 0.004, 0.0), tmp_path)
    assert "logarithmic" in steep
    first, *others, last = bar_widths(steep)
    assert (first, last) == (420, 0)
    assert min(others) > 20
    assert "logarithmic" not in plot_text(with_damage(0.9, 0.5, 0.1), tmp_path)


def test_layers_that_were_not_measured_are_not_shown_as_harmless(tmp_path: Path) -> None:
    assert labels(plot_text(with_damage(0.1, None, 0.2), tmp_path)) == ["layer 2", "layer 0"]
    assert bar_widths(plot_text(with_damage(0.0, 0.0), tmp_path)) == [0, 0]


def test_long_names_are_shortened_and_told_whole(tmp_path: Path) -> None:
    name = "/model.22/cv3.0/cv3.0.0/cv3.0.0.1/conv/depthwise/Conv_output_0"
    text = plot_text([msgspec.structs.replace(with_damage(0.1)[0], name=name)], tmp_path)
    assert labels(text) == [name]
    assert f"{name[:19]}…{name[-20:]}" in text


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("plot.png", with_damage(0.1), "plot.png: the plot is an SVG drawing; give it a name that ends in .svg"),
        (
            "plot.svg",
            with_damage(None, None),
            "the sensitivity of none of 2 layers was measured; do it with: edgekit calibrate",
        ),
        ("plot.svg", [], "the sensitivity of none of 0 layers was measured"),
    ],
)
def test_what_cannot_be_plotted_is_refused(tmp_path: Path, name: str, layers: list[Layer], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        write_sensitivity_plot(layers, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r".+: Is a directory; give another path for the report"):
        write_report(small_plan(), tmp_path)


def numbers(lowest: float = 0.0) -> st.SearchStrategy[float]:
    return st.floats(lowest) | st.floats(lowest, 300.0) | st.just(math.nan)


names = st.text(max_size=60)
any_layer = st.builds(
    Layer,
    name=names,
    kind=names,
    input=names,
    depthwise=st.booleans(),
    weights=st.integers(0, 10**9),
    macs=st.integers(0, 10**12),
    channel_ratio=numbers(),
    noise_to_signal=numbers(),
    float_reason=names,
    sensitivity=st.none() | numbers(-1.0),
)
any_end = st.floats(allow_nan=True) | st.floats(-9.0, 9.0)
any_range = st.builds(
    TensorRange,
    lowest=any_end,
    highest=any_end,
    low=any_end,
    high=any_end,
    limit=any_end,
    method=names,
    symmetric_method=names,
    error=any_end,
)
any_graph = st.builds(
    PlannedGraph,
    tensors=st.dictionaries(names, any_range, max_size=4),
    layers=st.lists(any_layer, max_size=5).map(tuple),
    equalized=st.lists(
        st.builds(
            Equalization,
            layer=names,
            readers=st.lists(names, max_size=2).map(tuple),
            through=names,
            before=numbers(),
            after=numbers(),
        ),
        max_size=2,
    ).map(tuple),
)
any_advice = st.builds(
    Advice,
    curve=st.dictionaries(st.integers(1, 10**6), numbers(), max_size=9).map(lambda d: tuple(sorted(d.items()))),
    enough=st.booleans(),
    outliers=st.lists(st.builds(Outlier, image=st.integers(0), distance=numbers(), tensor=names), max_size=7).map(
        tuple
    ),
    unlike=numbers(),
    sentences=st.lists(names, max_size=3).map(tuple),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mixed=any_graph, integer=st.none() | any_graph, advice=st.none() | any_advice, images=st.integers(0, 10**6))
def test_whatever_a_plan_holds_the_page_is_well_formed(
    tmp_path_factory: pytest.TempPathFactory,
    mixed: PlannedGraph,
    integer: PlannedGraph | None,
    advice: Advice | None,
    images: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    page = written(small_plan(mixed=mixed, integer=integer, advice=advice, images=images), folder)
    for tag, attributes in page.elements:
        if tag == "rect":
            assert all(
                0 <= float((attributes[key] or "nan").rstrip("%")) < 1e6 for key in ("x", "y", "width", "height")
            ), attributes
    if any(layer.sensitivity is not None for layer in mixed.layers):
        ElementTree.fromstring(plot_text(mixed.layers, folder))


SCRIPTED = """<!doctype html><iframe src="report.html" style="width: 390px; height: 800px"></iframe><pre></pre><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const table = page.querySelector("#mixed table.sortable");
  const names = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
  const click = (column) => table.tHead.rows[0].cells[column].querySelector("button").click();
  const said = { before: names(), overflow: page.documentElement.scrollWidth };
  click(3); said.widest = names();
  click(3); said.narrowest = names();
  said.order = table.tHead.rows[0].cells[3].getAttribute("aria-sort");
  click(1); said.again = names();
  const field = page.querySelector("#mixed .filter input");
  field.value = "depthwise float"; field.dispatchEvent(new Event("input"));
  said.filtered = names();
  said.count = page.querySelector("#mixed .filter output").textContent;
  document.querySelector("pre").textContent = btoa(JSON.stringify(said));
});
</script>"""


@pytest.mark.skipif(not chromium(), reason="needs chromium, to click on the page")
def test_a_browser_sorts_and_filters_on_a_narrow_screen(demo_page: Path, tmp_path: Path) -> None:
    (tmp_path / "frame.html").write_text(SCRIPTED)
    (tmp_path / "report.html").write_bytes(demo_page.read_bytes())
    flags = [*FLAGS, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    address = (tmp_path / "frame.html").as_uri()
    done = subprocess.run([chromium(), *flags, address], capture_output=True, text=True, timeout=120, check=True)
    answer = re.search(r"<pre>([\w+/=]+)</pre>", done.stdout)
    assert answer, done.stdout
    said = json.loads(base64.b64decode(answer[1]))
    layers = demo_plan().mixed.layers
    assert said["overflow"] <= 390
    assert said["before"] == said["again"] == [layer.name for layer in layers]
    assert said["widest"] == [layer.name for layer in sorted(layers, key=lambda layer: -layer.channel_ratio)]
    assert said["narrowest"] == said["widest"][::-1]
    assert said["order"] == "ascending"
    wanted = [layer.name for layer in layers if layer.depthwise and layer.float_reason]
    assert said["filtered"] == wanted
    assert said["count"] == f"{len(wanted)} of 73"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (320.0, "320"),
        (12345.6, "12,346"),
        (0.01234, "0.0123"),
        (-2.5, "-2.5"),
        (1.234e-7, "1.23e-07"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (1000.0, "1,000"),
        (99.96, "100"),
    ],
)
def test_numbers_are_written_as_one_reads_them(value: float | None, text: str) -> None:
    assert number(value) == text


def test_the_share_cut_off() -> None:
    def found(lowest: float, highest: float, low: float, high: float) -> TensorRange:
        return TensorRange(lowest=lowest, highest=highest, low=low, high=high, limit=1, method="", symmetric_method="")

    assert clipped(found(-1, 3, -1, 3)) == 0
    assert clipped(found(-1, 3, -2, 9)) == 0
    assert clipped(found(-1, 3, 0, 2)) == 0.5
    assert clipped(found(0, 0, 0, 0)) == 0
    assert clipped(found(2, 3, 0, 1)) == 1
