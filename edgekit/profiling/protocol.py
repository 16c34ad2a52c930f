"""DEVICE: what the two ends of a profiling session say to each other, one JSON object a line.

The same words go between a session and the processes that it measures, and between a host and the session on a device
over SSH. Whoever asks keeps the other's stdin open and, over a network, writes `Alive` every few seconds; whoever is
asked ends itself, and everything that it started, when that stops.
"""

from __future__ import annotations

import traceback

from edgekit import errors
from edgekit.errors import EngineError
from edgekit.profiling.record import Profile, Settings
from edgekit.runtimes.bundle.manifest import Record

HEARTBEAT = 2.0
"""Seconds between two signs of life over a network."""

PATIENCE = 20.0
"""Seconds without one after which the asked side gives up."""


class SessionJob(Record, frozen=True, kw_only=True, tag="session"):
    """Profile these bundles (folders on the machine that is asked), in turns.

    ``each`` has the settings of every bundle where they differ: a bundle may be given several times. Rounds and the
    seed are those of ``settings`` for all. ``key`` names the machine in the records; ``patience`` is 0 where the end of
    stdin is sign enough.
    """

    bundles: tuple[str, ...]
    settings: Settings
    each: tuple[Settings, ...] = ()
    key: str = ""
    patience: float = 0.0


class Alive(Record, frozen=True, tag="alive"):
    """A sign of life."""


class Progress(Record, frozen=True, kw_only=True, tag="progress"):
    """What is being done, and how much of it is (0..1)."""

    text: str
    share: float


class Profiled(Record, frozen=True, kw_only=True, tag="profiled"):
    """A finished record."""

    profile: Profile


class Skipped(Record, frozen=True, kw_only=True, tag="skipped"):
    """A bundle that could not be measured, and why."""

    bundle: str
    reason: str


class Finished(Record, frozen=True, tag="finished"):
    """All is said. A stream that ends without it was cut off."""


class Failed(Record, frozen=True, kw_only=True, tag="failed"):
    """An error ended it: the name of the class of `edgekit.errors` (empty for any other), message, traceback."""

    kind: str
    message: str
    traceback: str = ""

    def error(self) -> errors.EdgekitError:
        """The error as it was raised on the other side."""
        kind = getattr(errors, self.kind, None) if self.kind else None
        raised: errors.EdgekitError = kind(self.message) if kind else EngineError(self.message)
        return raised


Event = Progress | Profiled | Skipped | Finished | Failed


def failed(error: BaseException) -> Failed:
    """An error that is being handled, to be raised again on the other side."""
    message, known = str(error), isinstance(error, errors.EdgekitError)
    if not known:
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return Failed(kind=type(error).__name__ if known else "", message=message, traceback=traceback.format_exc())
