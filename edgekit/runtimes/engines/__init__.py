"""One file per engine. An engine registers by declaring ``ENGINE`` and a function ``open_session``."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit import registry
from edgekit.arrays import Floats
from edgekit.errors import EngineError, UsageError, choices
from edgekit.runtimes.bundle.manifest import Graph, Language, ProofWord
from edgekit.worker import toolchains

if TYPE_CHECKING:
    from edgekit.runtimes.language.graph import LanguageGraph


@dataclass(frozen=True)
class StandIn:
    """What checks a file on a host where its engine cannot run: a simulator, an interpreter, another engine.

    ``device`` is the value of ``unit=`` that asks for it, ``word`` the strongest word that its check deserves. It
    needs all of ``packages`` here, or the isolated ``toolchain``.
    """

    device: str
    word: ProofWord
    packages: tuple[str, ...] = ()
    toolchain: str = ""

    @property
    def missing(self) -> str:
        """What has to be done before it can be used, empty when nothing."""
        if self.toolchain and not toolchains.installed(self.toolchain):
            return f"edgekit toolchain install {self.toolchain}"
        absent = [package for package in self.packages if not importable(package)]
        return f"pip install edgekit[convert] (missing: {', '.join(absent)})" if absent else ""


@dataclass(frozen=True)
class Engine:
    """What executes a file on a device.

    ``packages`` are importable names, any one of which provides the engine; ``extra`` is the pip extra that brings
    it, or empty where ``install`` says how it comes; ``devices`` are the values that ``unit=`` takes, the first is
    the default. ``hosts`` are where it exists at all, as beginnings of `host`; everywhere when empty. ``stand_in``
    checks its files elsewhere, and only when it is asked for by its device name.
    """

    name: str
    packages: tuple[str, ...]
    extra: str = ""
    devices: tuple[str, ...] = ("cpu",)
    hosts: tuple[str, ...] = ()
    install: str = ""
    stand_in: StandIn | None = None

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

    @property
    def proof_device(self) -> str:
        """The ``unit=`` that files are checked with on this host: the engine's default, else its stand-in."""
        return self.devices[0] if self.available or self.stand_in is None else self.stand_in.device


def proof_device(name: str, graph: Graph) -> str:
    """The ``unit=`` that one file is checked with on this host.

    An engine whose files may need what this host lacks (a delegate) declares a function ``proof_device(graph)``.

    Raises:
        UsageError: no such engine.
    """
    spec = engine(name)
    own = getattr(registry.module(__name__, name), "proof_device", None)
    return str(own(graph)) if own is not None else spec.proof_device


def host() -> str:
    """This machine as engines and toolchains name it: ``linux-x86_64``, ``linux-aarch64``, ``darwin-arm64``."""
    return f"{sys.platform}-{platform.machine().lower()}"


@dataclass(frozen=True)
class SessionOptions:
    """How to open a file.

    ``threads`` = 0 leaves the number to the engine. ``strict`` refuses operators that leave the requested device.
    """

    threads: int = 0
    device: str = ""
    strict: bool = False


@dataclass(frozen=True)
class Placement:
    """Where a graph's operators run: number of operators per compute unit, and the arithmetic that was used.

    ``word`` says what a run on this session proves; a stand-in never says ``executed``.
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


class Network(Protocol):
    """An opened graph with named tensors of any number, type and shape: one of the parts of a vision-language model."""

    placement: Placement

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once: the graph's inputs by name to its outputs by name.

        Raises:
            EngineError: the engine failed.
        """
        ...


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
        if array.shape != shape or array.dtype != np.float32:
            raise EngineError(f"input {tensor.name!r} takes float32 {shape}, not {array.dtype} {array.shape}")


def engine_names() -> tuple[str, ...]:
    """Names of all engines edgekit knows, installed or not."""
    return registry.names(__name__)


def engine(name: str) -> Engine:
    """The declaration of one engine.

    Raises:
        UsageError: no such engine.
    """
    declared: Engine = registry.lookup(__name__, name, "ENGINE", "engine")
    return declared


def open_session(name: str, folder: Path, graph: Graph, options: SessionOptions) -> Session:
    """Open a graph of a bundle with its engine.

    Raises:
        EngineError: the engine is not installed, refuses the file, or ``strict`` does not hold.
        UsageError: unknown engine or device.
    """
    spec = engine(name)
    stand_in = spec.stand_in
    if stand_in is not None and options.device == stand_in.device:
        if stand_in.missing:
            raise EngineError(f"the {stand_in.device} of engine {name} is not installed: {stand_in.missing}")
    elif spec.missing:
        check = f"; unit={stand_in.device!r} shows here what the file computes" if stand_in is not None else ""
        raise EngineError(f"engine {name} {spec.missing}{check}")
    else:
        known = (*spec.devices, *([stand_in.device] if stand_in is not None else []))
        if options.device and options.device not in known:
            raise UsageError(f"unit {choices(options.device, known)} (engine {name})")
    if options.threads < 0:
        raise UsageError(f"threads must be 0 (the engine's choice) or more, not {options.threads}")
    try:
        session: Session = registry.module(__name__, name).open_session(folder, graph, options)
    except ImportError as error:
        raise EngineError(
            f"engine {name} is installed but cannot be imported ({error}): "
            f"{spec.install or f'pip install --force-reinstall edgekit[{spec.extra}]'}"
        ) from error
    return session


def import_engine(name: str) -> None:
    """Import what an engine is made of, ahead of the first session; nothing where there is no package to import.

    An engine whose package must not be imported just so declares a function ``import_engine()``.

    Raises:
        UsageError: no such engine.
    """
    spec = engine(name)
    own = getattr(registry.module(__name__, name), "import_engine", None)
    if own is not None:
        own()
        return
    for package in spec.packages:
        if importable(package):
            importlib.import_module(package)
            return


def open_network(name: str, folder: Path, graph: Graph, options: SessionOptions) -> Network:
    """Open a graph with named inputs of free shapes.

    Raises:
        EngineError: the engine is not installed, refuses the file, or has no such graphs.
    """
    opened: Network = _capable(name, "open_network")(folder, graph, options)
    return opened


def open_language(
    name: str,
    folder: Path,
    graphs: Mapping[str, Graph],
    language: Language,
    embeddings: NDArray[Any],
    options: SessionOptions,
) -> LanguageGraph:
    """Open the language model of a bundle, with a cache that the engine keeps.

    Args:
        name: the engine.
        folder: of the bundle.
        graphs: those of the bundle by name: ``language``, or ``encoder`` and ``decoder``.
        language: the contract.
        embeddings: (vocabulary, width) float16 or float32, of the tokens; rows are gathered here, not by a graph.
        options: how to open the files.

    Raises:
        EngineError: the engine is not installed, refuses a file, or has no such graphs.
    """
    opened: LanguageGraph = _capable(name, "open_language")(folder, graphs, language, embeddings, options)
    return opened


def _capable(name: str, function: str) -> Callable[..., Any]:
    """A function that only some engines have."""
    spec = engine(name)
    if spec.missing:
        raise EngineError(f"engine {name} {spec.missing}")
    found = getattr(registry.module(__name__, name), function, None)
    if found is None:
        raise EngineError(f"engine {name} opens no vision-language models; convert to onnx or openvino")
    capable: Callable[..., Any] = found
    return capable


def importable(package: str) -> bool:
    """Whether a package is installed; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
