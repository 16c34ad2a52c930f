"""The calls of the CUDA driver that running an engine needs, through ctypes.

The driver's library has one name and one interface on every Jetson and PC, whatever CUDA or JetPack lies above it, and
needs no package: cuda-python is not part of JetPack, and the runtime's library has a new name with every CUDA.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError

FLOAT32 = np.dtype(np.float32)

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def load() -> Any:
    """The driver's library.

    Raises:
        EngineError: this machine has none.
    """
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise EngineError(
            f"unit 'gpu' needs NVIDIA's driver, and {_LIBRARY} cannot be loaded ({error}); install the driver, or "
            "run a container with --runtime nvidia"
        ) from error


class Gpu:
    """The first GPU: its name, its generation and its driver, in the context that TensorRT works in."""

    def __init__(self) -> None:
        self._library = load()
        self._context: ctypes.c_void_p | None = None
        self.call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, ctypes.c_int(len(name)), self._device)
        self.name = name.value.decode("utf-8", "replace")
        self.capability = f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"
        context = ctypes.c_void_p()
        # The primary context: CUDA's runtime, which TensorRT uses, has no other. It is never released, because the
        # engine outlives every object of ours.
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context

    def call(self, name: str, *arguments: Any) -> None:
        """Call the driver, from whichever thread.

        Raises:
            EngineError: it returned an error, which is named.
        """
        if self._context is not None:
            self._library.cuCtxSetCurrent(self._context)  # belongs to the thread, and costs nothing
        _check(self._library, name, int(getattr(self._library, name)(*arguments)))

    def enter(self) -> None:
        """Make the context current in this thread, for calls that are not made here."""
        self.call("cuCtxSetCurrent", self._context)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), self._device)
        return value.value


class Stream:
    """A queue of work on a GPU."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.handle = ctypes.c_void_p()
        gpu.call("cuStreamCreate", ctypes.byref(self.handle), ctypes.c_uint(1))  # does not wait for the default stream
        weakref.finalize(self, gpu.call, "cuStreamDestroy_v2", self.handle)

    def wait(self) -> None:
        """Wait until all queued work is done."""
        self._gpu.call("cuStreamSynchronize", self.handle)


class Pinned:
    """Page-locked memory of the host, which the GPU copies from without a detour; numpy makes arrays of it.

    An array holds on to it: one that a caller kept must not point into freed memory when its session is gone.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.pointer = ctypes.c_void_p()
        size = ctypes.c_size_t(dtype.itemsize * int(np.prod(shape)))
        gpu.call("cuMemAllocHost_v2", ctypes.byref(self.pointer), size)
        weakref.finalize(self, gpu.call, "cuMemFreeHost", self.pointer)
        data = (self.pointer.value, False)
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": data, "version": 3}


class Buffer:
    """Memory on the GPU and its image on the host, float32 or of another type."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> None:
        self._gpu, self._shape, self._item = gpu, shape, dtype.itemsize
        self._memory = ctypes.c_uint64()
        gpu.call("cuMemAlloc_v2", ctypes.byref(self._memory), self._bytes(0))
        weakref.finalize(self, gpu.call, "cuMemFree_v2", self._memory)
        self._pinned = Pinned(gpu, shape, dtype)
        self.host: NDArray[Any] = np.asarray(self._pinned)

    @property
    def address(self) -> int:
        """Where the memory is on the GPU."""
        return self._memory.value

    def upload(self, stream: Stream, count: int = 0) -> None:
        """Queue a copy of the host's image, or of its first ``count`` numbers, to the GPU."""
        size = self._bytes(count)
        self._gpu.call("cuMemcpyHtoDAsync_v2", self._memory, self._pinned.pointer, size, stream.handle)

    def download(self, stream: Stream, count: int = 0) -> None:
        """Queue a copy of the GPU's memory, or of its first ``count`` numbers, to the host."""
        size = self._bytes(count)
        self._gpu.call("cuMemcpyDtoHAsync_v2", self._pinned.pointer, self._memory, size, stream.handle)

    def _bytes(self, count: int) -> ctypes.c_size_t:
        return ctypes.c_size_t(self._item * (count or int(np.prod(self._shape))))


def _check(library: Any, name: str, code: int) -> None:
    if not code:
        return
    text = ctypes.c_char_p()
    library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
    said = (text.value or b"unknown error").decode("utf-8", "replace")
    raise EngineError(f"{name} failed: {said} (CUDA error {code})")
