"""A part of a vision-language model on the Hexagon NPU: compiled for one row and for fixed numbers of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement, by_rows
from edgekit.runtimes.engines.onnxruntime.session import failures

WORDS = ("input_ids", "attention_mask")
"""Inputs that are filled up with padding to the number of tokens that the graph takes."""


class QnnNetwork:
    """Contexts of one graph: for a piece of a prompt and, of a decoder, for one token.

    Args:
        sessions: ONNX Runtime's own, in the order of the graph's files.
        graph: what the manifest says; its shapes are those of the first.
        placement: where they run.
    """

    def __init__(self, sessions: list[Any], graph: Graph, placement: Placement) -> None:
        self._sessions, self._name, self.placement = sessions, graph.name, placement
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._shapes = {tensor.name: tensor.shape for tensor in graph.inputs}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once, row after row; see `Network`.

        Raises:
            EngineError: QNN failed.
            UsageError: a text with more tokens than the graph was compiled for.
        """
        given = {name: self._filled(name, array) if name in WORDS else array for name, array in feeds.items()}
        return by_rows(self._run, given, 1)

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        alone = "inputs_embeds" in feeds and feeds["inputs_embeds"].shape[1] == 1
        try:
            found = self._sessions[-1 if alone else 0].run(self._outputs, dict(feeds))
        except failures() as error:
            raise EngineError(f"QNN failed: {error}") from error
        return dict(zip(self._outputs, found, strict=True))

    def _filled(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Words as many as the graph takes; what is added is masked."""
        size, count = self._shapes[name][1], array.shape[1]
        if count > size:
            raise UsageError(
                f"{count} tokens of text are more than the {size} that {self._name} was compiled for; shorten the "
                "text, or convert with --option qnn.tokens=N for more"
            )
        return np.pad(array, ((0, 0), (0, size - count)))


def contexts(folder: Path, graph: Graph) -> list[tuple[Path, Path]]:
    """Pairs of a context and the ONNX file that it was compiled from; weights beside them are no pair."""
    files = [name for name in graph.files if name.endswith(".onnx")]
    return [(folder / files[place], folder / files[place + 1]) for place in range(0, len(files) - 1, 2)]
