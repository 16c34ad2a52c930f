"""Cache of finished graphs, so that an interrupted conversion can resume."""

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
from edgekit.structures import from_json

FOLDER = ".edgekit-graphs"
ENTRY = "graph.json"
KEPT_SECONDS = 7 * 24 * 3600

_ROOT = threading.Lock()
"""Conversions side by side make and remove the folder of all."""


class KeptGraphs:
    """A cache folder beside the bundles, with one entry per graph, keyed by a hash of all that the graph depends on."""

    def __init__(self, out: Path) -> None:
        self._root = out.absolute() / FOLDER
        self._sweep()
        self._used: list[Path] = []

    def build(self, depends: object, write: Callable[[Path], Graph]) -> tuple[Path, Graph]:
        """A graph's folder and manifest entry, from the cache or newly made by ``write`` in an empty folder."""
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
        return folder / "files", from_json((folder / ENTRY).read_bytes(), Graph)

    def _sweep(self) -> None:
        """Remove expired entries."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Remove the entries that were used; the bundles have their own files now."""
        for folder in self._used:
            shutil.rmtree(folder, ignore_errors=True)
        with _ROOT:
            if self._root.is_dir() and not any(self._root.iterdir()):
                self._root.rmdir()
