"""Environments for toolchains that cannot live with the others: where they are, and how to run something in one.

Nothing here installs anything; only ``edgekit toolchain install`` does (`edgekit.conversion.installation`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD = "installed.json"
"""Written last by an installation: a folder without it is half an installation, which another one completes."""


@dataclass(frozen=True)
class Toolchain:
    """The contents of one isolated environment, with every version pinned.

    ``requirements`` go to pip with their dependencies, ``without_dependencies`` after them as they are, ``npm`` to
    npm. ``megabytes`` is what it takes on disk. ``programs`` have to be on PATH. ``imports`` are tried by
    ``edgekit toolchain check``. ``pythons`` are the interpreters that its wheels exist for, empty for any.
    ``licence`` is told before anything is installed.
    """

    name: str
    summary: str
    megabytes: int
    requirements: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()
    licence: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with every pin."""
        pins = {key: value for key, value in asdict(self).items() if key in _PINS}
        return hashlib.sha256(json.dumps(pins, sort_keys=True).encode()).hexdigest()

    @property
    def state(self) -> str:
        """``installed``, ``outdated`` (the pins have changed since), ``unfinished`` or ``missing``."""
        folder = root() / self.name
        if not (folder / RECORD).is_file():
            return "unfinished" if folder.is_dir() else "missing"
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return "installed" if record["fingerprint"] == self.fingerprint else "outdated"


_PINS = ("requirements", "without_dependencies", "npm")


VARIABLE = "EDGEKIT_TOOLCHAINS"


def root() -> Path:
    """The folder of all environments: ``$EDGEKIT_TOOLCHAINS``, else ``toolchains`` in this virtual environment where
    that is there (``make`` installs them so), else edgekit's folder in the user's data."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).absolute()
    own = Path(sys.prefix) / "toolchains"
    if own.is_dir():
        return own
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "edgekit" / "toolchains"


def installed(name: str) -> bool:
    """Whether an environment is there and whole."""
    return (root() / name / RECORD).is_file()


def python(name: str) -> Path:
    """The interpreter of an environment, there or not."""
    folder = root() / name / "env"
    return folder / "Scripts" / "python.exe" if sys.platform == "win32" else folder / "bin" / "python"


def program(name: str, command: str) -> Path:
    """A console script of an environment, there or not."""
    return python(name).with_name(command)


def node_modules(name: str) -> Path:
    """The npm packages of an environment, there or not."""
    return root() / name / "node_modules"


def environment() -> dict[str, str]:
    """The environment variables for such a command: nothing that lets packages from outside in."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    # In there sys.prefix is another one.
    return {
        **kept,
        VARIABLE: str(root()),
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }
