"""ExecuTorch: PyTorch's engine for phones and small boards, here through its Python module (which needs torch).

Files for XNNPACK and the portable kernels run wherever this module does. A file for Apple's Core ML or for Vulkan runs
on a device that has it; elsewhere there is `edgekit.emulators.executorch`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import hint
from edgekit.runtimes.engines.base import SHARED, Engine, Placement, SessionOptions, check_inputs, rows_of

DELEGATE, DELEGATED, PORTABLE = "delegate", "delegated_operators", "portable_operators"
"""Keys of a graph's report: the delegate's name, and how many operators run in it and on the portable kernels."""

XNNPACK, COREML, VULKAN, KERNELS = "xnnpack", "coreml", "vulkan", "portable"

BACKENDS = {XNNPACK: "XnnpackBackend", COREML: "CoreMLBackend", VULKAN: "VulkanBackend"}
"""Delegates as ExecuTorch calls them."""

_STDERR = threading.Lock()

_OPEN: weakref.WeakSet[_Opened] = weakref.WeakSet()
"""The open models that use the thread pool of the process."""


class _Opened:
    """One ``.pte`` file, run by ExecuTorch."""

    def __init__(self, path: Path, graph: Graph, delegate: str, options: SessionOptions) -> None:
        self._graph, self._path = graph, path
        self.placement = _placement(graph, delegate, options)
        with captured() as log:
            _set_threads(options.threads, path)
            self._method = _load(path, delegate, log)
        _OPEN.add(self)

    def _execute(self, arrays: Sequence[NDArray[Any]]) -> list[Floats]:
        import torch

        # torch warns of read-only memory, which it would not write to.
        tensors = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]
        try:
            outputs = self._method.execute(tensors)
        except RuntimeError as error:
            raise EngineError(f"{self._path.name}: ExecuTorch failed: {error}") from error
        return [output.numpy() for output in outputs]


class ExecutorchSession(_Opened):
    """A file with one input of a fixed shape."""

    def __init__(self, path: Path, graph: Graph, delegate: str, options: SessionOptions) -> None:
        super().__init__(path, graph, delegate, options)
        _check_shapes(path, graph, self._method.metadata)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        return self._execute(inputs)


class ExecutorchNetwork(_Opened):
    """A file with named inputs, whose tensors have no axis of rows: one row runs at a time. Not thread-safe."""

    def __init__(self, path: Path, graph: Graph, delegate: str, options: SessionOptions) -> None:
        super().__init__(path, graph, delegate, options)
        meta = self._method.metadata
        found = [tuple(meta.input_tensor_meta(place).sizes()) for place in range(meta.num_inputs())]
        wanted = [_of_one_row(tensor) for tensor in graph.inputs]
        fits = [_within(shape, most) for shape, most in zip(wanted, found, strict=False)]
        if len(found) != len(wanted) or not all(fits) or meta.num_outputs() != len(graph.outputs):
            raise EngineError(
                f"{path}: has inputs {found} and {meta.num_outputs()} outputs, the manifest says {wanted} and "
                f"{len(graph.outputs)}; convert again"
            )
        self._most = found

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run every row by itself: inputs by name to outputs by name.

        Raises:
            EngineError: an input is missing, has another shape than the manifest says or more tokens than the file has
                room for, or ExecuTorch fails.
        """
        made = []
        for row in rows_of(self._graph, feeds):
            arrays = [array if name == SHARED else array[0] for name, array in row.items()]
            for name, array, most in zip(row, arrays, self._most, strict=True):
                self._check_room(name, array.shape, most)
            made.append(self._execute(arrays))
        tensors = enumerate(self._graph.outputs)
        return {tensor.name: stacked([row[place] for row in made], tensor) for place, tensor in tensors}

    def _check_room(self, name: str, shape: tuple[int, ...], most: tuple[int, ...]) -> None:
        if any(size > limit for size, limit in zip(shape, most, strict=True)):
            raise EngineError(
                f"{self._graph.name}: input {name!r} of shape {list(shape)} is more than {list(most)}, which "
                f"{self._path.name} has room for; shorten the prompt, or convert with --option executorch.tokens=N "
                "for more"
            )


def _of_one_row(tensor: Tensor) -> tuple[int, ...]:
    return tensor.shape if tensor.name == SHARED else tensor.shape[1:]


def _within(shape: Sequence[int], most: Sequence[int]) -> bool:
    """Whether a shape of the manifest, where -1 is any size, is one of a file that says the most of each."""
    return len(shape) == len(most) and all(size in (-1, limit) for size, limit in zip(shape, most, strict=True))


def stacked(rows: Sequence[Floats], tensor: Tensor) -> Floats:
    """An output with its axis of rows, which is that of the one token where there is one."""
    if rows[0].ndim == len(tensor.shape):
        return np.concatenate(rows)
    return np.stack(rows)


def _placement(graph: Graph, delegate: str, options: SessionOptions) -> Placement:
    operators = delegated_operators(graph, delegate)
    device = options.device or ENGINE.devices[0]
    if options.strict and device == XNNPACK and set(operators) - {XNNPACK}:
        raise EngineError(f"strict: not everything runs on {XNNPACK!r}: {operators}")
    return Placement(device, operators, str(graph.report.get("arithmetic", "float32")))


def delegated_operators(graph: Graph, delegate: str) -> dict[str, int]:
    """Operators per unit as the converter counted them: the runtime itself only knows whole delegates."""
    counts = {delegate: int(graph.report.get(DELEGATED, 0)), KERNELS: int(graph.report.get(PORTABLE, 0))}
    return {unit: count for unit, count in counts.items() if count}


def _set_threads(threads: int, path: Path) -> None:
    """Give the thread pool of the process its size. A pool that a session uses must stay: a new one would crash it.

    Raises:
        EngineError: a session is open, and the pool has another size.
    """
    from executorch.extension.pybindings import portable_lib

    there = portable_lib._threadpool_get_thread_count()
    if threads in (0, there):
        return
    if _OPEN:
        raise EngineError(
            f"{path}: threads={threads}, but all ExecuTorch models of a process share one pool, and one is open with "
            f"{there}: give both the same number, or open this one in a process of its own"
        )
    portable_lib._unsafe_reset_threadpool(threads)


def _load(path: Path, delegate: str, log: IO[bytes]) -> Any:
    """The program's one method.

    Raises:
        EngineError: the delegate is not part of this ExecuTorch, or the file cannot be loaded.
    """
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    backend = BACKENDS.get(delegate, "")
    if backend and not runtime.backend_registry.is_available(backend):
        check = hint(ENGINE.name) if delegate == COREML else ""
        raise EngineError(f"{path}: needs the delegate {delegate}, which this host cannot run{check}")
    try:
        return runtime.load_program(path).load_method("forward")
    except RuntimeError as error:
        sys.stderr.flush()
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()[-1:]
        raise EngineError(f"{path}: ExecuTorch cannot load it: {error} {''.join(said)}".rstrip()) from error


def _check_shapes(path: Path, graph: Graph, meta: Any) -> None:
    for what, count, info, tensors in (
        ("inputs", meta.num_inputs(), meta.input_tensor_meta, graph.inputs),
        ("outputs", meta.num_outputs(), meta.output_tensor_meta, graph.outputs),
    ):
        found = [tuple(info(index).sizes()) for index in range(count)]
        wanted = [tensor.shape for tensor in tensors]
        if found != wanted:
            raise EngineError(f"{path}: has {what} {found}, the manifest says {wanted}; convert again")


@contextlib.contextmanager
def captured() -> Iterator[IO[bytes]]:
    """Keep what the engine writes to stderr while loading off the terminal, for the message when it fails.

    Some of it comes through Python's ``sys.stderr``, some from below.
    """
    with _STDERR, tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            with os.fdopen(os.dup(log.fileno()), "w", errors="replace") as text, contextlib.redirect_stderr(text):
                yield log
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class ExecuTorch(Engine):
    """ExecuTorch."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> ExecutorchSession:
        """Open a ``.pte`` file.

        ``threads`` sets the size of the thread pool that all sessions of the process share.

        Raises:
            EngineError: the file is broken, needs a delegate that this host lacks, ``strict`` does not hold, or another
                session is open with another number of threads.
        """
        return ExecutorchSession(file_of(folder, graph), graph, delegate_of(graph), options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> ExecutorchNetwork:
        """Open a ``.pte`` file with named inputs.

        Raises:
            EngineError: as of `open_session`.
        """
        return ExecutorchNetwork(file_of(folder, graph), graph, delegate_of(graph), options)


def file_of(folder: Path, graph: Graph) -> Path:
    """The ``.pte`` file of a graph.

    Raises:
        EngineError: it is not there.
    """
    path = folder / graph.files[0]
    if not path.is_file():
        raise EngineError(f"{path}: missing; convert again")
    return path


def delegate_of(graph: Graph) -> str:
    """The delegate that a graph was lowered for."""
    return str(graph.report.get(DELEGATE, XNNPACK))


ENGINE = ExecuTorch(
    name="executorch", packages=("executorch",), extra="executorch", devices=("cpu", XNNPACK), own_threads=False
)
"""``cpu`` is any kernel; ``xnnpack`` names the fast ones, and with ``strict`` refuses files that need others."""
