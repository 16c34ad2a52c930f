"""The other end of `edgekit.emulators.served`: opens one session and runs it until the pipe closes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.emulators.served import Given, Opened, Opening, Ran
from edgekit.errors import EdgekitError
from edgekit.runtimes.engines import Network, Placement, SessionOptions, open_network, open_session
from edgekit.structures import from_json
from edgekit.worker.child import streams


def main() -> None:
    """Serve what the parent asks for on stdin; prints of the engine go to stderr."""
    asked, answers = streams()
    opening = from_json(asked.readline(), Opening)
    server: _OfSession | _OfNetwork | None = None

    def opened() -> Opened:
        nonlocal server
        server = (_OfNetwork if opening.named else _OfSession)(opening)
        placement = server.placement
        return Opened(
            device=placement.device,
            operators=placement.operators,
            arithmetic=placement.arithmetic,
            word=placement.word,
        )

    _answer(answers, _guarded(opened, lambda error: Opened(error=error)))
    while server is not None:
        inputs = server.read(asked)
        if inputs is None:
            break
        _run(server, inputs, answers)
    answers.flush()
    os._exit(0)  # some engines crash while Python tears them down


class _OfSession:
    """A session, given inputs whose shapes both sides know."""

    def __init__(self, opening: Opening) -> None:
        self._graph = opening.graph
        self._session = open_session(opening.engine, Path(opening.folder), opening.graph, _options(opening))
        self.placement: Placement = self._session.placement

    def read(self, asked: IO[bytes]) -> list[NDArray[Any]] | None:
        """The next inputs, NCHW float32; None when the parent is done."""
        found = []
        for tensor in self._graph.inputs:
            shape = tensor.shape
            if tensor.layout == "nhwc":
                shape = (shape[0], shape[3], shape[1], shape[2])
            array = _array(asked, np.dtype(np.float32), shape)
            if array is None:
                return None
            found.append(array)
        return found

    def run(self, inputs: list[NDArray[Any]]) -> list[Floats]:
        """The outputs in the graph's order."""
        return self._session.run(inputs)


class _OfNetwork:
    """A graph with named inputs, each told with its type and shape."""

    def __init__(self, opening: Opening) -> None:
        self._outputs = [tensor.name for tensor in opening.graph.outputs]
        self._network: Network = open_network(opening.engine, Path(opening.folder), opening.graph, _options(opening))
        self.placement: Placement = self._network.placement
        self._names: list[str] = []

    def read(self, asked: IO[bytes]) -> list[NDArray[Any]] | None:
        """The next inputs; None when the parent is done."""
        line = asked.readline()
        if not line:
            return None
        told = from_json(line, list[Given])
        self._names, found = [one.name for one in told], []
        for one in told:
            array = _array(asked, np.dtype(one.dtype), one.shape)
            if array is None:
                return None
            found.append(array)
        return found

    def run(self, inputs: list[NDArray[Any]]) -> list[Floats]:
        """The outputs in the graph's order."""
        found = self._network.run(dict(zip(self._names, inputs, strict=True)))
        return [found[name] for name in self._outputs]


def _options(opening: Opening) -> SessionOptions:
    return SessionOptions(threads=opening.threads, device=opening.device, strict=opening.strict)


def _array(asked: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The next bytes as an array; None when they end before."""
    size = dtype.itemsize * int(np.prod(shape))
    data = asked.read(size)
    return np.frombuffer(data, dtype).reshape(shape) if len(data) == size else None


def _run(server: _OfSession | _OfNetwork, inputs: list[NDArray[Any]], answers: IO[bytes]) -> None:
    outputs: list[Floats] = []

    def ran() -> Ran:
        outputs.extend(np.ascontiguousarray(array, np.float32) for array in server.run(inputs))
        return Ran(shapes=tuple(array.shape for array in outputs))

    answer = _guarded(ran, lambda error: Ran(error=error))
    _answer(answers, answer, *(array.tobytes() for array in outputs if not answer.error))


def _guarded(work: Callable[[], Opened] | Callable[[], Ran], failed: Callable[[str], Opened | Ran]) -> Opened | Ran:
    try:
        return work()
    except EdgekitError as error:
        return failed(str(error))
    # The process's edge: the parent raises it again.
    except Exception as error:  # noqa: BLE001
        return failed(f"{type(error).__name__}: {error}")


def _answer(answers: IO[bytes], record: Opened | Ran, *parts: bytes) -> None:
    answers.write(msgspec.json.encode(record) + b"\n")
    for part in parts:
        answers.write(part)
    answers.flush()


if __name__ == "__main__":
    main()
