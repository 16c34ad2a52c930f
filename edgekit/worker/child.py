"""The other end of `edgekit.worker.call`: one `Call` on stdin, events on stdout, then the process ends.

Whatever libraries print goes to stderr, so nothing can spoil the events. When the caller disappears, its end of stdin
closes (or it falls silent), and this process ends at once with what it started: no orphan works on.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import msgspec

began = 0.0
"""When the call was read (`time.perf_counter`): imports after it are part of what a measured call takes."""


def main() -> None:
    """Read the call, do it, tell what it gave."""
    global began
    stdin, events = streams()
    line = stdin.readline()
    began = time.perf_counter()
    code = _work(line, stdin, events)
    events.flush()
    sys.stderr.flush()
    os._exit(code)  # some toolchains crash while Python tears them down, after the work is done


def streams() -> tuple[IO[bytes], IO[bytes]]:
    """The streams from and to the caller; prints, those of C++ too, end up on stderr."""
    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return sys.stdin.buffer, told


def _work(line: bytes, stdin: IO[bytes], events: IO[bytes]) -> int:
    import msgspec

    from edgekit.structures import from_json
    from edgekit.worker import messages, user_modules

    telling = threading.Lock()

    def tell(message: msgspec.Struct) -> None:
        try:
            with telling:
                events.write(messages.encode(message))
        except BrokenPipeError:  # the caller is gone
            _end()

    def report(text: str, share: float) -> None:
        tell(messages.WorkerProgress(text=text, share=share))

    call = from_json(line, messages.Call)
    if call.patience and os.getpgrp() != os.getpid():  # a session's leader is a group's, too
        os.setpgrp()  # so that `_end` reaches every child, and nothing else
    threading.Thread(target=_end_with_caller, args=(stdin, call.patience), daemon=True).start()

    def live() -> None:
        while True:
            time.sleep(call.patience / 10)
            tell(messages.Alive())

    if call.patience:  # over a network, where silence means that this end is lost
        threading.Thread(target=live, daemon=True).start()
    try:
        for name in call.imports:
            user_modules.import_given(name)
        job = from_json(call.job, _named(call.kind))
        function, start = _named(call.function), time.perf_counter()
        result = msgspec.Raw(msgspec.json.encode(function(job, report)))
    except BaseException as error:
        # The one place that catches everything: this is the process's edge, and the caller raises it again.
        tell(messages.failed(error))
        if not isinstance(error, Exception):
            raise
        return 1
    seconds = time.perf_counter() - start
    from edgekit.worker import memory

    tell(messages.Done(result=result, seconds=seconds, peak_bytes=memory.peak()))
    return 0


def _named(name: str) -> Any:
    """The object named ``module:name``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _end_with_caller(stdin: IO[bytes], patience: float) -> None:
    """Read on; the end of stdin, or too long a silence, is the end of everything here."""
    file = stdin.fileno()
    while not patience or select.select([file], [], [], patience)[0]:
        if not os.read(file, 1 << 12):
            break
    _end()


def _end() -> None:
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # the tools that a converter started go too
    os._exit(3)
