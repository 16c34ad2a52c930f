"""HOST: one connection to a device: ssh, and at its other end `edgekit.profiling.devices.agent`."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from edgekit.errors import DeviceError
from edgekit.profiling.devices import ssh
from edgekit.profiling.devices.known import Device
from edgekit.profiling.devices.waiting import Lines, Watch
from edgekit.structures import from_json

OLDEST = (3, 10)
"""The oldest Python that edgekit's device code runs on."""

# Valid in every Python, so that an old one can say that it is. The greeting begins on a line of its own: what the
# device's shell may print at every start is read over.
_START = (
    "import sys;v=tuple(sys.version_info[:3]);sys.stdout.write('\\nedgekit-agent %d.%d.%d\\n'%v);sys.stdout.flush();"
    f"v<{OLDEST} and sys.exit(3);exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),'edgekit-agent','exec'))"
)
_GREETING = re.compile(rb"edgekit-agent (\d+)\.(\d+)\.(\d+)")
_NOISE = 1 << 20
_WORDS = 1 << 14
_PIECE = 1 << 16

GREETING_SECONDS = 60.0
"""How long the device's Python may take to start."""

ANSWER_SECONDS = 900.0
"""How long a device may take for what it does itself; for reading and writing gigabytes, on a slow disk."""

PROGRAM_SECONDS = 7200.0
"""How long a program may run there, such as pip with a slow network."""

_NEWER = f"install Python {OLDEST[0]}.{OLDEST[1]} or newer there, and say where with edgekit device add ... --python"
T = TypeVar("T")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A device's description of itself. ``folder`` is absolute, ``free`` bytes of its file system."""

    python: str
    executable: str
    machine: str
    system: str
    model: str
    folder: str
    free: int
    environment: bool

    @property
    def interpreter(self) -> str:
        """The Python of the environment there, made or not."""
        return f"{self.folder}/venv/bin/python"


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    alive: bool = False
    line: str | None = None
    answer: msgspec.Raw = msgspec.Raw(b"null")
    refused: str = ""
    message: str = ""


class Connection:
    """An agent on a device that answers requests, one after the other."""

    def __init__(self, device: Device) -> None:
        source = Path(__file__).with_name("agent.py").read_bytes()
        start = [device.python, "-c", _START, str(len(source)), device.folder]
        self.device = device
        self._words = b""
        self._process = subprocess.Popen(
            # The shell stays: what it starts is then no session leader, and may make a process group of its own. A bare
            # "exit" passes the exit code on in every shell.
            ssh.command(device, f"{shlex.join(start)} || exit"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._watch = Watch(self._process.kill)
        self._lines = Lines(device.name, self._pipe(self._process.stdout), self._watch)
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        try:
            self._watch.expect(GREETING_SECONDS)
            self._put([source])
            self._greet()
            self.facts = self.ask("facts", Facts)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process of ssh on this machine."""
        return self._process.pid

    def _listen(self) -> None:
        stderr = self._pipe(self._process.stderr)
        while piece := os.read(stderr.fileno(), _WORDS):
            self._words = (self._words + piece)[-_WORDS:]

    @property
    def _stderr(self) -> list[str]:
        """The last lines that ssh wrote."""
        return [line.rstrip() for line in self._words.decode(errors="replace").splitlines()[-60:]]

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise DeviceError("ssh was started without its pipes")
        return stream

    def _put(self, pieces: Iterable[bytes]) -> None:
        """Write, and leave it to the next reading to find out why that cannot be done."""
        stdin = self._pipe(self._process.stdin)
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                for begin in range(0, len(piece), _PIECE):
                    stdin.write(piece[begin : begin + _PIECE])
                    self._watch.heard()  # the other end took it
            stdin.flush()

    def _greet(self) -> None:
        stdout, read = self._pipe(self._process.stdout), 0
        while line := stdout.readline(_NOISE):
            read += len(line)
            if found := _GREETING.fullmatch(line.rstrip()):
                version = tuple(int(part) for part in found.groups())
                if version < OLDEST:
                    there = ".".join(str(part) for part in version)
                    raise DeviceError(f"{self.device.name}: its {self.device.python} is Python {there}: {_NEWER}")
                return
            if read > _NOISE:
                raise DeviceError(f"{self.device.name}: its shell prints without end at every start; see its .bashrc")
        if self._watch.late:
            raise self.lost()
        self._join()
        raise ssh.explained(self.device, self._process.returncode, self._stderr)

    def ask(
        self,
        do: str,
        answer: type[T],
        archive: Iterable[bytes] | None = None,
        heard: Callable[[str], None] | None = None,
        within: float | None = None,
        **request: Any,
    ) -> T:
        """Ask the agent for something, send the archive that belongs to it, and wait for the answer.

        Args:
            do: one of the agent's requests.
            answer: the type of the answer.
            archive: bytes that follow the request, in pieces.
            heard: is given lines of output on the way; without it there may be none.
            within: seconds that the answer may take once all is sent; `ANSWER_SECONDS` when left out.
            **request: the request's arguments.

        Raises:
            DeviceError: the agent refused, took too long or said what no agent says, or the connection was lost.
        """
        self._watch.expect()
        self._put([msgspec.json.encode({"do": do, **request}) + b"\n"])
        if archive is not None:
            self._put(_framed(archive))
        self._watch.expect(ANSWER_SECONDS if within is None else within)
        for line in self._lines:
            if not line.endswith(b"\n"):
                break
            reply = self.decoded(line, _Reply)
            if reply.refused:
                raise self._refusal(reply)
            if reply.line is not None:
                if heard is None:
                    raise self._nonsense(line)
                heard(reply.line)
            elif not reply.alive:
                self._watch.rest()
                return self.decoded(reply.answer, answer)
        raise self.lost()

    def decoded(self, text: bytes | msgspec.Raw | str, kind: type[T]) -> T:
        """JSON that the device says.

        Raises:
            DeviceError: it is none, or not of that kind.
        """
        try:
            return from_json(text, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._nonsense(text) from error

    def _nonsense(self, text: bytes | msgspec.Raw | str) -> DeviceError:
        words = text if isinstance(text, str) else bytes(text).decode(errors="replace")
        return DeviceError(f"{self.device.name}: the device sent an unexpected message: {words.strip()[:200]!r}")

    def _refusal(self, reply: _Reply) -> DeviceError:
        name, folder = self.device.name, self.device.folder
        advice = {
            "space": f"its disk is full: free some space (edgekit device remove {name} --purge frees edgekit's own)",
            "denied": f"edgekit may not write there: add the device with another --folder than {folder}",
            "busy": "wait until that is done",
            "foreign": "add the device with another --folder",
        }
        return DeviceError(
            f"{name}: {reply.message}" + (f"; {advice[reply.refused]}" if reply.refused in advice else "")
        )

    def become(self, arguments: Sequence[str], environment: dict[str, str]) -> tuple[IO[bytes], Lines]:
        """Let the agent go on as another program of the device, which gives signs of life; its stdin, and its lines.

        Raises:
            DeviceError: that program is not there, or the connection was lost.
        """
        self.ask("become", type(None), arguments=list(arguments), environment=environment)
        self._watch.expect()
        return self._pipe(self._process.stdin), self._lines

    def lost(self) -> DeviceError:
        """The error for a device that stopped talking in the middle."""
        if self._watch.late:
            return DeviceError(
                f"{self.device.name}: {self._watch.late}: the device, the network or this machine's ssh stands still; "
                f"what ran there ends by itself: see edgekit device check {self.device.name}, and try again"
            )
        self._join()
        code, words = self._process.returncode, [line for line in self._stderr if line]
        said = f": {words[-1]}" if words else ""
        if code == 255 or code < 0:
            return DeviceError(
                f"{self.device.name}: the connection was lost{said}; what ran there ends by itself and leaves nothing "
                f"half-done: try again"
            )
        killed = " (killed: out of memory?)" if code == 137 else ""
        return DeviceError(
            f"{self.device.name}: what ran there ended with code {code}{killed} before it was done{said}"
        )

    def _join(self) -> None:
        """Wait for ssh to end after its output has, and for the last of its words."""
        try:
            self._process.wait(timeout=ssh.CONNECT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listening.join(timeout=1)

    def close(self) -> None:
        """End the connection; what runs at its other end sees its stdin end."""
        self._watch.expect(ssh.CONNECT_SECONDS)  # closing writes what was not written yet
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()
        self._watch.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._join()
        self._listening.join(timeout=1)
        for stream in (self._process.stdout, self._process.stderr):
            self._pipe(stream).close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _framed(archive: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces, each after its length, so that the agent knows the archive's end."""
    for piece in filter(None, archive):
        yield len(piece).to_bytes(4, "big")
        yield piece
    yield bytes(4)
