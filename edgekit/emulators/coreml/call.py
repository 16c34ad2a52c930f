"""How a MIL operation becomes a function on torch tensors: the table of operators and the parameters of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.emulators.coreml.package import Port, Value
from edgekit.errors import EngineError

if TYPE_CHECKING:
    import torch

Kernel = Callable[..., "torch.Tensor | tuple[torch.Tensor, ...]"]
"""Takes the operation's tensors in the order its `MilOperator` names them, None for one left out."""


@dataclass(frozen=True)
class MilCall:
    """One call of a MIL operation: its parameters by MIL name, and its outputs."""

    kind: str
    name: str
    parameters: Mapping[str, Value]
    outputs: tuple[Port, ...]

    def given(self, key: str) -> bool:
        """Whether the parameter is there."""
        return key in self.parameters

    def integers(self, key: str) -> list[int]:
        """A parameter that is a list of integers.

        Raises:
            EngineError: it is missing.
        """
        return [int(value) for value in np.asarray(self._value(key)).reshape(-1)]

    def integers_or(self, key: str, default: list[int]) -> list[int]:
        """A list of integers, or the default."""
        return self.integers(key) if self.given(key) else default

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer parameter; required when it has no default."""
        return int(self._scalar(key, default))

    def number(self, key: str, default: float | None = None) -> float:
        """A number; required when it has no default."""
        return float(self._scalar(key, default))

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value."""
        return bool(self._scalar(key, default))

    def flags(self, key: str, count: int) -> list[bool]:
        """A list of ``count`` truth values, all False when it is not there."""
        return (
            [bool(value) for value in np.asarray(self._value(key)).reshape(-1)] if self.given(key) else [False] * count
        )

    def text(self, key: str, default: str | None = None) -> str:
        """A string; required when it has no default."""
        return str(self.parameters[key] if self.given(key) or default is None else default)

    def refuse(self, why: str) -> EngineError:
        """The error for something that the interpreter does not support."""
        return EngineError(f"MIL operation {self.name!r} ({self.kind}): {why}")

    def _value(self, key: str) -> Value:
        if key not in self.parameters:
            raise self.refuse(f"has no parameter {key!r}")
        return self.parameters[key]

    def _scalar(self, key: str, default: Any) -> Any:
        if not self.given(key) and default is not None:
            return default
        values = np.asarray(self._value(key)).reshape(-1)
        if values.size != 1:
            raise self.refuse(f"parameter {key!r} should be one value, not {values.size}")
        return values[0].item()


@dataclass(frozen=True)
class MilOperator:
    """``tensors`` are computed with, in this order; every other argument is a parameter of ``build``."""

    tensors: tuple[str, ...]
    build: Callable[[MilCall], Kernel]


OPERATORS: dict[str, MilOperator] = {}
"""All operators by MIL name; the modules beside this one fill it when they are imported."""


def operator(kinds: str, *tensors: str) -> Callable[[Callable[[MilCall], Kernel]], Callable[[MilCall], Kernel]]:
    """Declare the builder of one or more operators (their names with spaces between)."""

    def declare(build: Callable[[MilCall], Kernel]) -> Callable[[MilCall], Kernel]:
        OPERATORS.update({kind: MilOperator(tensors, build) for kind in kinds.split()})
        return build

    return declare
