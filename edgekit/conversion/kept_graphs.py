"""Graphs that are finished before their bundle is: a conversion that was interrupted goes on with them."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.runtimes.bundle.manifest import Graph

FOLDER = ".edgekit-graphs"
ENTRY = "graph.json"
KEPT_SECONDS = 7 * 24 * 3600

_ROOT = threading.Lock()
"""Conversions side by side make and remove the folder of all."""


class KeptGraphs:
    """A store beside the bundles, with a folder for each graph that is named after everything it depends on."""

    def __init__(self, out: Path) -> None:
        self._root = out.absolute() / FOLDER
        self._sweep()
        self._used: list[Path] = []

    def build(self, depends: object, write: Callable[[Path], Graph]) -> tuple[Path, Graph]:
        """A graph's folder and entry: the one that is there, or what ``write`` puts into an empty folder."""
        key = hashlib.sha256(msgspec.json.encode(depends, order="sorted")).hexdigest()[:24]
        folder = self._root / key
        if not (folder / ENTRY).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            fresh = self._root / f"{key}-{os.getpid()}"
            shutil.rmtree(fresh, ignore_errors=True)
            with _ROOT:
                fresh.mkdir(parents=True)
            try:
                (fresh / ENTRY).write_bytes(msgspec.json.encode(write(fresh / "files")))
                fresh.replace(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        self._used.append(folder)
        return folder / "files", msgspec.json.decode((folder / ENTRY).read_bytes(), type=Graph)

    def _sweep(self) -> None:
        """Remove what nobody came back for."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Remove what was used: the bundles have it now."""
        for folder in self._used:
            shutil.rmtree(folder, ignore_errors=True)
        with _ROOT:
            if self._root.is_dir() and not any(self._root.iterdir()):
                self._root.rmdir()
