"""Records kept, compared and chosen from."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sample_profiles import profile, with_accuracy

from edgekit.errors import InputError, UsageError
from edgekit.profiling.record import SCHEMA, Profile, Settings, encode
from edgekit.profiling.records import searching
from edgekit.profiling.records.choosing import Bounds, choose, latest
from edgekit.profiling.records.comparison import SESSION_NOISE, compare, session_noise
from edgekit.profiling.records.searching import SearchPoint, Space, cost, points, search
from edgekit.profiling.records.store import Store, default_store, read_records


def faster(given: Profile, share: float, session: str = "s1", seed: int = 0) -> Profile:
    """The same bundle, with every call of every round scaled and a little noise of its own for each round."""
    noise = np.random.default_rng(seed).normal(1, 0.005, len(given.rounds))

    def scaled(values: tuple[float, ...], own: float) -> tuple[float, ...]:
        return tuple(float(value * share * own) for value in values)

    rounds = tuple(
        msgspec.structs.replace(one, total=scaled(one.total, own)) for one, own in zip(given.rounds, noise, strict=True)
    )
    total = msgspec.structs.replace(given.total, p50=given.total.p50 * share, p95=given.total.p95 * share)
    return msgspec.structs.replace(given, rounds=rounds, total=total, session=session, id=f"{given.id}{session}{share}")


# The store


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "profiles.jsonl")
    assert store.read() == []
    first, second = profile(1, "onnx", "fp32", more=True), profile(2, "litert", "int8")
    store.add([first])
    store.add([second])
    assert store.read() == [first, second]
    assert len(store.path.read_bytes().splitlines()) == 2


def test_what_a_killed_writer_left_is_passed_over_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "profiles.jsonl")
    first, second = profile(1, "onnx", "fp32"), profile(2, "onnx", "int8")
    store.add([first])
    with store.path.open("ab") as file:
        file.write(encode(second)[:500])
    before = store.path.read_bytes()
    assert store.read() == [first]
    store.add([second])
    assert store.read() == [first, second]
    assert store.path.read_bytes().startswith(before)  # nothing that was there is written over


def _add(path: Path, seed: int) -> None:
    for number in range(5):
        Store(path).add([profile(100 * seed + number, "onnx", "fp32")])


def test_two_at_a_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "profiles.jsonl"
    both = [multiprocessing.get_context("spawn").Process(target=_add, args=(path, seed)) for seed in (1, 2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(one.id for one in Store(path).read()) == sorted(
        profile(100 * seed + number, "onnx", "fp32").id for seed in (1, 2) for number in range(5)
    )


def test_records_of_a_newer_edgekit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "profiles.jsonl"
    path.write_text(json.dumps({"schema": SCHEMA + 1, "edgekit": "9.9"}) + "\n")
    with pytest.raises(InputError, match=r"line 1: written by edgekit 9.9 \(schema 2\), this one reads up to 1"):
        Store(path).read()


def test_a_line_that_is_no_profile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "profiles.jsonl"
    path.write_text(json.dumps({"schema": SCHEMA, "edgekit": "0.1.0"}) + "\n")
    with pytest.raises(InputError, match=r"line 1: not a profile: .*id"):
        Store(path).read()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another store with --store"):
        Store(tmp_path / "file" / "profiles.jsonl").add([profile(1, "onnx", "fp32")])


def test_files_of_both_forms_are_read(tmp_path: Path) -> None:
    one = profile(1, "onnx", "fp32")
    printed, lines, nothing = tmp_path / "a.json", tmp_path / "b.jsonl", tmp_path / "c.json"
    printed.write_bytes(msgspec.json.encode({"profiles": [one], "skipped": []}))
    lines.write_bytes(encode(one))
    nothing.write_text("[]")
    assert read_records(printed) == read_records(lines) == [one]
    with pytest.raises(InputError, match="holds no profile"):
        read_records(nothing)
    with pytest.raises(InputError, match="No such file"):
        read_records(tmp_path / "none")


def test_the_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKIT_PROFILES", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_store() == tmp_path / "edgekit" / "profiles.jsonl"
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path / "x"))
    assert default_store() == tmp_path / "x"


# Comparison


def test_a_difference_is_told_only_where_it_holds() -> None:
    base = profile(1, "onnx", "fp32", noise=0.01)
    slow = compare(faster(base, 1.2, seed=1), base)
    assert (slow.verdict, slow.paired) == ("slower", True)
    assert slow.interval.low < 1.2 < slow.interval.high
    assert slow.slower_than(0.1)
    assert not slow.slower_than(0.3)
    assert compare(faster(base, 0.8, seed=2), base).verdict == "faster"
    assert compare(faster(base, 1.0, seed=3), base).verdict == "no difference"


def test_rounds_of_different_sessions_are_doubted_more() -> None:
    base = profile(1, "onnx", "fp32")
    near, far = compare(faster(base, 1.04, seed=1), base), compare(faster(base, 1.04, "s2", seed=1), base)
    assert (near.verdict, far.verdict, far.paired) == ("slower", "no difference", False)
    assert far.interval.high / far.interval.low > near.interval.high / near.interval.low
    assert compare(faster(base, 1.2, "s2", seed=1), base).verdict == "slower"


def test_the_noise_between_sessions_is_learnt_where_there_are_enough() -> None:
    base = profile(1, "onnx", "fp32")
    draw = np.random.default_rng(0)
    others = [faster(base, float(share), f"s{place}") for place, share in enumerate(draw.lognormal(0, 0.1, 30))]
    assert session_noise(others[:3]) == SESSION_NOISE
    assert session_noise(others) == pytest.approx(0.1, rel=0.35)
    assert compare(faster(base, 1.2, "s99"), base, others).verdict == "no difference"


def test_a_trifle_is_no_difference_however_sure() -> None:
    base = profile(1, "onnx", "fp32")
    rounds = tuple(msgspec.structs.replace(one, total=tuple(1.005 * t for t in one.total)) for one in base.rounds)
    found = compare(msgspec.structs.replace(base, rounds=rounds), base)
    assert (found.interval.low > 1, found.verdict) == (True, "no difference")


def test_sentences_and_remarks_say_what_was_compared() -> None:
    base = profile(1, "onnx", "fp32", name="before")
    slow = msgspec.structs.replace(
        faster(base, 1.5), settings=msgspec.structs.replace(base.settings, threads=1, data="street.mp4")
    )
    found = compare(slow, base)
    assert found.sentence.startswith("before is slower than before: +5")
    assert "99 % interval" in found.sentence
    assert "5 rounds in turns" in found.sentence
    assert set(found.remarks) == {"threads: 1 against 2", "data: street.mp4 against generated"}
    assert "is not shown to differ from" in compare(base, base).sentence


# Choosing


def test_the_fastest_of_those_that_keep_the_bounds_is_chosen() -> None:
    quick = with_accuracy(profile(1, "ncnn", "int8"), 0.80)
    good = with_accuracy(profile(2, "onnx", "fp32"), 0.89)
    slow = with_accuracy(profile(3, "ethosu", "int8"), 0.90)
    unknown = profile(5, "litert", "int8")
    given = [quick, good, slow, unknown]
    found = choose(given, Bounds(latency=100.0, accuracy=0.85), "latency")
    assert found.best == good
    broken = {one.profile.subject.target: one.violations for one in found.others}
    assert broken["ncnn"] == ("accuracy 0.8000 is under 0.85",)
    assert broken["ethosu"] == (f"p95 {slow.total.p95:.1f} ms is over 100 ms",)
    assert broken["litert"] == ("its accuracy is not known",)
    assert choose(given, Bounds(), "accuracy").best == slow or unknown.subject.agreement > 0.9  # type: ignore[operator]
    assert choose(given, Bounds(latency=0.01), "latency").best is None


def test_int8_that_is_not_faster_is_chosen_for_its_size_alone() -> None:
    fp32 = with_accuracy(profile(1, "onnx", "fp32"), 0.90)
    int8 = with_accuracy(profile(1, "onnx", "int8"), 0.95)
    slow = faster(int8, 2 * fp32.total.p50 / int8.total.p50)
    for prefer in ("latency", "accuracy"):
        found = choose([fp32, slow], Bounds(), prefer)  # type: ignore[arg-type]
        assert found.best == fp32
        (told,) = found.others[0].violations
        assert told == f"smaller, not faster: {slow.total.p50:.2f} ms, fp32 {fp32.total.p50:.2f} ms"
    assert choose([fp32, slow], Bounds(), "size").best == slow
    assert choose([fp32, slow], Bounds(size=fp32.subject.bytes - 1), "accuracy").best == slow
    quick = faster(int8, 0.5 * fp32.total.p50 / int8.total.p50)
    assert choose([fp32, quick], Bounds(), "accuracy").best == quick
    elsewhere = msgspec.structs.replace(slow, subject=msgspec.structs.replace(slow.subject, target="ncnn"))
    assert choose([fp32, elsewhere], Bounds(), "accuracy").best == elsewhere  # another target's is no partner


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(size=1e5), "size 4.3 MB is over 0.1 MB"),
        (Bounds(memory=1e6), "MB is over 1 MB"),
        (Bounds(agreement=1.01), "is under 1.01"),
    ],
)
def test_every_bound_is_told(bounds: Bounds, words: str) -> None:
    assert words in bounds.violations(profile(1, "onnx", "fp32"))[0]


def test_of_the_same_bundle_and_settings_the_last_counts() -> None:
    old = profile(1, "onnx", "fp32")
    new = faster(old, 0.9, "s2")
    other = msgspec.structs.replace(new, settings=msgspec.structs.replace(new.settings, threads=4))
    assert latest([old, other, new]) == [other, new]


# Search


class Bench:
    """Stands for the device: knows how long every point takes, and counts what is asked of it."""

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        self.asked: list[tuple[str, int, int, float]] = []
        self._noise, self._draw = noise, random.Random(seed)

    def bundle(self, point: SearchPoint) -> Path | None:
        return None if point.target == "broken" else Path(f"{point.target}-{point.precision}-{point.size}")

    def measure(self, paths, each):  # type: ignore[no-untyped-def]
        found = []
        for path, settings in zip(paths, each, strict=True):
            self.asked.append((str(path), settings.threads, settings.rounds, settings.seconds))
            target, precision, size = str(path).split("-")
            base = profile(1, target, precision)
            share = int(size) / 320 / settings.threads**0.5
            share *= 1 + self._noise / settings.seconds * self._draw.uniform(-1, 1) * (settings.rounds == 2)
            subject = msgspec.structs.replace(base.subject, path=str(path), sha256=str(path))
            found.append(msgspec.structs.replace(faster(base, share), subject=subject, settings=settings))
        return found


TRIPLES = [(target, precision, size) for target in ("onnx", "litert", "broken") for precision in ("fp32", "int8")
           for size in ("160", "320")]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_a_search_finds_what_trying_everything_at_length_finds(seed: int) -> None:
    """Brief measurements are noisy here, long ones are not: halving must not lose the best."""
    bench = Bench(noise=0.1, seed=seed)
    every = points(TRIPLES, (1, 2, 4))
    space = Space(points=every, bundle=bench.bundle, measure=bench.measure)
    found = search(space, Bounds(), "latency", Settings(rounds=5, seconds=3.0, seed=seed), 3600)
    briefly = Counter((path, threads, seconds) for path, threads, rounds, seconds in bench.asked if rounds == 2)
    assert set(briefly.values()) == {1}, "at most once in a round"
    assert [sum(seconds == wanted for *_, seconds in briefly) for wanted in (1.0, 2.0, 4.0)] == [24, 12, 6]
    assert found.untried == 0
    assert [rounds for *_, rounds, _ in bench.asked[-3:]] == [5] * searching.FINALISTS
    exact = [(path, one.threads) for one in every if (path := bench.bundle(one)) is not None]
    each = [Settings(rounds=5, threads=threads) for _, threads in exact]
    exhaustive = min(Bench().measure([path for path, _ in exact], each), key=lambda one: one.total.p50)
    best = min(found.finals, key=lambda one: one.total.p50)
    assert (best.subject.path, best.settings.threads) == (exhaustive.subject.path, exhaustive.settings.threads)
    again = Bench(noise=0.1, seed=seed)
    space = Space(points=every, bundle=again.bundle, measure=again.measure)
    search(space, Bounds(), "latency", Settings(rounds=5, seconds=3.0, seed=seed), 3600)
    assert again.asked == bench.asked, "the same seed and figures, the same search"


def test_a_search_that_has_no_time_tries_something_all_the_same() -> None:
    bench = Bench()
    space = Space(points=points(TRIPLES[:4], (1, 2)), bundle=bench.bundle, measure=bench.measure)
    found = search(space, Bounds(), "latency", Settings(), 0)
    assert (len(found.trials), found.untried) == (1, 7)


def test_broken_bounds_cost_more_than_any_figure() -> None:
    slow, quick = profile(1, "ethosu", "fp32"), profile(2, "ncnn", "int8")
    bounds = Bounds(agreement=0.99)
    assert cost(quick, Bounds(), "latency") < cost(slow, Bounds(), "latency")
    assert bounds.violations(quick)
    assert not bounds.violations(
        msgspec.structs.replace(slow, subject=msgspec.structs.replace(slow.subject, agreement=1))
    )
    assert cost(quick, bounds, "latency") > cost(slow, Bounds(), "latency")


def test_nothing_to_search_is_refused() -> None:
    bench = Bench()
    with pytest.raises(UsageError, match="nothing to search"):
        search(Space(points=(), bundle=bench.bundle, measure=bench.measure), Bounds(), "latency", Settings(), 1)
    broken = Space(points=points([("broken", "fp32", "160")], (1,)), bundle=bench.bundle, measure=bench.measure)
    with pytest.raises(UsageError, match="none of the bundles could be measured"):
        search(broken, Bounds(), "latency", Settings(), 1)
