"""Cache of slow results (graphs, plans, texts of large sources), so that an interrupted conversion can resume."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit.runtimes.bundle.manifest import Record
from edgekit.structures import from_json

FOLDER = ".edgekit-graphs"
ENTRY = "graph.json"
"""Written last: without it an entry is not whole."""
Entry = TypeVar("Entry", bound=Record)
KEPT_SECONDS = 7 * 24 * 3600

_ROOT = threading.Lock()
"""Conversions side by side make and remove the folder of all."""


class KeptGraphs:
    """A cache folder beside the bundles: files with a record of them, keyed by a hash of all their inputs."""

    def __init__(self, out: Path) -> None:
        self._root = out.absolute() / FOLDER
        self._sweep()
        self._used: list[Path] = []

    def build(
        self, depends: object, kind: type[Entry], write: Callable[[Path], Entry], *, fresh: bool = False
    ) -> tuple[Path, Entry]:
        """Files and the record of them, from the cache or newly made by ``write`` in a folder that it makes.

        ``fresh``: made anew in any case.
        """
        folder = self._folder(depends)
        if fresh or not (folder / ENTRY).is_file():
            key = folder.name
            shutil.rmtree(folder, ignore_errors=True)
            partial = self._root / f"{key}-{os.getpid()}"
            shutil.rmtree(partial, ignore_errors=True)
            with _ROOT:
                partial.mkdir(parents=True)
            try:
                (partial / ENTRY).write_bytes(msgspec.json.encode(write(partial / "files")))
                partial.replace(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                self._tidy()
        self._used.append(folder)
        return folder / "files", from_json((folder / ENTRY).read_bytes(), kind)

    def _folder(self, depends: object) -> Path:
        return self._root / hashlib.sha256(msgspec.json.encode(depends, order="sorted")).hexdigest()[:24]

    def _sweep(self) -> None:
        """Remove expired entries."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def use(self, name: str) -> None:
        """Count an entry, by the name of its folder, as used: `forget` removes it."""
        self._used.append(self._root / name)

    def forget(self) -> None:
        """Remove the entries that were used; the bundles have their own files now."""
        for folder in self._used:
            shutil.rmtree(folder, ignore_errors=True)
        self._tidy()

    def _tidy(self) -> None:
        """Remove the folder of all where it is empty."""
        with _ROOT:
            if self._root.is_dir() and not any(self._root.iterdir()):
                self._root.rmdir()


def link(source: Path, destination: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links."""
    destination.parent.mkdir(parents=True, exist_ok=True)  # some engines open folders
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
