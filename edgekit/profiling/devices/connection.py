"""HOST: one connection to a device: ssh, and at its other end `edgekit.profiling.devices.agent`."""

from __future__ import annotations

import collections
import contextlib
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
_NEWER = f"install Python {OLDEST[0]}.{OLDEST[1]} or newer there, and say where with edgekit device add ... --python"
T = TypeVar("T")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of itself. ``folder`` is absolute, ``free`` bytes of its file system."""

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
        self._stderr = collections.deque[str](maxlen=60)
        self._process = subprocess.Popen(
            # The shell stays: what it starts is then no session leader, and may make a process group of its own. A bare
            # "exit" passes the exit code on in every shell.
            ssh.command(device, f"{shlex.join(start)} || exit"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        try:
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
        for line in self._pipe(self._process.stderr):
            self._stderr.append(line.decode(errors="replace").rstrip())

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
                stdin.write(piece)
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
        self._join()
        raise ssh.explained(self.device, self._process.returncode, list(self._stderr))

    def ask(
        self,
        do: str,
        answer: type[T],
        archive: Iterable[bytes] | None = None,
        heard: Callable[[str], None] | None = None,
        **request: Any,
    ) -> T:
        """Ask the agent for something, send the archive that belongs to it, and wait for the answer.

        Args:
            do: one of the agent's requests.
            answer: the type of the answer.
            archive: bytes that follow the request, in pieces.
            heard: is given lines of output on the way.
            **request: the request's arguments.

        Raises:
            DeviceError: the agent refused, or the connection was lost.
        """
        self._put([msgspec.json.encode({"do": do, **request}) + b"\n"])
        if archive is not None:
            self._put(_framed(archive))
        for line in self._pipe(self._process.stdout):
            reply = self._decoded(line)
            if reply.refused:
                raise self._refusal(reply)
            if reply.line is None:
                return from_json(reply.answer, answer)
            if heard is not None:
                heard(reply.line)
        raise self.lost()

    def _decoded(self, line: bytes) -> _Reply:
        try:
            return from_json(line, _Reply)
        except msgspec.DecodeError as error:
            if not line.endswith(b"\n"):
                raise self.lost() from error
            words = line.decode(errors="replace").strip()
            raise DeviceError(f"{self.device.name}: the device says what edgekit does not: {words[:200]!r}") from error

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

    def become(self, arguments: Sequence[str], environment: dict[str, str]) -> tuple[IO[bytes], IO[bytes]]:
        """Let the agent go on as another program of the device; its stdin and stdout.

        Raises:
            DeviceError: that program is not there, or the connection was lost.
        """
        self.ask("become", type(None), arguments=list(arguments), environment=environment)
        return self._pipe(self._process.stdin), self._pipe(self._process.stdout)

    def lost(self) -> DeviceError:
        """What it means that the device stopped talking in the middle."""
        self._join()
        code, words = self._process.returncode, [line for line in self._stderr if line]
        said = f": {words[-1]}" if words else ""
        if code == 255 or code < 0:
            return DeviceError(
                f"{self.device.name}: the connection was lost{said}; what ran there ends by itself and nothing half is "
                f"kept: try again"
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
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()
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
