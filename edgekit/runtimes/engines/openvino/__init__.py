"""OpenVINO: IR files on Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines.base import Engine, SessionOptions
from edgekit.runtimes.engines.openvino.session import OpenVinoNetwork, OpenVinoSession, import_openvino

if TYPE_CHECKING:
    from edgekit.runtimes.language.graph import LanguageGraph


class OpenVino(Engine):
    """OpenVINO."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> OpenVinoSession:
        """Open the first file of a graph; the weights lie beside it."""
        return OpenVinoSession(folder, graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> OpenVinoNetwork:
        """Open the first file of a graph with named inputs."""
        return OpenVinoNetwork(folder, graph, options)

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open the graphs of a language model."""
        from edgekit.runtimes.engines.openvino.language import open_language

        return open_language(folder, graphs, language, embeddings, options)

    def load_library(self) -> None:
        """Import OpenVINO as `import_openvino` does: a plain import would phone home."""
        import_openvino()


SETTINGS = "CPU, INFERENCE_PRECISION_HINT f32 (the default may be bf16), PERFORMANCE_HINT LATENCY"

ENGINE = OpenVino(
    name="openvino", packages=("openvino",), extra="openvino", devices=("cpu", "gpu", "npu"), settings=SETTINGS
)
