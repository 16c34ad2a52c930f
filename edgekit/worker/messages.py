"""Messages between the two ends of a call: one JSON object per line."""

from __future__ import annotations

import errno
import traceback
from typing import TypeVar

import msgspec

from edgekit import errors

T = TypeVar("T", bound=msgspec.Struct)


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Call(_Message, frozen=True, kw_only=True):
    """The function to call: ``function(job, report)``, both it and the job's type named as ``module:name``.

    ``imports`` are modules of the user's to import before. Where ``patience`` is not 0, the caller is on another host
    and gives a sign of life (`Alive`) every few seconds; so many seconds without one mean that it is gone. Otherwise
    the end of stdin is sign enough.
    """

    function: str
    kind: str
    job: msgspec.Raw
    imports: tuple[str, ...] = ()
    patience: float = 0.0


class Alive(_Message, frozen=True, kw_only=True, tag="alive"):
    """A sign of life, of the caller, and of one that is called over a network."""


class WorkerProgress(_Message, frozen=True, kw_only=True, tag="progress"):
    """The current step, and the share of it that is done (0..1)."""

    text: str
    share: float


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """The result, the seconds that the function took, and the highest resident set of its process in bytes."""

    result: msgspec.Raw
    seconds: float
    peak_bytes: int


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """An error: the name of its class in `edgekit.errors` (empty for any other), message and traceback."""

    kind: str
    message: str
    traceback: str

    def error(self, name: str, other: type[errors.EdgekitError]) -> errors.EdgekitError:
        """The error as it was raised there; one that is none of ours becomes ``other``, with ``name`` before it."""
        kind = _ERRORS.get(self.kind)
        error = kind(self.message) if kind else other(f"{name}: {self.message}")
        error.__cause__ = RemoteTraceback(self.traceback)
        return error


Event = WorkerProgress | Done | Failed | Alive

_ERRORS: dict[str, type[errors.EdgekitError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.EdgekitError)
}


class RemoteTraceback(Exception):  # noqa: N818 - it is the text of a traceback, shown as a cause under --debug
    """The traceback, or the last words, of another process as text."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def failed(error: BaseException) -> Failed:
    """An error that is being handled, to be raised again at the other end."""
    message, known = str(error), isinstance(error, errors.EdgekitError)
    if not known:
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, OSError) and error.errno in _FULL:
        message += "; free space or choose another -o"
    kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _ERRORS), "")
    return Failed(kind=kind, message=message, traceback=traceback.format_exc())


def encode(message: msgspec.Struct) -> bytes:
    """A message as a line."""
    return msgspec.json.encode(message) + b"\n"
