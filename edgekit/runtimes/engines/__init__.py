"""One file, or one folder, per engine: a subclass of `Engine` and its one instance, ``ENGINE``, found by its place."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from edgekit import registry
from edgekit.errors import EngineError, UsageError, choices
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines.base import Engine as Engine
from edgekit.runtimes.engines.base import Isolation as Isolation
from edgekit.runtimes.engines.base import Network as Network
from edgekit.runtimes.engines.base import Placement as Placement
from edgekit.runtimes.engines.base import Session as Session
from edgekit.runtimes.engines.base import SessionOptions as SessionOptions
from edgekit.runtimes.engines.base import by_rows as by_rows
from edgekit.runtimes.engines.base import check_inputs as check_inputs
from edgekit.runtimes.engines.base import host as host
from edgekit.runtimes.engines.base import importable as importable
from edgekit.runtimes.engines.base import named_as as named_as

if TYPE_CHECKING:
    from edgekit.runtimes.language.graph import LanguageGraph


def engine_names() -> tuple[str, ...]:
    """Names of all engines edgekit knows, installed or not."""
    return tuple(registry.declared(__name__, "ENGINE"))


def engine(name: str) -> Engine:
    """The declaration of one engine.

    Raises:
        UsageError: no such engine.
    """
    declared: Engine = registry.lookup(__name__, name, "ENGINE", "engine")
    return declared


EMULATORS = "edgekit.emulators"
"""Where a host keeps what opens an engine's files in its place. A device needs no such folder."""


class Substitute(Protocol):
    """The interface of an emulator as device code sees it."""

    @property
    def device(self) -> str:
        """The value of ``device=`` that asks for it."""
        ...

    @property
    def missing(self) -> str:
        """Steps that are needed before it can be used; empty if none."""
        ...

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph in place of the engine."""
        ...

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> Network:
        """Open a graph with named inputs of free shapes in place of the engine."""
        ...

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open a language model in place of the engine."""
        ...


def substitute(name: str) -> Substitute | None:
    """The emulator of an engine, or None.

    This is the only way from device code to host code: by the engine's name, and only when a device is asked for that
    the engine does not have, or when an error should name the emulator.
    """
    if find_spec(EMULATORS) is None:
        return None
    found: Substitute | None = registry.find(EMULATORS, name, "EMULATOR")
    return found


def hint(name: str) -> str:
    """The end of an error message: how to run the file here with the engine's emulator."""
    other = substitute(name)
    return f"; unit={other.device!r} shows here what the file computes" if other is not None else ""


ISOLATION = "edgekit.isolation"
"""Where a child process is started that opens and runs files in place of this one."""


def isolation(name: str, seconds: float) -> Isolation:
    """A child process for the files of one bundle.

    Args:
        name: of the bundle, for messages.
        seconds: that one answer may take.

    Raises:
        EngineError: this installation has no such part.
    """
    if find_spec(ISOLATION) is None:
        raise EngineError(f"isolated=True needs {ISOLATION}, which is not installed here: pip install edgekit")
    started: Isolation = importlib.import_module(ISOLATION).ISOLATION(name, seconds)
    return started


def open_session(name: str, folder: Path, graph: Graph, options: SessionOptions) -> Session:
    """Open a graph of a bundle with its engine, or with its emulator where ``options.device`` names that.

    Raises:
        EngineError: the engine is not installed, refuses the file, or ``strict`` does not hold.
        UsageError: unknown engine or device, fewer than 0 threads.
    """
    if options.threads < 0:
        raise UsageError(f"threads must be 0 (the engine's choice) or more, not {options.threads}")
    if options.isolation is not None:
        return options.isolation.open_session(name, folder, graph, options)
    spec = engine(name)
    opener = _opener(spec, options.device)
    try:
        return opener.open_session(folder, graph, options)
    except ImportError as error:
        raise EngineError(
            f"engine {name} is installed but cannot be imported ({error}): "
            f"{spec.install or f'pip install --force-reinstall edgekit[{spec.extra}]'}"
        ) from error


def _opener(spec: Engine, device: str) -> Engine | Substitute:
    """The engine or its emulator, whichever has the device."""
    own = not device or device in spec.devices
    other = None if own else substitute(spec.name)
    if other is not None and device == other.device:
        if other.missing:
            raise EngineError(f"the {device} of engine {spec.name} is not installed: {other.missing}")
        return other
    if spec.missing:
        raise EngineError(f"engine {spec.name} {spec.missing}{hint(spec.name)}")
    if not own:
        known = (*spec.devices, other.device) if other is not None else spec.devices
        raise UsageError(f"unit {choices(device, known)} (engine {spec.name})")
    return spec


def open_network(name: str, folder: Path, graph: Graph, options: SessionOptions) -> Network:
    """Open a graph with named inputs of free shapes; see `Engine.open_network`.

    Raises:
        EngineError: the engine is not installed, refuses the file, or has no such graphs.
    """
    if options.isolation is not None:
        return options.isolation.open_network(name, folder, graph, options)
    return _opener(engine(name), options.device).open_network(folder, graph, options)


def open_language(
    name: str,
    folder: Path,
    graphs: Mapping[str, Graph],
    language: Language,
    embeddings: NDArray[Any],
    options: SessionOptions,
) -> LanguageGraph:
    """Open the language model of a bundle; see `Engine.open_language`.

    Raises:
        EngineError: the engine is not installed, refuses a file, or has no such graphs.
    """
    if options.isolation is not None:
        return options.isolation.open_language(name, folder, graphs, language, options)
    return _opener(engine(name), options.device).open_language(folder, graphs, language, embeddings, options)


def device_of(name: str, device: str) -> str:
    """The device for an engine in a bundle of several: the one that was asked for where it has that, else its first."""
    spec, other = engine(name), substitute(name)
    return device if device in spec.devices or (other is not None and device == other.device) else ""
