"""Devices that are silent, endless, damaged or that lie: each ends in a DeviceError, in time and at flat memory.

What answers is a shell script in the place of the device's Python, behind a real sshd.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sample_bundles import FILES, write_bundle

from edgekit import errors
from edgekit.errors import DeviceError
from edgekit.profiling.devices import connection as connections
from edgekit.profiling.devices import environment, remote, waiting
from edgekit.profiling.devices import known as book
from edgekit.profiling.devices.connection import Connection
from edgekit.profiling.devices.delivery import bundle_tree, deliver
from edgekit.profiling.protocol import SessionResult, SkippedBundle
from edgekit.profiling.record import Settings
from edgekit.worker import call, messages

GREETING = "\nedgekit-agent 3.11.0\n"
FACTS = {
    "python": "3.11.0",
    "executable": "/usr/bin/python3",
    "machine": "x",
    "system": "Linux",
    "model": "",
    "folder": "/far",
    "free": 1 << 40,
    "environment": True,
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For devices that fall silent: long enough for a busy machine to connect."""
    monkeypatch.setattr(waiting, "SILENCE", 2.0)


def answer(value: Any) -> str:
    return json.dumps({"answer": value}) + "\n"


def liar(device: book.Device, folder: Path, *said: str, then: str = "cat > /dev/null") -> book.Device:
    """A device that greets, says all this whatever it is asked, and goes on with a command."""
    path = folder / "liar"
    path.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(GREETING + ''.join(said))}\nexec {then}\n")
    path.chmod(0o755)
    return msgspec.structs.replace(device, python=str(path))


def refusal(device: book.Device) -> str:
    begun = time.monotonic()
    with pytest.raises(DeviceError) as raised, Connection(device):
        pass
    assert time.monotonic() - begun < 25
    return str(raised.value)


SILENT = "gave no sign of life for 2 s: the device, the network or this machine's ssh stands still"
NONSENSE = "loop: the device sent an unexpected message: "


@pytest.mark.parametrize(
    ("said", "then", "words"),
    [
        ("", "cat > /dev/null", SILENT),
        ("", "sleep 60", SILENT),
        ('{"alive": true', "sleep 60", SILENT),
        ('{"line": "x"}\n', "sleep 60", NONSENSE),
        ("[" * 100_000 + "\n", "cat", NONSENSE),
        ("null\n", "cat", NONSENSE),
        ('{"answer": 7}\n', "cat", NONSENSE + "'7'"),
        ('{"answer": {"python": 3}}\n', "cat", NONSENSE),
        ('{"refused": 7}\n', "cat", NONSENSE),
        ('{"answer": {}, "answer": []}\n', "cat", NONSENSE),
        ('{"refused": "no such kind", "message": "no"}\n', "cat", "loop: no"),
        ("", "printf '\\377\\376\\n'", NONSENSE),
        ("", 'printf \'{"line": "\\377"}\\n\'', NONSENSE),
        ("", "true", "ended with code 0 before it was done"),
    ],
)
def test_what_a_device_says_never_hangs_and_never_is_an_error_of_another_kind(
    device: book.Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    then: str,
    words: str,
) -> None:
    if words == SILENT:
        monkeypatch.setattr(waiting, "SILENCE", 2.0)
    assert words in refusal(liar(device, tmp_path, said, then=then))


@pytest.mark.usefixtures("impatient")
def test_nothing_at_all_is_noticed(device: book.Device, tmp_path: Path) -> None:
    (tmp_path / "mute").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "mute").chmod(0o755)
    assert SILENT in refusal(msgspec.structs.replace(device, python=str(tmp_path / "mute")))


def test_signs_of_life_do_not_last_for_ever(
    device: book.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1.5)
    alive = 'sh -c \'while sleep 0.2; do echo "{\\"alive\\": true}"; done\''
    assert "took too long to answer" in refusal(liar(device, tmp_path, then=alive))


def test_endless_lines_and_words_are_bound(
    device: book.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood without a newline on stdout and on stderr, and one with: at flat memory."""
    monkeypatch.setattr(waiting, "SILENCE", 10.0)
    monkeypatch.setattr(waiting, "MOST_LINE", 4 << 20)
    monkeypatch.setattr(waiting, "MOST_BYTES", 8 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "the device sent a line of 4 MB: that is not edgekit's agent" in refusal(
        liar(device, tmp_path, then="cat /dev/zero")
    )
    alive = "yes '{\"alive\": true}'"
    assert "the device sent more than 8 MB" in refusal(liar(device, tmp_path, then=alive))
    monkeypatch.setattr(waiting, "SILENCE", 2.0)
    assert SILENT in refusal(liar(device, tmp_path, then="cat /dev/zero >&2"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40_000, f"{grown} kB more"


@pytest.mark.usefixtures("impatient")
def test_an_ssh_that_stands_still_is_noticed(device: book.Device) -> None:
    """SIGSTOP: the operating system keeps the connection, and ssh's own signs of life stand still with it."""
    with Connection(device) as connection:
        os.kill(connection.pid, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(DeviceError, match="gave no sign of life for 2 s"):
            connection.ask("missing", list[bool], trees=[])
    assert time.monotonic() - begun < 20


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_stands_still_takes_no_archive(device: book.Device, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "big", {**FILES, "weights.bin": os.urandom(8 << 20)})
    silent = liar(device, tmp_path, answer(FACTS), answer([True]), then="sleep 60")
    begun = time.monotonic()
    with Connection(silent) as connection, pytest.raises(DeviceError, match="gave no sign of life"):
        deliver(connection, [bundle_tree(bundle)])
    assert time.monotonic() - begun < 20


@pytest.mark.nightly
def test_the_agent_gives_signs_of_life(device: book.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that says nothing for longer than a silence may last: the agent speaks for it."""
    monkeypatch.setattr(waiting, "SILENCE", 7.0)
    with Connection(device) as connection:
        code = connection.ask("run", int, heard=lambda line: None, arguments=["sleep", "9"], environment={})
    assert code == 0


def test_lies_about_folders(device: book.Device, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    lying = liar(device, tmp_path, answer(FACTS), answer([True, False, True]))
    with Connection(lying) as connection, pytest.raises(DeviceError, match="answers for 3 of 1 folders"):
        deliver(connection, [bundle_tree(bundle)])


@pytest.mark.parametrize(
    "lines", ["", '{"line": "no json"}\n', '{"line": "{\\"engines\\": 7}"}\n', '{"line": "[[["}\n']
)
def test_lies_about_the_environment(device: book.Device, tmp_path: Path, lines: str) -> None:
    lying = liar(device, tmp_path, answer(FACTS), answer([False]), lines, answer(0))
    with Connection(lying) as connection, pytest.raises(DeviceError, match="the device sent an unexpected message"):
        environment.inspect(connection)


def channel(*lines: bytes) -> call.Channel:
    """A session on a device that says this."""
    stdin = Path(os.devnull).open("wb")  # noqa: SIM115 - the test closes it
    return call.Channel("loop", "the session there", DeviceError, stdin, lines, lambda: DeviceError("it ended"))


DONE = messages.Done(result=msgspec.Raw(b"7"), seconds=0.0, peak_bytes=0)


@pytest.mark.parametrize(
    "line", [messages.encode(DONE), b'{"type": "done"}\n', b"[" * 100_000 + b"\n", b"\xff\n", b'{"type": "failed"}\n']
)
def test_lies_of_a_session(line: bytes) -> None:
    said = channel(line)
    with said.stdin, pytest.raises(DeviceError, match="loop: the session there sent an unexpected message"):
        call.ask(said, call.called("a:b", messages.Alive()), SessionResult, lambda text, share: None)


@pytest.mark.parametrize("kind", ["choices", "annotations", "ClassVar", "__doc__", "nothing", "RemoteTraceback"])
def test_an_error_of_no_kind_is_one_of_the_device(kind: str) -> None:
    told = messages.Failed(kind=kind, message="no", traceback="").error("loop", DeviceError)
    assert type(told) is DeviceError
    assert str(told) == "loop: no"


def test_errors_of_edgekit_keep_their_kind() -> None:
    for kind in (errors.InputError, errors.ContractError, errors.EdgekitError, errors.StoppedError):
        assert type(messages.failed(kind("x")).error("loop", DeviceError)) is kind

    class OwnError(errors.InputError):
        """Of somebody's own, which the other end need not know."""

    assert type(messages.failed(OwnError("x")).error("loop", DeviceError)) is errors.InputError


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((), "loop: finished without a record of {path}; try again"),
        ((SkippedBundle(bundle="/else", reason="x"),), "loop: the device reports '/else', which it was not asked for"),
    ],
)
def test_a_session_that_finishes_without_its_records_is_an_error(
    device: book.Device, tmp_path: Path, found: tuple[SkippedBundle, ...], words: str
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    done = msgspec.json.encode(SessionResult(found=found))
    end = messages.encode(messages.Done(result=msgspec.Raw(done), seconds=0.0, peak_bytes=0)).decode()
    lying = liar(device, tmp_path, answer(FACTS), answer([False, False]), answer(None), end)
    with pytest.raises(DeviceError) as raised:
        remote.profile_on(lying, [bundle], Settings(), lambda event: None)
    assert words.format(path=bundle.path) in str(raised.value)


@pytest.mark.usefixtures("impatient")
def test_a_session_that_falls_silent_is_noticed(device: book.Device, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    lying = liar(device, tmp_path, answer(FACTS), answer([False, False]), answer(None), then="sleep 60")
    with pytest.raises(DeviceError, match="gave no sign of life for 2 s"):
        remote.profile_on(lying, [bundle], Settings(), lambda event: None)


def test_no_watch_outlives_its_connection(device: book.Device) -> None:
    with Connection(device):
        assert any(thread.name == "edgekit-watch" for thread in threading.enumerate())
    time.sleep(0.1)
    assert not any(thread.name == "edgekit-watch" for thread in threading.enumerate())
