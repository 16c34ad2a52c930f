"""Create, check and remove the isolated environments that some targets need.

An installation goes through three steps, each of which is skipped when it was done before: wheels of everything into a
folder that all environments share, an environment filled from that folder alone, and a record that says it is whole.
So it can be interrupted anywhere and begun again, and made again without a network.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgekit import converters
from edgekit.errors import ToolchainError, UsageError, choices
from edgekit.registry import module
from edgekit.runtimes.bundle.folder import locked
from edgekit.worker import toolchains
from edgekit.worker.toolchains import RECORD, Toolchain

OnLine = Callable[[str], None]
"""Called with each line of progress."""

TORCH_CPU = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of CPU builds; PyPI's own builds for Linux bring gigabytes of CUDA."""

OPTIONAL = "OPTIONAL_TOOLCHAINS"
"""A converter's module may declare toolchains under this name that its target does without where they are missing."""


def declared() -> dict[str, Toolchain]:
    """Every toolchain that some target declares, by name."""
    found: dict[str, Toolchain] = {}
    for name in converters.target_names():
        needed = converters.target(name).toolchains
        optional: tuple[Toolchain, ...] = getattr(module(converters.__name__, name), OPTIONAL, ())
        found |= {toolchain.name: toolchain for toolchain in (*needed, *optional)}
    return dict(sorted(found.items()))


def users(name: str) -> tuple[str, ...]:
    """The targets that declare a toolchain."""
    found = []
    for target in converters.target_names():
        optional: tuple[Toolchain, ...] = getattr(module(converters.__name__, target), OPTIONAL, ())
        if any(one.name == name for one in (*converters.target(target).toolchains, *optional)):
            found.append(target)
    return tuple(found)


def find(name: str) -> Toolchain:
    """One toolchain by name.

    Raises:
        UsageError: no target declares it.
    """
    if name not in declared():
        raise UsageError(f"toolchain {choices(name, declared())}")
    return declared()[name]


def install(toolchain: Toolchain, on_line: OnLine) -> None:
    """Make an environment, or complete one that was begun.

    Raises:
        ToolchainError: a program or an interpreter is missing, the disk is too full, a package cannot be had, another
            process is at it, or what was installed cannot be imported.
    """
    with _alone(toolchain):
        if toolchain.state == "installed":
            on_line(f"{toolchain.name} is installed already")
            return
        interpreter = _requirements_met(toolchain)
        if toolchain.state == "outdated":
            shutil.rmtree(toolchains.root() / toolchain.name)
        if toolchain.requirements or toolchain.without_dependencies:
            _install_wheels(toolchain, interpreter, on_line)
        if toolchain.npm:
            _install_npm(toolchain, on_line)
        _record(toolchain, check(toolchain, on_line))


def _install_wheels(toolchain: Toolchain, interpreter: str, on_line: OnLine) -> None:
    python, wheels = toolchains.python(toolchain.name), toolchains.root() / "wheels"
    on_line(f"making {python.parent.parent}")
    _run([interpreter, "-m", "venv", str(python.parent.parent)], on_line)  # completes one that was interrupted
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    every = (*toolchain.requirements, *toolchain.without_dependencies)
    torch = tuple(pin for pin in every if pin.startswith("torch=="))
    steps: tuple[tuple[tuple[str, ...], list[str]], ...] = (
        (torch, ["--no-deps", "--extra-index-url", TORCH_CPU]),
        (toolchain.requirements, []),
        (toolchain.without_dependencies, ["--no-deps"]),
    )
    for pins, how in steps:
        offline = [*pip, "install", "--isolated", "--no-index", "--find-links", str(wheels), *how[:1], *pins]
        if not pins or _succeeds(offline):
            continue
        wheels.mkdir(parents=True, exist_ok=True)
        on_line(f"fetching {', '.join(pins)} into {wheels}")
        # Built once and kept: the next installation needs neither the network nor a compiler.
        _run([*pip, "wheel", "--wheel-dir", str(wheels), "--find-links", str(wheels), *how, *pins], on_line)
        on_line(f"installing into {python.parent.parent}")
        _run(offline, on_line)


def _install_npm(toolchain: Toolchain, on_line: OnLine) -> None:
    folder = toolchains.root() / toolchain.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--no-save"]
    on_line(f"fetching {', '.join(toolchain.npm)}")
    _run(["npm", "install", "--prefix", str(folder), *quiet, *toolchain.npm], on_line)


def check(toolchain: Toolchain, on_line: OnLine = lambda line: None) -> dict[str, str]:
    """Import what a toolchain is for; returns the versions of its pinned packages as they are installed.

    Raises:
        ToolchainError: an import fails or a pinned package has another version.
    """
    folder = toolchains.root() / toolchain.name
    found: dict[str, str] = {}
    for pin in toolchain.npm:
        package = pin.rpartition("@")[0]
        described = folder / "node_modules" / package / "package.json"
        if not described.is_file():
            raise ToolchainError(f"{toolchain.name}: npm package {package} is missing; {_again(toolchain)}")
        found[package] = json.loads(described.read_text(encoding="utf-8"))["version"]
    python = toolchains.python(toolchain.name)
    if toolchain.requirements or toolchain.without_dependencies:
        if not python.is_file():
            raise ToolchainError(f"{toolchain.name}: {python} is missing; {_again(toolchain)}")
        on_line(f"trying {', '.join(toolchain.imports)}")
        _run([str(python), "-c", "\n".join(f"import {name}" for name in toolchain.imports)], on_line)
        found |= _versions(python)
    for pin in (*toolchain.requirements, *toolchain.without_dependencies, *toolchain.npm):
        package, _, version = pin.replace("==", "@").rpartition("@")
        name = package.partition("[")[0].lower().replace("_", "-")
        there = found.get(name) or found.get(package, "missing")
        if there.partition("+")[0] != version:  # 2.13.0+cpu is a build of 2.13.0
            raise ToolchainError(f"{toolchain.name}: {package} is {there}, not {version}; {_again(toolchain)}")
    return found


def remove(name: str) -> int:
    """Delete an environment; its wheels are kept. Returns the bytes that were freed.

    Raises:
        ToolchainError: it is being installed at this moment.
    """
    toolchain = find(name)
    folder = toolchains.root() / name
    with _alone(toolchain):
        freed = size(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def size(folder: Path) -> int:
    """Bytes of all files below a folder, 0 when it is not there."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@contextlib.contextmanager
def _alone(toolchain: Toolchain) -> Iterator[None]:
    root = toolchains.root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f"{toolchain.name}.lock"):
            yield
    except BlockingIOError as error:
        raise ToolchainError(f"another process uses toolchain {toolchain.name}; wait until it has ended") from error
    except OSError as error:
        raise ToolchainError(
            f"{root}: cannot be written ({error}); set EDGEKIT_TOOLCHAINS to another folder"
        ) from error


def _requirements_met(toolchain: Toolchain) -> str:
    """Check everything that the environment needs and return its Python interpreter."""
    missing = [program for program in toolchain.programs if shutil.which(program) is None]
    if missing:
        raise ToolchainError(f"toolchain {toolchain.name} needs {', '.join(missing)} on PATH; install it first")
    free = shutil.disk_usage(toolchains.root()).free
    needed = 3 * toolchain.megabytes // 2  # the environment, and the wheels that it is made from
    if free < needed * 1_000_000:
        raise ToolchainError(
            f"toolchain {toolchain.name} takes {needed} MB with its wheels, {toolchains.root()} has "
            f"{free // 1_000_000} MB; free space or set EDGEKIT_TOOLCHAINS to another folder"
        )
    here = sysconfig.get_python_version()
    if not toolchain.pythons or here in toolchain.pythons:
        return sys.executable
    for version in toolchain.pythons:
        other = shutil.which(f"python{version}")
        if other:
            return other
    raise ToolchainError(
        f"toolchain {toolchain.name} needs Python {' or '.join(toolchain.pythons)} on PATH, this is {here}"
    )


def _record(toolchain: Toolchain, versions: dict[str, str]) -> None:
    path = toolchains.root() / toolchain.name / RECORD
    unfinished = path.with_suffix(".part")
    text = json.dumps({"fingerprint": toolchain.fingerprint, "versions": versions}, indent=2)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    done = subprocess.run(
        [str(python), "-c", code],
        env=toolchains.environment(),
        cwd=toolchains.root(),
        capture_output=True,
        text=True,
        check=True,
    )
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _succeeds(call: Sequence[str]) -> bool:
    done = subprocess.run(
        call,
        env=toolchains.environment(),
        cwd=toolchains.root(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _run(call: Sequence[str], on_line: OnLine) -> None:
    """Run a command and report its output.

    Raises:
        ToolchainError: it failed; with its last lines.
    """
    process = subprocess.Popen(
        call,
        env=toolchains.environment(),
        cwd=toolchains.root(),  # Python before 3.11 would run what is called venv.py or pip.py where the user stands
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said: list[str] = []
    with process:
        for line in process.stdout or ():
            said = [*said[-5:], line.strip()]
            if line.startswith(("Collecting", "Downloading", "Building", "Saved", "Successfully")):
                on_line(line.strip())
    if process.returncode:
        words = " | ".join(line for line in said if line) or "no output"
        raise ToolchainError(f"{Path(call[0]).name} failed (exit code {process.returncode}): {words}")


def _again(toolchain: Toolchain) -> str:
    return f"edgekit toolchain remove {toolchain.name}, then install it again"
