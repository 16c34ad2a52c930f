"""Things that are registered by being there: one module per target, engine, source, task, tracker or command.

A module registers by declaring one name, ``TARGET`` or ``ENGINE`` for instance. Modules that declare nothing are
helpers. All of them import nothing heavy at the top, so that listing them stays cheap.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
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
    """What a module declares as ``attribute``; None without such a module, or where it declares no such thing."""
    return getattr(module(package, name), attribute, None) if name in names(package) else None


def lookup(package: str, name: str, attribute: str, kind: str) -> Any:
    """What one registered module declares as ``attribute``; ``kind`` is the word for it in the refusal.

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
    ``edgekit/converters``. The subfolders have the names that the folders have in edgekit, at any depth
    (``runtimes/tracking``), and no ``__init__.py``. See CONTRIBUTING.md.

    Raises:
        UsageError: no such folder, or a subfolder with Python files that edgekit does not have.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder, so it adds nothing to edgekit")
    for place in sorted({path.parent for path in folder.glob("*/**/*.py")}):
        package = ".".join(("edgekit", *place.relative_to(folder).parts))
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None or found.submodule_search_locations is None:
            raise UsageError(f"{place}: edgekit has no folder {package.replace('.', '/')}")
        path = importlib.import_module(package).__path__
        if str(place) not in path:
            path.append(str(place))
    names.cache_clear()
