"""The folder one conversion works in: beside its bundles, locked while in use, swept by the next run when left over."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgekit.runtimes.bundle.folder import locked, writing

_PREFIX = ".edgekit-work-"


@contextlib.contextmanager
def open_workspace(out: Path) -> Iterator[Path]:
    """A private folder below ``out``, removed at the end; leftovers of killed runs are removed at the start.

    Raises:
        BundleError: ``out`` cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        # Absolute: toolchains run in folders of their own, where a relative path is another one.
        folder = out.absolute() / f"{_PREFIX}{os.getpid()}-{os.urandom(3).hex()}"
        with locked(folder.with_suffix(".lock")):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove workspaces whose lock nobody holds any more."""
    for lock in out.glob(f"{_PREFIX}*.lock"):
        with contextlib.suppress(BlockingIOError), locked(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
