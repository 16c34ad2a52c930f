"""A function in another process: results, errors, last words, and that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_jobs import Job, Seen

from edgekit.errors import EngineError, GateError, UsageError
from edgekit.worker import call, forks, messages
from edgekit.worker.process import Stop

PRELOAD = ("colorsys", "no_such_package")
KINDS = pytest.mark.parametrize(
    "preload",
    [
        pytest.param((), id="plain"),
        pytest.param(PRELOAD, id="forked", marks=pytest.mark.skipif(not forks.SAFE, reason="nothing is forked here")),
    ],
)
forked = pytest.mark.skipif(not forks.SAFE, reason="nothing is forked here")


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find `worker_jobs`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def run(function: str, text: str = "", preload: tuple[str, ...] = (), **given: object) -> call.Finished[Job]:
    return call.run(
        f"worker_jobs:{function}",
        Job(text),
        Job,
        name="work",
        error=EngineError,
        preload=preload,
        **given,  # type: ignore[arg-type]
    )


def look(text: str = "", preload: tuple[str, ...] = (), **given: object) -> Seen:
    kind = "worker_jobs:look"
    return call.run(kind, Job(text), Seen, name="work", error=EngineError, preload=preload, **given).result  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@KINDS
def test_a_result_comes_with_progress_time_and_memory(preload: tuple[str, ...]) -> None:
    told: list[tuple[str, float]] = []
    found = call.run(
        "worker_jobs:look",
        Job(),
        Seen,
        lambda *said: told.append(said),
        name="work",
        error=EngineError,
        preload=preload,
    )
    assert told == [("looking", 0.5)]
    assert 0 < found.seconds < 30
    assert 5 << 20 < found.peak_bytes < 1 << 30
    assert found.result.preloaded == bool(preload)
    assert found.result.group == found.result.pid != os.getpgrp()
    assert not lives(found.result.pid)


@KINDS
def test_a_child_has_this_folder_and_these_variables(
    preload: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(preload=preload)  # so that a server is there from before
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORD", "set meanwhile")
    seen = look("WORD", preload)
    assert seen.folder == str(tmp_path)
    assert (seen.variable, seen.in_c) == ("set meanwhile",) * 2
    monkeypatch.delenv("WORD")
    assert look("WORD", preload).variable == look("WORD", preload).in_c == ""
    assert look("WORD", preload, variables={"WORD": "given"}).in_c == "given"


@KINDS
def test_the_current_folder_is_searched_for_what_a_user_names_and_then_last(
    preload: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep + os.environ.get("PYTHONPATH", ""))  # as after PYTHONPATH=$PYTHONPATH:x
    for name in ("mine", "msgspec", "colorsys"):
        (tmp_path / f"{name}.py").write_text("")
    assert not {"", ".", str(tmp_path)} & set(look(preload=preload).path)
    with pytest.raises(EngineError, match="No module named 'mine'"):
        run("use", "mine", preload)
    assert run("use", "mine", preload, imports=("mine",)).result.text == str(tmp_path / "mine.py")
    for name in ("msgspec", "colorsys"):
        assert str(tmp_path) not in run("use", name, preload, imports=("mine",)).result.text


@KINDS
def test_errors_are_raised_again_here(preload: tuple[str, ...]) -> None:
    with pytest.raises(GateError, match=r"^refused this$"):
        run("refuse", "this", preload)
    with pytest.raises(EngineError, match=r"^work: ZeroDivisionError: bug$") as raised:
        run("stumble", "bug", preload)
    assert isinstance(raised.value.__cause__, messages.RemoteTraceback)
    assert "in stumble" in str(raised.value.__cause__)
    with pytest.raises(UsageError, match=r"^--import gone: No module named 'gone'$"):
        run("look", preload=preload, imports=("gone",))
    with pytest.raises(EngineError, match=r"^work: MemoryError"):
        run("crash", "memory", preload)


@KINDS
@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("SIGSEGV", "was killed by SIGSEGV; its last words: last words"),
        ("SIGKILL", r"was killed by SIGKILL \(is there too little memory\?\); its last"),
        ("SIGBUS", r"was killed by SIGBUS \(is the disk full\?\)"),
        ("0", "ended with exit code 0; its last words: last words"),
        ("7", "ended with exit code 7"),
    ],
)
def test_a_crash_is_told_with_its_last_words(preload: tuple[str, ...], end: str, words: str) -> None:
    with pytest.raises(EngineError, match=f"^work: the child process {words}"):
        run("crash", end, preload)


@KINDS
def test_prints_do_not_spoil_the_events(preload: tuple[str, ...]) -> None:
    assert run("chatter", "kept", preload).result.text == "kept"


@KINDS
def test_too_long_is_ended(preload: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^work: the child process gave no answer within 2 s and was ended"):
        run("spin", str(tmp_path / "pid"), preload, seconds=2.0)
    assert not lives(int((tmp_path / "pid").read_text()))


@KINDS
def test_a_stop_ends_what_runs_and_lets_nothing_begin(preload: tuple[str, ...], tmp_path: Path) -> None:
    stop, raised = Stop(), list[EngineError]()

    def spin() -> None:
        with pytest.raises(EngineError, match=r"was killed by SIGKILL") as told:
            run("spin", str(tmp_path / "pid"), preload, stop=stop)
        raised.append(told.value)

    thread = threading.Thread(target=spin)
    thread.start()
    wait_for((tmp_path / "pid").exists)
    assert look(preload=preload).pid  # another is not concerned
    stop.pull()
    thread.join(30)
    assert raised
    assert not lives(int((tmp_path / "pid").read_text()))
    with pytest.raises(EngineError, match=r"^interrupted$"):
        run("look", preload=preload, stop=stop)


@forked
def test_nothing_outlives_a_caller_that_is_killed(tmp_path: Path) -> None:
    """Not even a child that never lets its watching thread run."""
    program = (
        "import sys; from worker_jobs import Job; from edgekit.errors import EngineError\n"
        "from edgekit.worker import call\n"
        "call.run('worker_jobs:spin', Job(sys.argv[1]), Job, name='work', error=EngineError, preload=('colorsys',))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "pid")]) as caller:
        wait_for((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert b"edgekit.worker.forks" in Path(f"/proc/{server}/cmdline").read_bytes()
        caller.send_signal(signal.SIGKILL)
    wait_for(lambda: not lives(pid))
    wait_for(lambda: not lives(server))


@forked
def test_forked_children_share_a_server_and_nothing_else() -> None:
    first, second = look(preload=PRELOAD), look(preload=PRELOAD)
    assert first.parent == second.parent
    assert first.pid != second.pid
    assert second.open_files <= first.open_files


@forked
def test_a_crash_harms_no_sibling(tmp_path: Path) -> None:
    found, stop = list[Seen](), Stop()

    def spin() -> None:
        with pytest.raises(EngineError):
            run("spin", str(tmp_path / "pid"), PRELOAD, stop=stop)

    beside = threading.Thread(target=spin)
    beside.start()
    wait_for((tmp_path / "pid").exists)
    threads = [threading.Thread(target=lambda: found.append(look(preload=PRELOAD))) for _ in range(6)]
    for thread in threads:
        thread.start()
        with pytest.raises(EngineError, match=r"was killed by SIGSEGV"):
            run("crash", "SIGSEGV", PRELOAD)
    for thread in threads:
        thread.join(60)
    assert len({seen.pid for seen in found}) == 6
    assert len({seen.parent for seen in found}) == 1
    assert lives(int((tmp_path / "pid").read_text()))
    stop.pull()
    beside.join(30)


@forked
def test_a_server_that_was_killed_is_replaced() -> None:
    server = look(preload=PRELOAD).parent
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not lives(server))
    assert look(preload=PRELOAD).parent != server


@forked
def test_another_value_of_what_is_read_at_import_takes_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    before = look(preload=PRELOAD).parent
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    after = look("OMP_NUM_THREADS", PRELOAD)
    assert after.parent != before
    assert after.in_c == "3"


@forked
def test_where_forking_is_not_safe_children_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "SAFE", False)
    seen = look(preload=PRELOAD)
    assert (seen.parent, seen.preloaded) == (os.getpid(), False)


@forked
def test_what_a_conversion_preloads_starts_no_thread() -> None:
    """But those of OpenBLAS, which numpy and OpenCV bring along and which takes care of forks itself."""
    pytest.importorskip("torch", reason="needs the extra 'convert'")
    from edgekit.conversion import runner

    program = (
        "import importlib, os, sys\n"
        "for names in (['numpy', 'cv2'], sys.argv[1:]):\n"
        "    [importlib.import_module(name) for name in names]\n"
        "    print(len(os.listdir('/proc/self/task')))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, *runner._PRELOAD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == after
