"""Reads the events of an ETDump, ExecuTorch's file of what a program did, with numpy alone.

A FlatBuffer behind its size; the numbers of tables' fields are those of ExecuTorch's published schema
(devtools/etdump/etdump_schema_flatcc.fbs: ETDump, RunData, Event, ProfileEvent). ExecuTorch's own reader needs its
compiler, pandas and ten seconds to import.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edgekit.runtimes.engines.mnn.flatbuffer import FlatbufferTable

_IDENTIFIER = b"ED00"
_SIZE = 4


@dataclass(frozen=True)
class Event:
    """Something that took time, in milliseconds: an event of the runtime, or of an operator within a delegate."""

    name: str
    delegated: bool
    milliseconds: float


def read_blocks(data: bytes) -> list[tuple[str, list[Event]]]:
    """The blocks of a dump by name, ``Execute`` for each run, with their events in the order in which they ended.

    Raises:
        ValueError: not a whole file of this format.
    """
    if data[2 * _SIZE : 3 * _SIZE] != _IDENTIFIER:
        raise ValueError("not an ETDump")
    body = data[_SIZE:]
    try:
        return [_block(FlatbufferTable(body, at)) for at in FlatbufferTable.root(body).offsets(1)]
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a whole ETDump ({error})") from error


def _block(run: FlatbufferTable) -> tuple[str, list[Event]]:
    events = []
    for at in run.offsets(3):
        profiled = FlatbufferTable(run.data, at).target(0)
        if profiled:
            events.append(_event(FlatbufferTable(run.data, profiled)))
    return run.text(0), events


def _event(event: FlatbufferTable) -> Event:
    inner = event.text(4)
    nanoseconds = event.number(7, "Q") - event.number(6, "Q")
    return Event(inner or event.text(0), bool(inner), nanoseconds / 1e6)
