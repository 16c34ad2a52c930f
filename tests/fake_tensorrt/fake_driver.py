# ruff: noqa: N815 - the names are NVIDIA's
"""A stand-in for NVIDIA's driver in tests: real C functions, called through ctypes, on the host's memory."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

NOT_FOUND = 500


class Driver:
    """Has the functions of ``libcuda`` that edgekit calls; knows what was allocated and has not been freed."""

    def __init__(self, name: bytes = b"Orin", capability: tuple[int, int] = (8, 7)) -> None:
        self.name, self.capability = name, capability
        self.memory: dict[int, Any] = {}
        self.calls: list[str] = []
        self.failing = ""
        for function, kinds in _SIGNATURES.items():
            setattr(self, function, self._exported(function, kinds))

    def _exported(self, function: str, kinds: tuple[Any, ...]) -> Any:
        behave = getattr(self, f"_{function.removesuffix('_v2')}", lambda *arguments: None)

        def called(*arguments: Any) -> int:
            self.calls.append(function)
            return NOT_FOUND if function == self.failing else behave(*arguments) or 0

        return ctypes.CFUNCTYPE(c_int, *kinds)(called)

    def _cuDeviceGetName(self, text: int, length: int, device: int) -> None:
        ctypes.memmove(text, self.name + b"\0", len(self.name) + 1)

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value[0] = self.capability[attribute - 75]

    def _cuMemAlloc(self, address: Any, size: int) -> None:
        memory = ctypes.create_string_buffer(size)
        address[0] = ctypes.addressof(memory)
        self.memory[address[0]] = memory

    _cuMemAllocHost = _cuMemAlloc

    def _cuMemFree(self, address: int) -> None:
        del self.memory[address]

    _cuMemFreeHost = _cuMemFree

    def _cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:
        ctypes.memmove(target, source, size)

    _cuMemcpyDtoHAsync = _cuMemcpyHtoDAsync

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text[0] = b"out of memory"


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_void_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemAllocHost_v2": (POINTER(c_void_p), c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
