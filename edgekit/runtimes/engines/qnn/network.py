"""A part of a vision-language model on the Hexagon NPU: compiled for one row and for fixed numbers of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement, by_rows, padded_words
from edgekit.runtimes.engines.onnxruntime.session import failures


class QnnNetwork:
    """Contexts of one graph: for a piece of a prompt and, of a decoder, for one token.

    Args:
        sessions: ONNX Runtime's own, in the order of the graph's files.
        graph: what the manifest says; its shapes are those of the first.
        placement: where they run.
    """

    def __init__(self, sessions: list[Any], graph: Graph, placement: Placement) -> None:
        self._sessions, self._graph, self.placement = sessions, graph, placement
        self._outputs = [tensor.name for tensor in graph.outputs]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once, row after row; see `Network`.

        Raises:
            EngineError: QNN failed.
            UsageError: a text with more tokens than the graph was compiled for.
        """
        return by_rows(self._run, padded_words(self._graph, feeds, "qnn"), 1)

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        alone = "inputs_embeds" in feeds and feeds["inputs_embeds"].shape[1] == 1
        try:
            found = self._sessions[-1 if alone else 0].run(self._outputs, dict(feeds))
        except failures() as error:
            raise EngineError(f"QNN failed: {error}") from error
        return dict(zip(self._outputs, found, strict=True))


def contexts(folder: Path, graph: Graph) -> list[tuple[Path, Path]]:
    """Pairs of a context and the ONNX file that it was compiled from; weights beside them are no pair."""
    files = [name for name in graph.files if name.endswith(".onnx")]
    return [(folder / files[place], folder / files[place + 1]) for place in range(0, len(files) - 1, 2)]
