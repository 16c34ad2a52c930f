"""Children that have slow packages imported from their beginning: a server imports them once and forks on request.

The server only imports and never computes, so that no thread is there to be lost in a fork (but for those of numpy's
OpenBLAS, which takes care of forks itself). A child is as separate as a program of its own: a crash, an endless loop or
too little memory in one concerns no other. Each has a socket between caller and server: the server tells its exit code
there, and kills the child's process group when the caller closes its end, be it that the caller was killed itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from edgekit.worker import child as end
from edgekit.worker.interpreters import command

SAFE = sys.platform == "linux"
"""Whether forking is: macOS's own libraries do not survive it, and Windows has none."""

_READ_AT_IMPORT = (
    "PYTHON", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH", "CUDA", "NVIDIA", "OPENCV",
    "TF_", "HF_", "COVERAGE",
)  # fmt: skip
"""Variables that packages read once, when they are imported: another value of one takes another server."""


class Child:
    """A forked child, for its caller."""

    def __init__(self, server: _Server, log: IO[bytes]) -> None:
        self._server = server
        self._control, control = socket.socketpair()
        (stdin, into), (out, stdout) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(into, "wb"), os.fdopen(out, "rb")
        self._code: int | None = None
        given = [control.detach(), stdin, stdout]
        try:
            server.send([*given, log.fileno()])
        finally:
            for file in given:
                os.close(file)

    def wait(self) -> int:
        """Its exit code when it has ended; that of a kill where the server was killed itself."""
        if self._code is None:
            with contextlib.suppress(ConnectionResetError):
                self._code = int(self._control.recv(64) or -signal.SIGKILL)
            self._control.close()
        return -signal.SIGKILL if self._code is None else self._code

    def kill(self) -> None:
        """End it with everything that it started."""
        self._server.kill_unready()
        with contextlib.suppress(OSError):  # it has ended
            self._control.shutdown(socket.SHUT_WR)


class _Server:
    """The process that forks, for its caller."""

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command(__name__, str(theirs.fileno()), *preload),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self.close)

    @property
    def runs(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def send(self, files: Sequence[int]) -> None:
        """Ask for a child with these ends of its control socket, stdin, stdout and stderr."""
        # A server that has just ended closes them, and the child is found to be gone.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._requests, [b"f"], files)

    def kill_unready(self) -> None:
        """End a server that is still importing: it has forked nothing, and would let an interrupt wait."""
        if not select.select([self._requests], [], [], 0)[0]:
            self._process.kill()

    def close(self) -> None:
        """Let it end, after its last child has."""
        atexit.unregister(self.close)
        with contextlib.suppress(OSError):
            self.kill_unready()
        self._requests.close()


_lock = threading.Lock()
_servers: dict[object, _Server] = {}


def child(preload: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> Child:
    """A child that waits for a call (`edgekit.worker.child`) in this environment and folder.

    Args:
        preload: packages that it has imported, where they are there.
        environment: its variables.
        log: takes its stderr.
    """
    read = {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}
    key = (os.getpid(), tuple(preload), tuple(sorted(read.items())))
    with _lock:
        if key not in _servers or not _servers[key].runs:
            for server in _servers.values():
                server.close()
            _servers.clear()
            _servers[key] = _Server(preload, environment)
        forked = Child(_servers[key], log)
    with contextlib.suppress(BrokenPipeError):
        forked.stdin.write(json.dumps({"folder": str(Path.cwd()), "environment": dict(environment)}).encode() + b"\n")
        forked.stdin.flush()
    return forked


def main() -> None:
    """Import, then fork until the caller is gone and no child is left."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError, OSError):  # the child that needs it meets that again, and tells it
            importlib.import_module(name)
    del sys.argv[1:]
    gc.collect()
    gc.freeze()  # what is there already stays shared
    requests.send(b"r")
    _Forks(requests).serve()


class _Forks:
    """The server's side: its children by their process numbers, each with its control socket."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)
        self._selector.register(requests, selectors.EVENT_READ, self._asked)

    def serve(self) -> None:
        """Until there is nobody left."""
        while self._children or self._requests.fileno() >= 0:
            for key, _ in self._selector.select():
                key.data()

    def _asked(self) -> None:
        data, files, *_ = socket.recv_fds(self._requests, 1, 4)
        if not data:
            self._selector.unregister(self._requests)
            self._requests.close()
            return
        control, *streams = files
        pid = os.fork()
        if not pid:
            self._become(control, streams)
        os.setpgid(pid, pid)  # here as well: whoever is first
        for file in streams:
            os.close(file)
        self._children[pid] = socket.socket(fileno=control)
        self._selector.register(control, selectors.EVENT_READ, lambda: self._kill(pid))

    def _become(self, control: int, streams: Sequence[int]) -> None:
        """Be the child, and never return."""
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for stream in (self._requests, *self._children.values()):
                stream.close()
            for file, number in zip(streams, range(3), strict=True):
                os.dup2(file, number)
            for file in (control, self._woken, self._wake, *streams):
                os.close(file)
            start = json.loads(sys.stdin.buffer.readline())
            os.chdir(start["folder"])
            os.environ.clear()
            os.environ.update(start["environment"])
            tempfile.tempdir = None  # the server may have looked for it already, in its own environment
            importlib.invalidate_caches()
            end.main()
        finally:
            os._exit(1)

    def _kill(self, pid: int) -> None:
        """The caller has closed its end."""
        if pid not in self._children:  # reaped in the same round
            return
        self._selector.unregister(self._children[pid])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        os.read(self._woken, 1 << 12)
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            control = self._children.pop(pid)
            if control.fileno() in self._selector.get_map():
                self._selector.unregister(control)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError), control:
                control.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
