"""Base class of all emulators."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines import Session, SessionOptions, engine, importable
from edgekit.worker import toolchains


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """Opens an engine's files on a host where the engine cannot run. A subclass implements `open_session`.

    Attributes:
        engine: the engine's name, and that of the file.
        device: the value of ``unit=`` that asks for it.
        word: the strongest evidence word that validation with it can give.
        by: what computes, in words, and ``of``: what it stands in for.
        packages: importable names, all of which it needs.
        toolchain: the isolated environment that it needs instead, if any.
    """

    engine: str
    device: str
    word: ProofWord
    by: str
    of: str
    packages: tuple[str, ...] = ()
    toolchain: str = ""

    @property
    def missing(self) -> str:
        """What has to be done before it can be used, empty when nothing."""
        if self.toolchain and not toolchains.installed(self.toolchain):
            return f"edgekit toolchain install {self.toolchain}"
        absent = [package for package in self.packages if not importable(package)]
        return f"pip install edgekit[convert] (missing: {', '.join(absent)})" if absent else ""

    @property
    def inside(self) -> bool:
        """Whether this process is one of the emulator's own toolchain."""
        return Path(sys.prefix) == toolchains.python(self.toolchain).parents[1]

    def needed(self, graph: Graph | None) -> bool:
        """Whether files, or this file, have to be checked with the emulator here."""
        return not engine(self.engine).available

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph of the bundle in ``folder``.

        Raises:
            EngineError: it refuses the file.
        """
        raise NotImplementedError(type(self).__name__)
