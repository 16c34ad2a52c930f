"""Base class of all emulators."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Language, ProofWord
from edgekit.runtimes.engines import Network, Session, SessionOptions, engine, importable
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.language.host_cache import open_hosted
from edgekit.worker import toolchains


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """Opens an engine's files on a host where the engine cannot run. A subclass implements `open_session`, and
    `open_network` where the engine takes parts of vision-language models.

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
        """Steps that are needed before it can be used; empty if none."""
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

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> Network:
        """Open a graph with named inputs of free shapes.

        Raises:
            EngineError: it refuses the file, or opens no such graphs.
        """
        raise EngineError(f"the {self.device} of engine {self.engine} opens no vision-language models")

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open a language model, whose cache lies in numpy's memory.

        Raises:
            EngineError: it refuses a file, or the cache is not the contract's.
        """
        opened = {name: self.open_network(folder, graph, options) for name, graph in graphs.items()}
        return open_hosted(opened, graphs, language, embeddings)
