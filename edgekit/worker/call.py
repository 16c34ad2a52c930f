"""A function run in another process: the caller's side."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Generic, TypeVar

import msgspec

from edgekit.errors import EdgekitError
from edgekit.structures import from_json
from edgekit.worker import process
from edgekit.worker.messages import Alive, Call, Done, Event, Failed, WorkerProgress, encode
from edgekit.worker.process import Stop

Result = TypeVar("Result")
Report = Callable[[str, float], None]
"""Told what is being done, and the share of it that is done (0..1)."""


@dataclass(frozen=True)
class Channel:
    """A process that waits for a call.

    Messages call the work ``name`` and the process ``who``; what is wrong with it alone is raised as ``error``.
    ``ended`` says why its events ended before it was done.
    """

    name: str
    who: str
    error: type[EdgekitError]
    stdin: IO[bytes]
    stdout: Iterable[bytes]
    ended: Callable[[], EdgekitError]


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """The result of a call, its seconds, and the highest resident set of its process in bytes.

    The peak of a child that was forked counts what it shares with others.
    """

    result: Result
    seconds: float
    peak_bytes: int


def run(
    function: str,
    job: msgspec.Struct,
    result: type[Result],
    report: Report = lambda text, share: None,
    *,
    name: str,
    error: type[EdgekitError],
    toolchain: str = "",
    preload: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
    imports: tuple[str, ...] = (),
    group: bool = True,
    seconds: float = 0.0,
    stop: Stop | None = None,
) -> Finished[Result]:
    """Have a function do a job in a fresh process, which is gone afterwards.

    Args:
        function: ``module:function``; it is called with the job and a `Report`.
        job: the work; its class has to be importable there.
        result: type of what the function returns.
        report: progress callback.
        name: what messages call the work.
        error: the type of an error that is none of edgekit's own: a crash, a bug in what was called.
        toolchain: the isolated environment to run in, empty for this one.
        preload: see `process.python`.
        variables: added to the environment there.
        imports: modules of the user's to import there before.
        group: whether it is ended with all that it started, and Ctrl-C does not reach it.
        seconds: after so many it is killed; 0 is never.
        stop: ends it early.

    Raises:
        EdgekitError: the error that was met there, or ``error`` when the process crashed or took too long.
    """
    call = called(function, job, imports)
    begin = process.python(toolchain=toolchain, preload=preload, variables=variables, group=group)
    with (stop or Stop()).child(begin, name, error) as child, _limited(child, seconds) as late:
        try:
            channel = Channel(name, child.who, error, child.stdin, child.stdout, child.ended)
            finished = ask(channel, call, result, report)
            child.wait()  # it ends by itself now, and orderly
            return finished
        except EdgekitError:
            if late.is_set():
                raise error(f"{name}: {child.who} gave no answer within {seconds:.0f} s and was ended") from None
            raise


def called(function: str, job: msgspec.Struct, imports: tuple[str, ...] = (), patience: float = 0.0) -> Call:
    """A call as a message."""
    kind = f"{type(job).__module__}:{type(job).__qualname__}"
    encoded = msgspec.Raw(msgspec.json.encode(job))
    return Call(function=function, kind=kind, job=encoded, imports=imports, patience=patience)


def ask(
    channel: Channel, call: Call, result: type[Result], report: Report, *, heartbeat: float = 0.0
) -> Finished[Result]:
    """Send a call to a process that waits for one, and follow it to its end.

    Args:
        channel: the process.
        call: what to do.
        result: type of what it gives.
        report: progress callback.
        heartbeat: seconds between two signs of life over a network; 0 gives none.

    Raises:
        EdgekitError: the error that was met there, or the channel's own.
    """
    with _sent(channel.stdin, call, heartbeat):
        # Not to the end of the stream: what a tool or an engine left behind may hold it open.
        for event in _events(channel):
            if isinstance(event, WorkerProgress):
                report(event.text, event.share)
            elif isinstance(event, Done):
                return Finished(_decoded(channel, event.result, result), event.seconds, event.peak_bytes)
            elif isinstance(event, Failed):
                raise event.error(channel.name, channel.error)
    raise channel.ended()


def _events(channel: Channel) -> Iterator[Event]:
    for line in channel.stdout:
        if not line.endswith(b"\n"):
            return  # cut off in the middle of a word
        yield _decoded(channel, line, Event)  # type: ignore[arg-type]


def _decoded(channel: Channel, text: bytes | msgspec.Raw, kind: type[Result]) -> Result:
    try:
        return from_json(text, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        words = bytes(text).decode(errors="replace").strip()[:200]
        raise channel.error(f"{channel.name}: {channel.who} sent an unexpected message: {words!r}") from error


@contextlib.contextmanager
def _sent(stdin: IO[bytes], call: Call, heartbeat: float) -> Iterator[None]:
    """Send the call, and signs of life until the block ends. stdin stays open: its end would be the call's."""
    ended = threading.Event()

    def send() -> None:
        # Where the other end is gone, whoever reads from it finds out, and says so.
        with contextlib.suppress(OSError, ValueError):
            stdin.write(encode(call))
            stdin.flush()
            while heartbeat and not ended.wait(heartbeat):
                stdin.write(encode(Alive()))
                stdin.flush()

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join(timeout=1)


@contextlib.contextmanager
def _limited(child: process.Process, seconds: float) -> Iterator[threading.Event]:
    """Kill a child after so many seconds, and tell that by an event."""
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()
