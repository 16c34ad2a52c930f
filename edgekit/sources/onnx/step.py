"""One node of an ONNX graph on its way to torch: its attributes, its inputs, and how to emit what replaces it.

This module and its siblings ``_onnx_*`` import torch; they are imported only when an ONNX file is read.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from edgekit.errors import SourceError


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image: the fx node that makes it, its static shape and dtype."""

    node: fx.Node
    shape: tuple[int, ...]
    dtype: torch.dtype


Operand: TypeAlias = Value | torch.Tensor
"""Values between nodes: those that depend on the image, and constants."""


MOST_NUMBERS = 1 << 30
"""Of one tensor: 4 GB."""


class TorchGraph:
    """The torch graph that is being built. Whatever depends on constants alone is computed at once."""

    def __init__(self) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self._constants: dict[int, tuple[torch.Tensor, fx.Node]] = {}

    def input(self, name: str, shape: tuple[int, ...]) -> Value:
        """The image."""
        return Value(self.graph.placeholder(_identifier(name)), shape, torch.float32)

    def emit(self, name: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call a torch function: now, if no argument depends on the image, else in the graph.

        Args:
            name: what to call the fx node.
            function: any function of torch; gets tensors in place of operands.
        """
        everything = (list(arguments), keywords)
        meta_arguments, meta_keywords = _replace(everything, _as_meta)
        if not _mentions_value(everything):
            with torch.no_grad(), contextlib.suppress(NotImplementedError, RuntimeError, TypeError):
                _bounded(function(*meta_arguments, **meta_keywords))  # before any memory is taken for it
            with torch.no_grad():
                return function(*arguments, **keywords)
        with torch.no_grad():
            result = function(*meta_arguments, **meta_keywords)
        _bounded(result)
        node_arguments, node_keywords = _replace(everything, self._as_node)
        node = self.graph.create_node(
            "call_function", function, tuple(node_arguments), node_keywords, name=_identifier(name)
        )
        if isinstance(result, torch.Tensor):
            return Value(node, tuple(result.shape), result.dtype)
        return [self._item(name, node, index, part) for index, part in enumerate(result)]

    def _item(self, name: str, node: fx.Node, index: int, part: torch.Tensor) -> Value:
        item = self.graph.create_node("call_function", operator.getitem, (node, index), {}, name=_identifier(name))
        return Value(item, tuple(part.shape), part.dtype)

    def _as_node(self, operand: Operand) -> fx.Node:
        if isinstance(operand, Value):
            return operand.node
        known = self._constants.get(id(operand))
        if known is None:
            name = f"constant_{len(self._constants)}"
            self.root.register_buffer(name, operand)
            known = (operand, self.graph.get_attr(name))
            self._constants[id(operand)] = known  # holds the tensor too: a freed one would give its id to another
        return known[1]


@dataclass(frozen=True)
class Step:
    """One ONNX node, with what its operator's function needs.

    ``inputs`` has None where an optional input is left out; trailing ones may be missing.
    """

    network: TorchGraph
    operator: str
    label: str
    opset: int
    attributes: dict[str, Any]
    inputs: tuple[Operand | None, ...]
    outputs: tuple[str, ...]

    def emit(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """`TorchGraph.emit`, with this node's name."""
        return self.network.emit(self.outputs[0], function, *arguments, **keywords)

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute as a Python value."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def operand(self, index: int) -> Operand:
        """A required input."""
        operand = self.inputs[index] if index < len(self.inputs) else None
        if operand is None:
            raise self.refusal(f"lacks its input {index}")
        return operand

    def constant(self, index: int) -> torch.Tensor:
        """An input that must not depend on the image, such as a shape."""
        operand = self.operand(index)
        if isinstance(operand, Value):
            raise self.refusal(f"has an input {index} that depends on the image; only static ones can be converted")
        return operand

    def integers(self, index: int) -> list[int]:
        """A constant input as a flat list of integers."""
        return [int(value) for value in self.constant(index).flatten().tolist()]

    def refusal(self, reason: str) -> SourceError:
        """The error for a node that cannot be converted."""
        return SourceError(f"operator {self.operator} (node {self.label!r}) {reason}")

    def require(self, name: str, valid: Sequence[Any], default: Any) -> Any:
        """An attribute that may have only some values."""
        value = self.attribute(name, default)
        if value not in valid:
            known = ", ".join(map(str, valid))
            raise self.refusal(f"has {name}={value}, of which only {known} can be converted; export it differently")
        return value


def bounded(shape: Sequence[float]) -> None:
    """Refuse a tensor that no network has.

    Raises:
        ValueError: it has more than `MOST_NUMBERS`.
    """
    if math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"a tensor of {' x '.join(f'{size:g}' for size in shape)} numbers")


def _bounded(result: Any) -> None:
    for tensor in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(tensor, torch.Tensor):
            bounded(tensor.shape)


def axis_of(step: Step, axis: int, rank: int) -> int:
    """An axis as a number from 0."""
    if not -rank <= axis < max(rank, 1):
        raise step.refusal(f"has axis {axis} for a tensor of rank {rank}")
    return axis % max(rank, 1)


def _mentions_value(argument: Any) -> bool:
    if isinstance(argument, (list, tuple)):
        return any(_mentions_value(part) for part in argument)
    if isinstance(argument, dict):
        return any(_mentions_value(part) for part in argument.values())
    return isinstance(argument, Value)


def _replace(argument: Any, change: Callable[[Operand], Any]) -> Any:
    if isinstance(argument, (list, tuple)):
        return type(argument)(_replace(part, change) for part in argument)
    if isinstance(argument, dict):
        return {key: _replace(part, change) for key, part in argument.items()}
    return change(argument) if isinstance(argument, (Value, torch.Tensor)) else argument


def _as_meta(operand: Operand) -> torch.Tensor:
    return torch.empty(operand.shape, dtype=operand.dtype, device="meta")


def _identifier(name: str) -> str:
    """A tensor name as a Python identifier; fx makes it unique."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "tensor"
    return text if text[0].isalpha() else f"tensor_{text}"
