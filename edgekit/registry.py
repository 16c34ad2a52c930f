"""Things that are registered by being there: one module per target, engine, source, task or command."""

from __future__ import annotations

import functools
import importlib
import pkgutil
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


def lookup(package: str, name: str, attribute: str, kind: str) -> Any:
    """What one registered module declares as ``attribute``; ``kind`` is the word for it in the refusal.

    Raises:
        UsageError: no module of that name; the valid ones are listed.
    """
    if name not in names(package):
        raise UsageError(f"{kind} {choices(name, names(package))}")
    return getattr(module(package, name), attribute)


def declared(package: str, attribute: str) -> dict[str, ModuleType]:
    """Modules of a package that declare ``attribute`` at module level, by file name.

    Registered modules import nothing heavy at the top, so that listing them stays cheap.
    """
    loaded = {name: module(package, name) for name in names(package)}
    return {name: loaded[name] for name in loaded if hasattr(loaded[name], attribute)}
