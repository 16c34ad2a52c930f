"""ONNX Runtime: onnx files on CPUs and NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines.base import Engine, SessionOptions
from edgekit.runtimes.engines.onnxruntime.session import PROVIDERS, OnnxRuntimeNetwork, OnnxRuntimeSession

if TYPE_CHECKING:
    from edgekit.runtimes.language.graph import LanguageGraph


class OnnxRuntime(Engine):
    """ONNX Runtime."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> OnnxRuntimeSession:
        """Open the first file of a graph."""
        return OnnxRuntimeSession(OnnxRuntimeNetwork(folder, graph, options))

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> OnnxRuntimeNetwork:
        """Open the first file of a graph with named inputs."""
        return OnnxRuntimeNetwork(folder, graph, options)

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open the graphs of a language model, on the CPU."""
        from edgekit.runtimes.engines.onnxruntime.language import open_language

        return open_language(folder, graphs, language, embeddings, options)


SETTINGS = "CPUExecutionProvider, all graph optimisations (the default); float32 in and out"

ENGINE = OnnxRuntime(
    name="onnxruntime", packages=("onnxruntime",), extra="onnx", devices=tuple(PROVIDERS), settings=SETTINGS
)
