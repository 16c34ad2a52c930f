"""DEVICE: one measured process: a JSON job on stdin, one JSON line back, then it ends.

Run as ``python -m edgekit.profiling.child``. It imports as little as it can before the job begins, because what is
imported then is part of what is measured. When stdin closes, the session is gone, and it ends at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import IO, Any

_MEASURES = {
    "round": "measure_round",
    "throughput": "measure_throughput",
    "sustain": "measure_sustained",
    "operators": "measure_operators",
}
"""The function of `edgekit.profiling.measuring` that does a job, by its tag."""


def main() -> None:
    """Read the job, measure, answer."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what engines print ends up on stderr and cannot spoil the answer
    stdin = sys.stdin.buffer
    line = stdin.readline()
    threading.Thread(target=_end_with_session, args=(stdin,), daemon=True).start()
    code = _work(line, answers)
    sys.stderr.flush()
    os._exit(code)  # some engines crash while Python tears them down, after the work is done


def _work(line: bytes, answers: IO[bytes]) -> int:
    began = time.perf_counter()
    import msgspec

    from edgekit.profiling import jobs, measuring, protocol

    try:
        job: Any = msgspec.json.decode(line, type=jobs.Job)
        spent = time.perf_counter() - began
        answer = getattr(measuring, _MEASURES[type(job).__struct_config__.tag])(job)
        if isinstance(answer, jobs.Rounded):  # what was imported to read the job is part of the load
            load = msgspec.structs.replace(answer.load, imports=answer.load.imports + 1e3 * spent)
            answer = msgspec.structs.replace(answer, load=load)
    except BaseException as error:
        # The one place that catches everything: this is the process's edge, and the session raises it again.
        answers.write(msgspec.json.encode(protocol.failed(error)) + b"\n")
        if not isinstance(error, Exception):
            raise
        return 1
    answers.write(msgspec.json.encode(answer) + b"\n")
    return 0


def _end_with_session(stdin: IO[bytes]) -> None:
    stdin.read()
    os._exit(3)


if __name__ == "__main__":
    main()
