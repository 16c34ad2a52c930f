"""The other end of `edgekit.emulators.served`: opens one session and runs it until the pipe closes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.emulators.served import Opened, Opening, Ran
from edgekit.errors import EdgekitError
from edgekit.runtimes.engines import Session, SessionOptions, open_session
from edgekit.structures import from_json
from edgekit.worker.child import streams


def main() -> None:
    """Serve what the parent asks for on stdin; prints of the engine go to stderr."""
    asked, answers = streams()
    opening = from_json(asked.readline(), Opening)
    session: Session | None = None

    def opened() -> Opened:
        nonlocal session
        session = open_session(
            opening.engine,
            Path(opening.folder),
            opening.graph,
            SessionOptions(threads=opening.threads, device=opening.device, strict=opening.strict),
        )
        placement = session.placement
        return Opened(
            device=placement.device,
            operators=placement.operators,
            arithmetic=placement.arithmetic,
            word=placement.word,
        )

    _answer(answers, _guarded(opened, lambda error: Opened(error=error)))
    while session is not None:
        inputs = _inputs(asked, opening)
        if inputs is None:
            break
        _run(session, inputs, answers)
    answers.flush()
    os._exit(0)  # some engines crash while Python tears them down


def _run(session: Session, inputs: list[Floats], answers: IO[bytes]) -> None:
    outputs: list[Floats] = []

    def ran() -> Ran:
        outputs.extend(np.ascontiguousarray(array, np.float32) for array in session.run(inputs))
        return Ran(shapes=tuple(array.shape for array in outputs))

    answer = _guarded(ran, lambda error: Ran(error=error))
    _answer(answers, answer, *(array.tobytes() for array in outputs if not answer.error))


def _inputs(asked: IO[bytes], opening: Opening) -> list[Floats] | None:
    """The next inputs, NCHW float32; None when the parent is done."""
    found = []
    for tensor in opening.graph.inputs:
        shape = tensor.shape
        if tensor.layout == "nhwc":
            shape = (shape[0], shape[3], shape[1], shape[2])
        data = asked.read(4 * int(np.prod(shape)))
        if len(data) < 4 * int(np.prod(shape)):
            return None
        found.append(np.frombuffer(data, np.float32).reshape(shape))
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
