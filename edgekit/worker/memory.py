"""The memory and the threads of this process, as the system tells."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident() -> int:
    """Resident set in bytes; where the system only tells the highest, that."""
    return 1024 * _number("VmRSS") or peak()


def peak() -> int:
    """Highest resident set in bytes, 0 where the system does not tell.

    Not ``ru_maxrss`` on Linux: it begins with the size of the process that started this one.
    """
    found = 1024 * _number("VmHWM")
    if found or sys.platform == "win32":
        return found
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest * (1 if sys.platform == "darwin" else 1024)


def threads() -> int:
    """Threads of this process, all libraries' included; 0 where the system does not tell."""
    return _number("Threads")


def _number(name: str) -> int:
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return 0
