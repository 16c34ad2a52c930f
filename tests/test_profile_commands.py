"""``edgekit profile``, ``profile compare``, ``profile history`` and ``recommend`` as a user calls them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sample_profiles import profile, with_accuracy
from test_records import faster
from tiny_onnx import write_tiny_bundle

from edgekit.cli import main
from edgekit.profiling.record import Profile
from edgekit.profiling.records.store import Store, read_records

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnx", reason="needs onnx to write a model")

Cli = Callable[..., tuple[int, str, str]]

QUICK = ("--rounds", 2, "--seconds", "100ms", "--no-operators", "--threads", 1)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command line with a store of its own: exit code, stdout, stderr."""
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path / "store.jsonl"))
    monkeypatch.setenv("EDGEKIT_DEVICES", str(tmp_path / "devices.json"))

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("one", "two"):
        write_tiny_bundle(folder / name)
    (folder / "notes").mkdir()
    return folder


def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.jsonl")


def test_bundles_of_a_pattern_give_a_table_records_csv_and_a_page(cli: Cli, bundles: Path, tmp_path: Path) -> None:
    given = ("--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html")
    code, out, _ = cli("profile", f"{bundles}/*", *QUICK, *given)
    assert code == 0
    assert "p50 ms" in out
    assert f"kept in {tmp_path / 'store.jsonl'}" in out
    kept = store(tmp_path).read()
    assert sorted(one.subject.name for one in kept) == ["one", "two"]
    assert len({one.session for one in kept}) == 1
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(float(line["total_p50_ms"]) for line in lines) == sorted(one.total.p50 for one in kept)
    assert "<!DOCTYPE html>" in (tmp_path / "a.html").read_text()


def test_what_a_shell_expands_may_hold_other_folders(cli: Cli, bundles: Path) -> None:
    code, out, _ = cli("profile", *sorted(bundles.iterdir()), *QUICK, "--json", "--no-keep")
    assert code == 0
    assert [one["subject"]["name"] for one in json.loads(out)["profiles"]] == ["one", "two"]


def test_json_is_what_is_read_again(cli: Cli, bundles: Path, tmp_path: Path) -> None:
    code, out, _ = cli("profile", bundles / "one", *QUICK, "--threads", "1,2", "--json", "--no-keep")
    assert code == 0
    (tmp_path / "out.json").write_text(out)
    found = read_records(tmp_path / "out.json")
    assert [one.settings.threads for one in found] == [1, 2]
    assert not (tmp_path / "store.jsonl").exists()


def test_nothing_measured_is_exit_code_one(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("profile", tmp_path / "none", *QUICK)
    assert code == 1
    assert "none: not measured: " in out
    assert "no bundle there" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profile", "nothing/*"), "nothing/*: no bundle there"),
        (("profile", "x", "--on", "pi9"), "pi9"),
        (("profile", "x", "--seconds", "soon"), "'soon' is not a number with one of the units s, ms"),
        (("profile", "x", "--batch", "0,1"), "'0,1' is not a list of numbers from 1 on"),
        (("profile", "compare", "a", "b"), "a: neither a bundle, nor a file of records, nor the id or name"),
        (("recommend",), "has no records of"),
        (("recommend", "--source", "x"), "say how long it may take with --budget 10min"),
        (("recommend", "--max-latency", "50 parsecs"), "'50 parsecs' is not a number with one of the units ms, s"),
    ],
)
def test_wrong_use_is_told(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = cli(*arguments)
    assert code == 2
    assert words in re.sub(r"\s+", " ", err)


# Comparing


def write(path: Path, one: Profile) -> Path:
    path.write_bytes(msgspec.json.encode({"profiles": [one], "skipped": []}))
    return path


def test_a_slow_down_fails_where_it_is_sure_and_large(cli: Cli, tmp_path: Path) -> None:
    base = profile(1, "onnx", "fp32")
    before, after = write(tmp_path / "before.json", base), write(tmp_path / "after.json", faster(base, 1.2))
    code, out, _ = cli("profile", "compare", after, before, "--fail-if-slower", "10%")
    assert code == 1
    assert "is slower than" in out
    assert cli("profile", "compare", after, before, "--fail-if-slower", "30%")[0] == 0
    assert cli("profile", "compare", before, after, "--fail-if-slower", "10%")[0] == 0
    assert cli("profile", "compare", after, before)[0] == 0


def test_what_cannot_be_ruled_out_is_told(cli: Cli, tmp_path: Path) -> None:
    base = profile(1, "onnx", "fp32")
    other = write(tmp_path / "other.json", faster(base, 1.05, "s2"))
    code, out, _ = cli("profile", "compare", other, write(tmp_path / "base.json", base), "--fail-if-slower", "10%")
    assert code == 0
    assert "a slow-down of 10 % cannot be ruled out" in out


def test_records_are_found_by_id_and_by_name(cli: Cli, tmp_path: Path) -> None:
    base = profile(1, "onnx", "fp32", name="base")
    slow = msgspec.structs.replace(faster(base, 1.3), id="feedbeef")
    store(tmp_path).add([base, slow])
    code, out, _ = cli("profile", "compare", "feed", base.id[:12], "--json")
    verdict = json.loads(out)
    assert code == 0
    assert (verdict["verdict"], verdict["candidate"], verdict["baseline"]) == ("slower", "feedbeef", base.id)
    assert verdict["low"] < verdict["ratio"] < verdict["high"]
    _, out, _ = cli("profile", "compare", "base", base.id[:12])
    assert "is slower" in out  # of a name the last


def test_bundles_are_measured_in_turns(cli: Cli, bundles: Path, tmp_path: Path) -> None:
    given = ("--rounds", 3, "--seconds", "50ms", "--threads", 1)
    code, out, _ = cli("profile", "compare", bundles / "one", bundles / "two", *given, "--json")
    assert code == 0
    assert json.loads(out)["paired"]
    first, second = store(tmp_path).read()
    assert first.session == second.session


# History and recommendation


def test_history_is_shown_filtered_and_written(cli: Cli, tmp_path: Path) -> None:
    old = profile(1, "onnx", "fp32", name="a")
    new = msgspec.structs.replace(faster(old, 0.9, "s2"), id="newer")
    store(tmp_path).add([old, profile(2, "ncnn", "fp32", name="b", device="desk"), new])
    names = lambda *given: [  # noqa: E731
        one["id"] for one in json.loads(cli("profile", "history", "--json", *given)[1])["profiles"]
    ]
    assert len(names()) == 3
    assert names("--name", "a") == [old.id, "newer"]
    assert names("--name", "a", "--last") == ["newer"]
    assert len(names("--on", "desk")) == 1
    code, out, _ = cli("profile", "history", "--html", tmp_path / "h.html")
    assert code == 0
    assert old.id[:8] in out
    assert (tmp_path / "h.html").is_file()


def test_a_recommendation_says_why(cli: Cli, tmp_path: Path) -> None:
    quick = with_accuracy(profile(1, "ncnn", "int8"), 0.80)
    good = with_accuracy(profile(2, "onnx", "fp32"), 0.89)
    store(tmp_path).add([quick, good, profile(3, "mnn", "fp32", device="desk")])
    code, out, _ = cli("recommend", "--on", "pi5", "--max-latency", "100ms", "--min-map", 0.85)
    assert code == 0
    assert out.startswith("onnx fp32")
    assert "accuracy 0.8000 is under 0.85" in out
    assert "mnn" not in out
    code, out, _ = cli("recommend", "--on", "pi5", "--max-latency", "1ms", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["best"] is None
    assert all(choice["violations"] for choice in document["choices"])


@pytest.mark.nightly
def test_bundles_without_records_are_measured_first(cli: Cli, bundles: Path, tmp_path: Path) -> None:
    code, out, _ = cli("recommend", bundles / "one", bundles / "two", "--threads", "1,2", "--max-size", "1MB")
    assert code == 0
    known = store(tmp_path).read()
    assert len({(one.subject.sha256, one.settings.threads) for one in known}) == len(known)
    assert cli("recommend", bundles / "one", bundles / "two", "--threads", "1,2")[0] == 0
    assert store(tmp_path).read() == known  # nothing was measured twice
    assert "fits" in out


@pytest.mark.nightly
def test_a_search_finds_within_its_budget(cli: Cli, bundles: Path, tmp_path: Path) -> None:
    code, out, _ = cli("recommend", bundles / "one", "--threads", "1,2", "--budget", "60s", "--json")
    assert code == 0
    document = json.loads(out)
    threads = {choice["profile"]["settings"]["threads"] for choice in document["choices"]}
    assert threads == {1, 2}
    assert document["best"] in {one.id for one in store(tmp_path).read()}


@pytest.mark.convert
@pytest.mark.nightly
def test_a_search_converts_what_it_tries(cli: Cli, tmp_path: Path) -> None:
    write_some(tmp_path / "scenes")
    source = ("--source", "edgekit.shapes.trained:detector", "--size", 160, "--data", tmp_path / "scenes")
    code, out, err = cli("recommend", *source, "--threads", 1, "--budget", "1s", "-o", tmp_path / "out", "--json")
    assert code == 0, err
    (choice,) = json.loads(out)["choices"]
    assert choice["profile"]["subject"]["size"] == [160, 160]
    assert choice["profile"]["subject"]["path"].startswith(str(tmp_path / "out" / "160x160"))


# Input sizes


@pytest.mark.convert
@pytest.mark.nightly
def test_a_source_is_converted_at_another_size(cli: Cli, tmp_path: Path) -> None:
    from edgekit.runtimes.bundle.folder import open_bundle

    given = (
        "edgekit.shapes.trained:detector",
        "--target",
        "onnx",
        "--data",
        tmp_path / "scenes",
        "-o",
        tmp_path / "out",
    )
    write_some(tmp_path / "scenes")
    code, _, err = cli("convert", *given, "--size", "160x192")
    assert code == 0, err
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert open_bundle(folder).manifest.contract.image.size == (160, 192)


@pytest.mark.convert
def test_a_source_of_a_fixed_size_says_so(cli: Cli, tmp_path: Path, shared_data: Path) -> None:
    write_some(tmp_path / "scenes")
    source = shared_data / "models" / "fastestdet_coco.pt2"
    contract = Path(__file__).parents[1] / "examples" / "fastestdet.yaml"
    code, _, err = cli(
        "convert", source, "--contract", contract, "--data", tmp_path / "scenes", "--target", "onnx", "--size", 320
    )
    assert code == 2
    assert "--size 320x320: this source only takes 352x352" in err


def write_some(folder: Path) -> None:
    from edgekit.shapes.dataset import write_coco

    write_coco(folder, [900 + number for number in range(24)])
