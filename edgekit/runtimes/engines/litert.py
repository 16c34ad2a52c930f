"""LiteRT (TFLite) on the CPU: ai-edge-litert, or tflite-runtime where only its predecessor exists."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, rows_of

XNNPACK = "xnnpack"

FIRST = "serving_default"
"""The signature of the first batch and size, in files that the converter wrote."""


def signature_key(shape: Sequence[int]) -> str:
    """The name of the signature for an input (NCHW) in a file with several: ``batch_4_480x640``."""
    batch, _, height, width = shape
    return f"batch_{batch}_{height}x{width}"


class LitertSession:
    """One opened ``.tflite`` file.

    Attributes:
        interpreter: LiteRT's own.
    """

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        self._graph = graph
        self._path = path
        self.interpreter: Any = _interpreter(path, options.threads)
        several = -1 in graph.inputs[0].shape
        try:
            self.placement = _placement(self.interpreter, options.device or ENGINE.devices[0])
            runner = self.interpreter.get_signature_runner(FIRST if several else None)
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
        except (RuntimeError, ValueError, KeyError, IndexError) as error:  # ValueError: names that are not UTF-8, too
            raise EngineError(f"{path}: not a whole model ({error}); convert the model again") from error
        outside = {name: count for name, count in self.placement.operators.items() if name != XNNPACK}
        if options.strict and self.placement.device == XNNPACK and outside:
            raise EngineError(f"strict: not everything runs on {XNNPACK!r}: {self.placement.operators}")
        self._inputs = [_Port(path, self.interpreter, tensor, inputs) for tensor in graph.inputs]
        self._outputs = [_Port(path, self.interpreter, tensor, outputs) for tensor in graph.outputs]
        self._further: dict[tuple[int, ...], _Signature] = {}

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        # All is checked before: an exception while a view of the engine's memory exists would keep that view alive in
        # its traceback, and the engine would refuse to run from then on.
        check_inputs(self._graph, inputs)
        if inputs[0].shape != self._inputs[0].shape:
            return self._signature(inputs[0].shape).run(inputs[0])
        for port, array in zip(self._inputs, inputs, strict=True):
            port.write(array)
        try:
            self.interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self._path.name}: LiteRT failed: {error}") from error
        return [port.read() for port in self._outputs]

    def _signature(self, shape: tuple[int, ...]) -> _Signature:
        """The signature of a further batch and size."""
        if shape not in self._further:
            self._further[shape] = _Signature(self._path, self.interpreter, self._graph, shape)
        return self._further[shape]


class _Signature:
    """A further batch and size of a file. LiteRT copies its inputs and outputs.

    Its runner is made for each run: the interpreter refuses to run its first graph as long as one exists.
    """

    def __init__(self, path: Path, interpreter: Any, graph: Graph, shape: tuple[int, ...]) -> None:
        self._name, self._interpreter, self._key = path.name, interpreter, signature_key(shape)
        known = list(interpreter.get_signature_list())
        if self._key not in known:
            found = ", ".join(known)
            raise EngineError(f"{path.name} has no signature {self._key!r}, only {found}; convert the model again")
        runner = interpreter.get_signature_runner(self._key)
        for tensor in graph.inputs:
            _check_port(path, tensor, runner.get_input_details())
        for tensor in graph.outputs:
            _check_port(path, tensor, runner.get_output_details())
        self._input, self._outputs = graph.inputs[0].name, [tensor.name for tensor in graph.outputs]

    def run(self, images: Floats) -> list[Floats]:
        """Run once."""
        try:
            found = self._interpreter.get_signature_runner(self._key)(**{self._input: images})
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self._name}: LiteRT failed: {error}") from error
        return [found[name] for name in self._outputs]


class LitertNetwork:
    """A file with named inputs of any length, of which one row runs at a time. Not thread-safe."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        self._graph, self._path = graph, path
        self._interpreter = _interpreter(path, options.threads)
        placement = _placement(self._interpreter, options.device or ENGINE.devices[0])
        self.placement = replace(placement, arithmetic=_of_products(self._interpreter))
        self._runner = self._interpreter.get_signature_runner(FIRST)
        known = {*self._runner.get_input_details(), *self._runner.get_output_details()}
        for tensor in (*graph.inputs, *graph.outputs):
            if tensor.name not in known:
                raise EngineError(f"{path.name} has no tensor {tensor.name!r}; convert the model again")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run every row by itself: inputs by name to outputs by name.

        Raises:
            EngineError: an input is missing or has another shape than the manifest says, or LiteRT fails.
        """
        made = []
        for row in rows_of(self._graph, feeds):
            try:
                made.append(self._runner(**row))
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"{self._path.name}: LiteRT failed: {error}") from error
        return {tensor.name: np.concatenate([one[tensor.name] for one in made]) for tensor in self._graph.outputs}


@dataclass(frozen=True)
class _Memory:
    """An array interface to engine memory, which keeps the interpreter that owns it alive.

    The arrays of ``Interpreter.tensor`` make the next ``invoke`` raise as long as anyone holds one; arrays made from
    this keep the memory alive without that.
    """

    __array_interface__: dict[str, Any]
    interpreter: Any


class _Port:
    """An input or output tensor of the file, seen as NCHW, which is its ``shape``."""

    def __init__(self, path: Path, interpreter: Any, tensor: Tensor, details: dict[str, Any]) -> None:
        self.shape = _check_port(path, tensor, details)
        self._interpreter = interpreter
        self._view: Callable[[], Floats] = interpreter.tensor(details[tensor.name]["index"])
        self._swap = tensor.layout == "nhwc" and len(self.shape) == 4
        if self._swap:
            batch, height, width, channels = self.shape
            self.shape = (batch, channels, height, width)

    def write(self, array: Floats) -> None:
        """Copy an input into the engine."""
        if not self._swap:
            np.copyto(self._view(), array)
            return
        target = self._view()
        for channel in range(array.shape[1]):  # 3x faster than one transposed copy, which numpy does not block
            target[..., channel] = array[:, channel]

    def read(self) -> Floats:
        """The output as a view of engine memory."""
        # Asked for after every run, because the engine may move a tensor.
        memory = _Memory(self._view().__array_interface__, self._interpreter)
        array: Floats = np.asarray(memory)
        return array.transpose(0, 3, 1, 2) if self._swap else array


def _check_port(path: Path, tensor: Tensor, details: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor in the file, which is that of the manifest where that has numbers.

    Raises:
        EngineError: there is none of its name, or it is another one.
    """
    if tensor.name not in details:
        found = ", ".join(details)
        raise EngineError(f"{path.name} has no tensor {tensor.name!r}, only {found}; convert the model again")
    detail = details[tensor.name]
    shape, dtype = tuple(int(size) for size in detail["shape"]), np.dtype(detail["dtype"])
    fits = len(shape) == len(tensor.shape) and all(
        said in (-1, length) for said, length in zip(tensor.shape, shape, strict=True)
    )
    if not fits or dtype != np.float32:
        raise EngineError(
            f"{path.name}: {tensor.name} is {dtype} {shape}, but its manifest says float32 {tensor.shape}; "
            "convert the model again"
        )
    return shape


def _interpreter(path: Path, threads: int) -> Any:
    package = next(name for name in ENGINE.packages if importlib.util.find_spec(name) is not None)
    try:
        module = importlib.import_module(f"{package}.interpreter")
    except ImportError as error:
        raise EngineError(
            f"{package} is installed but cannot be imported ({error}): pip install --force-reinstall ai-edge-litert"
        ) from error
    try:
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads or None)
        interpreter.allocate_tensors()
    except SystemError as error:  # what tflite-runtime, which was built for numpy 1, does under numpy 2
        raise EngineError(
            f"{package} does not work with numpy {np.__version__}: pip install 'numpy<2', or better ai-edge-litert"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{path}: LiteRT cannot open it: {str(error).strip()}") from error
    return interpreter


def _placement(interpreter: Any, device: str) -> Placement:
    """How many operators XNNPACK took, and which ones it left to LiteRT's own kernels.

    The engine lists all operators and, after them, the delegates that replaced some. What still runs by itself is
    found by walking back from the outputs: a delegate stands for everything between its outputs and its inputs.
    """
    if not hasattr(interpreter, "_get_ops_details"):  # not public, but the only place that tells
        return Placement(device)
    nodes = interpreter._get_ops_details()
    maker = {int(tensor): node for node in nodes for tensor in node["outputs"]}  # delegates come last and win
    outside: dict[str, int] = {}
    seen: set[int] = set()
    waiting = [int(detail["index"]) for detail in interpreter.get_output_details()]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node["index"] in seen:
            continue
        seen.add(node["index"])
        waiting.extend(int(tensor) for tensor in node["inputs"])
        if node["op_name"] != "DELEGATE":
            name = f"builtin {node['op_name']}"
            outside[name] = outside.get(name, 0) + 1
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
    taken = len(plain) - sum(outside.values())
    integers = {detail["index"] for detail in interpreter.get_tensor_details() if detail["dtype"] is np.int8}
    integer = any(int(node["inputs"][0]) in integers for node in plain if "CONV" in node["op_name"])
    return Placement(device, {XNNPACK: taken, **dict(sorted(outside.items()))}, "int8" if integer else "float32")


def _of_products(interpreter: Any) -> str:
    """The arithmetic of a network of products. Inputs of those with integer weights get 8 bits, anew each time."""
    if not hasattr(interpreter, "_get_ops_details"):
        return "float32"
    types = {int(one["index"]): np.dtype(one["dtype"]) for one in interpreter.get_tensor_details()}
    nodes = [node for node in interpreter._get_ops_details() if node["op_name"] == "FULLY_CONNECTED"]
    integer = sum(types[int(node["inputs"][1])] == np.int8 for node in nodes)
    return f"int8 in {integer} of {len(nodes)} products, float32 elsewhere" if integer else "float32"


class LiteRT(Engine):
    """LiteRT, or the older tflite-runtime."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> LitertSession:
        """Open the first file of a graph."""
        return LitertSession(folder / graph.files[0], graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> LitertNetwork:
        """Open the first file of a graph with named inputs."""
        return LitertNetwork(folder / graph.files[0], graph, options)


SETTINGS = "CPU with XNNPACK (the default); GPU and NNAPI delegates compute in other arithmetic"

ENGINE = LiteRT(
    name="litert",
    packages=("ai_edge_litert", "tflite_runtime"),
    extra="litert",
    devices=("cpu", XNNPACK),
    settings=SETTINGS,
)
"""``cpu`` is any kernel of LiteRT; ``xnnpack`` names its fast ones; ``strict`` then refuses files that need others."""
