"""Profiles made on a device: this machine by a real sshd, with a Python environment of its own that setup made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from loopback import Loopback, parent, processes_of
from sample_bundles import write_bundle
from tiny_onnx import write_tiny_bundle

from edgekit.cli import edgekit
from edgekit.errors import DeviceError, UsageError
from edgekit.profiling.devices import known as book
from edgekit.profiling.devices.connection import Connection
from edgekit.profiling.devices.delivery import bundle_tree, deliver
from edgekit.profiling.devices.remote import profile_on
from edgekit.profiling.protocol import Event, Profiled, SessionJob, SessionProgress, SkippedBundle
from edgekit.profiling.record import Profile, Settings
from edgekit.profiling.session import run_session
from edgekit.runtimes.bundle.folder import Bundle, open_bundle

QUICK = Settings(rounds=2, seconds=0.1)
ENDLESS = Settings(rounds=1000, seconds=1.0)


PACKAGES = ("numpy", "opencv-python-headless", "msgspec", "click", "rich", "onnxruntime")
"""What a device with onnxruntime needs. Wheels of them would take half a minute to fetch, unpack and install."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels for pip with names and versions of packages here; their content is a way to the packages themselves."""
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        links = tmp_path_factory.mktemp(package)
        found = metadata.distribution(package)
        tops = {Path(file).parts[0] for file in found.files or ()}
        for top in tops - {"..", "__pycache__"}:
            if not top.endswith(".dist-info"):
                (links / top).symlink_to(Path(str(found.locate_file(top))))
        write_wheel(folder, package.replace("-", "_"), found.version, {f"{package}_here.pth": f"{links}\n"})
    return folder


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A wheel of files."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def ready(server: Loopback, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[book.Device]:
    """A device that was added and set up by the command line, without a network."""
    folder = tmp_path_factory.mktemp("device")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGEKIT_DEVICES", str(folder / "devices.json"))
        options = ["--identity", server.identity, "--known-hosts", server.known_hosts, "--python", sys.executable]
        command("add", "loop", server.url, *map(str, options), "--folder", str(folder / "far"))
        offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
        for name, value in offline.items():
            patched.setenv(name, value)
        done = command("setup", "loop", "--engine", "onnxruntime", "--wheels", str(wheels))
        assert "engines that run there: onnxruntime" in done.output
        yield book.device("loop")


def command(*arguments: str) -> Result:
    done = CliRunner().invoke(edgekit, ["device", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that onnxruntime runs in no time."""
    pytest.importorskip("onnx", reason="needs onnx to write a model")
    return open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def test_check_says_which_engines_run_there(ready: book.Device, wheels: Path) -> None:
    found = json.loads(command("check", "loop", "--json").output)
    assert found["engines"]["onnxruntime"] == ""
    assert found["engines"]["openvino"] == "needs openvino: pip install edgekit[openvino]"
    assert {"numpy", "msgspec", "onnxruntime"} <= set(found["packages"])
    assert not {"torch", "edgekit"} & set(found["packages"])
    assert "engines that run there: onnxruntime" in command("check", "loop").output
    with Connection(ready) as connection:
        before = Path(connection.facts.interpreter).stat().st_mtime
        command("setup", "loop", "--engine", "onnxruntime", "--wheels", str(wheels))  # once more changes nothing
        assert Path(connection.facts.interpreter).stat().st_mtime == before


def shape(value: Any) -> Any:
    """The keys at all levels of a JSON document, and the kinds of its values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def profiles(events: list[Event]) -> list[Profile]:
    return [event.profile for event in events if isinstance(event, Profiled)]


def test_a_profile_over_ssh_is_one_of_here_in_form(ready: book.Device, tiny: Bundle) -> None:
    here, there = list[Event](), list[Event]()
    run_session(SessionJob(bundles=(str(tiny.path),), settings=QUICK, key="loop"), here.append)
    (returned,) = profile_on(ready, [tiny], QUICK, there.append)
    (one,), (other,) = profiles(here), profiles(there)
    assert returned == other
    first, second = (shape(json.loads(msgspec.json.encode(profile))) for profile in (one, other))
    # Notes say how restless the machine was meanwhile, and are others each time.
    assert {*first.pop("notes"), *second.pop("notes")} <= {"str"}
    # By name, what is installed: this environment has more than that of a device.
    packages = [form["conditions"].pop("packages") for form in (first, second)]
    assert {"onnxruntime", "numpy"} <= set(packages[1]) <= set(packages[0])
    assert first == second
    assert (one.subject, one.settings) == (other.subject, other.settings)
    assert other.conditions.machine.key == "loop"
    assert any(isinstance(event, SessionProgress) and event.text.startswith("tiny") for event in there)
    assert processes_of(ready.folder) == []


def test_a_chatty_shell_spoils_nothing(ready: book.Device, tiny: Bundle, server: Loopback) -> None:
    chatty = msgspec.structs.replace(ready, identity=str(server.chatty))
    assert len(profile_on(chatty, [tiny], QUICK, lambda event: None)) == 1


@pytest.mark.nightly
def test_images_of_this_machine_go_there(ready: book.Device, tiny: Bundle, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    (tmp_path / "photos").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), np.full((40, 50, 3), 80 * number, np.uint8))
    for source in (tmp_path / "photos", tmp_path / "photos" / "1.png"):
        settings = msgspec.structs.replace(QUICK, data=str(source), rounds=1)
        (profile,) = profile_on(ready, [tiny], settings, lambda event: None)
        assert profile.settings == settings
    sent = {path.read_bytes() for path in Path(ready.folder, "data").rglob("*.png")}
    assert sent == {path.read_bytes() for path in (tmp_path / "photos").iterdir()}


@pytest.mark.nightly
def test_each_bundle_may_have_settings_of_its_own(ready: book.Device, tiny: Bundle) -> None:
    each = [msgspec.structs.replace(QUICK, threads=count) for count in (1, 2)]
    measured = profile_on(ready, [tiny, tiny], QUICK, lambda event: None, each=each)
    assert [profile.settings for profile in measured] == each
    assert {profile.subject.path for profile in measured} == {str(tiny.path)}


OWN = """
from edgekit.decoders import decoder
from edgekit.runtimes.tasks.decoders.anchor_free import AnchorFree, anchor_free

@decoder("own_there")
def own(heads, options: AnchorFree, frame, threshold):
    return anchor_free(heads, options, frame, threshold)
"""


@pytest.mark.nightly
def test_a_decoder_of_ones_own_goes_there(ready: book.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_there.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    bundle = open_bundle(write_tiny_bundle(tmp_path / "own", decoder="own_there"))
    skipped: list[Event] = []
    assert not profile_on(ready, [bundle], QUICK, skipped.append)
    assert any("'own_there' is not one of" in one.reason for one in skipped if isinstance(one, SkippedBundle))
    (measured,) = profile_on(ready, [bundle], QUICK, lambda event: None, imports=("own_there",))
    assert measured.total.p50 > 0


@pytest.mark.nightly
def test_what_cannot_be_measured_there_is_skipped_by_its_name_here(
    ready: book.Device, tiny: Bundle, tmp_path: Path
) -> None:
    events = list[Event]()
    other = write_bundle(tmp_path / "cells", engine="openvino")
    shutil.copytree(tiny.path, tmp_path / "second")
    twice = [tiny, other, open_bundle(tmp_path / "second")]
    measured = profile_on(ready, twice, QUICK, events.append)
    assert [profile.subject.path for profile in measured] == [str(tiny.path), str(tmp_path / "second")]
    assert [profile.subject.name for profile in measured] == ["tiny", "second"]
    (skipped,) = [event for event in events if isinstance(event, SkippedBundle)]
    assert skipped.bundle == str(other.path)
    assert "edgekit device setup loop --engine openvino" in skipped.reason
    assert ready.folder not in skipped.reason


def test_errors_there_are_raised_here(ready: book.Device, tiny: Bundle) -> None:
    with pytest.raises(UsageError, match="no bundle to profile"):
        profile_on(ready, [], QUICK, lambda event: None)
    new = msgspec.structs.replace(ready, folder=f"{ready.folder}-new")
    with pytest.raises(DeviceError, match="is not set up yet: edgekit device setup loop --engine onnxruntime"):
        profile_on(new, [tiny], QUICK, lambda event: None)
    assert processes_of(ready.folder) == []


def measuring(event: Event) -> bool:
    return isinstance(event, SessionProgress) and "round" in event.text


def cut(ready: book.Device, tiny: Bundle, at: Callable[[], None], **options: float) -> tuple[list[Event], DeviceError]:
    """Begin a profile that would last for minutes, do something in the middle, and see how it ends."""
    events, done = list[Event](), list[bool]()

    def report(event: Event) -> None:
        events.append(event)
        if measuring(event) and not done:
            done.append(True)
            at()

    with pytest.raises(DeviceError) as raised:
        profile_on(ready, [tiny], ENDLESS, report, **options)
    assert done
    return events, raised.value


def test_a_killed_connection_leaves_no_process_and_no_record(
    ready: book.Device, tiny: Bundle, server: Loopback
) -> None:
    running = list[int]()

    def kill() -> None:
        wait_for(lambda: len(processes_of(f"{ready.folder}/venv")) > 1)  # the session, and the process it measures
        running.extend(processes_of(f"{ready.folder}/venv"))
        (client,) = [pid for pid in processes_of(str(server.identity)) if pid != os.getpid()]
        os.kill(client, signal.SIGKILL)

    events, error = cut(ready, tiny, kill)
    assert "loop: the connection was lost" in str(error)
    assert len(running) > 1
    assert profiles(events) == []
    wait_for(lambda: processes_of(f"{ready.folder}/venv") == [])


@pytest.mark.parametrize("killed", [False, True])
def test_the_command_line_keeps_whole_records_only(
    ready: book.Device, tiny: Bundle, server: Loopback, tmp_path: Path, killed: bool
) -> None:
    store = tmp_path / "records.jsonl"
    length = ["--rounds", "1000"] if killed else ["--rounds", "2", "--seconds", "0.1s"]
    given = [str(tiny.path), "--on", "loop", "--store", str(store), "--json", *length]
    with subprocess.Popen(
        [sys.executable, "-m", "edgekit", "profile", *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            if killed:
                wait_for(lambda: len(processes_of(f"{ready.folder}/venv")) > 1)
                (client,) = [pid for pid in processes_of(str(server.identity)) if parent(pid) == running.pid]
                os.kill(client, signal.SIGKILL)
            printed, complaint = running.communicate(timeout=120)
        finally:
            running.kill()
    if killed:
        assert (running.returncode, printed, store.exists()) == (1, "", False)
        assert "edgekit: error: loop: the connection was lost" in complaint
    else:
        assert running.returncode == 0, complaint
        (line,) = store.read_text().splitlines()
        assert json.loads(line)["conditions"]["machine"]["key"] == "loop"
    wait_for(lambda: processes_of(f"{ready.folder}/venv") == [])


def test_a_killed_server_is_a_lost_connection_too(ready: book.Device, tiny: Bundle) -> None:
    def kill() -> None:
        session = processes_of(f"{ready.folder}/venv")[0]
        pid = session
        while "sshd" not in Path(f"/proc/{pid}/comm").read_text():
            pid = parent(pid)
        os.kill(pid, signal.SIGKILL)

    events, error = cut(ready, tiny, kill)
    assert "the connection was lost" in str(error)
    assert profiles(events) == []
    wait_for(lambda: processes_of(f"{ready.folder}/venv") == [])


def test_a_session_that_is_killed_there_is_said(ready: book.Device, tiny: Bundle) -> None:
    _, error = cut(ready, tiny, lambda: os.kill(processes_of(f"{ready.folder}/venv")[0], signal.SIGKILL))
    assert "what ran there ended with code 137 (killed: out of memory?)" in str(error)


def test_silence_ends_what_runs_there(ready: book.Device, tiny: Bundle, server: Loopback) -> None:
    seen = list[str]()

    def freeze() -> None:
        """As when a laptop sleeps: the connection stands, and nothing comes through it."""
        wait_for(lambda: len(processes_of(f"{ready.folder}/venv")) > 1)
        (client,) = [pid for pid in processes_of(str(server.identity)) if pid != os.getpid()]
        os.kill(client, signal.SIGSTOP)

        def later() -> None:
            while processes_of(f"{ready.folder}/venv"):
                time.sleep(0.05)
            seen.append("ended there")
            os.kill(client, signal.SIGKILL)

        threading.Thread(target=later, daemon=True).start()

    events, error = cut(ready, tiny, freeze, heartbeat=0.2, patience=2.0)
    assert seen == ["ended there"]
    assert "the connection was lost" in str(error)
    assert profiles(events) == []


@pytest.mark.nightly
def test_heartbeats_keep_a_long_session_alive(ready: book.Device, tiny: Bundle) -> None:
    settings = Settings(rounds=2, seconds=2.0, operators=False)
    assert len(profile_on(ready, [tiny], settings, lambda event: None, heartbeat=0.2, patience=1.5)) == 1


def test_an_interrupt_here_ends_it_there(ready: book.Device, tiny: Bundle) -> None:
    def report(event: Event) -> None:
        if measuring(event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_on(ready, [tiny], ENDLESS, report)
    wait_for(lambda: processes_of(f"{ready.folder}/venv") == [])


def test_one_measurement_at_a_time(ready: book.Device, tiny: Bundle) -> None:
    def report(event: Event) -> None:
        if measuring(event):
            profile_on(ready, [tiny], QUICK, lambda event: None)

    with pytest.raises(DeviceError, match="loop: something is being measured or sent there already; wait"):
        profile_on(ready, [tiny], QUICK, report)
    wait_for(lambda: processes_of(f"{ready.folder}/venv") == [])


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("echo nonsense", "the session there sent an unexpected message: 'nonsense'"),
        ("""printf '{"type":"finish'""", "what ran there ended with code 0 before it was done"),
        ("echo no memory >&2; exit 9", "what ran there ended with code 9 before it was done: no memory"),
    ],
)
def test_a_session_that_says_nonsense_is_refused(
    ready: book.Device, tiny: Bundle, tmp_path: Path, says: str, message: str
) -> None:
    other = msgspec.structs.replace(ready, folder=str(tmp_path / "far"))
    with Connection(other) as connection:
        connection.ask("missing", list[bool], trees=[])
    (tmp_path / "far" / "venv" / "bin").mkdir(parents=True)
    for name in ("python", "pip3"):
        (tmp_path / "far" / "venv" / "bin" / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "far" / "venv" / "bin" / name).chmod(0o755)
    with pytest.raises(DeviceError, match=re.escape(message)):
        profile_on(other, [tiny], QUICK, lambda event: None)


def test_an_engine_that_does_not_start_is_found_by_setup(ready: book.Device, tmp_path: Path) -> None:
    broken = "raise ImportError('libgomp.so.1: cannot open shared object file')\n"
    write_wheel(tmp_path, "ncnn", "1.0.20990101", {"ncnn/__init__.py": broken})
    with pytest.raises(DeviceError, match=r"installed, but does not run: ncnn: cannot be imported: libgomp\.so"):
        command("setup", "loop", "--engine", "ncnn", "--wheels", str(tmp_path))
    found = json.loads(command("check", "loop", "--json").output)
    assert (found["engines"]["onnxruntime"], found["engines"]["ncnn"][:18]) == ("", "cannot be imported")


def test_an_environment_that_is_broken_is_named(ready: book.Device) -> None:
    (numpy,) = Path(ready.folder, "venv").glob("lib/python*/site-packages/numpy_here.pth")
    numpy.rename(numpy.with_name("hidden"))
    try:
        with pytest.raises(
            DeviceError, match=r"its environment does not work \(ModuleNotFoundError.*numpy.*device setup"
        ):
            command("check", "loop")
    finally:
        numpy.with_name("hidden").rename(numpy)


@pytest.mark.nightly
def test_an_environment_may_see_the_packages_of_the_system(ready: book.Device, wheels: Path) -> None:
    configuration = Path(ready.folder, "venv", "pyvenv.cfg")
    before = configuration.read_text()
    assert "include-system-site-packages = false" in before
    command("setup", "loop", "--engine", "onnxruntime", "--wheels", str(wheels), "--system-site-packages")
    assert "include-system-site-packages = true" in configuration.read_text()
    configuration.write_text(before)  # for the tests after this one


def test_purge_takes_everything_away(ready: book.Device, tiny: Bundle, tmp_path: Path) -> None:
    other = msgspec.structs.replace(ready, name="other", folder=str(tmp_path / "far"))
    book.add(other)
    with Connection(other) as connection:
        deliver(connection, [bundle_tree(tiny)])
    (tmp_path / "far" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "far" / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "far" / "mine.txt").write_text("the user's own")
    assert "MB freed" in command("remove", "other", "--purge").output
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["mine.txt"]
    assert list(book.devices()) == ["loop"]
    assert Path(sys.executable).exists()
