"""Rockchip NPU emulator: the simulator of RKNN-Toolkit2.

What the simulator shows: it computes, with the types and ranges of every tensor, the very graph that was compiled
into ``model.rknn``. Opening it compiles that graph anew from what the bundle keeps, and refuses the bundle when the
result is another program than the stored one, as far as that can be told (`toolkit.same_program`). It does not
run the compiled commands, and is one simulator for all chips: rounding inside an NPU can differ in the last bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.emulators.base import Emulator
from edgekit.emulators.rknn import toolkit
from edgekit.emulators.served import ServedNetwork, ServedSession
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Network, Session, SessionOptions, check_inputs
from edgekit.runtimes.engines.rknn import check_strict, placement_of, run_by_name, shaped


class _Simulated:
    """The graph of a ``.rknn`` file in the simulator of RKNN-Toolkit2."""

    def __init__(self, folder: Path, graph: Graph, options: SessionOptions) -> None:
        name, *parts = graph.files
        self._graph = graph
        assembled = toolkit.assemble(folder, tuple(parts), str(graph.report["platform"]))
        with tempfile.TemporaryDirectory() as scratch:
            rebuilt = Path(scratch, name)
            toolkit.save(assembled, rebuilt)
            same = toolkit.same_program((folder / name).read_bytes(), rebuilt.read_bytes())
        if not same:
            raise EngineError(
                f"{folder / name}: what would be simulated does not compile to this file; convert the model again"
            )
        self._toolkit = assembled.toolkit
        with toolkit.quietly() as log:
            toolkit.step("starting the simulator", log, self._toolkit.init_runtime, target=None)
        self.placement = placement_of(graph, options.device, "emulated")
        check_strict(self.placement, options)

    def _infer(self, arrays: Sequence[NDArray[Any]]) -> list[Floats]:
        with toolkit.quietly():
            outputs = self._toolkit.inference(inputs=list(arrays), data_format=["nchw"] * len(arrays))
        if outputs is None:
            raise EngineError("the simulator of RKNN-Toolkit2 could not run the model")
        return shaped(outputs, self._graph)


class SimulatorSession(_Simulated):
    """With one input."""

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        return self._infer(inputs)


class SimulatorNetwork(_Simulated):
    """With named inputs, of which one row runs at a time."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return run_by_name(self._graph, feeds, self._infer)


class Simulator(Emulator):
    """RKNN-Toolkit2, in its toolchain."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph, in this process where it is one of the toolchain.

        Raises:
            EngineError: the toolkit refuses it, or compiles another program of it than the stored one.
        """
        if self.inside:
            return SimulatorSession(folder, graph, options)
        return ServedSession(self.toolchain, self.engine, folder, graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> Network:
        """Open a part of a vision-language model, in this process where it is one of the toolchain.

        Raises:
            EngineError: as of `open_session`.
        """
        if self.inside:
            return SimulatorNetwork(folder, graph, options)
        return ServedNetwork(self.toolchain, self.engine, folder, graph, options)


EMULATOR = Simulator(
    engine="rknn",
    device="simulator",
    word="emulated",
    by="RKNN-Toolkit2's simulator",
    of="the Rockchip NPU",
    toolchain="rknn",
)
