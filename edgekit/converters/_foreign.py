"""Errors of other people's tools, so that their words never stand alone."""

from __future__ import annotations

from edgekit.errors import ConversionError

NEXT = (
    "these are the tool's own words; another --precision, --recipe or --target may take the network, or cut it before "
    "that part (cut: in the contract)"
)
"""What to do where a tool fails in a way that edgekit does not know."""

_MOST = 400
"""Characters of a tool's message that are passed on."""


def tool_error(what: str, error: BaseException | str) -> ConversionError:
    """An error of a tool with what it was doing before it, and what to do behind it.

    Args:
        what: the tool, and what it was asked for.
        error: what it raised, or said.
    """
    text = error if isinstance(error, str) else str(error)
    said = " ".join(text.split())
    said = said if len(said) <= _MOST else f"{said[:_MOST]} ..."
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    return ConversionError(f"{what}: {kind}{said.rstrip('.')}; {NEXT}")
