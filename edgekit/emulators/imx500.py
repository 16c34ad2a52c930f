"""IMX500 emulator: the quantiser's own model in ONNX Runtime.

It computes ``quantised.onnx``, which Sony's quantiser wrote: its model with every rounding of weights and activations
spelled out, those to 8 bits as QuantizeLinear and DequantizeLinear, those to 16 as plain arithmetic. That is the
arithmetic the converter was given, computed in float32 by ONNX Runtime and not by Sony's tools or the chip, hence
``reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.arrays import Floats
from edgekit.emulators.base import Emulator
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs, named_as
from edgekit.runtimes.engines.onnxruntime.session import failures


class Imx500Reference:
    """The quantiser's own model in ONNX Runtime."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        # ONNX Runtime's own optimisations of quantised graphs, even the basic ones, compute something else: on one
        # detector they made the error of the outputs 2.5 times as large as in the quantiser's model.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except failures() as error:
            raise EngineError(f"{path}: ONNX Runtime cannot open it: {error}") from error
        names = {tensor.name for tensor in (*self._session.get_inputs(), *self._session.get_outputs())}
        for tensor in (*graph.inputs, *graph.outputs):
            if tensor.name not in names:
                found = ", ".join(sorted(names))
                raise EngineError(f"{path.name} has no tensor {tensor.name!r}, only {found}; convert the model again")
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.placement = Placement(options.device, {}, "int8", "reference")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        feeds = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        outputs: list[Floats] = self._session.run(self._outputs, feeds)
        return outputs


class Quantiser(Emulator):
    """Computes the quantiser's model."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Imx500Reference:
        """Open the second file of a graph, which the quantiser wrote.

        Raises:
            EngineError: the file is damaged.
        """
        return Imx500Reference(named_as(folder, graph.files[1], ".onnx"), graph, options)


EMULATOR = Quantiser(
    engine="imx500", device="quantiser", word="reference", by="ONNX Runtime", of="the IMX500", packages=("onnxruntime",)
)
