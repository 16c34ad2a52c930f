"""``edgekit profile import``: records of browsers and phones become profiles, and others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.errors import InputError
from edgekit.profiling.records.choosing import Bounds, choose
from edgekit.profiling.records.comparison import compare
from edgekit.profiling.records.importing import browser_name, read_benchmark
from edgekit.profiling.records.store import Store

CHROME = (
    "Mozilla/5.0 (Linux; Android 16; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Mobile Safari/537.36"
)


def record(**changes: Any) -> dict[str, Any]:
    """Three rounds of 60 calls: 10 ms in the first ten, 5 ms then."""
    total = [10.0 + i % 3 / 10 for i in range(10)] + [5.0 + i % 3 / 10 for i in range(50)]
    part = {"pre": [1.0] * 60, "inference": [value - 2 for value in total], "post": [1.0] * 60}
    bundle = {"name": "tiny", "digest": "ab" * 32, "target": "web", "precision": "int8", "engine": "web"}
    bundle |= {"task": "detect", "size": [256, 320], "bytes": 1000, "proof": "executed", "agreement": 0.99}
    made = {"schema": 1, "kind": "edgekit browser benchmark", "id": "0" * 32, "time": "2026-11-30T02:00:00+00:00"}
    made |= {"edgekit": "0.1.0", "engine": "onnxruntime-web 1.30.0", "device": "wasm", "browser": CHROME, "cores": 8}
    made |= {
        "frame": [640, 480],
        "bundle": bundle,
        "rounds": [{"open": 90.0, "first": 20.0, "total": total, **part}] * 3,
    }
    return made | changes


def written(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_the_samples_are_summed_up_as_any_profile_is(tmp_path: Path) -> None:
    found = read_benchmark(written(tmp_path / "one.json", record()))
    (warm_up,) = {one.warm_up for one in found.rounds}
    assert 10 <= warm_up <= 30
    assert (found.total.count, found.total.p50) == (3 * (60 - warm_up), pytest.approx(5.1))
    assert {name: one.p50 for name, one in found.stages.items()} == pytest.approx(
        {"pre": 1.0, "inference": 3.1, "post": 1.0}
    )
    subject, machine = found.subject, found.conditions.machine
    assert (subject.name, subject.size, subject.bytes, subject.proof) == ("tiny-web-int8", (256, 320), 1000, "executed")
    assert (machine.key, machine.system, machine.cores) == ("Chrome 156, Android", CHROME, 8)
    assert found.conditions.packages == {"onnxruntime-web": "1.30.0"}
    assert (found.memory, found.processor, found.first_call) == (None, None, 20.0)
    assert found.notes == ("measured in a page or an app, which tells neither memory nor processor time",)
    assert read_benchmark(tmp_path / "one.json", on="my phone").conditions.machine.key == "my phone"


def test_a_phone_is_named_and_says_when_it_was_warm(tmp_path: Path) -> None:
    phone = record(kind="edgekit app benchmark", platform="swift", engine="coreml", device="cpu and neural engine")
    phone |= {"model": "iPhone17,1", "system": "iOS 18.5", "memory": 8 << 30, "thermal": ["nominal", "serious"]}
    del phone["browser"]
    found = read_benchmark(written(tmp_path / "one.json", phone))
    machine, packages = found.conditions.machine, found.conditions.packages
    assert (machine.key, machine.memory, packages) == ("iPhone17,1, iOS 18.5", 8 << 30, {"coreml": ""})
    assert found.settings.device == "cpu and neural engine"
    assert found.notes[0] == "the board says: thermal state serious"
    cool = read_benchmark(written(tmp_path / "two.json", phone | {"thermal": ["none", "unknown"]}), on="my phone")
    assert (cool.conditions.after.throttled, cool.conditions.machine.key) == (None, "my phone")
    del phone["thermal"]
    with pytest.raises(InputError, match="missing required field `thermal`"):
        read_benchmark(written(tmp_path / "three.json", phone))


def test_it_is_kept_once_and_shown_compared_and_chosen_like_any_other(tmp_path: Path, capsys: Any) -> None:
    store = tmp_path / "store.jsonl"
    path = written(tmp_path / "one.json", record())
    slow = record(id="1" * 32)
    slow["rounds"] = [
        {name: [2 * v for v in some] if isinstance(some, list) else some for name, some in one.items()}
        for one in slow["rounds"]
    ]
    other = written(tmp_path / "two.json", slow)

    def cli(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    code, out, _ = cli("profile", "import", path, other, "--store", store)
    assert code == 0
    assert "kept in" in out
    assert "5.1" in out
    code, _, err = cli("profile", "import", path, "--store", store)
    assert (code, "is in" in err and "already" in err) == (2, True)
    assert cli("profile", "import", other, other, "--store", tmp_path / "new")[0] == 2
    assert len(Store(store).read()) == 2
    page = tmp_path / "page.html"
    assert cli("profile", "history", "--store", store, "--html", page, "--csv", tmp_path / "page.csv")[0] == 0
    assert "tiny-web-int8" in page.read_text()
    assert cli("recommend", "--store", store, "--on", "Chrome 156, Android")[0] == 0
    one, two = Store(store).read()
    assert compare(one, two).verdict == "faster"
    (choice,) = choose([one], Bounds(memory=1e9), "memory").others
    assert choice.violations == ("its peak memory is not known",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("{", "not a record of the benchmark button"),
        ([], "not a record of the benchmark button"),
        ({"kind": "something"}, "Invalid value 'something'"),
        ({"kind": "edgekit app benchmark"}, "unknown field `browser`"),
        ({"schema": 2}, "a record of schema 2, and this edgekit reads 1; upgrade it"),
        ({"id": "short"}, "regex"),
        ({"rounds": []}, "length >= 1"),
        ({"cores": 0}, "Expected `int` >= 1"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"total": [1.0, -1.0]}, "Expected `float` >= 0"),
        ({"total": [1.0, 0.0]}, "the device's clock is too coarse"),
        ({"total": [1.0, 2.0, 3.0]}, "must have a value for each call"),
        ({"open": 1e300}, "Expected `float` <= 10000000"),
    ],
)
def test_what_is_no_record_is_refused(changes: Any, said: str, tmp_path: Path) -> None:
    document = changes
    if isinstance(changes, dict):
        document = record()
        of_round = {"total", "open"} & changes.keys()
        short = {"total": [1.0] * 2, "pre": [0.5] * 2, "inference": [0.5] * 2, "post": [0.5] * 2}
        document = record(rounds=[{"open": 1.0, "first": 1.0, **short, **changes}]) if of_round else document | changes
    with pytest.raises(InputError, match=said):
        read_benchmark(written(tmp_path / "bad.json", document))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        read_benchmark(tmp_path / "nothing.json")
    (tmp_path / "large.json").write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(InputError, match=r"large\.json"):
        read_benchmark(tmp_path / "large.json")


def test_browsers_by_name() -> None:
    safari = (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605 Version/26.0 Mobile/15E148 Safari/604"
    )
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
    edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537 Chrome/156.0.0.0 Safari/537 Edg/156.0.0.0"
    names = [browser_name(agent) for agent in (CHROME, safari, firefox, edge, "a browser of its own")]
    wanted = [
        "Chrome 156, Android",
        "Safari 26, iOS",
        "Firefox 150, Linux",
        "Edge 156, Windows",
        "a browser of its own",
    ]
    assert names == wanted


def test_changed_bytes_give_a_profile_or_an_error_of_ours(tmp_path: Path) -> None:
    whole, random, refused = json.dumps(record()).encode(), Random(5), 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            data[random.randrange(600)] = random.randrange(256)
        (tmp_path / "changed.json").write_bytes(data)
        try:
            read_benchmark(tmp_path / "changed.json")
        except InputError:
            refused += 1
    assert 100 < refused < 200
