# ruff: noqa: N815 - the names are NVIDIA's
"""A stand-in for NVIDIA's tensorrt module in tests: it records what it is asked for and runs plans on ONNX Runtime.

A plan is a header and the ONNX file that it was built from. Nothing that runs here was run by TensorRT.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "10.3.0"
CALLS: list[tuple[Any, ...]] = []
"""Every call that matters, in order."""
FAILS: set[str] = set()
"""What is to fail: ``parse``, ``build``, ``load``, ``context`` or ``run``."""
DLA_CORES = 2
MAGIC = b"FAKE-PLAN"


def reset(version: str = "10.3.0") -> None:
    """Forget all calls and become a release of TensorRT."""
    global __version__
    __version__ = version
    CALLS.clear()
    FAILS.clear()
    old, new = int(version.partition(".")[0]) < 9, int(version.partition(".")[0]) > 10
    flags = ["TF32", "GPU_FALLBACK", *([] if new else ["FP16", "INT8"])]
    globals()["BuilderFlag"] = IntEnum("BuilderFlag", {name: place for place, name in enumerate(flags)})
    kinds = [*([] if new else ["EXPLICIT_BATCH"]), *([] if old else ["STRONGLY_TYPED"])]
    globals()["NetworkDefinitionCreationFlag"] = IntEnum("Kind", {name: place for place, name in enumerate(kinds)})


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT64 = 8


class DeviceType(IntEnum):
    GPU = 0
    DLA = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    ERROR = ILogger.Severity.ERROR

    def __init__(self, severity: Any) -> None:
        self.severity = severity


class Config:
    def __init__(self) -> None:
        self.flags: set[Any] = {BuilderFlag.TF32}  # type: ignore[name-defined] # noqa: F821 - made by reset()
        self.builder_optimization_level = 3
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self._timing = b""

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        CALLS.append(("workspace", size))

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, data: bytes, ignore_mismatch: bool) -> bool:
        CALLS.append(("timing", data, ignore_mismatch))
        self._timing = data
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self._timing + b"t")

    def add_optimization_profile(self, profile: Any) -> int:
        CALLS.append(("profile", *profile.shapes))
        return 0

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.op_type == "Conv"


class Builder:
    num_DLA_cores = DLA_CORES

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        kinds = NetworkDefinitionCreationFlag  # type: ignore[name-defined] # noqa: F821 - made by reset()
        CALLS.append(("network", {kind.name for kind in kinds if flags >> int(kind) & 1}))
        return SimpleNamespace(model=b"", nodes=[], num_layers=0, get_layer=None)

    def create_optimization_profile(self) -> Any:
        shapes: list[Any] = []
        return SimpleNamespace(shapes=shapes, set_shape=lambda *given: shapes.extend(given))

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Any, config: Config) -> Any:
        CALLS.append(
            (
                "build",
                {flag.name for flag in config.flags},
                config.builder_optimization_level,
                (config.default_device_type.name, config.DLA_core),
            )
        )
        if "build" in FAILS:
            self.logger.log(ILogger.Severity.ERROR, "no kernel for this layer")
            return None
        return MAGIC + __version__.encode() + b"\n" + network.model


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Any, logger: ILogger) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        import onnx

        if "parse" in FAILS:
            return False
        whole = onnx.load(path)
        # Weights beside the file go into the plan, as TensorRT has it.
        beside = Path(f"{path}.data").exists()
        self.network.model = whole.SerializeToString() if beside else Path(path).read_bytes()
        graph = whole.graph
        nodes = graph.node
        self.network.num_layers, self.network.get_layer = len(nodes), lambda index: nodes[index]
        self.network.get_input = lambda index: graph.input[index]
        return True

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "no importer for operator NonZero")


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.DLA_core = -1

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        head, _, model = plan.partition(b"\n")
        CALLS.append(("load", self.DLA_core))
        refused = "load" in FAILS or ("load once" in FAILS and not FAILS.discard("load once"))
        return Engine(model) if head == MAGIC + __version__.encode() and not refused else None


class Engine:
    def __init__(self, model: bytes) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.tensors = {tensor.name: tensor for tensor in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        kinds = {"tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64}
        return kinds.get(self.tensors[name].type, DataType.HALF)

    def create_execution_context(self) -> Context | None:
        return None if "context" in FAILS else Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        CALLS.append(("choose", index))
        return "profile" not in FAILS

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Take the shape of an input; the outputs' are found by running the file once on zeros."""
        self.shapes[name] = tuple(shape)
        self.outputs.clear()
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        session = self.engine.session
        inputs = [one.name for one in session.get_inputs()]
        if name not in inputs and not self.outputs and set(inputs) <= set(self.shapes):
            made = session.run(None, {one: np.zeros(self.shapes[one], self._kind(one)) for one in inputs})
            names = [one.name for one in session.get_outputs()]
            self.outputs = {one: values.shape for one, values in zip(names, made, strict=True)}
        return self.shapes.get(name) or self.outputs.get(name) or self.engine.get_tensor_shape(name)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Run at once on the fake driver's memory, which is the host's."""
        session = self.engine.session
        feed = {one.name: self._memory(one.name) for one in session.get_inputs()}
        outputs = session.run(None, feed)
        for tensor, values in zip(session.get_outputs(), outputs, strict=True):
            self._memory(tensor.name)[...] = values
        return "run" not in FAILS

    def _memory(self, name: str) -> Any:
        shape = self.get_tensor_shape(name)
        kind = self._kind(name)
        numbers = (np.ctypeslib.as_ctypes_type(kind) * int(np.prod(shape))).from_address(self.addresses[name])
        return np.frombuffer(numbers, kind).reshape(shape)

    def _kind(self, name: str) -> Any:
        return np.int64 if self.engine.get_tensor_dtype(name) is DataType.INT64 else np.float32


def recorded(kind: str) -> list[tuple[Any, ...]]:
    """The calls of one kind, without their name."""
    return [call[1:] for call in CALLS if call[0] == kind]


reset()
