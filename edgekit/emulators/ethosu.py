"""Ethos-U emulator: the integer graph on LiteRT's reference kernels.

It runs ``model.tflite``, the graph that Vela compiled, with TFLite's reference kernels and not with XNNPACK
or the optimised ones: the NPU is made to follow the reference's rounding, while those two round otherwise (on one
detector 40 to 80 % of the output values differed by a step or more, from the reference and from each other).
"""

from __future__ import annotations

from pathlib import Path

from edgekit.emulators.base import Emulator
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Placement, SessionOptions
from edgekit.runtimes.engines.ethosu import EthosuSession, open_interpreter, operator_names


class ReferenceKernels(Emulator):
    """LiteRT's reference kernels."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> EthosuSession:
        """Open the integer graph that Vela compiled, the second file.

        Raises:
            EngineError: the file is missing or damaged.
        """
        path = folder / graph.files[1]
        interpreter = open_interpreter(path, options.threads, reference=True)
        operators = {f"{self.device} kernels": len(operator_names(interpreter))}
        return EthosuSession(path, graph, interpreter, Placement(self.device, operators, "int8", self.word))


EMULATOR = ReferenceKernels(
    engine="ethosu",
    device="reference",
    word="reference",
    by="LiteRT's reference kernels",
    of="the Ethos-U",
    packages=("ai_edge_litert",),
)
