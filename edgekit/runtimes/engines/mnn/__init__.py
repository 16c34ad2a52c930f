"""MNN: Alibaba's engine for phones and small boards, here through its Python module on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Engine, SessionOptions, check_inputs
from edgekit.runtimes.engines.mnn.network import MnnNetwork
from edgekit.runtimes.engines.mnn.opening import DEFAULT_THREADS, checked_operators, placement_of, silence


class MnnSession:
    """An opened ``.mnn`` file.

    Attributes:
        interpreter: MNN's own, which owns the session and all its tensors.
        session: MNN's own.
    """

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        operators = checked_operators(path, graph)
        with silence():
            import MNN

            # "high" is float32 wherever it runs; "low", the default of some builds, would be float16 on newer ARM.
            config = {"backend": "CPU", "precision": "high", "numThread": options.threads or DEFAULT_THREADS}
            try:
                interpreter = MNN.Interpreter(str(path))
                session = interpreter.createSession(config)
            except Exception as error:  # MNN raises nothing narrower
                raise EngineError(f"{path}: MNN cannot open it: {error}; convert again") from error
        self._graph, self._path = graph, path
        self.interpreter: Any = interpreter
        self.session: Any = session
        self._host = MNN.Tensor, MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
        try:
            self._inputs = [interpreter.getSessionInput(session, tensor.name) for tensor in graph.inputs]
            self._outputs = [interpreter.getSessionOutput(session, tensor.name) for tensor in graph.outputs]
        except Exception as error:  # MNN raises nothing narrower
            raise EngineError(f"{path}: MNN cannot open it: {error}; convert again") from error
        for tensor, found in zip((*graph.inputs, *graph.outputs), (*self._inputs, *self._outputs), strict=True):
            if tuple(found.getShape()) != tensor.shape:
                raise EngineError(
                    f"{path}: {tensor.name!r} has shape {list(found.getShape())}, the manifest says "
                    f"{list(tensor.shape)}; convert again"
                )
        self._results = [self._tensor(np.zeros(tensor.shape, np.float32)) for tensor in graph.outputs]
        self.placement = placement_of(operators)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        self.feed(inputs)
        code = self.interpreter.runSession(self.session)
        if code:
            raise EngineError(f"{self._path.name}: MNN failed (code {code})")
        for output, result in zip(self._outputs, self._results, strict=True):
            output.copyToHostTensor(result)
        # Copied: what MNN hands out is its own memory, which nothing keeps when the session goes.
        return [
            np.array(result.getNumpyData(), np.float32).reshape(tensor.shape)
            for result, tensor in zip(self._results, self._graph.outputs, strict=True)
        ]

    def feed(self, inputs: Sequence[Floats]) -> None:
        """Copy the inputs into the engine, without running it."""
        check_inputs(self._graph, inputs)
        for tensor, array in zip(self._inputs, inputs, strict=True):
            tensor.copyFrom(self._tensor(np.ascontiguousarray(array)))

    def _tensor(self, array: Floats) -> Any:
        kind, dtype, layout = self._host
        return kind(array.shape, dtype, array, layout)


class Mnn(Engine):
    """MNN."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> MnnSession:
        """Open a ``.mnn`` file on the CPU. Everything MNN has runs there, so ``strict`` always holds.

        Raises:
            EngineError: the file is not what MNN reads, or not what the manifest says.
        """
        return MnnSession(folder / graph.files[0], graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> MnnNetwork:
        """Open a ``.mnn`` file with named inputs of free shapes.

        Raises:
            EngineError: the file is not what MNN reads, or lacks a tensor of the manifest.
        """
        return MnnNetwork(folder / graph.files[0], graph, options)


SETTINGS = "backend CPU, precision high (the default may be low, which is float16)"

ENGINE = Mnn(name="mnn", packages=("MNN",), extra="mnn", settings=SETTINGS)
