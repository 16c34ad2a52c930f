"""The page, the terminal table and the CSV of profiles: everything is there, escaped, true, and usable in a browser."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sample_profiles as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from web_page import FLAGS, chromium

from edgekit.errors import UsageError
from edgekit.profiling.record import STAGES, Profile, encode
from edgekit.profiling.records.naming import named
from edgekit.report.charts import FAR, Axis, ChartPoint, pareto_front, scatter, shared_end
from edgekit.report.numbers import number, percent
from edgekit.report.profile_table import COLUMNS, rows, terminal, write_csv
from edgekit.report.profiles import TOP, kinds, whole, write_profiles
from edgekit.report.render import STYLE

SECTIONS = ("profiles", "latency", "stages", "operators", "method")
VOID = {"meta", "link", "input"}


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> Iterator[Node]:
        """Elements in it, in order, with these attributes (``data_mark`` is ``data-mark``, ``_class`` one of many)."""
        for child in self.children:
            wanted = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
            if (not tag or child.tag == tag) and all(
                value in (child.attributes.get(key) or "").split(" ") or child.attributes.get(key) == value
                for key, value in wanted.items()
            ):
                yield child
            yield from child.all(tag, **attributes)

    @property
    def text(self) -> str:
        """All words in it."""
        return " ".join([*self.words, *(child.text for child in self.children)])


class _Reader(HTMLParser):
    """Builds the tree, and insists that every element is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"{tag}: an attribute twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].words.append(data)


def read(path: Path) -> Node:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == [reader.root]
    return reader.root


def written(profiles: Sequence[Profile], folder: Path) -> Node:
    write_profiles(profiles, folder / "report.html")
    return read(folder / "report.html")


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    return samples.matrix()


@pytest.fixture(scope="module")
def path(profiles: list[Profile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profiles") / "report.html"
    write_profiles(profiles, path)
    return path


@pytest.fixture(scope="module")
def page(path: Path) -> Node:
    return read(path)


def section(page: Node, key: str) -> Node:
    return next(page.all(id=key))


def marked(node: Node, profile: Profile, tag: str = "") -> list[Node]:
    return list(node.all(tag, data_mark=profile.id))


def test_the_samples_are_records_that_survive_their_store(profiles: list[Profile]) -> None:
    assert len({one.id for one in profiles}) == len(profiles)
    for one in profiles:
        assert msgspec.json.decode(encode(one), type=Profile) == one
    assert samples.matrix() == profiles, "seeded"


def test_every_profile_is_in_every_section(page: Node, profiles: list[Profile]) -> None:
    for one in profiles:
        for key in SECTIONS:
            assert marked(section(page, key), one), (key, one.subject.name)
        assert marked(section(page, "accuracy"), one, "g" if one.subject.agreement is not None else "span")
        assert bool(marked(page, one, "details")) == bool(one.roofline or (one.operators and one.operators.times))


def test_sections_of_what_was_not_measured_are_not_there(tmp_path: Path, page: Node) -> None:
    for key in ("tokens", "throughput", "sustained"):
        assert list(page.all(id=key))
    plain = written([samples.profile(1, "onnx", "fp32")], tmp_path)
    assert not [key for key in ("tokens", "throughput", "sustained") if list(plain.all(id=key))]


def test_the_matrix_tells_the_figures_of_the_record(page: Node, profiles: list[Profile]) -> None:
    table = next(section(page, "profiles").all("table"))
    titles = [head.text for head in table.all("th", scope="col")]
    for one in profiles:
        (row,) = marked(table, one, "tr")
        cells = dict(zip(titles, [child for child in row.children if child.tag in ("th", "td")], strict=True))
        cold, warm = one.load(cold=True), one.load(cold=False)
        assert cold is not None
        assert warm is not None
        wanted = {
            "p50": one.total.p50,
            "p90": one.total.p90,
            "p99": one.total.p99,
            "Frames/s": one.frames_per_second,
            "Load cold": cold.total,
            "Load warm": warm.total,
            "Peak MB": one.memory.peak / 1e6,
            "Size MB": one.subject.bytes / 1e6,
        }
        for title, value in wanted.items():
            assert number(value) in cells[title].text.split(), title
            told = float(cells[title].attributes["data-value"] or "nan")
            assert told == (round(value * 1e6) if title.endswith("MB") else value), title
        assert percent(one.subject.agreement) in cells["Found"].text
        assert percent(one.spread) in cells["Spread"].text
        assert cells["Target"].text.split()[0] == one.subject.target
        assert cells["Precision"].text == one.subject.precision


def test_the_other_sections_tell_the_figures_too(page: Node, profiles: list[Profile]) -> None:
    for one in profiles:
        (lane,) = marked(section(page, "latency"), one)
        assert {number(one.total.p50), number(one.total.p90), number(one.total.p99)} <= set(lane.text.split())
        assert f"{one.total.outliers} far out" in lane.text or not one.total.outliers
        assert len(list(lane.all("circle", _class="dot"))) == len(one.rounds)
        (lane,) = marked(section(page, "stages"), one)
        for stage, times in one.stages.items():
            assert f"{stage} {number(times.p50)}" in lane.text
        if one.operators and one.operators.times:
            (details,) = marked(section(page, "operators"), one, "details")
            longest = sorted(one.operators.times, key=lambda time: -time.milliseconds)
            for time in longest[:TOP]:
                assert time.name in details.text
                assert number(time.milliseconds) in details.text
            for kind, sums in kinds(one.operators).items():
                assert kind in details.text
                assert number(sums) in details.text
            for name in one.operators.fallbacks:
                assert name in details.text
    talking = [one for one in profiles if one.first_token]
    assert talking
    for one in talking:
        (row,) = marked(section(page, "tokens"), one, "tr")
        assert one.first_token
        assert {number(one.first_token.p50), number(one.tokens_per_second)} <= set(row.text.split())


def test_stacks_are_as_long_as_their_stages_and_stand_against_the_end_to_end_time(
    page: Node, profiles: list[Profile]
) -> None:
    scales = []
    for one in profiles:
        (lane,) = marked(section(page, "stages"), one)
        bars = list(lane.all("rect", _class="stage"))
        ends = [float(str(bar.attributes[key]).rstrip("%")) for bar in bars for key in ("x", "width")]
        starts, widths = ends[::2], ends[1::2]
        assert len(bars) == len(one.stages)
        for place in range(1, len(bars)):
            assert starts[place] == pytest.approx(starts[place - 1] + widths[place - 1], abs=0.02)
        sums = sum(stage.p50 for stage in one.stages.values())
        ticks = list(lane.all("line", _class="median"))
        if not ticks:
            assert sum(widths) == pytest.approx(100, abs=0.05)
            assert "not on the axis" in lane.text
            continue
        at = float(str(ticks[0].attributes["x1"]).rstrip("%"))
        assert sum(widths) / at == pytest.approx(sums / one.total.p50, abs=0.01)
        scales.append((one.subject.task, round(at / one.total.p50, 2)))
        assert whole(one) == pytest.approx(1, abs=0.05), "stages agree with the time end to end"
        assert percent(whole(one)) in lane.text
    assert len({scale for task, scale in scales if task == "caption"}) == 1


def test_names_cannot_become_markup(page: Node, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert samples.NASTY not in text
    assert samples.NASTY.replace("<", "&lt;").replace(">", "&gt;").split("alert")[0] in text
    assert len(list(page.all("script"))) == 1
    assert samples.NASTY in page.text
    assert any(samples.LONG in (node.attributes.get("title") or "") for node in page.all("span"))


def test_the_page_reaches_for_nothing(page: Node, path: Path) -> None:
    for node in page.all():
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            value = node.attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), value
        assert not [name for name in node.attributes if name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", path.read_text(encoding="utf-8"))
    (policy,) = [node for node in page.all("meta") if node.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy.attributes["content"]).startswith("default-src 'none'")


def test_labels_are_all_different_and_say_no_more_than_they_must(profiles: list[Profile]) -> None:
    labels = [one.label for one in named(profiles)]
    assert len(set(labels)) == len(labels)
    few = named([samples.profile(1, "onnx", "fp32"), samples.profile(2, "litert", "int8")])
    assert sorted(one.label for one in few) == ["litert int8", "onnx fp32"]
    again = named([samples.profile(1, "onnx", "fp32")] * 3)
    assert [one.label for one in again] == ["onnx fp32", "onnx fp32, #2", "onnx fp32, #3"]
    threads = samples.profile(1, "onnx", "fp32")
    one = msgspec.structs.replace(threads, settings=msgspec.structs.replace(threads.settings, threads=1))
    assert {name.remark for name in named([threads, one])} == {"1 thread", "2 threads"}


def test_of_several_machines_each_is_named(profiles: list[Profile]) -> None:
    assert all(one.profile.conditions.machine.key in one.remark for one in named(profiles))


def test_there_is_nothing_to_filter_where_all_are_alike(tmp_path: Path, page: Node) -> None:
    assert [box.attributes["value"] for box in page.all("input", name="device")] == ["desk", "pi5"]
    assert not list(written([samples.profile(1, "onnx", "fp32")], tmp_path).all("input"))


@pytest.mark.parametrize("count", [1, 40])
def test_one_profile_and_forty(count: int, tmp_path: Path) -> None:
    some = samples.forty()[:count]
    page = written(some, tmp_path)
    assert len(list(next(section(page, "profiles").all("tbody")).all("tr"))) == count
    assert (tmp_path / "report.html").stat().st_size < 40_000 * count + 40_000


def test_without_agreement_there_is_a_sentence_and_no_plot(tmp_path: Path) -> None:
    page = written([samples.profile(3, "onnx", "fp32", agreement=None)], tmp_path)
    told = section(page, "accuracy")
    assert not list(told.all("svg"))
    assert "nothing is known of their accuracy" in told.text
    assert "onnx fp32" in told.text


def test_accuracy_is_plotted_apart_from_agreement(tmp_path: Path) -> None:
    first, second, third = (samples.profile(seed, "onnx", one) for seed, one in enumerate(("fp32", "fp16", "int8")))
    page = written([samples.with_accuracy(first, 0.51), samples.with_accuracy(second, 0.5), third], tmp_path)
    plots = list(section(page, "accuracy").all("svg", _class="wide"))
    words = [" ".join(text.text for text in plot.all("text")) for plot in plots]
    assert len(plots) == 2
    assert sum("mAP50-95 on shapes, 200 images" in told for told in words) == 1
    assert sum("Share of the source's results found" in told for told in words) == 1
    assert "51 %" in section(page, "profiles").text


def test_an_empty_round_and_a_profile_without_stages_are_shown(tmp_path: Path) -> None:
    one = samples.profile(4, "ncnn", "fp16")
    silent = msgspec.structs.replace(one.rounds[0], total=(), stages={}, warm_up=0)
    restless = msgspec.structs.replace(one.rounds[1], warm_up=len(one.rounds[1].total), settled=False)
    bare = msgspec.structs.replace(one, rounds=(silent, restless), stages={}, loads=(), notes=("Mind <this>.",))
    page = written([bare], tmp_path)
    assert "Mind <this>." in section(page, "summary").text
    assert "no steady state" in section(page, "latency").text
    nothing = msgspec.structs.replace(one, rounds=(silent,))
    written([nothing], tmp_path)


def test_no_profiles_and_no_place_to_write_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no profiles to show; measure some with: edgekit profile BUNDLE"):
        write_profiles([], tmp_path / "report.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="give another path for the report"):
        write_profiles([samples.profile(1, "onnx", "fp32")], tmp_path / "file" / "report.html")


positive = st.floats(1e-6, 1e6)


@given(st.lists(positive, min_size=2, max_size=2, unique=True), st.lists(positive, max_size=9), st.booleans())
@settings(deadline=None)
def test_axes_keep_order_and_their_ticks_are_inside(ends: list[float], values: list[float], logarithmic: bool) -> None:
    low, high = sorted(ends)
    if high < low * 1.001:
        high = low * 1.001
    axis = Axis(low, high, logarithmic)
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    ticks = axis.ticks()
    assert ticks == sorted(ticks)
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert len(ticks) <= 16


def test_one_that_is_far_slower_does_not_squeeze_the_others() -> None:
    assert shared_end([1.0, 2.0, 3.0]) == 3
    assert shared_end([1.0, 2.0, 3.0, 3 * FAR]) == 3
    assert shared_end([1.0, 100.0]) == 100, "of two, which one is odd?"
    assert shared_end([0.0]) > 0


models = st.lists(
    st.builds(ChartPoint, name=st.just("x"), latency=st.floats(0.1, 1e4), accuracy=st.floats(0, 1), bytes=st.just(1)),
    min_size=1,
    max_size=25,
)


@given(models)
@settings(deadline=None)
def test_the_front_is_what_no_other_beats(some: list[ChartPoint]) -> None:
    front = pareto_front(some)
    for point in some:
        beaten = any(
            other.latency <= point.latency
            and other.accuracy >= point.accuracy
            and (other.latency, other.accuracy) != (point.latency, point.accuracy)
            for other in some
        )
        shown = any((one.latency, one.accuracy) == (point.latency, point.accuracy) for one in front)
        assert shown != beaten
    drawn = scatter(some, measure="mAP", alt="", front=True)
    assert drawn.count('class="front"') == 1
    assert "nan" not in drawn


# ---- colours ----

# How eyes without one kind of cone see linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red cones": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green cones": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "no blue cones": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
TOGETHER = (("pre", "inference", "post", "track"), ("pre", "vision", "prefill", "decode"))


def linear(colour: str) -> Any:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: Any) -> Any:
    """CIE L*a*b* under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    xyz = xyz / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_eye_tells_the_stages_apart(scheme: int) -> None:
    style = STYLE.read_text(encoding="utf-8")
    card = re.findall(r"--card: (#\w+)", style)[scheme]
    colours: dict[str, str] = {stage: re.findall(rf"--s-{stage}: (#\w+)", style)[scheme] for stage in STAGES}
    for colour in colours.values():
        light, dark = sorted((luminance(colour), luminance(card)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3
    for matrix in EYES.values():
        seen = {stage: lab(np.array(matrix) @ linear(colour)) for stage, colour in colours.items()}
        for stages in TOGETHER:
            for one, other in itertools.combinations(stages, 2):
                assert np.linalg.norm(seen[one] - seen[other]) > 14, (one, other)


# ---- as a table ----


def test_csv_gives_back_the_same_figures(profiles: list[Profile]) -> None:
    stream = io.StringIO(newline="")
    write_csv(profiles, stream)
    read = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert [line["id"] for line in read] == [one.profile.id for one in named(profiles)]
    by_id = {one.id: one for one in profiles}
    for line, figures in zip(read, rows(profiles), strict=True):
        one = by_id[line["id"]]
        assert list(line) == [column.name for column in COLUMNS]
        assert line["name"] == one.subject.name
        assert float(line["total_p50_ms"]) == one.total.p50
        assert int(line["memory_peak_bytes"]) == one.memory.peak
        assert line["agreement"] == ("" if one.subject.agreement is None else repr(one.subject.agreement))
        for stage in ("pre", "inference", "vision"):
            known = one.stages.get(stage)
            assert line[f"{stage}_p50_ms"] == ("" if known is None else repr(known.p50))
        for name, value in figures.items():
            assert line[name] == ("" if value is None else str(value))


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_is_a_formula(profiles: list[Profile], name: str) -> None:
    subject = msgspec.structs.replace(profiles[0].subject, name=name)
    stream = io.StringIO(newline="")
    write_csv([msgspec.structs.replace(profiles[0], subject=subject)], stream)
    (line,) = csv.DictReader(io.StringIO(stream.getvalue(), newline=""))
    assert line["name"] == f"'{name}"
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in line.values())


def test_names_of_columns_have_their_units() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert {"total_p50_ms", "load_cold_ms", "size_bytes", "frames_per_second", "tokens_per_second"} <= set(names)


def test_a_terminal_is_told_what_there_is_and_what_fits(profiles: list[Profile]) -> None:
    table = terminal([samples.profile(1, "onnx", "fp32"), samples.profile(2, "litert", "int8", agreement=None)])
    assert table.columns[:3] == ["target", "precision", "p50 ms"]
    assert not {"", "vision", "tokens/s", "accuracy", "drift"} & set(table.columns)
    assert table.rows[0][table.columns.index("found")] == "-"
    assert "target" not in table.right
    assert {"p50 ms", "found", "spread"} <= set(table.right)
    assert "" in terminal(profiles).columns, "what tells them apart"
    narrow = terminal(profiles[:4], 80)
    assert sum(max(map(len, column)) + 3 for column in zip(narrow.columns, *narrow.rows, strict=True)) <= 80
    assert {"target", "precision", "p50 ms", "p99", "spread"} <= set(narrow.columns)


# ---- in a browser ----

SCRIPTED = """<!doctype html>
<iframe id="wide" src="report.html" style="width: 1200px; height: 900px; border: 0"></iframe>
<iframe id="phone" src="report.html" style="width: 390px; height: 800px; border: 0"></iframe><pre></pre><script>
addEventListener("load", () => {
  const said = {};
  for (const name of ["wide", "phone"]) {
    const page = document.getElementById(name).contentDocument;
    const view = page.defaultView;
    const sections = ["profiles", "latency", "stages", "accuracy", "operators", "method"];
    const marks = (key) => [...page.querySelectorAll(`#${key} [data-mark]`)];
    const seen = () => Object.fromEntries(sections.map((key) =>
      [key, [...new Set(marks(key).filter((m) => m.getClientRects().length).map((m) => m.dataset.mark))]]));
    const chip = (name, value) => page.querySelector(`.filters input[name="${name}"][value="${value}"]`);
    const at = said[name] = { overflow: page.documentElement.scrollWidth };
    const table = page.querySelector("#profiles .scroll");
    at.beyond = table.scrollWidth - table.clientWidth;
    at.ground = view.getComputedStyle(page.body).backgroundColor;
    at.all = seen();
    at.front = page.querySelectorAll("#accuracy polyline.front")[1].getAttribute("points");
    at.hidden = page.querySelector(".filters").hidden;
    chip("precision", "int8").click();
    chip("target", "onnx").click(); chip("target", "litert").click();
    at.some = seen();
    at.filtered = page.querySelectorAll("#accuracy polyline.front")[1].getAttribute("points");
    at.words = page.querySelector(".filters output").textContent;
    chip("device", "desk").click(); chip("task", "caption").click();
    at.none = seen();
    page.querySelector(".filters button").click();
    at.again = seen();
    at.frontAgain = page.querySelectorAll("#accuracy polyline.front")[1].getAttribute("points");
    const head = page.querySelectorAll("#profiles th[scope=col]")[2];
    head.querySelector("button").click();
    at.sorted = [...page.querySelectorAll("#profiles tbody tr")].map((row) => row.dataset.mark);
    for (const fold of page.querySelectorAll("details")) fold.open = true;
    at.opened = page.documentElement.scrollWidth;
    at.outside = [...page.querySelectorAll("main *")].filter((node) => !node.closest(".scroll, .plot, svg")
      && node.getBoundingClientRect().right > view.innerWidth + 1).length;
  }
  document.querySelector("pre").textContent = btoa(JSON.stringify(said));
});
</script>"""


def browse(folder: Path, address: str, *flags: str) -> subprocess.CompletedProcess[str]:
    given_flags = [
        *FLAGS,
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'p'}",
    ]
    done = subprocess.run(
        [chromium(), *given_flags, *flags, address], capture_output=True, text=True, timeout=180, check=True
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    return done


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", text)]


@pytest.mark.skipif(not chromium(), reason="needs chromium, to see it complain")
def test_what_a_page_complains_of_is_heard(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>nothing.at.all</script>")
    with pytest.raises(AssertionError, match="nothing is not defined"):
        browse(tmp_path, (tmp_path / "bad.html").as_uri(), "--dump-dom")


DARK = "--blink-settings=preferredColorScheme=0"


@pytest.mark.skipif(not chromium(), reason="needs chromium, to click on the page")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_filters_rows_and_marks_on_wide_and_narrow_screens(
    path: Path, profiles: list[Profile], tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "frame.html").write_text(SCRIPTED)
    (tmp_path / "report.html").write_bytes(path.read_bytes())
    flags = [DARK] if scheme == "dark" else []
    done = browse(tmp_path, (tmp_path / "frame.html").as_uri(), "--dump-dom", *flags)
    answer = re.search(r"<pre>([\w+/=]+)</pre>", done.stdout)
    assert answer, done.stdout[-2000:]
    said: dict[str, Any] = json.loads(base64.b64decode(answer[1]))
    everyone = {one.id for one in profiles}
    wanted = {
        one.id for one in profiles if one.subject.precision == "int8" and one.subject.target in ("onnx", "litert")
    }
    for name, width in (("wide", 1200), ("phone", 390)):
        at = said[name]
        assert at["overflow"] <= width
        if name == "wide":
            assert at["beyond"] <= 0, "every column of the table is seen"
        assert at["opened"] <= width
        assert at["outside"] == 0
        assert not at["hidden"]
        for key, seen in at["all"].items():
            assert set(seen) == everyone == set(at["again"][key]), key
            assert set(at["some"][key]) == wanted, key
            assert not at["none"][key], key
        assert at["words"] == f"{len(wanted)} of {len(everyone)} profiles shown"
        assert at["filtered"] != at["front"]
        assert sum(points(at["frontAgain"]), ()) == pytest.approx(sum(points(at["front"]), ()), abs=0.06)
        assert at["sorted"] == [one.id for one in sorted(profiles, key=lambda one: one.total.p50)]
        red, green, blue = map(int, re.findall(r"\d+", at["ground"])[:3])
        assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.skipif(not chromium(), reason="needs chromium, to take pictures of the page")
def test_pictures_of_the_page_are_kept(path: Path, tmp_path: Path) -> None:
    import cv2

    folder = Path(os.environ.get("EDGEKIT_ARTIFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "report.html").write_bytes(path.read_bytes())
    (tmp_path / "phone.html").write_text(
        '<body style="margin: 0"><iframe src="report.html" style="width: 390px; height: 8000px; border: 0"></iframe>'
    )
    for name, source, size, flags in (
        ("light", "report.html", "1280,9000", []),
        ("dark", "report.html", "1280,9000", [DARK]),
        ("phone", "phone.html", "780,8000", []),
    ):
        picture = folder / f"profiles-{name}.png"
        shot = ["--hide-scrollbars", f"--window-size={size}", f"--screenshot={picture.resolve()}", *flags]
        browse(tmp_path, (tmp_path / source).as_uri(), *shot)
        image = cv2.imread(str(picture))
        assert image is not None
        if name == "phone":
            image = image[:, :390]
            cv2.imwrite(str(picture), image)
        assert image.std() > 5, "something is on it"
        assert (image[:2000].mean() > 128) == (name != "dark")


PRINTED = """<!doctype html><iframe src="report.html" style="width: 720px; height: 900px; border: 0"></iframe>
<pre></pre><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const parts = [...page.querySelectorAll("main table, main .lane, main svg")];
  const boxes = parts.map((one) => one.getBoundingClientRect());
  const widest = Math.max(...boxes.map((box) => box.right));
  const notes = [...page.querySelectorAll(".scroll")].map((box) => {
    const note = box.nextElementSibling;
    if (!note) return 0;
    return note.getBoundingClientRect().top - box.firstElementChild.getBoundingClientRect().bottom;
  });
  document.querySelector("pre").textContent = JSON.stringify({ widest, notes });
});
</script>"""


@pytest.mark.skipif(not chromium(), reason="needs chromium, to lay the page out for paper")
def test_on_paper_nothing_is_cut_off(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("@media print {", "@media all {")  # as wide as A4 with its margins
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    (tmp_path / "frame.html").write_text(PRINTED)
    done = browse(tmp_path, (tmp_path / "frame.html").as_uri(), "--dump-dom")
    answer = re.search(r"<pre>(\{.+\})</pre>", done.stdout)
    assert answer, done.stdout[-2000:]
    said = json.loads(answer[1])
    assert said["widest"] <= 721
    assert all(gap >= 0 for gap in said["notes"]), "a table runs into its note"


def test_without_jinja_it_is_said_what_to_install(tmp_path: Path) -> None:
    """A device has no Jinja2: tables work, and a page is refused before anything is measured."""
    script = (
        "import sys; sys.modules['jinja2'] = None\n"
        "import edgekit.report.profile_table, edgekit.report.numbers\n"
        "from edgekit.cli import main\n"
        f"main(['profile', 'no-such-bundle', '--html', {str(tmp_path / 'p.html')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "an HTML report needs the package jinja2: pip install 'edgekit[report]'" in done.stderr


def test_the_templates_are_in_the_package() -> None:
    """Beside the code, so that the wheel has them; no page has a template that is not there."""
    there = {path.name for path in STYLE.parent.iterdir()}
    code = "".join(path.read_text() for path in STYLE.parents[1].glob("*.py"))
    assert set(re.findall(r'"(\w+\.html\.j2)"', code)) <= there
    assert {"page.html.j2", "page.css", "page.js"} <= there
