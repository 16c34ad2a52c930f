"""The other end of `edgekit.emulators.served`: opens one session or network and runs it until the pipe closes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.emulators.served import Announced, Feeds, Opened, Opening, Ran
from edgekit.errors import EdgekitError
from edgekit.runtimes.engines import Placement, SessionOptions, open_network, open_session
from edgekit.structures import from_json
from edgekit.worker.child import streams

Runs = Callable[[Mapping[str, NDArray[Any]]], list[Floats]]


def main() -> None:
    """Serve what the parent asks for on stdin; prints of the engine go to stderr."""
    asked, answers = streams()
    opening = from_json(asked.readline(), Opening)
    run: Runs | None = None

    def opened() -> Opened:
        nonlocal run
        placement, run = _opened(opening)
        return Opened(
            device=placement.device,
            operators=placement.operators,
            arithmetic=placement.arithmetic,
            word=placement.word,
        )

    _answer(answers, _guarded(opened, lambda error: Opened(error=error)))
    if run is not None:
        _serve(run, opening, asked, answers)
    answers.flush()
    os._exit(0)  # some engines crash while Python tears them down


def _opened(opening: Opening) -> tuple[Placement, Runs]:
    """Open what was asked for; give where it runs, and a function from inputs by name to the graph's outputs."""
    options = SessionOptions(threads=opening.threads, device=opening.device, strict=opening.strict)
    if not opening.network:
        session = open_session(opening.engine, Path(opening.folder), opening.graph, options)
        return session.placement, lambda inputs: session.run(list(inputs.values()))
    network = open_network(opening.engine, Path(opening.folder), opening.graph, options)

    def run(inputs: Mapping[str, NDArray[Any]]) -> list[Floats]:
        made = network.run(inputs)
        return [made[tensor.name] for tensor in opening.graph.outputs]

    return network.placement, run


def _serve(run: Runs, opening: Opening, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Run until the parent is done."""
    while (announced := _announced(asked, opening)) is not None:
        inputs = _inputs(asked, announced)
        if inputs is None:
            return
        _run(run, inputs, answers)


def _run(run: Runs, inputs: Mapping[str, NDArray[Any]], answers: IO[bytes]) -> None:
    outputs: list[Floats] = []

    def ran() -> Ran:
        outputs.extend(np.ascontiguousarray(array, np.float32) for array in run(inputs))
        return Ran(shapes=tuple(array.shape for array in outputs))

    answer = _guarded(ran, lambda error: Ran(error=error))
    _answer(answers, answer, *(array.tobytes() for array in outputs if not answer.error))


def _announced(asked: IO[bytes], opening: Opening) -> Sequence[Announced] | None:
    """What inputs follow: as the manifest says, NCHW float32, or a line says of a network; None at the end."""
    if opening.network:
        line = asked.readline()
        return from_json(line, Feeds).inputs if line else None
    found = []
    for tensor in opening.graph.inputs:
        shape = tensor.shape
        if tensor.layout == "nhwc":
            shape = (shape[0], shape[3], shape[1], shape[2])
        found.append(Announced(name=tensor.name, dtype="float32", shape=shape))
    return found


def _inputs(asked: IO[bytes], announced: Sequence[Announced]) -> dict[str, NDArray[Any]] | None:
    """The next inputs; None when the parent is done."""
    found = {}
    for one in announced:
        dtype = np.dtype(one.dtype)
        size = dtype.itemsize * int(np.prod(one.shape))
        data = asked.read(size)
        if len(data) < size:
            return None
        found[one.name] = np.frombuffer(data, dtype).reshape(one.shape)
    return found


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
