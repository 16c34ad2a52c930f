"""HOST: the Python environment on a device: numpy and the other packages of edgekit's core, and engines.

Only ``edgekit device setup`` comes here, and it is the one thing that installs anything on a device.
"""

from __future__ import annotations

import collections
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import DeviceError, UsageError
from edgekit.profiling.devices.connection import PROGRAM_SECONDS, Connection
from edgekit.profiling.devices.delivery import code_tree, deliver, wheels_tree
from edgekit.runtimes.engines import engine

Heard = Callable[[str], None]
Lines = collections.deque[str]

MOST_LINES = 1000
"""Lines of a program's output that are kept."""

# Runs there, with edgekit's code: what is installed, and what becomes of importing each engine that is.
_LOOK = """
import importlib, importlib.metadata as metadata, json
from edgekit.runtimes.engines import engine, engine_names
engines = {}
for name in engine_names():
    spec = engine(name)
    engines[name] = spec.missing
    if spec.available:
        failures = []
        for package in spec.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                failures.append(str(error))
        if len(failures) == len(spec.packages):
            engines[name] = "cannot be imported: " + failures[0]
versions = {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}
print(json.dumps({"engines": engines, "packages": versions}))
"""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A device's environment: why each engine does not run (empty if it does), versions of packages."""

    engines: dict[str, str]
    packages: dict[str, str]

    @property
    def ready(self) -> tuple[str, ...]:
        """The engines that run there."""
        return tuple(name for name, missing in self.engines.items() if not missing)


def requirements(engines: Sequence[str], *, system_packages: bool = False) -> tuple[str, ...]:
    """The requirements to install on a device: edgekit's own core requirements, and those of the engines' extras.

    Raises:
        UsageError: an unknown engine, or one that pip does not bring and that is not looked for in the system.
    """
    extras = {"", "language"} if "language" in engines else {""}
    for spec in [engine(name) for name in engines if name != "language"]:
        if not spec.extra and not system_packages:
            raise UsageError(
                f"engine {spec.name} is not installed by pip ({spec.install}): install it on the device, and let the "
                f"environment see the system's packages with --system-site-packages"
            )
        if spec.extra:
            extras.add(spec.extra)
    listed = importlib.metadata.requires("edgekit") or []
    parted = [_without_extra(text) for text in listed]
    if absent := extras - {extra for _, extra in parted}:
        raise UsageError(
            f"this installation of edgekit does not list its extra {', '.join(sorted(absent))}: install edgekit again"
        )
    return tuple(dict.fromkeys(requirement for requirement, extra in parted if extra in extras))


def _without_extra(text: str) -> tuple[str, str]:
    """A requirement of a package's metadata, and the extra that it belongs to."""
    found = re.search(r"""\s*(?:and\s+)?extra\s*==\s*['"]([^'"]+)['"]""", text)
    if found is None:
        return text, ""
    return (text[: found.start()] + text[found.end() :]).strip().removesuffix(";").strip(), found[1]


def setup(
    connection: Connection,
    engines: Sequence[str],
    heard: Heard,
    *,
    wheels: Path | None = None,
    system_packages: bool = False,
) -> Environment:
    """Make the environment on a device, or add engines to it, and see that they can be imported there.

    Args:
        connection: to the device.
        engines: names of engines; ``language`` adds what texts of vision-language models need.
        heard: is given the output on the way.
        wheels: a folder of wheels to install from without a network; otherwise the device fetches them itself.
        system_packages: let the environment see the packages of the device's system (JetPack's TensorRT).

    Raises:
        UsageError: as `requirements`, or there are no wheels.
        DeviceError: the environment cannot be made; one that was there before is kept.
    """
    wanted = requirements(engines, system_packages=system_packages)
    tree = wheels_tree(wheels) if wheels is not None else None
    offline = ["--no-index", "--find-links", deliver(connection, [tree]).paths[0]] if tree is not None else []
    created = not connection.facts.environment
    try:
        if created or system_packages:
            _create(connection, system_packages, heard)
        _install(connection, [*offline, *wanted], heard)
        there = inspect(connection)
    except DeviceError:
        if created:
            _withdraw(connection)
        raise
    failed = [f"{name}: {there.engines[name]}" for name in engines if there.engines.get(name)]
    if failed:
        raise DeviceError(f"{connection.device.name}: installed, but does not run: {'; '.join(failed)}")
    return there


def _create(connection: Connection, system_packages: bool, heard: Heard) -> None:
    facts, lines = connection.facts, Lines(maxlen=MOST_LINES)
    seen = ["--system-site-packages"] if system_packages else []
    code = _run(connection, [facts.executable, "-m", "venv", *seen, f"{facts.folder}/venv"], lines, heard)
    if code:
        advice = (
            "sudo apt install python3-venv there"
            if any("ensurepip" in line for line in lines)
            else "see its words above"
        )
        raise DeviceError(f"{connection.device.name}: its Python cannot make an environment ({_last(lines)}): {advice}")


def _install(connection: Connection, arguments: Sequence[str], heard: Heard) -> None:
    lines = Lines(maxlen=MOST_LINES)
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--only-binary", ":all:"]
    command = [connection.facts.interpreter, "-m", "pip", "install", *options, *arguments]
    if _run(connection, command, lines, heard):
        facts = connection.facts
        raise DeviceError(
            f"{connection.device.name}: pip could not install ({_last(lines)}). A device without a network takes a "
            f"folder of wheels (--wheels DIR); they have to be for Python {facts.python} on {facts.machine}"
        )


def _last(lines: Lines) -> str:
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or list(lines) or ["it said nothing"])[-1].strip()


def _run(
    connection: Connection,
    arguments: Sequence[str],
    lines: Lines,
    heard: Heard,
    environment: dict[str, str] | None = None,
) -> int:
    def listen(line: str) -> None:
        lines.append(line)
        heard(line)

    ran: dict[str, Any] = {"arguments": list(arguments), "environment": environment or {}}
    return connection.ask("run", int, heard=listen, within=PROGRAM_SECONDS, **ran)


def _withdraw(connection: Connection) -> None:
    """Remove half an environment, over a connection that may be gone, too."""
    try:
        connection.ask("purge", int, places=["venv"])
    except DeviceError:
        return


def code_environment(code: str) -> dict[str, str]:
    """The variables with which a Python on a device finds edgekit's code."""
    return {"PYTHONPATH": code}


def inspect(connection: Connection) -> Environment:
    """Ask edgekit's own code on a device for its environment.

    Raises:
        DeviceError: the environment does not work.
    """
    (code,) = deliver(connection, [code_tree()]).paths
    lines, command = Lines(maxlen=MOST_LINES), [connection.facts.interpreter, "-c", _LOOK]
    if _run(connection, command, lines, lambda line: None, code_environment(code)):
        name = connection.device.name
        raise DeviceError(
            f"{name}: its environment does not work ({_last(lines)}): edgekit device setup {name} --engine NAME"
        )
    return connection.decoded(lines[-1] if lines else "", Environment)
