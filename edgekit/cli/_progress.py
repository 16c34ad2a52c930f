"""Progress of long commands on stderr: bars where a person watches, lines with the time where nobody does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.cli._options import console
from edgekit.cli._terminal import shown
from edgekit.progress import Progress as ProgressCall

EVERY = 30.0
"""Seconds between two lines that say what is running, where no terminal shows it."""


class Countdown:
    """How long a series of steps will still take, from what each takes elsewhere and how fast this machine is.

    Args:
        expected: seconds of each step; steps that are not named are not counted.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = dict(expected)
        self._done = dict.fromkeys(expected, 0.0)
        self._start = time.monotonic()

    def tell(self, step: str, share: float) -> None:
        """A step is done to this share (0..1)."""
        if step in self._done:
            self._done[step] = max(self._done[step], min(share, 1.0))

    @property
    def _spent(self) -> float:
        return sum(self._expected[step] * share for step, share in self._done.items())

    @property
    def share(self) -> float:
        """Of everything, done (0..1)."""
        return self._spent / sum(self._expected.values())

    @property
    def left(self) -> float:
        """Seconds until everything is done."""
        done, total = self._spent, sum(self._expected.values())
        elapsed = time.monotonic() - self._start
        # The first seconds tell little of a machine's pace: the expected one counts as if it had been seen for a while.
        pace = (elapsed + SURE) / (done + SURE)
        return max(0.0, total - done) * pace

    def __str__(self) -> str:
        return f"about {clock(self.left)} left"


SURE = 10.0
"""Seconds of the expected pace that a `Countdown` begins with."""


@dataclass(frozen=True)
class Watch:
    """Output of a running command: ``progress`` of its steps, and ``say`` for a sentence worth reading."""

    progress: ProgressCall
    say: Callable[[str], None]


@contextlib.contextmanager
def progress_bars(expected: Mapping[str, float] | None = None) -> Iterator[ProgressCall]:
    """The ``progress`` of `watched`, without a line for every step."""
    with watched(expected, steps=expected is not None) as watch:
        yield watch.progress


@contextlib.contextmanager
def watched(expected: Mapping[str, float] | None = None, *, steps: bool = True) -> Iterator[Watch]:
    """Show what goes on, on stderr.

    On a terminal there is one bar for each step. Elsewhere there are lines with the time since the start: one every
    `EVERY` seconds of what is running, and with ``steps`` one where a step begins and ends.

    Args:
        expected: seconds of each step elsewhere, for the time that is left; None where nothing is known.
        steps: tell each beginning and end where no terminal shows it.
    """
    drawn = console(stderr=True)
    with _Bars(drawn, expected) if drawn.is_terminal else _Lines(drawn, expected, steps) as shown_as:
        yield Watch(shown_as.progress, shown_as.say)


class _Bars:
    """One bar for each step, and one for everything where the seconds of the steps are known."""

    def __init__(self, drawn: Any, expected: Mapping[str, float] | None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        what, text = TextColumn("{task.fields[what]:<16}", markup=False), TextColumn("{task.description}", markup=False)
        self._bars = Progress(what, BarColumn(24), TimeElapsedColumn(), text, console=drawn, transient=True)
        self._countdown = Countdown(expected) if expected else None
        self._whole = self._bars.add_task(str(self._countdown), total=1.0, what="everything") if expected else None
        self._known: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def progress(self, what: str, text: str, share: float) -> None:
        what, text = shown(what), shown(text)
        if self._countdown is not None and self._whole is not None:
            self._countdown.tell(what, share)
            self._bars.update(self._whole, completed=self._countdown.share, description=str(self._countdown))
        if what not in self._known:
            self._known[what] = self._bars.add_task(text, total=1.0, what=what)
        self._bars.update(self._known[what], completed=share, description=text)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False)


@dataclass
class _Step:
    began: float
    text: str
    share: float


class _Lines:
    """Lines with the time since the start, and with the time left where the seconds of the steps are known."""

    def __init__(self, drawn: Any, expected: Mapping[str, float] | None, steps: bool) -> None:
        self._drawn, self._steps = drawn, steps
        self._countdown = Countdown(expected) if expected else None
        self._start = time.monotonic()
        self._running: dict[str, _Step] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._ticking = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> _Lines:
        self._ticking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._ticking.join()

    def progress(self, what: str, text: str, share: float) -> None:
        what, text = shown(what), shown(text)
        with self._lock:
            if self._countdown is not None:
                self._countdown.tell(what, share)
            step = self._running.get(what)
            if step is None:
                step = self._running[what] = _Step(time.monotonic(), text, 0.0)
                if share < 1.0:
                    self._step(f"{what}: {text}")
            if share >= 1.0 > step.share:
                self._step(f"{what}: {text} in {clock(time.monotonic() - step.began)}")
            step.text, step.share = text, share

    def say(self, text: str) -> None:
        self._drawn.print(text, markup=False)

    def _step(self, text: str) -> None:
        if self._steps:
            self._line(text)

    def _line(self, text: str) -> None:
        left = f" ({self._countdown})" if self._countdown is not None else ""
        self._drawn.print(f"[{clock(time.monotonic() - self._start)}] {text}{left}", markup=False)

    def _tick(self) -> None:
        while not self._ended.wait(EVERY):
            with self._lock:
                steps = self._running.items()
                running = [f"{what}: {one.text} {one.share:.0%}" for what, one in steps if one.share < 1.0]
                if running:
                    self._line("; ".join(running))


def clock(seconds: float) -> str:
    """A length of time: ``0:07``, ``12:40``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
