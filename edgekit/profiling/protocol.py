"""DEVICE: what a profiling session is asked for, here or on a device over SSH, and what it reports."""

from __future__ import annotations

from edgekit.profiling.record import Profile, Settings
from edgekit.runtimes.bundle.manifest import Record


class SessionJob(Record, frozen=True, kw_only=True):
    """Profile these bundles (folders on the machine that is asked), in turns.

    ``each`` has the settings of every bundle where they differ: a bundle may be given several times. Rounds and the
    seed are those of ``settings`` for all. ``key`` names the machine in the records. ``imports`` are modules of the
    user's that register decoders.
    """

    bundles: tuple[str, ...]
    settings: Settings
    each: tuple[Settings, ...] = ()
    key: str = ""
    imports: tuple[str, ...] = ()


class SessionProgress(Record, frozen=True, kw_only=True):
    """The current step, and the share of it that is done (0..1)."""

    text: str
    share: float


class Profiled(Record, frozen=True, kw_only=True, tag="profiled"):
    """A finished record."""

    profile: Profile


class SkippedBundle(Record, frozen=True, kw_only=True, tag="skipped"):
    """A bundle that could not be measured, and why."""

    bundle: str
    reason: str


Event = SessionProgress | Profiled | SkippedBundle


class SessionResult(Record, frozen=True, kw_only=True):
    """The results of a session in another process, in its order."""

    found: tuple[Profiled | SkippedBundle, ...]
