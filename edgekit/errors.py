"""The few errors edgekit raises. Each says what was wrong, with the value, and what to do about it."""

from __future__ import annotations

from typing import ClassVar


class EdgekitError(Exception):
    """Base of every error a user can meet.

    ``exit_code`` is what the command line returns: 1 when the work itself failed, 2 when it could not be begun
    because of what was given.
    """

    exit_code: ClassVar[int] = 1


class UsageError(EdgekitError):
    """The call itself is wrong: an unknown name, a missing option, a value out of range."""

    exit_code = 2


class ContractError(UsageError):
    """A contract is invalid, incomplete, or does not fit its graph."""


class SourceError(EdgekitError):
    """A trained model cannot be read, or is not what it claims to be."""

    exit_code = 2


class InputError(EdgekitError):
    """An image, a video or an annotation file cannot be read."""

    exit_code = 2


class BundleError(EdgekitError):
    """A bundle is damaged, altered, too new, or cannot be written."""

    exit_code = 2


class EngineError(EdgekitError):
    """An engine is missing, cannot open its file, or gave something unusable."""


class ToolchainError(EdgekitError):
    """An isolated environment cannot be made, or does not work."""


class DeviceError(EdgekitError):
    """A device over SSH cannot be reached, is not set up, or was lost."""


class ConversionError(EdgekitError):
    """A converter failed on a graph."""


class StoppedError(EdgekitError):
    """The caller stopped the work (`edgekit.Stop`)."""


class GateError(EdgekitError):
    """A conversion works but its decoded results differ too much from the source's."""


def choices(given: object, valid: object) -> str:
    """``'x' is not one of: a, b`` - the phrase every refusal of a name uses."""
    names = ", ".join(str(name) for name in valid)  # type: ignore[attr-defined]
    return f"{given!r} is not one of: {names}"
