"""TensorRT: the engine is built from the bundle's ONNX file on first load and kept in the user's cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError, UsageError, choices
from edgekit.runtimes.bundle.folder import Bundle, sha256
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, named_as
from edgekit.runtimes.engines.tensorrt import cache
from edgekit.runtimes.engines.tensorrt.build import BuildSettings, build, read_settings
from edgekit.runtimes.engines.tensorrt.cuda import Buffer, Gpu, Stream
from edgekit.runtimes.engines.tensorrt.network import TensorrtNetwork


@dataclass(frozen=True)
class BuiltPlan:
    """An engine's plan for this device, and whether it had to be built."""

    plan: bytes
    operators: dict[str, int]
    path: Path
    built: bool


class TensorrtSession:
    """One engine with its memory. Not thread-safe.

    An engine for several batches and sizes has a profile for each, and a context for each that was used.
    """

    def __init__(
        self,
        gpu: Gpu,
        runtime: Any,
        engine: Any,
        graph: Graph,
        placement: Placement,
        profiles: Sequence[tuple[int, ...]] = (),
        shape: tuple[int, ...] = (),
    ) -> None:
        self.placement = placement
        self._gpu = gpu
        self._graph = graph
        self._runtime = runtime  # has to outlive the engine
        self._engine = engine
        self._stream = Stream(gpu)
        self._profiles = tuple(profiles)
        self._contexts: dict[tuple[int, ...], _Context] = {}
        self._context((shape or self._profiles[0]) if profiles else ())  # what is wrong with the file is told now

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        self._gpu.enter()  # this may be another thread than the one that opened the session
        return self._context(tuple(inputs[0].shape) if self._profiles else ()).run(inputs)

    def _context(self, shape: tuple[int, ...]) -> _Context:
        """The context that runs an input of this shape; () where the engine has one shape."""
        if shape not in self._contexts:
            if shape and shape not in self._profiles:
                known = ", ".join(map(str, self._profiles))
                raise EngineError(f"the engine was built for inputs {known}, not {shape}; convert again for it")
            profile = self._profiles.index(shape) if shape else 0
            self._contexts[shape] = _Context(self._gpu, self._stream, self._engine, self._graph, shape, profile)
        return self._contexts[shape]


class _Context:
    """An execution context of an engine, with memory for its inputs and outputs."""

    def __init__(
        self, gpu: Gpu, stream: Stream, engine: Any, graph: Graph, shape: tuple[int, ...], profile: int
    ) -> None:
        self._gpu, self._stream, self._engine = gpu, stream, engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT has not enough memory to run this engine; close what else uses the GPU")
        if shape:
            chosen = self._context.set_optimization_profile_async(profile, stream.handle.value or 0)
            if not chosen or not self._context.set_input_shape(graph.inputs[0].name, shape):
                raise EngineError(f"TensorRT does not take the input {shape} that the engine was built for")
        self._inputs = [self._buffer(tensor) for tensor in graph.inputs]
        self._outputs = [self._buffer(tensor) for tensor in graph.outputs]

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        """Run once."""
        for buffer, array in zip(self._inputs, inputs, strict=True):
            np.copyto(buffer.host, array)
            buffer.upload(self._stream)
        if not self._context.execute_async_v3(self._stream.handle.value or 0):
            raise EngineError("TensorRT failed to run the engine; see its messages above")
        for buffer in self._outputs:
            buffer.download(self._stream)
        self._stream.wait()
        return [buffer.host for buffer in self._outputs]

    def _buffer(self, tensor: Tensor) -> Buffer:
        """Memory for one input or output, bound to the engine."""
        import tensorrt as trt

        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        if tensor.name not in names:
            raise EngineError(f"the engine has no tensor {tensor.name!r}, only {', '.join(names)}; convert again")
        kind = self._engine.get_tensor_dtype(tensor.name)
        told = self._context if -1 in tensor.shape else self._engine
        shape = tuple(told.get_tensor_shape(tensor.name))
        fits = len(shape) == len(tensor.shape) and all(
            said == length or (said == -1 and length > 0) for said, length in zip(tensor.shape, shape, strict=True)
        )
        if not fits or kind != trt.DataType.FLOAT:
            raise EngineError(
                f"{tensor.name} is {kind} {shape} in the engine, but its manifest says float32 {tensor.shape}; "
                "convert again"
            )
        buffer = Buffer(self._gpu, shape)
        self._context.set_tensor_address(tensor.name, buffer.address)
        return buffer


def _runtime(device: str) -> Any:
    import tensorrt as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    if device != "gpu":
        runtime.DLA_core = int(device.removeprefix("dla"))
    return runtime


def prepare_bundle(bundle: Bundle, options: SessionOptions) -> list[BuiltPlan]:
    """The engines of all graphs of a bundle for this device, built where the cache has none.

    Raises:
        UsageError: the bundle is for another engine, or the device is not one of this engine's.
        EngineError: TensorRT is not installed here, or cannot build a graph.
    """
    manifest, device = bundle.manifest, options.device or ENGINE.devices[0]
    if manifest.engine != ENGINE.name:
        raise UsageError(
            f"{bundle.path} is for engine {manifest.engine}, which opens its file as it is; only {ENGINE.name} builds"
        )
    if device not in ENGINE.devices:
        raise UsageError(f"unit {choices(device, ENGINE.devices)} (engine {ENGINE.name})")
    if ENGINE.missing:
        raise EngineError(f"engine {ENGINE.name} {ENGINE.missing}")
    gpu, found = Gpu(), []
    for graph in manifest.graphs:
        settings = read_settings(bundle.path, graph)
        model, weights = (
            named_as(bundle.path, graph.files[0], ".onnx"),
            [bundle.path / one for one in graph.files[1:-1]],
        )
        found.append(prepare(gpu, model, settings, device, weights=weights, strict=options.strict))
    return found


def prepare(
    gpu: Gpu,
    model: Path,
    settings: BuildSettings,
    device: str,
    *,
    weights: Sequence[Path] = (),
    strict: bool = False,
    anew: bool = False,
) -> BuiltPlan:
    """The engine of an ONNX file for this device: from the cache (unless ``anew``), or built and kept there.

    ``weights`` are the files that hold weights of it.

    Raises:
        EngineError: TensorRT cannot build it, or the cache cannot be written.
    """
    import tensorrt as trt

    key = cache.Key(
        gpu=gpu.name,
        capability=gpu.capability,
        tensorrt=trt.__version__,
        file="+".join(sha256(path) for path in (model, *weights)),
        settings=msgspec.json.encode(settings, order="sorted").decode(),
        device=device,
        strict=strict,
    )
    path = cache.folder() / f"{key.name}.engine"
    found = None if anew else cache.read(key)
    if found is None:
        with cache.building(key):
            found = None if anew else cache.read(key)  # another process may have built it in the meantime
            if found is None:
                built = build(model, settings, device, cache.read_timing(key), strict=strict)
                cache.write_timing(key, built.timing)
                cache.write(key, built.plan, built.operators)
                return BuiltPlan(built.plan, built.operators, path, built=True)
    plan, header = found
    return BuiltPlan(plan, header.operators, path, built=False)


class TensorRt(Engine):
    """TensorRT."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> TensorrtSession:
        """Open a graph on the GPU or a DLA; its engine is built when the cache has none.

        Raises:
            EngineError: no driver, or TensorRT cannot build, load or run the file.
        """
        settings, gpu = read_settings(folder, graph), Gpu()
        runtime, engine, placement = self._opened(gpu, folder, graph, settings, options)
        return TensorrtSession(gpu, runtime, engine, graph, placement, settings.profiles or (), options.shape)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> TensorrtNetwork:
        """Open a part of a vision-language model on the GPU; its engine is built when the cache has none.

        Raises:
            EngineError: no driver, a DLA, or TensorRT cannot build, load or run the file.
        """
        settings, gpu = read_settings(folder, graph), Gpu()
        if options.device.startswith("dla"):
            raise EngineError(f"a DLA takes no inputs of free shapes, which {graph.name} has; use unit='gpu'")
        runtime, engine, placement = self._opened(gpu, folder, graph, settings, options)
        return TensorrtNetwork(gpu, runtime, engine, graph, placement, settings)

    def _opened(
        self, gpu: Gpu, folder: Path, graph: Graph, settings: BuildSettings, options: SessionOptions
    ) -> tuple[Any, Any, Placement]:
        """TensorRT's runtime, the loaded engine, and where it runs."""
        device, model = options.device or self.devices[0], named_as(folder, graph.files[0], ".onnx")
        weights = [folder / name for name in graph.files[1:-1]]
        prepared = prepare(gpu, model, settings, device, weights=weights, strict=options.strict)
        runtime = _runtime(device)
        engine = runtime.deserialize_cuda_engine(prepared.plan)
        if engine is None and not prepared.built:  # what the key does not know of has changed, perhaps the driver
            prepared = prepare(gpu, model, settings, device, weights=weights, strict=options.strict, anew=True)
            engine = runtime.deserialize_cuda_engine(prepared.plan)
        if engine is None:
            raise EngineError(f"{model}: TensorRT cannot load the engine that it built; see its messages above")
        return runtime, engine, Placement(device, prepared.operators, settings.arithmetic)


ENGINE = TensorRt(
    name="tensorrt",
    packages=("tensorrt",),
    devices=("gpu", "dla0", "dla1"),
    settings="TF32 off (BuilderFlag.TF32 cleared); FP16 or INT8 only for bundles of that precision",
    install="it comes with JetPack; elsewhere pip install tensorrt",
)
