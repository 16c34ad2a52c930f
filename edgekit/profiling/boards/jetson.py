"""DEVICE: NVIDIA Jetson, by ``nvpmodel`` and one line of ``tegrastats``."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from edgekit.profiling.boards import said
from edgekit.profiling.conditions import device_tree
from edgekit.profiling.record import MachineState

RELEASE = Path("/etc/nv_tegra_release")


def present() -> bool:
    """Whether this is a Jetson: its device tree says so, or its Linux is NVIDIA's for Tegra."""
    return "Jetson" in device_tree("model") or RELEASE.exists()


def accelerator() -> str:
    """The GPU that is in the module."""
    return f"integrated NVIDIA GPU ({device_tree('model') or 'Jetson'})"


def state() -> MachineState:
    """The power mode, and temperature and clock from ``tegrastats``."""
    mode = re.search(r"NV Power Mode:\s*(\S+)", said("nvpmodel", "-q"))
    megahertz, celsius = reading(_tegrastats())
    return MachineState(power_mode=mode[1] if mode else None, megahertz=megahertz, celsius=celsius)


def reading(line: str) -> tuple[float | None, float | None]:
    """Highest CPU clock in MHz, and the hottest sensor in degrees Celsius, of a line of ``tegrastats``.

    Cores read ``12%@1510`` in ``CPU [...]``, sensors ``cpu@48.5C``; cores that are off read ``off``.
    """
    cores = re.search(r"CPU \[([^\]]*)\]", line)
    clocks = [float(value) for value in re.findall(r"@(\d+)", cores[1])] if cores else []
    heats = [float(value) for value in re.findall(r"\w+@(-?\d+(?:\.\d+)?)C", line)]
    heats = [value for value in heats if value > -200]  # a sensor that is off reads -256
    return max(clocks, default=None), max(heats, default=None)


def _tegrastats() -> str:
    """Its first line; it goes on for ever otherwise."""
    if shutil.which("tegrastats") is None:
        return ""
    with subprocess.Popen(["tegrastats", "--interval", "100"], stdout=subprocess.PIPE, text=True) as process:
        try:
            return process.stdout.readline() if process.stdout else ""
        finally:
            process.kill()
