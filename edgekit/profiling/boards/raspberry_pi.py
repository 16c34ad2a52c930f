"""DEVICE: Raspberry Pi, by its firmware's ``vcgencmd``.

https://www.raspberrypi.com/documentation/computers/os.html#vcgencmd has the commands and the bits of ``get_throttled``.
"""

from __future__ import annotations

import re

from edgekit.profiling.boards import said
from edgekit.profiling.conditions import device_tree
from edgekit.profiling.record import MachineState

THROTTLED = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "at the soft temperature limit",
    16: "under-voltage has occurred",
    17: "frequency capping has occurred",
    18: "throttling has occurred",
    19: "the soft temperature limit has been reached",
}
"""Bits of ``vcgencmd get_throttled``."""


def present() -> bool:
    """Whether the device tree says so."""
    return device_tree("model").startswith("Raspberry Pi")


def state() -> MachineState:
    """Temperature and clock as the firmware sees them, and what it has throttled."""
    temperature = re.search(r"temp=([\d.]+)", said("vcgencmd", "measure_temp"))
    clock = re.search(r"=(\d+)$", said("vcgencmd", "measure_clock", "arm"))
    bits = re.search(r"throttled=(0x[0-9a-fA-F]+)", said("vcgencmd", "get_throttled"))
    return MachineState(
        celsius=float(temperature[1]) if temperature else None,
        megahertz=int(clock[1]) / 1e6 if clock else None,
        throttled=words(int(bits[1], 16)) if bits else None,
    )


def words(bits: int) -> str:
    """The bits of ``get_throttled`` in words, empty for none."""
    return ", ".join(meaning for bit, meaning in THROTTLED.items() if bits >> bit & 1)
