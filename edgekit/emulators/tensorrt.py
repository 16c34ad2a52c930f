"""TensorRT emulator: the graph of a bundle on ONNX Runtime's CPU, without TensorRT or a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.emulators.base import Emulator
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Placement, SessionOptions, by_rows, check_inputs, named_as
from edgekit.runtimes.engines.onnxruntime.session import failures
from edgekit.runtimes.engines.tensorrt.build import BuildSettings, most_rows, profile_of, read_settings


def _opened(path: Path, options: SessionOptions) -> Any:
    """An ONNX file whose operators run as they are written.

    Nothing is optimised but constants: ONNX Runtime would round the float32 biases of a QDQ graph to integers, and move
    Q and DQ to other places, where TensorRT does neither.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = options.threads
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except failures() as error:
        raise EngineError(f"{path}: ONNX Runtime cannot open it: {error}") from error


class ReferenceSession:
    """An ONNX file with one input."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions, arithmetic: str) -> None:
        self._session = _opened(path, options)
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.placement = Placement(options.device, {}, f"{arithmetic}, by ONNX Runtime", "reference")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        feed = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        try:
            outputs: list[Floats] = self._session.run(self._outputs, feed)
        except failures() as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return outputs


class ReferenceNetwork:
    """An ONNX file with named inputs, of the shapes that the engine is built for and no others."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions, settings: BuildSettings) -> None:
        self._session, self._name, self._settings = _opened(path, options), graph.name, settings
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.placement = Placement(options.device, {}, f"{settings.arithmetic}, by ONNX Runtime", "reference")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return by_rows(self._run, feeds, most_rows(self._settings))

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        profile_of(self._settings, self._name, feeds)
        try:
            found = self._session.run(self._outputs, feeds)
        except failures() as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(self._outputs, found, strict=True))


class OnnxReference(Emulator):
    """ONNX Runtime."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> ReferenceSession:
        """Open the ONNX file that an engine would be built from.

        Raises:
            EngineError: the file or the settings beside it are damaged.
        """
        arithmetic = read_settings(folder, graph).arithmetic
        return ReferenceSession(named_as(folder, graph.files[0], ".onnx"), graph, options, arithmetic)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> ReferenceNetwork:
        """Open the ONNX file of a part of a vision-language model.

        Raises:
            EngineError: the file or the settings beside it are damaged.
        """
        settings = read_settings(folder, graph)
        if not settings.shapes:
            raise EngineError(f"{folder / graph.files[-1]}: no shapes of named inputs; convert the model again")
        return ReferenceNetwork(named_as(folder, graph.files[0], ".onnx"), graph, options, settings)


EMULATOR = OnnxReference(
    engine="tensorrt", device="reference", word="reference", by="ONNX Runtime", of="TensorRT", packages=("onnxruntime",)
)
