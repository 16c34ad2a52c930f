"""How to start an interpreter on a module of this edgekit, without what lies in the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

_SAFE_PATH = """
import sys
sys.path[:] = [path for path in sys.path if path]  # an empty entry is the current folder
"""
# `python -m` would put the current folder first; -P, which keeps it out, came with Python 3.11.

_OWN = f"""{_SAFE_PATH}
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""

# By its path and not through PYTHONPATH: an edgekit in site-packages would bring all of its neighbours with it.
_OTHER = f"""{_SAFE_PATH}
import importlib.util, runpy
folder, name = sys.argv[1:3]
spec = importlib.util.spec_from_file_location(
    "edgekit", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["edgekit"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
del sys.argv[1:3]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter."""
    return [sys.executable, "-c", _OWN, module, *arguments]


def foreign_command(interpreter: Path, module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this edgekit in another interpreter, which has no edgekit of its own."""
    return [str(interpreter), "-c", _OTHER, str(Path(__file__).parents[1]), module, *arguments]
