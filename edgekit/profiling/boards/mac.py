"""DEVICE: Apple's computers, by ``sysctl`` and ``pmset``."""

from __future__ import annotations

import re
import sys

from edgekit.profiling.boards import said
from edgekit.profiling.record import MachineState


def present() -> bool:
    """Whether this is macOS."""
    return sys.platform == "darwin"


def model() -> str:
    """Apple's identifier, such as ``Mac15,3``."""
    return said("sysctl", "-n", "hw.model")


def soc() -> str:
    """The chip's name, such as ``Apple M3``."""
    return said("sysctl", "-n", "machdep.cpu.brand_string")


def state() -> MachineState:
    """Whether the system limits the CPU's speed for heat; clocks and temperatures need root there."""
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", said("pmset", "-g", "therm"))
    throttled = f"CPU limited to {limit[1]} %" if limit and limit[1] != "100" else None
    return MachineState(throttled=throttled)
