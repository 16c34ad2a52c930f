"""A session in another process, for an engine or simulator that lives in an isolated environment.

The parent starts `edgekit.emulators.server` with the environment's interpreter and speaks to it over its pipes: one
JSON line each way to open, then for every run the inputs' float32 bytes one way, and a JSON line with the outputs'
shapes followed by their bytes the other. To a network a JSON line goes ahead, which names the inputs that follow.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, ProofWord, Record
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs
from edgekit.structures import from_json
from edgekit.worker import toolchains
from edgekit.worker.interpreters import foreign_command
from edgekit.worker.process import Process, program


class Opening(Record, frozen=True, kw_only=True):
    """The files to open."""

    engine: str
    folder: str
    graph: Graph
    threads: int
    device: str
    strict: bool
    network: bool = False


class Announced(Record, frozen=True, kw_only=True):
    """An input whose bytes follow: float32, int32 or int64."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Feeds(Record, frozen=True, kw_only=True):
    """The inputs of a network for one run, in the order of their bytes."""

    inputs: tuple[Announced, ...]


class Opened(Record, frozen=True, kw_only=True):
    """The placement of the opened session, or why it could not be opened."""

    device: str = ""
    operators: dict[str, int] = msgspec.field(default_factory=dict)
    arithmetic: str = ""
    word: ProofWord = "emulated"
    error: str = ""


class Ran(Record, frozen=True, kw_only=True):
    """The shapes of the outputs that follow, or why there are none."""

    shapes: tuple[tuple[int, ...], ...] = ()
    error: str = ""


class _Served:
    """Something that was opened in the environment of ``toolchain``.

    ``command`` starts another program than that environment's interpreter, which speaks the same way.

    Raises:
        EngineError: the environment is not there, or the engine refuses the file.
    """

    network = False

    def __init__(
        self,
        toolchain: str,
        engine: str,
        folder: Path,
        graph: Graph,
        options: SessionOptions,
        command: Sequence[str] = (),
    ) -> None:
        if not toolchains.installed(toolchain):
            raise EngineError(f"the {options.device} is not installed: edgekit toolchain install {toolchain}")
        started = command or foreign_command(toolchains.python(toolchain), "edgekit.emulators.server")
        begin = program(started, toolchains.environment())
        self._process = Process(begin, f"{engine} in toolchain {toolchain}", EngineError)
        weakref.finalize(self, self._process.close)
        self._graph = graph
        opening = Opening(
            engine=engine,
            folder=str(folder),
            graph=graph,
            threads=options.threads,
            device=options.device,
            strict=options.strict,
            network=self.network,
        )
        self._send(msgspec.json.encode(opening) + b"\n")
        opened = from_json(self._line(), Opened)
        if opened.error:
            raise EngineError(opened.error)
        self.placement = Placement(opened.device, opened.operators, opened.arithmetic, opened.word)

    def _ran(self) -> list[Floats]:
        ran = from_json(self._line(), Ran)
        if ran.error:
            raise EngineError(ran.error)
        return [self._array(shape) for shape in ran.shapes]

    def _send(self, *parts: bytes) -> None:
        try:
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._process.ended() from None

    def _line(self) -> bytes:
        line = self._process.stdout.readline()
        if not line:
            raise self._process.ended()
        return line

    def _array(self, shape: tuple[int, ...]) -> Floats:
        size = 4 * int(np.prod(shape))
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self._process.ended()
        return np.frombuffer(data, np.float32).reshape(shape)


class ServedSession(_Served):
    """A session of ``engine`` in the environment of a toolchain."""

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        self._send(*(np.ascontiguousarray(array).tobytes() for array in inputs))
        return self._ran()


class ServedNetwork(_Served):
    """A network of ``engine`` in the environment of a toolchain, with its inputs and outputs by name."""

    network = True

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        announced = tuple(
            Announced(name=name, dtype=array.dtype.name, shape=array.shape) for name, array in arrays.items()
        )
        line = msgspec.json.encode(Feeds(inputs=announced)) + b"\n"
        self._send(line, *(array.tobytes() for array in arrays.values()))
        return {tensor.name: array for tensor, array in zip(self._graph.outputs, self._ran(), strict=True)}
