"""A ``.mnn`` file with named inputs of free shapes, by MNN's module interface."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement, SessionOptions
from edgekit.runtimes.engines.mnn.flatbuffer import MnnOperator
from edgekit.runtimes.engines.mnn.opening import DEFAULT_THREADS, checked_operators, placement_of, silence


class MnnNetwork:
    """One file, with its inputs and outputs by name. MNN plans anew for shapes that it has not just seen."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        self.placement = _placement(checked_operators(path, graph))
        self._path = path
        self._inputs = {tensor.name: tensor.dtype for tensor in graph.inputs}
        self._outputs = [tensor.name for tensor in graph.outputs]
        with silence():
            import MNN

            # "high" is float32 wherever it runs; memory "low" would quantise activations on the fly.
            config = {
                "backend": "CPU",
                "precision": "high",
                "memory": "normal",
                "numThread": options.threads or DEFAULT_THREADS,
            }
            try:
                # Held here: the module does not hold what it runs with.
                self._manager: Any = MNN.nn.create_runtime_manager((config,))
                self._module: Any = MNN.nn.load_module_from_file(
                    str(path),
                    list(self._inputs),
                    self._outputs,
                    runtime_manager=self._manager,
                    shape_mutable=True,
                    dynamic=False,
                )
            except Exception as error:  # MNN raises nothing narrower
                raise EngineError(f"{path}: MNN cannot open it: {error}; convert again") from error
        self._expr: Any = MNN.expr

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if set(feeds) != set(self._inputs):
            raise EngineError(f"{self._path.name} takes {', '.join(self._inputs)}, not {', '.join(feeds)}")
        # In a list, so that the arrays live as long as MNN reads them.
        arrays = [self._array(feeds[name], dtype) for name, dtype in self._inputs.items()]
        try:
            found = self._module.forward([self._variable(array) for array in arrays])
            read = [self._expr.convert(one, self._expr.NCHW).read() for one in found]
        except Exception as error:  # MNN raises nothing narrower
            raise EngineError(f"{self._path.name}: MNN failed: {error}") from error
        # Copied: what MNN hands out is its own memory.
        return {name: np.array(one, np.float32) for name, one in zip(self._outputs, read, strict=True)}

    def _array(self, array: NDArray[Any], dtype: str) -> NDArray[Any]:
        """MNN has no integers of 64 bits."""
        return np.ascontiguousarray(array, np.int32 if dtype.startswith("int") else np.float32)

    def _variable(self, array: NDArray[Any]) -> Any:
        kind = self._expr.int if array.dtype == np.int32 else self._expr.float
        return self._expr.const(array, list(array.shape), self._expr.NCHW, kind)


def _placement(operators: list[MnnOperator]) -> Placement:
    """By how weights are stored: of linear layers in 8 or 4 bits, which MNN widens as it computes."""
    stored = Counter(operator.stored for operator in operators if operator.stored)
    whole = placement_of(operators)
    if not stored["int8 weights"]:
        return whole
    arithmetic = f"float32, weights of {stored['int8 weights']} of {stored.total()} layers stored as integers"
    return replace(whole, arithmetic=arithmetic)
