"""The common part of `Layers` for formats other than ONNX: the host's cache, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from edgekit.graph.blip2.cache import HostCache, host_prompt
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Form
from edgekit.graph.blip2.layers import Cache, Heads, Layers
from edgekit.runtimes.engines.base import SHARED

ONE_ROW = ("language", "encoder", "decoder")
"""Graphs that the host hands one row at a time."""


class Declares(Protocol):
    """A file in the making, with named inputs and outputs."""

    @property
    def name(self) -> str:
        """Of the graph."""
        ...

    def input(self, name: str, shape: Sequence[int], dtype: str) -> str:
        """Declare an input; -1 is any size."""
        ...

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        ...


Writer = TypeVar("Writer", bound=Declares)


class CommonLayers:
    """The common part of all formats but ONNX; see `edgekit.graph.blip2.layers.Layers`."""

    def prompt(self: Layers, x: str) -> tuple[str, str]:
        """As the host makes them."""
        return host_prompt(self)

    def normalised_linear(self: Layers, x: str, normalisation: str, linear: str, epsilon: float) -> str:
        """One after the other: without ranges that were found beforehand there is nothing to move between them."""
        return self.linear(self.normalisation(x, normalisation, epsilon), linear)


@dataclass(frozen=True)
class HostedLayers(CommonLayers, Generic[Writer]):
    """Inputs, outputs and cache of `edgekit.graph.blip2.layers.Layers`; a subclass has the layers of a format.

    Attributes:
        writer: of the file.
        checkpoint: with the weights.
        form: of the linear layers' weights.
        integers: type of the inputs that are integers.
    """

    writer: Writer
    checkpoint: Checkpoint
    form: Form
    integers: ClassVar[str] = "int32"

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declare an input; -1 is any size."""
        rows = () if name == SHARED else (self.rows,)
        return self.writer.input(name, (*rows, *shape[len(rows) :]), self.integers if dtype == "int64" else dtype)

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        self.writer.output(name, value, (self.rows, *shape[1:]))

    @property
    def rows(self) -> int:
        """That inputs and outputs are declared with: any number, or the one that the host hands over at a time."""
        return 1 if self.writer.name in ONE_ROW else -1

    def cache(self: Layers, heads: Heads) -> Cache:
        """In buffers of the host."""
        return HostCache(self, heads)
