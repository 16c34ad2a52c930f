"""All text that the command line says: none of the names and messages of others in it may steer a terminal."""

from __future__ import annotations

import click

_STEERING = (
    *(code for code in range(0x20) if chr(code) not in "\n\t"),  # C0: escape sequences, backspace, carriage return
    *range(0x7F, 0xA0),  # DEL and C1
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),  # bidirectional controls (Unicode TR9), and Unicode's own line ends
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),  # bytes of a file name that are no text
)
_SHOWN = {code: f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}" for code in _STEERING}


def shown(text: str) -> str:
    """Text in which what would steer a terminal is written out, as ``\\x1b`` or ``\\u202e``.

    JSON stays the same data: its encoders write the former themselves, and the latter is how JSON writes them, too.
    """
    return text.translate(_SHOWN)


def say(text: str = "", *, err: bool = False, end: bool = True, again: bool = False) -> None:
    """Print text.

    Args:
        text: with names and messages from anywhere.
        err: on stderr.
        end: end the line.
        again: begin at the start of the line that was not ended.
    """
    click.echo(("\r" if again else "") + shown(text), err=err, nl=end)
