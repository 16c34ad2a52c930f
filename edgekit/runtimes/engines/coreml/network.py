"""Core ML packages with named inputs, in Core ML itself or in the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines.base import Placement
from edgekit.runtimes.engines.coreml.names import port_name

SHARED = "distances"
"""An input that is the same for all rows."""

WORDS = ("input_ids", "attention_mask")
"""Inputs of a text, which are filled up to the length that the file takes."""


class State(Protocol):
    """The state that a package keeps from run to run, as coremltools' ``MLState``."""

    def read_state(self, name: str) -> NDArray[Any]:
        """A copy of one value."""
        ...

    def write_state(self, name: str, value: NDArray[Any]) -> None:
        """Replace one value."""
        ...


class Function(Protocol):
    """An opened function of a package."""

    @property
    def states(self) -> Sequence[str]:
        """Names of what it keeps from run to run."""
        ...

    def make_state(self) -> State:
        """A new state, of zeros."""
        ...

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: State | None) -> Mapping[str, NDArray[Any]]:
        """Run once.

        Raises:
            EngineError: it failed.
        """
        ...


class PackageNetwork:
    """A package that takes one row, by the names of the manifest. Not thread-safe.

    Args:
        functions: by the number of tokens that each takes; one that takes any has the number 0.
        graph: what the manifest says.
        placement: where it runs.
    """

    def __init__(self, functions: Mapping[int, Function], graph: Graph, placement: Placement) -> None:
        self.placement = placement
        self._functions, self._graph = functions, graph

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run every row by itself: inputs by name to outputs by name.

        Raises:
            EngineError: an input is missing or has another shape than the manifest says, or Core ML fails.
            UsageError: a text with more tokens than the file takes.
        """
        for name in (tensor.name for tensor in self._graph.inputs):
            if name not in feeds:
                raise EngineError(f"graph {self._graph.name!r} takes an input {name!r}, which is not given")
        rows = max(len(array) for name, array in feeds.items() if name != SHARED)
        made = [
            self.row({name: array if name == SHARED else array[row : row + 1] for name, array in feeds.items()})
            for row in range(rows)
        ]
        return {name: np.concatenate([one[name] for one in made]) for name in made[0]}

    def row(self, feeds: Mapping[str, NDArray[Any]], state: State | None = None) -> dict[str, NDArray[Any]]:
        """Run once, with one row."""
        tokens = feeds["inputs_embeds"].shape[1] if "inputs_embeds" in feeds else 0
        function = self._functions.get(tokens) or self._functions.get(0)
        if function is None:
            raise EngineError(f"graph {self._graph.name!r} takes {sorted(self._functions)} tokens, not {tokens}")
        given = {port_name(one.name): _prepared(one, feeds[one.name], exact=function is self._first) for one in
                 self._graph.inputs}  # fmt: skip
        found = function.predict(given, state)
        return {one.name: np.asarray(found[port_name(one.name)], one.dtype) for one in self._graph.outputs}

    @property
    def _first(self) -> Function:
        """The one whose shapes are those of the manifest."""
        return next(iter(self._functions.values()))

    def make_state(self) -> State:
        """A new state, which all functions share."""
        return self._first.make_state()

    def copy(self, source: State, destination: State) -> None:
        """Make one state equal to another."""
        for name in self._first.states:
            destination.write_state(name, source.read_state(name))


def _prepared(tensor: Tensor, given: NDArray[Any], *, exact: bool) -> NDArray[Any]:
    """One row as the file takes it.

    Raises:
        EngineError: another shape.
        UsageError: a text that is too long.
    """
    array = np.asarray(given)
    if tensor.name in WORDS and array.ndim == 2:
        room = tensor.shape[1]
        if array.shape[1] > room:
            raise UsageError(
                f"a text of {array.shape[1]} tokens is longer than the {room} that this bundle takes; shorten it, or "
                "convert again with a larger text="
            )
        array = np.pad(array, ((0, 0), (0, room - array.shape[1])))
    if exact and array.shape != tensor.shape:
        raise EngineError(f"input {tensor.name!r} takes shape {list(tensor.shape)}, not {list(array.shape)}")
    return np.ascontiguousarray(array, tensor.dtype)
