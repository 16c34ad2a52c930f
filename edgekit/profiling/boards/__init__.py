"""DEVICE: what kinds of machines tell of themselves. One file each, found by being there.

A board declares ``present()`` and any of ``model()``, ``soc()``, ``accelerator()`` (strings, empty for nothing) and
``state()`` (a `State` of what it knows better than the system). The first that is present wins over the system's own
view (`edgekit.profiling.conditions`), which knows every Linux.
"""

from __future__ import annotations

import shutil
import subprocess
from types import ModuleType

from edgekit import registry


def board() -> ModuleType | None:
    """The board that this machine is, None when it is none of those known."""
    for name in registry.names(__name__):
        found = registry.module(__name__, name)
        if found.present():
            return found
    return None


def said(*command: str) -> str:
    """The output of a board's own tool; empty if it is missing, fails or takes more than five seconds."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
