"""DEVICE: the memory and threads of this process, and its memory on an accelerator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident() -> int:
    """Resident set of this process in bytes; where the system only tells the highest, that."""
    return _status("VmRSS") or peak()


def peak() -> int:
    """Highest resident set of this process in bytes, 0 where the system does not tell.

    Not ``ru_maxrss`` on Linux: it begins with the size of the process that started this one.
    """
    found = _status("VmHWM")
    if found or sys.platform == "win32":
        return found
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest * (1 if sys.platform == "darwin" else 1024)


def limit(more: int) -> None:
    """Let this process take so many more bytes and no more than that; only Linux can hold it to that."""
    taken = _status("VmData")
    if not taken:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = taken + more
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def threads() -> int:
    """Threads of this process, all libraries' included; 0 where the system does not tell."""
    return _number("Threads")


def _status(name: str) -> int:
    return 1024 * _number(name)


def _number(name: str) -> int:
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return 0


def on_gpu() -> int | None:
    """Bytes of GPU memory that this process holds, as nvidia-smi tells; None where there is none to ask."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except subprocess.TimeoutExpired:
        return None
    return gpu_bytes(said, os.getpid())


def gpu_bytes(said: str, process: int) -> int | None:
    """The sum of one process in a list of ``pid, mebibytes`` lines; None when it is not there."""
    found = None
    for line in said.splitlines():
        owner, _, used = line.partition(",")
        if owner.strip() == str(process) and used.strip().isdigit():
            found = (found or 0) + (int(used) << 20)
    return found
