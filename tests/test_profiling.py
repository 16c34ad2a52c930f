"""Sessions with a real engine: what a record says of a bundle, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from sample_bundles import write_bundle
from tiny_onnx import write_tiny_bundle

from edgekit.errors import EngineError, InputError, UsageError
from edgekit.profiling import jobs
from edgekit.profiling.calls import SlowedSession, endless, images, photograph
from edgekit.profiling.protocol import Event, Profiled, SessionJob, SessionProgress, SessionResult, SkippedBundle
from edgekit.profiling.record import Profile, Settings
from edgekit.profiling.session import ask, run_session
from edgekit.profiling.summary import round_medians, settled
from edgekit.worker import call, messages, process

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnx", reason="needs onnx to write a model")

QUICK = Settings(rounds=2, seconds=0.1, threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def session(*bundles: Path, settings: Settings = QUICK, each: tuple[Settings, ...] = ()) -> list[Event]:
    events: list[Event] = []
    run_session(SessionJob(bundles=tuple(map(str, bundles)), settings=settings, each=each), events.append)
    return events


def profiles(events: list[Event]) -> list[Profile]:
    return [event.profile for event in events if isinstance(event, Profiled)]


@pytest.fixture(scope="module")
def measured(bundle: Path) -> Profile:
    settings = msgspec.structs.replace(QUICK, batch=(3,), streams=(2,), sustain=2.5, tracker="bytetrack")
    (found,) = profiles(session(bundle, settings=settings))
    return found


def test_stages_add_up_to_the_whole(measured: Profile) -> None:
    for one in measured.rounds:
        parts = sum(np.sum(settled(one, stage)) for stage in one.stages)
        whole = np.sum(settled(one))
        assert parts <= whole
        assert set(one.stages) == {"pre", "inference", "post", "track"}
        assert all(len(values) == len(one.total) for values in one.stages.values())


def test_a_record_says_what_was_measured(measured: Profile, bundle: Path) -> None:
    assert (measured.subject.path, measured.subject.engine, measured.subject.task) == (
        str(bundle),
        "onnxruntime",
        "detect",
    )
    assert len(measured.rounds) == len(measured.loads) == 2
    assert [load.cold for load in measured.loads] == [hasattr(os, "posix_fadvise"), False]
    assert all(load.imports > 0 < load.open and load.first > 0 for load in measured.loads)
    assert measured.total.count == sum(len(settled(one)) for one in measured.rounds)
    assert measured.total.p50 == pytest.approx(np.median(np.concatenate([settled(one) for one in measured.rounds])))
    assert measured.frames_per_second == pytest.approx(1e3 / measured.total.mean)
    assert measured.memory.before < measured.memory.peak < 1 << 30
    assert measured.memory.steady <= measured.memory.peak
    assert measured.processor.threads >= 1
    assert 0 < measured.processor.cores < 2 * (os.cpu_count() or 1)
    assert "onnxruntime" in measured.conditions.packages
    assert measured.conditions.machine.cores >= 1


def test_several_images_and_sustained_load_are_measured_where_asked_for(measured: Profile) -> None:
    assert [(one.kind, one.count) for one in measured.throughput] == [("batch", 3), ("streams", 2)]
    assert all(one.frames_per_second > 0 < one.latency for one in measured.throughput)
    assert measured.sustained is not None
    assert [round(second.at) for second in measured.sustained.seconds] == [0, 1, 2]
    assert measured.sustained.drift == pytest.approx(measured.sustained.steady / measured.sustained.burst - 1)


def test_operators_are_named(measured: Profile) -> None:
    assert measured.operators is not None
    kinds = [one.kind for one in measured.operators.times]
    assert sum("Conv" in kind for kind in kinds) == 3  # as tiny_onnx wrote them


def test_records_survive_json(measured: Profile) -> None:
    assert msgspec.json.decode(msgspec.json.encode(measured), type=Profile) == measured


def test_bundles_take_turns_and_share_a_session(bundle: Path) -> None:
    each = (msgspec.structs.replace(QUICK, operators=False), msgspec.structs.replace(QUICK, operators=False, delay=300))
    events = session(bundle, bundle, settings=each[0], each=each)
    plain, slowed = profiles(events)
    assert plain.session == slowed.session
    assert plain.id != slowed.id
    rounds = [event.text for event in events if isinstance(event, SessionProgress) and "round" in event.text]
    assert [text.split(": ")[1] for text in rounds] == ["round 1 of 2"] * 2 + ["round 2 of 2"] * 2
    shares = [event.share for event in events if isinstance(event, SessionProgress)]
    assert shares == sorted(shares)
    assert min(np.array(round_medians(slowed, "inference")) / round_medians(plain, "inference")) > 1.5


def test_a_bundle_that_cannot_be_measured_does_not_stop_the_others(bundle: Path, tmp_path: Path) -> None:
    elsewhere = write_bundle(tmp_path / "coreml", engine="coreml")
    events = session(tmp_path / "none", elsewhere.path, bundle, settings=msgspec.structs.replace(QUICK, rounds=1))
    skipped = {Path(event.bundle).name: event.reason for event in events if isinstance(event, SkippedBundle)}
    assert "no bundle there" in skipped["none"]
    assert "says nothing about time: profile it on a host that has it (--on NAME)" in skipped["coreml"]
    assert len(profiles(events)) == 1


def test_what_fails_while_it_is_measured_is_told(bundle: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, data=str(tmp_path / "none"))
    events = session(bundle, settings=settings)
    assert not profiles(events)
    (skipped,) = (event for event in events if isinstance(event, SkippedBundle))
    assert str(tmp_path / "none") in skipped.reason


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (SessionJob(bundles=(), settings=QUICK), "there is no bundle to profile"),
        (SessionJob(bundles=("a", "b"), settings=QUICK, each=(QUICK,)), "1 settings do not go with 2 bundles"),
    ],
)
def test_jobs_that_make_no_sense_are_refused(job: SessionJob, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_session(job, lambda event: None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"seconds": -1.0}, "seconds must be at least 0, not -1.0"),
        ({"batch": (0,)}, r"batch must be 1 or more, not \[0\]"),
        ({"tokens": 1}, "tokens must be at least 2, not 1"),
    ],
)
def test_settings_are_checked(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        msgspec.convert(wrong, Settings)


# Processes


def test_a_process_that_takes_too_long_is_ended(bundle: Path) -> None:
    job = jobs.SustainJob(bundle=str(bundle), settings=msgspec.structs.replace(QUICK, sustain=60), device="cpu")
    before = time.monotonic()
    with pytest.raises(EngineError, match="no answer within 1 s and was ended"):
        ask(job, jobs.Lasting, 1.0)
    assert time.monotonic() - before < 30


def test_an_error_in_a_process_is_raised_here(tmp_path: Path) -> None:
    job = jobs.ThroughputJob(bundle=str(tmp_path), settings=msgspec.structs.replace(QUICK, batch=(1,)), device="cpu")
    from edgekit.errors import BundleError

    with pytest.raises(BundleError, match="no bundle there"):
        ask(job, jobs.Throughputs, 60)


def test_a_process_that_crashes_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EngineError, match="measuring: the child process was killed by SIGKILL"):
        ask(jobs.RoundJob(bundle="", engine="onnxruntime", settings=QUICK, device="", cold=False), jobs.RoundResult, 60)


def start(job: SessionJob, patience: float = 60.0) -> process.Process:
    """A session as a host elsewhere starts it."""
    begin = process.program(
        [sys.executable, "-m", "edgekit.worker"], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    started = process.Process(begin, "session", EngineError)
    asked = call.called("edgekit.profiling.session:answer", job, patience=patience)
    started.stdin.write(messages.encode(asked))
    started.stdin.flush()
    return started


def test_a_host_elsewhere_gets_progress_and_whole_records(bundle: Path) -> None:
    settings = msgspec.structs.replace(QUICK, rounds=1, operators=False)
    with start(SessionJob(bundles=(str(bundle),), settings=settings, key="pi5")) as session:
        events = [msgspec.json.decode(line, type=messages.Event) for line in session.stdout]
        assert session.wait() == 0
    done = events.pop()
    assert isinstance(done, messages.Done)
    assert all(isinstance(event, messages.WorkerProgress) for event in events)
    (found,) = msgspec.json.decode(done.result, type=SessionResult).found
    assert isinstance(found, Profiled)
    assert found.profile.conditions.machine.key == "pi5"
    assert done.seconds > 0.1
    assert done.peak_bytes > 10 << 20


def test_errors_go_to_the_host() -> None:
    with start(SessionJob(bundles=(), settings=QUICK)) as session:
        event = msgspec.json.decode(session.stdout.readline(), type=messages.Event)
    assert isinstance(event, messages.Failed)
    with pytest.raises(UsageError, match="there is no bundle to profile"):
        raise event.error("session", EngineError)


def children(process: int) -> list[int]:
    """Processes of a process's group but itself, where the system tells."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[2]) == process and int(folder.name) != process and words[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("how", ["closed", "silent"])
def test_nothing_runs_on_when_the_host_is_gone(bundle: Path, how: str) -> None:
    settings = msgspec.structs.replace(QUICK, sustain=300, operators=False, rounds=1)
    job = SessionJob(bundles=(str(bundle),), settings=settings)
    with start(job, patience=2.0 if how == "silent" else 60.0) as session:
        for line in session.stdout:  # until the long part has begun
            session.stdin.write(messages.encode(messages.Alive()))
            session.stdin.flush()
            if b"without a pause" in line:
                break
        pid = session._running.pid  # type: ignore[attr-defined]
        end = time.monotonic() + 30
        while not children(pid) and time.monotonic() < end:
            session.stdin.write(messages.encode(messages.Alive()))
            session.stdin.flush()
            time.sleep(0.05)
        assert children(pid)
        if how == "closed":
            session.stdin.close()
        assert session.wait() in (-signal.SIGKILL, 3)
        end = time.monotonic() + 30
        while children(pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not children(pid)


# What is shown


def test_the_photograph_is_the_same_for_a_seed() -> None:
    assert photograph(3).shape == (720, 1280, 3)
    assert np.array_equal(photograph(3), photograph(3))
    assert not np.array_equal(photograph(3), photograph(4))


def test_images_of_the_users_own_are_shown_in_turns(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    shown = images(Settings(data=str(tmp_path)))
    assert [int(image[4, 4, 0]) for image in shown] == [0, 1, 2]
    turns = endless(shown)
    seen = [next(turns).copy() for _ in range(7)]
    assert [int(image[4, 4, 0]) for image in seen] == [0, 1, 2, 0, 1, 2, 0]
    assert len({image.tobytes() for image in seen}) == 7  # so that nothing that is remembered of one is used


def test_data_that_holds_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        images(Settings(data=str(tmp_path)))


class Slow:
    """A session that takes 20 ms."""

    placement = None

    def run(self, inputs):  # type: ignore[no-untyped-def]
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        return inputs


def test_a_known_slow_down_is_what_it_says() -> None:
    begun = time.perf_counter()
    SlowedSession(Slow(), 100).run([])  # type: ignore[arg-type]
    assert time.perf_counter() - begun >= 0.04


def test_only_models_with_boxes_are_tracked(tmp_path: Path) -> None:
    from edgekit.profiling.calls import call_of

    with pytest.raises(UsageError, match="a vision-language model finds no boxes"):
        call_of(object(), Settings(tracker="bytetrack"))
    with pytest.raises(UsageError, match="models with one graph"):
        call_of(object(), Settings(delay=20))


def test_the_form_of_a_record_is_flat_json(measured: Profile) -> None:
    document = json.loads(msgspec.json.encode(measured))
    assert document["schema"] == 1
    assert document["total"]["p50"] == measured.total.p50
