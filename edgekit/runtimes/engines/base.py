"""Base class of all engines, and the types of their sessions."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, Language, ProofWord, Tensor

if TYPE_CHECKING:
    from edgekit.runtimes.language.codec import TextCodec
    from edgekit.runtimes.language.graph import LanguageGraph


@dataclass(frozen=True)
class SessionOptions:
    """How to open a file.

    Attributes:
        threads: of the CPU; 0 leaves the number to the engine.
        device: one of the engine's devices, empty for its first.
        strict: refuse a file of which an operator leaves that device.
        isolation: the child process to open it in; None opens it here.
        shape: of the input that is run first, NCHW, where the file takes several; engines may compile it ahead.
    """

    threads: int = 0
    device: str = ""
    strict: bool = False
    isolation: Isolation | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where a graph's operators run: number of operators per compute unit, and the arithmetic that was used.

    ``word`` is the evidence word of a run on this session; an emulator's is never ``executed``.
    """

    device: str
    operators: dict[str, int] = field(default_factory=dict)
    arithmetic: str = "float32"
    word: ProofWord = "executed"


class Session(Protocol):
    """An opened graph. Not thread-safe: one session per thread."""

    placement: Placement

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        """Run once. Inputs are NCHW float32 in the graph's order; outputs come in the contract's order, NCHW.

        The arrays may be views of the engine's memory: they are valid until the next ``run``.
        """
        ...


class Isolation(Protocol):
    """A child process that opens the files of a bundle in place of this one."""

    def open_session(self, name: str, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph with the engine of that name."""
        ...

    def open_network(self, name: str, folder: Path, graph: Graph, options: SessionOptions) -> Network:
        """Open a graph with named inputs of free shapes."""
        ...

    def open_language(
        self, name: str, folder: Path, graphs: Mapping[str, Graph], language: Language, options: SessionOptions
    ) -> LanguageGraph:
        """Open a language model."""
        ...

    def open_tokenizer(self, path: Path) -> TextCodec:
        """Open a tokenizer."""
        ...


class Network(Protocol):
    """An opened graph with named tensors of any number, type and shape: one of the parts of a vision-language model."""

    placement: Placement

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once: the graph's inputs by name to its outputs by name.

        Raises:
            EngineError: the engine failed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Executes a file on a device: a subclass with `open_session`, and one instance of it, ``ENGINE``.

    Attributes:
        name: that of its file.
        packages: importable names, any one of which provides the engine.
        extra: the pip extra that brings it; empty where ``install`` says how it comes.
        devices: values that ``unit=`` takes, the default first.
        hosts: where the engine exists at all, as beginnings of `host`; empty for everywhere.
        install: how to install it where no extra does.
        settings: what a session sets because the engine's defaults would compute something else than what was proven.
        own_threads: whether each session has CPU threads of its own; else the sessions of a process share theirs.
    """

    name: str
    packages: tuple[str, ...]
    extra: str = ""
    devices: tuple[str, ...] = ("cpu",)
    hosts: tuple[str, ...] = ()
    install: str = ""
    settings: str = ""
    own_threads: bool = True

    @property
    def here(self) -> bool:
        """Whether the engine exists for this host."""
        return not self.hosts or host().startswith(self.hosts)

    @property
    def available(self) -> bool:
        """Whether one of the packages can be imported here; imports nothing."""
        return self.here and any(importable(package) for package in self.packages)

    @property
    def missing(self) -> str:
        """Why the engine cannot run here and what to do, empty when it can."""
        if self.available:
            return ""
        if not self.here:
            return f"runs on {' or '.join(self.hosts)}, this host is {host()}"
        return f"needs {' or '.join(self.packages)}: {self.install or f'pip install edgekit[{self.extra}]'}"

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph of the bundle in ``folder``.

        Raises:
            EngineError: the engine refuses the file, or ``strict`` does not hold.
        """
        raise EngineError(f"engine {self.name} opens no files in Python: {self.install}")

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> Network:
        """Open a graph with named inputs of free shapes.

        Raises:
            EngineError: the engine refuses the file, or opens no such graphs.
        """
        raise EngineError(
            f"engine {self.name} opens no parts of vision-language models; convert this one for another target "
            "(--target vision=..., qformer=..., language=...)"
        )

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open a language model. Here its cache lies in buffers of the host; an engine that keeps one has its own way.

        Args:
            folder: of the bundle.
            graphs: those of the bundle by name: ``language``, or ``encoder`` and ``decoder``.
            language: the contract.
            embeddings: (vocabulary, width) float16 or float32, of the tokens; rows are gathered here, not by a graph.
            options: how to open the files.

        Raises:
            EngineError: the engine refuses a file, or opens no such graphs.
        """
        from edgekit.runtimes.language.host_cache import open_hosted

        opened = {name: self.open_network(folder, graph, options) for name, graph in graphs.items()}
        return open_hosted(opened, graphs, language, embeddings)

    def load_library(self) -> None:
        """Import the engine's package ahead of the first session."""
        for package in self.packages:
            if importable(package):
                importlib.import_module(package)
                return


def by_rows(
    run: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]], feeds: Mapping[str, NDArray[Any]], most: int
) -> dict[str, NDArray[Any]]:
    """Run at most so many rows at once, and put the outputs together.

    Rows are the first axis of all inputs but ``distances``, which are the same for all rows.
    """
    rows = max(len(array) for name, array in feeds.items() if name != SHARED)
    if rows <= most:
        return run(feeds)
    found = []
    for first in range(0, rows, most):
        some = slice(first, first + most)
        given = {name: array if name == SHARED else array[some] for name, array in feeds.items()}
        found.append({name: np.array(array) for name, array in run(given).items()})  # copied: views end with a run
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


WORDS = ("input_ids", "attention_mask")
"""Inputs that are filled up with padding to the number of tokens that a graph takes."""


def padded_words(graph: Graph, feeds: Mapping[str, NDArray[Any]], target: str) -> dict[str, NDArray[Any]]:
    """Inputs of a graph with fixed sizes: words as many as it takes; what is added is masked.

    Raises:
        UsageError: a text with more tokens than the graph was compiled for by this target.
    """
    shapes, filled = {tensor.name: tensor.shape for tensor in graph.inputs}, dict(feeds)
    for name in set(WORDS) & set(feeds):
        size, count = shapes[name][1], feeds[name].shape[1]
        if count > size:
            raise UsageError(
                f"{count} tokens of text are more than the {size} that {graph.name} was compiled for; shorten the "
                f"text, or convert with --option {target}.tokens=N for more"
            )
        filled[name] = np.pad(feeds[name], ((0, 0), (0, size - count)))
    return filled


def named_as(folder: Path, name: str, ending: str) -> Path:
    """A file that an engine opens by its ending: another would be read as another format, by other rules.

    Raises:
        EngineError: it has another ending.
    """
    if not name.endswith(ending):
        raise EngineError(f"{folder / name}: the engine opens {ending} files; convert the model again")
    return folder / name


def guarded_folder(folder: Path, graph: Graph, ending: str) -> Path:
    """The folder that an engine opens as one, as Apple's formats are: the first part of the first file's name.

    Raises:
        EngineError: the file is not in such a folder, or the folder has files that the manifest does not list.
    """
    first = graph.files[0].split("/")[0]
    if not first.endswith(ending):
        raise EngineError(f"{graph.files[0]!r} is not in an {ending} folder; convert the model again")
    there = {path.relative_to(folder).as_posix() for path in (folder / first).rglob("*") if not path.is_dir()}
    if unlisted := sorted(there - set(graph.files)):
        raise EngineError(f"{folder / unlisted[0]}: a file that the manifest does not list; do not use this bundle")
    return folder / first


def check_inputs(graph: Graph, inputs: Sequence[Floats]) -> None:
    """Refuse inputs that are not what the graph takes, before an engine reads past their end.

    Raises:
        EngineError: another number of arrays, another shape (NCHW) or dtype.
    """
    if len(inputs) != len(graph.inputs):
        raise EngineError(f"the graph takes {len(graph.inputs)} input(s), not {len(inputs)}")
    for tensor, array in zip(graph.inputs, inputs, strict=True):
        shape = tensor.shape
        if tensor.layout == "nhwc":
            shape = (shape[0], shape[3], shape[1], shape[2])
        fits = len(array.shape) == len(shape) and all(
            wanted in (-1, length) for wanted, length in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != np.float32:
            raise EngineError(f"input {tensor.name!r} takes float32 {shape}, not {array.dtype} {array.shape}")


SHARED = "distances"
"""The one named input that is the same for all rows, see `edgekit.runtimes.language.host_cache`."""


def rows_of(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Named inputs row by row, for an engine that runs one at a time: contiguous, in the types of the manifest.

    Each keeps its axis of rows, with a length of 1.

    Raises:
        EngineError: an input is missing, or has another shape than the manifest says: an engine may read past its end.
    """
    arrays = {tensor.name: _fed(graph.name, tensor, feeds) for tensor in graph.inputs}
    rows = max(len(array) for name, array in arrays.items() if name != SHARED)
    for row in range(rows):
        yield {name: array if name == SHARED else array[row : row + 1] for name, array in arrays.items()}


def _fed(graph: str, tensor: Tensor, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if tensor.name not in feeds:
        raise EngineError(f"graph {graph!r} takes an input {tensor.name!r}, which is not given")
    array = np.asarray(feeds[tensor.name])
    fits = array.ndim == len(tensor.shape) and all(
        wanted in (-1, size) for wanted, size in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits or not array.size:
        raise EngineError(f"input {tensor.name!r} takes shape {list(tensor.shape)}, not {list(array.shape)}")
    return np.ascontiguousarray(array, tensor.dtype)


def host() -> str:
    """Name of this platform: ``linux-x86_64``, ``linux-aarch64``, ``darwin-arm64``."""
    return f"{sys.platform}-{platform.machine().lower()}"


def importable(package: str) -> bool:
    """Whether a package is installed; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
