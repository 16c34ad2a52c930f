"""Conversions that are interrupted, killed, crowded out or out of room: nothing is lost and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sample_bundles import contents
from tiny_conversions import SOURCE, Converted, edgekit, start

from edgekit.conversion.convert import copy_plan
from edgekit.conversion.workspace import Workspace, open_workspace, temporary_workspace
from edgekit.errors import BundleError
from edgekit.runtimes.bundle.folder import open_bundle, stage

pytestmark = [
    pytest.mark.convert,
    pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc to see which processes live"),
]
NAME = "detector-onnx-fp32"
SOURCE_STAGE, BUILD, PROOF = 2, 3, 4


class Stalled:
    """A conversion that stands still in one of its stages."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.children = [int(word) for word in (folder / "stalled").read_text().split()]

    def end(self, signum: int) -> tuple[int, str, str]:
        """Send a signal; the exit code and what was printed."""
        self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def children_left(self) -> list[int]:
        """Processes of the conversion that still live a while after its end."""
        until = time.monotonic() + 20
        while (left := [pid for pid in self.children if lives(pid)]) and time.monotonic() < until:
            time.sleep(0.05)
        return left


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def stalled(tmp_path: Path, converted: Converted) -> Iterator[Callable[[int], Stalled]]:
    """Starts a conversion to ``out`` that stalls at a stage; a good bundle from before is where its result would go."""
    shutil.copytree(converted.path("onnx", "fp32"), tmp_path / "out" / NAME)
    folder = tmp_path / "stall"
    folder.mkdir()
    begun: list[subprocess.Popen[str]] = []
    reached: list[Stalled] = []

    def begin(at: int) -> Stalled:
        given = ("--target", "onnx", "--data", converted.photos, "-o", tmp_path / "out", "--import", "stalling")
        begun.append(start("convert", SOURCE, *given, STALL_AT=str(at), STALL_FOLDER=str(folder)))
        while not (folder / "stalled").exists():
            if begun[0].poll() is not None:
                pytest.fail(f"ended before it stalled: {begun[0].communicate()}")
            time.sleep(0.05)
        reached.append(Stalled(begun[0], folder))
        return reached[0]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()
    for pid in [pid for one in reached for pid in one.children if lives(pid)]:
        os.kill(pid, signal.SIGKILL)


def hidden(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name.startswith("."))


def good(out: Path, converted: Converted) -> bool:
    """Whether the bundle from before is there, whole, and nothing beside it."""
    assert sorted(path.name for path in out.iterdir()) == [NAME]
    return contents(out / NAME) == contents(converted.path("onnx", "fp32"))


@pytest.mark.parametrize(
    ("at", "signal_number", "expected", "word"),
    [
        pytest.param(SOURCE_STAGE, signal.SIGINT, 130, "interrupted", id="reading", marks=pytest.mark.nightly),
        pytest.param(PROOF, signal.SIGINT, 130, "interrupted", id="proving", marks=pytest.mark.nightly),
        pytest.param(PROOF, signal.SIGTERM, 143, "terminated", id="terminated"),
    ],
)
def test_an_interrupt_ends_children_and_cleans_up(
    stalled: Callable[[int], Stalled],
    tmp_path: Path,
    converted: Converted,
    at: int,
    signal_number: int,
    expected: int,
    word: str,
) -> None:
    conversion = stalled(at)
    assert len(conversion.children) == 2
    code, out, err = conversion.end(signal_number)
    assert code == expected
    assert out == ""
    assert err.splitlines()[-1] == f"edgekit: {word}"
    assert "Traceback" not in err
    assert not conversion.children_left()
    assert good(tmp_path / "out", converted)


@pytest.mark.nightly
def test_a_second_conversion_is_refused_and_harms_nothing(
    stalled: Callable[[int], Stalled], tmp_path: Path, converted: Converted
) -> None:
    conversion = stalled(BUILD)
    before = hidden(tmp_path / "out")
    assert f".{NAME}.partial" in before
    given = ("--target", "onnx", "--data", converted.photos, "-o", tmp_path / "out", "--json")
    second = edgekit("convert", SOURCE, *given)
    assert second.returncode == 1
    (failed,) = json.loads(second.stdout)["failed"]
    assert failed["error"].endswith("another conversion is writing this bundle; wait for it or choose another -o")
    assert hidden(tmp_path / "out") == before
    assert conversion.process.poll() is None
    assert conversion.end(signal.SIGINT)[0] == 130
    assert not conversion.children_left()
    assert good(tmp_path / "out", converted)


def test_after_kill_9_the_next_run_cleans_up_and_succeeds(
    stalled: Callable[[int], Stalled], tmp_path: Path, converted: Converted
) -> None:
    out = tmp_path / "out"
    conversion = stalled(PROOF)
    with pytest.raises(BundleError, match="another conversion is writing this bundle"), stage(out / NAME):
        pytest.fail("two write one bundle")
    assert conversion.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert not conversion.children_left()
    left = hidden(out)
    assert f".{NAME}.partial" in left
    for name in ("detector-ethosu-int8", "detector-no_target-int8"):  # of targets that this run does not make
        (out / f".{name}.partial").mkdir()
        (out / f".{name}.lock").touch()
    assert any(name.startswith(".edgekit-work-") for name in left)
    assert contents(out / NAME) == contents(converted.path("onnx", "fp32"))
    done = edgekit("convert", SOURCE, "--target", "onnx", "--data", converted.photos, "-o", out)
    assert done.returncode == 0, done.stderr
    foreign = [".detector-no_target-int8.lock", ".detector-no_target-int8.partial"]
    assert sorted(path.name for path in out.iterdir()) == [*foreign, NAME, f"{NAME}-contact-sheet.jpg"]
    assert open_bundle(out / NAME).manifest.proven


def test_workspaces_of_the_living_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".edgekit-work-1-dead").mkdir()
    (tmp_path / ".edgekit-work-1-dead" / "graph.onnx").write_bytes(b"left over")
    (tmp_path / ".edgekit-work-1-dead.lock").touch()
    with open_workspace(tmp_path) as first, open_workspace(tmp_path) as second:
        assert first != second
        assert first.folder.is_dir()
        assert not (tmp_path / ".edgekit-work-1-dead").exists()
    assert not list(tmp_path.iterdir())


def test_temporary_workspaces_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``calibrate`` and ``verify`` leave after a kill; a link that another user put there is not followed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".edgekit-work-1-dead").mkdir()
    (tmp_path / ".edgekit-work-1-dead.lock").touch()
    (tmp_path / ".edgekit-work-2-link.lock").symlink_to(tmp_path / "created")
    with temporary_workspace() as workspace:
        assert workspace.folder.stat().st_mode & 0o777 == 0o700
        assert not (tmp_path / ".edgekit-work-1-dead").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".edgekit-work-2-link.lock"]


def test_a_plan_is_replaced_whole(tmp_path: Path) -> None:
    workspace, out = Workspace(tmp_path / "work"), tmp_path / "plan"
    for folder, content in ((workspace.plan, "new"), (out, "old"), (tmp_path / ".plan.partial", "half")):
        folder.mkdir(parents=True)
        (folder / content).write_text(content)
    copy_plan(workspace, out)
    assert contents(out) == {"new": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan", "work"]


# ---- children that end in ways of their own ----


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("aborting", "prepare: the child process was killed by SIGABRT; its last words: no output"),
        ("segfaulting", "prepare: the child process was killed by SIGSEGV; its last words: no output"),
        ("leaving", "prepare: the child process ended with exit code 0; its last words: no output"),
    ],
)
def test_a_crash_in_the_users_code_is_named(tmp_path: Path, factory: str, message: str) -> None:
    done = edgekit("convert", f"tiny_models:{factory}", "--target", "onnx", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"edgekit: error: {message}"
    assert not list((tmp_path / "out").iterdir())


def test_an_error_that_nobody_foresaw_is_named_and_debug_shows_where(tmp_path: Path) -> None:
    in_a_stage = "import sys\nstage = sys.modules.get('edgekit.conversion.prepare')\n"
    boom = "def boom(job):\n    raise ZeroDivisionError('nobody thought of that')\nif stage:\n    stage._read = boom\n"
    (tmp_path / "surprising.py").write_text(in_a_stage + boom)
    given = ("--target", "onnx", "-o", tmp_path / "out", "--import", "surprising")
    done = edgekit("convert", SOURCE, *given, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "edgekit: error: prepare: ZeroDivisionError: nobody thought of that"
    done = edgekit("convert", SOURCE, *given, "--debug", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert 'surprising.py", line 4, in boom' in done.stderr
    assert "Traceback" in done.stderr


def test_a_module_that_fails_when_it_is_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("raise KeyError('no such thing')")
    given = ("--target", "onnx", "-o", tmp_path / "out", "--import", "failing")
    done = edgekit("convert", SOURCE, *given, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip() == "edgekit: error: --import failing: KeyError: 'no such thing'"


# ---- no room ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_and_the_old_bundle_stays(small_disk: Path, converted: Converted) -> None:
    out = small_disk / "out"
    shutil.copytree(converted.path("onnx", "fp32"), out / NAME)
    done = edgekit("convert", SOURCE, "--target", "onnx", "--data", converted.photos, "-o", out)
    assert done.returncode == 1
    assert "disk full" in done.stderr or "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert good(out, converted)


def test_a_destination_that_cannot_be_is_said_before_anything_starts(tmp_path: Path, converted: Converted) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/edgekit")):
        done = edgekit("convert", SOURCE, "--target", "onnx", "--data", converted.photos, "-o", out)
        assert done.returncode == 2
        assert f"{out}: cannot be written: " in done.stderr
        assert "choose another -o" in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"
