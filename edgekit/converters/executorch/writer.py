"""Write a torch.fx graph, and make a torch.export program of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.bundle.manifest import Tensor
from edgekit.runtimes.engines.base import SHARED

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

Size = TypeVar("Size")


class TorchWriter:
    """Tensors are handed around by name. They have no axis of rows: the program runs one row.

    Attributes:
        products: linear layers by the type of their weights.
    """

    def __init__(self, name: str) -> None:
        import torch

        self.name = name
        self.products: Counter[str] = Counter()
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self._root, self._graph = torch.nn.Module(), torch.fx.Graph()
        self._nodes: dict[str, fx.Node] = {}
        self._values: list[str] = []

    def input(self, name: str, shape: Sequence[int], dtype: str) -> str:
        """Declare an input; -1 is any size."""
        self.inputs.append(Tensor(name=name, shape=tuple(shape), dtype=dtype))
        self._nodes[name] = self._graph.placeholder(name.replace(".", "_"))
        return name

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        self.outputs.append(Tensor(name=name, shape=tuple(shape)))
        self._values.append(value)

    def call(self, function: Callable[..., Any], *given: Any) -> str:
        """Add a call and return the name of its result. Texts among what is given, in lists too, are names."""
        from torch.fx.node import map_aggregate

        arguments = map_aggregate(given, lambda one: self._nodes[one] if isinstance(one, str) else one)
        return self._named(self._graph.call_function(function, arguments))

    def weight(self, values: NDArray[Any]) -> str:
        """A constant of the program."""
        import torch

        name = f"weight_{len(self._nodes)}"
        self._root.register_buffer(name, torch.from_numpy(np.require(values, requirements=["C", "W"])))
        return self._named(self._graph.get_attr(name))

    def _named(self, node: fx.Node) -> str:
        self._nodes[node.name] = node
        return node.name

    def program(
        self, examples: Mapping[str, Sequence[int]], open_sizes: Mapping[str, Sequence[Any]]
    ) -> ExportedProgram:
        """The program. Open axes of the inputs that have a number have it in the manifest from now on.

        Args:
            examples: numbers for the open axes of the inputs, by the name of an input up to its first dot.
            open_sizes: what they are, in the same order: numbers, or dimensions of torch.export.
        """
        import torch

        given, dynamic, inputs = [], [], []
        for tensor in self.inputs:
            rows = 0 if tensor.name == SHARED else 1
            shape = _filled(tensor.shape[rows:], tensor.name, examples)
            given.append(torch.zeros(shape, dtype=getattr(torch, tensor.dtype)))
            sizes = _filled(tensor.shape[rows:], tensor.name, open_sizes)
            dynamic.append({axis: size for axis, size in enumerate(sizes) if not isinstance(size, int)})
            known = [size if isinstance(size, int) else -1 for size in sizes]
            inputs.append(msgspec.structs.replace(tensor, shape=(*tensor.shape[:rows], *known)))
        self.inputs = inputs
        return torch.export.export(self.module(), tuple(given), dynamic_shapes=tuple(dynamic))

    def module(self) -> fx.GraphModule:
        """All that was added, as a module that gives the outputs in order."""
        import torch

        self._graph.output(tuple(self._nodes[value] for value in self._values))
        return torch.fx.GraphModule(self._root, self._graph)


def _filled(shape: Sequence[int], name: str, sizes: Mapping[str, Sequence[Size]]) -> list[int | Size]:
    """A shape with its open axes replaced."""
    found = iter(sizes.get(name.partition(".")[0], ()))
    return [next(found) if size < 0 else size for size in shape]
