"""Modules that the user named: a factory's, or those of ``--import``.

Processes of edgekit leave the current folder out of ``sys.path``: whoever converts a file in a stranger's checkout must
not run what lies there. It is added, behind everything that is installed, only where the user names code.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from edgekit.errors import UsageError


def import_module(name: str) -> ModuleType:
    """Import a module that is installed, or else in the current folder."""
    search_current_folder()
    return importlib.import_module(name)


def import_given(name: str) -> ModuleType:
    """Import what ``--import``, or ``imports=`` of a call, names.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"--import {name}: {error}") from error
    except Exception as error:  # a user's own code may raise anything
        raise UsageError(f"--import {name}: {type(error).__name__}: {error}") from error


def search_current_folder() -> None:
    """Let this process import from the current folder what is not installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def is_here(module: ModuleType) -> bool:
    """Whether a module, or the package that it belongs to, lies in the current folder."""
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    file = getattr(top, "__file__", None)
    if file is None:
        return False
    path = Path(file).absolute()
    return (path.parent.parent if path.name == "__init__.py" else path.parent) == Path.cwd()
