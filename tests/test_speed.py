"""INT8 beside float: the measurement, its words, and what refuses a bundle that is not faster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from sample_bundles import EVIDENCE, sample_manifest, write_bundle

from edgekit import timing
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Speed
from edgekit.timing import Ratio, in_turns


class Clocks:
    """The clocks of a process and of the wall, which only move when a function says that it worked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.processor = self.wall = 0.0
        patch.setattr(timing.time, "process_time", lambda: self.processor)
        patch.setattr(timing.time, "perf_counter", lambda: self.wall)

    def work(self, processor: float, wall: float) -> None:
        self.processor += processor
        self.wall += wall


def test_the_time_of_the_processor_is_compared_whatever_else_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, random = Clocks(monkeypatch), np.random.default_rng(0)
    found = in_turns(
        lambda: clocks.work(0.010, random.uniform(0.01, 0.1)),
        {"half": lambda: clocks.work(0.005, random.uniform(0.005, 0.1)), "twice": lambda: clocks.work(0.020, 0.03)},
    )
    assert found["half"].median == pytest.approx(0.5)
    assert found["twice"].median == pytest.approx(2.0)


def test_of_an_engine_in_another_process_the_wall_clock_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    found = in_turns(lambda: clocks.work(1e-5, 0.010), {"": lambda: clocks.work(2e-5, 0.007)})
    assert found[""].median == pytest.approx(0.7)


def test_the_interval_holds_the_true_median_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against 500 measurements of a ratio whose true median is known, with outliers upwards as machines have them."""
    clocks, random, held = Clocks(monkeypatch), np.random.default_rng(1), 0
    for _ in range(500):
        found = in_turns(lambda: clocks.work(1.0, 1.0), {"": lambda: clocks.work(float(random.lognormal(0, 0.3)), 1)})
        held += found[""].low <= 1.0 <= found[""].high
        assert found[""].rounds == timing.ROUNDS
    assert 0.92 <= held / 500 <= 1.0


@pytest.mark.parametrize(
    ("ratio", "faster", "short", "words"),
    [
        ((0.68, 0.66, 0.70), True, "0.68x", "0.68 times the time of fp32 (0.66 to 0.70) on ncnn 1.0, "),
        ((1.21, 1.18, 1.24), False, "smaller, not faster (1.21x)", "smaller, not faster: 1.21 times the time of fp32"),
        ((0.98, 0.97, 0.99), False, "smaller, not faster (0.98x)", "smaller, not faster: 0.98"),
        ((0.95, 0.90, 1.02), False, "smaller, not faster (0.95x)", "smaller, not faster: 0.95"),
        ((0.70, 0.50, 0.90), False, "speed not certain (0.70x)", "too noisy here to tell whether it is faster: 0.70"),
    ],
)
def test_what_is_said_of_a_ratio(ratio: tuple[float, float, float], faster: bool, short: str, words: str) -> None:
    speed = Ratio(*ratio, 40).speed("ncnn 1.0")
    assert speed.faster == faster
    assert speed.short == short
    assert speed.sentence().startswith(words)
    assert speed.sentence().endswith(f"on ncnn 1.0, {timing.instructions()}, 1 thread")


pytest.importorskip("torch", reason="needs the extra 'convert'")

from edgekit.conversion import float_partners
from edgekit.conversion.bundle_builder import Outcome
from edgekit.conversion.request import Request
from edgekit.errors import EngineError

FAST, SLOW, NOISY = (Ratio(*one, 40).speed("engine 1") for one in ((0.5, 0.49, 0.51), (1.3, 1.29, 1.31), (1, 0.5, 2)))


def outcomes(
    out: Path, *precisions: str, speed: Speed | EngineError = FAST, fail_if_slower: bool = True, word: str = "executed"
) -> list[Outcome]:
    """What `with_speeds` makes of bundles when the measurement gives ``speed``."""
    evidence: Any = msgspec.structs.replace(EVIDENCE, word=word)
    given = []
    for precision in precisions:
        path = out / f"cells-onnx-{precision}"
        bundle = write_bundle(path, precision=precision, evidence=evidence)
        given.append(Outcome("onnx", precision, path, bundle, evidence))

    def time(bundle: Path, partner: Path, report: Any) -> Speed:
        assert (bundle.name, partner.name) == ("cells-onnx-int8", "cells-onnx-fp32")
        if isinstance(speed, EngineError):
            raise speed
        return speed

    request = Request(out=out, fail_if_slower=fail_if_slower)
    stages: Any = SimpleNamespace(request=request, time=time, stop=SimpleNamespace(pulled=False))
    return list(float_partners.with_speeds(given, stages, lambda what, text, share: None))


def test_a_bundle_says_how_fast_it_is_beside_its_float_partner(tmp_path: Path) -> None:
    fp32, int8 = outcomes(tmp_path, "fp32", "int8")
    assert fp32.ok
    assert int8.ok
    assert open_bundle(tmp_path / "cells-onnx-int8").manifest.speed == FAST
    assert open_bundle(tmp_path / "cells-onnx-fp32").manifest.speed is None
    (tmp_path / "cells-onnx-int8" / "model.bin").write_bytes(b"")  # every byte is still guarded
    with pytest.raises(Exception, match="truncated or replaced"):
        open_bundle(tmp_path / "cells-onnx-int8")


def test_a_float_bundle_of_an_earlier_run_will_do(tmp_path: Path) -> None:
    write_bundle(tmp_path / "cells-onnx-fp32", precision="fp32")
    assert outcomes(tmp_path, "int8")[0].ok
    other = sample_manifest().origin
    write_bundle(
        tmp_path / "cells-onnx-fp32", precision="fp32", origin=msgspec.structs.replace(other, sha256="00" * 32)
    )
    error = outcomes(tmp_path, "int8")[0].error
    assert "no float bundle of cells for onnx to compare with; make one, too: --precision fp32,int8" in str(error)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"speed": SLOW}, "--fail-if-slower: smaller, not faster: 1.30 times the time of fp32"),
        ({"speed": NOISY}, "too noisy here to tell whether it is faster: 1.00 .* when the machine does nothing else"),
        (
            {"word": "emulated"},
            "this host does not run onnx itself, so nothing was timed; .*: edgekit profile --on",
        ),
    ],
)
def test_a_bundle_that_is_not_faster_is_a_failure_where_that_is_asked_for(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    fp32, int8 = outcomes(tmp_path / "strict", "fp32", "int8", **given)
    assert fp32.ok
    assert not int8.ok
    with pytest.raises(AssertionError if int8.error is None else type(int8.error), match=words):
        raise int8.error or AssertionError("no error")
    assert open_bundle(int8.path).manifest.proven  # it stays
    assert all(one.ok for one in outcomes(tmp_path / "lenient", "fp32", "int8", fail_if_slower=False, **given))


def test_an_engine_that_cannot_be_timed_is_no_failure_of_the_bundle(tmp_path: Path) -> None:
    broken = outcomes(tmp_path, "fp32", "int8", speed=EngineError("no memory"), fail_if_slower=False)[1]
    assert broken.ok
    assert broken.doubt == "not timed beside fp32: no memory"


@pytest.mark.convert
def test_a_conversion_times_what_it_made(converted: Any) -> None:
    """Two engines, three precisions each: INT8 alone has a speed, and the report has it, too."""
    for one in converted.document["bundles"]:
        manifest = open_bundle(one["path"]).manifest
        assert (manifest.speed is not None) == (manifest.precision == "int8")
        if manifest.speed:
            assert msgspec.to_builtins(manifest.speed) == one["speed"]
            assert 0 < manifest.speed.low <= manifest.speed.ratio <= manifest.speed.high
            assert manifest.speed.engine.startswith(manifest.engine)
