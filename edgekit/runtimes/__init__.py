"""One file per engine. An engine registers by declaring ``ENGINE`` and a function ``open_session``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit import registry
from edgekit.errors import EngineError, UsageError, choices
from edgekit.manifest import Graph

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """What executes a file on a device.

    ``packages`` are importable names, any one of which provides the engine; ``extra`` is the pip extra that brings
    it; ``devices`` are the values that ``device=`` takes, the first is the default.
    """

    name: str
    packages: tuple[str, ...]
    extra: str
    devices: tuple[str, ...] = ("cpu",)

    @property
    def available(self) -> bool:
        """Whether one of the packages can be imported; imports nothing."""
        return any(importable(package) for package in self.packages)


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
    """Where a graph's operators run: number of operators per compute unit, and the arithmetic that was used."""

    device: str
    operators: dict[str, int] = field(default_factory=dict)
    arithmetic: str = "float32"


class Session(Protocol):
    """An opened graph. Not thread-safe: one session per thread."""

    placement: Placement

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run once. Inputs are NCHW float32 in the graph's order; outputs come in the contract's order, NCHW.

        The arrays may be views of the engine's memory: they are valid until the next ``run``.
        """
        ...


def check_inputs(graph: Graph, inputs: Sequence[Array]) -> None:
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
    if not spec.available:
        raise EngineError(f"needs {' or '.join(spec.packages)}: pip install edgekit[{spec.extra}]")
    if options.device and options.device not in spec.devices:
        raise UsageError(f"device {choices(options.device, spec.devices)} (engine {name})")
    if options.threads < 0:
        raise UsageError(f"threads must be 0 (the engine's choice) or more, not {options.threads}")
    try:
        session: Session = registry.module(__name__, name).open_session(folder, graph, options)
    except ImportError as error:
        raise EngineError(
            f"engine {name} is installed but cannot be imported ({error}): pip install --force-reinstall "
            f"edgekit[{spec.extra}]"
        ) from error
    return session


def importable(package: str) -> bool:
    """Whether a package is installed; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
