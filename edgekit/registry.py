"""Things that are registered by being there: one module per target, engine, source, task, tracker or command.

A module registers by declaring one name, ``TARGET`` or ``ENGINE`` for instance. Modules that declare nothing are
helpers. All of them import nothing heavy at the top, so that listing them stays cheap.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.errors import UsageError, choices


@functools.cache
def names(package: str) -> tuple[str, ...]:
    """Names of the public modules of a package, sorted; nothing is imported but the package itself."""
    path = importlib.import_module(package).__path__
    return tuple(sorted(info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_")))


def module(package: str, name: str) -> ModuleType:
    """Import one registered module."""
    return importlib.import_module(f"{package}.{name}")


def find(package: str, name: str, attribute: str) -> Any:
    """A module's ``attribute``; None without such a module or attribute."""
    return getattr(module(package, name), attribute, None) if name in names(package) else None


def lookup(package: str, name: str, attribute: str, kind: str) -> Any:
    """The ``attribute`` of one registered module; ``kind`` is the word for it in the refusal.

    Raises:
        UsageError: no module of that name declares it; the valid ones are listed.
    """
    found = find(package, name, attribute)
    if found is None:
        raise UsageError(f"{kind} {choices(name, tuple(declared(package, attribute)))}")
    return found


def declared(package: str, attribute: str) -> dict[str, ModuleType]:
    """Modules of a package that declare ``attribute`` at module level, by file name."""
    loaded = {name: module(package, name) for name in names(package)}
    return {name: loaded[name] for name in loaded if hasattr(loaded[name], attribute)}


def add_folder(folder: Path) -> None:
    """Look into a folder too for what registers by being there: a plugin.

    Files of its subfolders lie beside edgekit's own from now on: ``converters/mine.py`` is found like a file of
    ``edgekit/converters``. Subfolders are named as in edgekit, at any depth (``runtimes/tracking``), and have no
    ``__init__.py``; one with an ``__init__.py`` is one thing of several files. See CONTRIBUTING.md.

    Raises:
        UsageError: no such folder, or a subfolder with Python files that edgekit does not have.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder, so it adds nothing to edgekit")
    for place in _places(folder):
        if not any(place.glob("*.py")) and not any(place.glob("*/__init__.py")):
            continue
        name = "/".join(("edgekit", *place.relative_to(folder).parts))
        try:
            path = importlib.import_module(name.replace("/", ".")).__path__
        except (ModuleNotFoundError, AttributeError) as error:
            raise UsageError(f"{place}: edgekit has no folder {name}, so nothing in it would be found") from error
        if str(place) not in path:
            path.append(str(place))
    names.cache_clear()


def _places(folder: Path) -> Iterator[Path]:
    """All folders below one that are no packages, from the top."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"):
        if not (place / "__init__.py").is_file():
            yield place
            yield from _places(place)
