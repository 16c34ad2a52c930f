"""DEVICE: the machine that a profile is made on, and the state it is in: clocks, governor, temperature, load.

What Linux tells is read from ``/sys``, ``/proc`` and the device tree; boards with tools of their own are asked too
(`edgekit.profiling.boards`). ``EDGEKIT_SYSTEM_ROOT`` names another root for these files: tests give recorded ones.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

import msgspec

from edgekit.profiling.record import Machine, MachineState

_ALWAYS = ("numpy", "opencv-python-headless", "opencv-python", "tokenizers")

_PROCESSOR = ("cpu", "soc", "pkg")
"""In the names of thermal zones: ``cpu-thermal``, ``x86_pkg_temp``."""


def machine(key: str = "") -> Machine:
    """This machine. ``key`` is the name it has in tables, the host's own when empty."""
    own = _board()
    return Machine(
        key=key or platform.node() or "this machine",
        model=_asked(own, "model") or device_tree("model") or _product(),
        soc=_asked(own, "soc") or _compatible() or _processor(),
        system=_system(),
        python=platform.python_version(),
        cores=_cores(),
        memory=_meminfo("MemTotal"),
        accelerator=_asked(own, "accelerator"),
        virtual="hypervisor" in _cpuinfo("flags").split(),
    )


def state() -> MachineState:
    """One look at what may change; what a board's own tools tell goes before what the system does."""
    own = _board()
    told: MachineState = own.state() if own is not None else MachineState()
    seen = MachineState(
        governor=_sysfs("devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        megahertz=_megahertz(),
        megahertz_limit=_thousandth("devices/system/cpu/cpu0/cpufreq/scaling_max_freq"),
        celsius=_celsius(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        free_memory=_meminfo("MemAvailable") or None,
    )
    known = {name: value for name in MachineState.__struct_fields__ if (value := getattr(told, name)) is not None}
    return msgspec.structs.replace(seen, **known)


def packages(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed packages: those given by import name, and what takes part in every profile."""
    providers = (
        importlib.metadata.packages_distributions() if hasattr(importlib.metadata, "packages_distributions") else {}
    )
    wanted = [*(distribution for name in names for distribution in providers.get(name, [name])), *_ALWAYS]
    found = {}
    for name in dict.fromkeys(wanted):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_tree(name: str) -> str:
    """A text of the device tree, such as ``model``; empty where there is no such tree."""
    return _text(root() / "proc/device-tree" / name).split("\0")[0]


def root() -> Path:
    """Where the system's files are: the root, or what ``EDGEKIT_SYSTEM_ROOT`` names."""
    return Path(os.environ.get("EDGEKIT_SYSTEM_ROOT") or "/")


def _board() -> ModuleType | None:
    from edgekit.profiling.boards import board

    return board()


def _asked(own: ModuleType | None, name: str) -> str:
    return str(getattr(own, name)()) if own is not None and hasattr(own, name) else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not there, or not for everybody: the system does not tell
        return ""


def _sysfs(name: str) -> str:
    return _text(root() / "sys" / name)


def _thousandth(name: str) -> float | None:
    text = _sysfs(name)
    return int(text) / 1000 if text.lstrip("-").isdigit() else None


def _megahertz() -> float | None:
    """The highest clock of the cores at this moment."""
    folder = root() / "sys/devices/system/cpu"
    clocks = [_text(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    found = [int(clock) / 1000 for clock in clocks if clock.isdigit()]
    if not found and (shown := _cpuinfo("cpu MHz")):
        return float(shown)
    return max(found, default=None)


def _celsius() -> float | None:
    """The hottest zone of the processor; of any, where none says that it is the processor's."""
    zones: dict[str, list[float]] = {}
    for folder in sorted((root() / "sys/class/thermal").glob("thermal_zone*")):
        text = _text(folder / "temp")
        if text.lstrip("-").isdigit():
            zones.setdefault(_text(folder / "type").lower(), []).append(int(text) / 1000)
    of_cpu = [
        heat for name, heats in zones.items() for heat in heats if "cpu" in name or "soc" in name or "pkg" in name
    ]
    return max(of_cpu or [heat for heats in zones.values() for heat in heats], default=None)


def _compatible() -> str:
    """The SoC by its device tree: the last and most general word, such as ``brcm,bcm2712``."""
    words = [word for word in _text(root() / "proc/device-tree/compatible").split("\0") if word]
    return words[-1] if words else ""


def _product() -> str:
    vendor, name = _sysfs("class/dmi/id/sys_vendor"), _sysfs("class/dmi/id/product_name")
    return " ".join(word for word in (vendor, name) if word) or platform.machine()


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str:
    for line in _text(root() / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _meminfo(name: str) -> int:
    for line in _text(root() / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return 0


def _system() -> str:
    name = ""
    for line in _text(root() / "etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            name = value.strip('"')
    return f"{name or sys.platform}, {platform.system()} {platform.release()} {platform.machine()}"


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
