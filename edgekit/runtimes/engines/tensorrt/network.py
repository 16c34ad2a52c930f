"""A TensorRT engine with named inputs of free shapes: a part of a vision-language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement, by_rows
from edgekit.runtimes.engines.tensorrt.build import BuildSettings, most_rows, profile_of
from edgekit.runtimes.engines.tensorrt.cuda import Buffer, Gpu, Stream

_KINDS: Mapping[str, type[np.generic]] = {"FLOAT": np.float32, "INT32": np.int32, "INT64": np.int64}
"""Types of an engine's tensors by TensorRT's names; before TensorRT 10 integers are of 32 bits."""


class TensorrtNetwork:
    """One engine with memory that grows with what it is given. Not thread-safe."""

    def __init__(
        self, gpu: Gpu, runtime: Any, engine: Any, graph: Graph, placement: Placement, settings: BuildSettings
    ) -> None:
        self.placement = placement
        self._gpu, self._graph, self._settings = gpu, graph, settings
        self._runtime, self._engine = runtime, engine  # the first has to outlive the second
        self._stream = Stream(gpu)
        self._contexts: dict[int, Any] = {}
        self._buffers = {tensor.name: self._buffer(tensor.name) for tensor in (*graph.inputs, *graph.outputs)}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return by_rows(self._run, feeds, most_rows(self._settings))

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        profile = profile_of(self._settings, self._graph.name, feeds)
        self._gpu.enter()  # this may be another thread than the one that opened the graph
        context = self._context(profile)
        for name, array in feeds.items():
            if not context.set_input_shape(name, array.shape):
                raise EngineError(f"TensorRT does not take {name!r} of shape {array.shape}, which it was built for")
            np.copyto(self._memory(context, name, array.shape), array, casting="same_kind")
            self._buffers[name].upload(self._stream, int(array.size))
        found = {}
        for tensor in self._graph.outputs:
            found[tensor.name] = self._memory(context, tensor.name, tuple(context.get_tensor_shape(tensor.name)))
        if not context.execute_async_v3(self._stream.handle.value or 0):
            raise EngineError("TensorRT failed to run the engine; see its messages above")
        for name, array in found.items():
            self._buffers[name].download(self._stream, int(array.size))
        self._stream.wait()
        return found

    def _context(self, profile: int) -> Any:
        """The context that runs a profile, made when it is first used."""
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None:
                raise EngineError("TensorRT has not enough memory to run this engine; close what else uses the GPU")
            if not context.set_optimization_profile_async(profile, self._stream.handle.value or 0):
                raise EngineError(f"{self._graph.name}: the engine has no profile {profile}; convert the model again")
            self._contexts[profile] = context
        return self._contexts[profile]

    def _memory(self, context: Any, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The host's side of a tensor of this shape, bound to the engine; its memory grows where it has to."""
        size = int(np.prod(shape))
        if self._buffers[name].host.size < size:
            self._buffers[name] = Buffer(self._gpu, (size,), self._buffers[name].host.dtype)
        buffer = self._buffers[name]
        context.set_tensor_address(name, buffer.address)
        return buffer.host[:size].reshape(shape)

    def _buffer(self, name: str) -> Buffer:
        """Memory for one number of a tensor, in its type.

        Raises:
            EngineError: the engine has no such tensor, or one of a type that numpy's arrays are not copied to.
        """
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        if name not in names:
            raise EngineError(f"the engine has no tensor {name!r}, only {', '.join(names)}; convert again")
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _KINDS:
            raise EngineError(f"{name} is {kind} in the engine, not one of {', '.join(_KINDS)}; convert again")
        return Buffer(self._gpu, (1,), np.dtype(_KINDS[kind]))
