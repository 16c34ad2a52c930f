"""An ONNX file in the making: operators in memory, weights on disk as soon as they are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import Graph, Tensor

OPSET = 20
OPSET_OF_BLOCKS = 21
"""The first with integers of 4 bits and a scale for each block."""
IR_VERSION = 10
MICROSOFT = "com.microsoft"
"""Domain of the operators of ONNX Runtime that OpenVINO reads too."""

INLINE = 1024
"""Largest constant, in bytes, stored in the graph itself: shapes and axes have to be, for shape inference."""

ALIGNMENT = 4096
"""Weights begin at multiples of this, so that engines can map them from the file."""


class GraphWriter:
    """Writes ``NAME.onnx`` and ``NAME.onnx.data`` into a folder. Used as a context; `save` ends it.

    Names of tensors are handed around as text; every method that adds an operator returns the name of its output.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._path = folder / f"{name}.onnx"
        self._data_path = folder / f"{name}.onnx.data"
        self._data = self._data_path.open("wb")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._names: dict[tuple[str, bytes], str] = {}
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._opset = OPSET

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declare an input; -1 is any size."""
        self._inputs.append(Tensor(name=name, shape=tuple(shape), dtype=dtype))
        return name

    def output(self, name: str, value: str, shape: Sequence[int], dtype: str = "float32") -> None:
        """Declare an output, which takes this value."""
        self._outputs.append(Tensor(name=name, shape=tuple(shape), dtype=dtype))
        if value != name:
            self.node("Identity", value, outputs=[name])

    def node(
        self, operator: str, *inputs: str, outputs: Sequence[str] = (), domain: str = "", **attributes: Any
    ) -> str:
        """Add an operator and return the name of its first output, which is made up where none is given."""
        from onnx import helper

        if "block_size" in attributes and not domain:
            self._opset = OPSET_OF_BLOCKS
        number = len(self._nodes)
        named = list(outputs) or [f"{operator}_{number}"]
        made = helper.make_node(operator, list(inputs), named, f"{operator}.{number}", domain=domain, **attributes)
        self._nodes.append(made)
        return named[0]

    def constant(self, values: Any, dtype: Any = None) -> str:
        """A small constant that stands in the graph; the same one is written once."""
        from onnx import numpy_helper

        array = np.asarray(values, dtype)
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names)}"
            self._constants.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """A weight, which goes to the disk at once where it is not small.

        Raises:
            ConversionError: a name that is there already.
        """
        from onnx import helper, numpy_helper

        array = np.ascontiguousarray(array)
        if array.nbytes <= INLINE:
            self._new(name)
            self._constants.append(numpy_helper.from_array(array, name))
            return name
        return self._stored(name, array, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def nibbles(self, name: str, integers: NDArray[np.int8]) -> str:
        """Weights of 4 bits, from -8 to 7: two share a byte, the first in its low half (ONNX's INT4).

        Raises:
            ConversionError: a name that is there already.
        """
        from onnx import TensorProto

        flat = integers.reshape(-1).view(np.uint8) & 15
        flat = np.pad(flat, (0, flat.size % 2))
        return self._stored(name, flat[0::2] | (flat[1::2] << 4), TensorProto.INT4, integers.shape)

    def _new(self, name: str) -> None:
        if any(one.name == name for one in self._constants):
            raise ConversionError(f"{self.name}: the weight {name!r} is written twice")

    def _stored(self, name: str, array: NDArray[Any], kind: int, shape: Sequence[int]) -> str:
        """Write the bytes of a weight."""
        from onnx import TensorProto

        self._new(name)
        self._data.write(b"\0" * (-self._data.tell() % ALIGNMENT))
        place = {"location": self._data_path.name, "offset": self._data.tell(), "length": array.nbytes}
        self._data.write(array.data)
        made = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in place.items():
            made.external_data.add(key=key, value=str(value))
        self._constants.append(made)
        return name

    @property
    def data_bytes(self) -> int:
        """How many bytes of weights are written."""
        return self._data.tell()

    def save(self) -> Graph:
        """Write the graph and return its entry of the manifest."""
        import onnx
        from onnx import helper

        def declared(tensor: Tensor) -> Any:
            sizes = [size if size >= 0 else f"{tensor.name}_{axis}" for axis, size in enumerate(tensor.shape)]
            return helper.make_tensor_value_info(
                tensor.name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), sizes
            )

        self._data.close()
        inputs, outputs = [declared(one) for one in self._inputs], [declared(one) for one in self._outputs]
        graph = helper.make_graph(self._nodes, self.name, inputs, outputs, self._constants)
        domains = [helper.make_opsetid("", self._opset), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION), self._path)
        files: tuple[str, ...] = (self._path.name, self._data_path.name)
        if not self._data_path.stat().st_size:
            self._data_path.unlink()
            files = files[:1]
        return Graph(name=self.name, files=files, inputs=tuple(self._inputs), outputs=tuple(self._outputs))
