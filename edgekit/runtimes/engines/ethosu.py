"""Arm Ethos-U: a Vela-compiled LiteRT file on a Linux board.

The board's own LiteRT (or tflite-runtime) loads the Ethos-U delegate, which its vendor's system brings. A
microcontroller has no Python: there ``model_vela.tflite`` goes to TFLite Micro with its Ethos-U kernel.

What a host computes instead: `edgekit.emulators.ethosu`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, importable

DELEGATE = "EDGEKIT_ETHOSU_DELEGATE"
"""Environment variable with the path of the Ethos-U delegate, where it is not found by its name."""

DELEGATE_NAME = "libethosu_delegate.so"

_NPU_OPERATOR = "ethos-u"


class EthosuSession:
    """One opened file with int8 NHWC inputs and outputs, behind float32 NCHW."""

    def __init__(self, path: Path, graph: Graph, interpreter: Any, placement: Placement) -> None:
        self._graph = graph
        self._name = path.name
        self._interpreter = interpreter
        self.placement = placement
        runner = interpreter.get_signature_runner()
        self._inputs = [_Port(path, interpreter, tensor, runner.get_input_details()) for tensor in graph.inputs]
        self._outputs = [_Port(path, interpreter, tensor, runner.get_output_details()) for tensor in graph.outputs]

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        for port, array in zip(self._inputs, inputs, strict=True):
            port.write(array)
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self._name}: LiteRT failed: {error}") from error
        return [port.read() for port in self._outputs]


def _placement(interpreter: Any, graph: Graph, options: SessionOptions) -> Placement:
    """The NPU's operators as Vela counted them, since in the file they are one, and what the CPU keeps."""
    device = options.device or ENGINE.devices[0]
    outside: dict[str, int] = {}
    for name in operator_names(interpreter):
        if name != _NPU_OPERATOR:
            outside[f"cpu {name}"] = outside.get(f"cpu {name}", 0) + 1
    if options.strict and outside:
        raise EngineError(f"strict: not everything runs on {device!r}: {outside}")
    return Placement(device, {device: int(graph.report.get("npu_operators", 1)), **outside}, "int8")


def operator_names(interpreter: Any) -> list[str]:
    """Names of the operators of the file, without the delegates that replace some."""
    if not hasattr(interpreter, "_get_ops_details"):  # not public, but the only place that tells
        return []
    return [node["op_name"] for node in interpreter._get_ops_details() if node["op_name"] != "DELEGATE"]


class _Port:
    """An int8 NHWC input or output of the file, seen as float32 NCHW through its own scale and zero point."""

    def __init__(self, path: Path, interpreter: Any, tensor: Tensor, details: dict[str, Any]) -> None:
        if tensor.name not in details:
            found = ", ".join(details)
            raise EngineError(f"{path.name} has no tensor {tensor.name!r}, only {found}; convert the model again")
        detail = details[tensor.name]
        shape, dtype = tuple(int(size) for size in detail["shape"]), np.dtype(detail["dtype"])
        scale, zero = detail["quantization"]
        if shape != tensor.shape or dtype != np.int8 or not scale > 0:
            raise EngineError(
                f"{path.name}: {tensor.name} is {dtype} {shape} with scale {scale:g}, but its manifest says "
                f"{tensor.dtype} {tensor.shape}; convert the model again"
            )
        self._interpreter = interpreter
        self._index = int(detail["index"])
        self._scale, self._zero = np.float32(scale), np.float32(zero)
        self._channels_last = tensor.layout == "nhwc"

    def write(self, array: Floats) -> None:
        """Round an NCHW input to the file's grid."""
        steps = np.rint(array.transpose(0, 2, 3, 1) / self._scale) + self._zero
        self._interpreter.set_tensor(self._index, np.clip(steps, -128, 127).astype(np.int8))

    def read(self) -> Floats:
        """The output as NCHW float32."""
        steps: NDArray[np.int8] = self._interpreter.get_tensor(self._index)
        values: Floats = (steps.astype(np.float32) - self._zero) * self._scale
        return np.moveaxis(values, -1, 1) if self._channels_last else values


def open_interpreter(path: Path, threads: int, *, reference: bool) -> Any:
    """LiteRT's interpreter of a file, with the NPU's delegate or with the reference kernels.

    Raises:
        EngineError: the delegate cannot be loaded, or the file cannot be opened.
    """
    package = next(name for name in ENGINE.packages if importable(name))
    module = importlib.import_module(f"{package}.interpreter")
    chosen: dict[str, Any] = (
        {"experimental_op_resolver_type": module.OpResolverType.BUILTIN_REF}
        if reference
        else {"experimental_delegates": [_delegate(module)]}
    )
    try:
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads or None, **chosen)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{path}: LiteRT cannot open it: {str(error).strip()}") from error
    return interpreter


def _delegate(module: Any) -> Any:
    """The NPU's delegate, by its name or from where ``$EDGEKIT_ETHOSU_DELEGATE`` says.

    Raises:
        EngineError: it cannot be loaded.
    """
    library = os.environ.get(DELEGATE) or DELEGATE_NAME
    try:
        return module.load_delegate(library)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the Ethos-U delegate {library} cannot be loaded ({str(error).strip()}): it comes with the board's system "
            f"image; where it lies elsewhere, set {DELEGATE} to its path"
        ) from error


class EthosU(Engine):
    """LiteRT with the NPU's delegate."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> EthosuSession:
        """Open the compiled file on the NPU.

        Raises:
            EngineError: the delegate or a file is missing or damaged, or ``strict`` does not hold.
        """
        path = folder / graph.files[0]
        interpreter = open_interpreter(path, options.threads, reference=False)
        return EthosuSession(path, graph, interpreter, _placement(interpreter, graph, options))


ENGINE = EthosU(
    name="ethosu",
    packages=("ai_edge_litert", "tflite_runtime"),
    extra="ethosu",
    devices=("npu",),
    hosts=("linux-aarch64",),
)
