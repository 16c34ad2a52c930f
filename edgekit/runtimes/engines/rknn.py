"""RKNN: Rockchip's NPUs by rknn-toolkit-lite2, and on other hosts the simulator of RKNN-Toolkit2.

What the simulator proves: it computes, with the types and ranges of every tensor, the very graph that was compiled
into ``model.rknn``. Opening it compiles that graph anew from what the bundle keeps, and refuses the bundle when the
result is another program than the stored one, as far as that can be told (`_rknn_toolkit.same_program`). It does not
run the compiled commands, and is one simulator for all chips: rounding inside an NPU can differ in the last bit. The
device's own session is written from the interface of rknn-toolkit-lite2 2.5.0 and has not run on a board yet.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.emulators import rknn_toolkit as toolkit
from edgekit.emulators.served import ServedSession
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines import Engine, Placement, Session, SessionOptions, StandIn, check_inputs
from edgekit.worker import toolchains

SIMULATOR = "simulator"
TOOLCHAIN = "rknn"

ENGINE = Engine(
    name="rknn",
    packages=("rknnlite",),
    extra="rknn",
    devices=("npu", "npu0", "npu1", "npu2", "npu01", "npu012"),
    hosts=("linux-aarch64",),
    stand_in=StandIn(device=SIMULATOR, word="emulated", toolchain=TOOLCHAIN),
)

CORES = {"npu": 0, "npu0": 1, "npu1": 2, "npu2": 4, "npu01": 3, "npu012": 7}
"""Core masks of rknnlite. ``npu`` lets the driver choose, and is the only one on chips with a single core."""


class RknnSession:
    """One ``.rknn`` file on the NPU of this board."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        from rknnlite.api import RKNNLite

        device = options.device or ENGINE.devices[0]
        self._graph = graph
        self._runtime = RKNNLite()
        if self._runtime.load_rknn(str(path)) != 0:
            raise EngineError(f"{path}: rknnlite cannot read it")
        if self._runtime.init_runtime(core_mask=CORES[device]) != 0:
            platform = graph.report.get("platform", "another chip")
            raise EngineError(
                f"{path}: rknnlite cannot start it on {device!r}; the file is for {platform}, and librknnrt.so and the "
                "NPU driver must not be older than the toolkit that compiled it"
            )
        self.placement = _placement(graph, device, "executed")
        _check_strict(self.placement, options)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        outputs = self._runtime.inference(
            inputs=[np.ascontiguousarray(array) for array in inputs],
            data_type=["float32"] * len(inputs),
            data_format=["nchw"] * len(inputs),
        )
        if outputs is None:
            raise EngineError("rknnlite could not run the model; its log has the reason")
        return _shaped(outputs, self._graph)


class SimulatorSession:
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
        self.placement = _placement(graph, SIMULATOR, "emulated")
        _check_strict(self.placement, options)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        with toolkit.quietly():
            outputs = self._toolkit.inference(inputs=list(inputs), data_format=["nchw"] * len(inputs))
        if outputs is None:
            raise EngineError("the simulator of RKNN-Toolkit2 could not run the model")
        return _shaped(outputs, self._graph)


def open_session(folder: Path, graph: Graph, options: SessionOptions) -> Session:
    """Open the first file of a graph on the NPU, or in the simulator when that is asked for by its name."""
    if options.device != SIMULATOR:
        return RknnSession(folder / graph.files[0], graph, options)
    if Path(sys.prefix) == toolchains.python(TOOLCHAIN).parents[1]:
        return SimulatorSession(folder, graph, options)
    return ServedSession(TOOLCHAIN, ENGINE.name, folder, graph, options)


def _placement(graph: Graph, device: str, word: ProofWord) -> Placement:
    """What the compiler said: which unit takes which operators is settled in the file."""
    operators = {unit: int(graph.report.get(f"{unit.lower()}_operators", 0)) for unit in ("NPU", "CPU")}
    taken = {unit: count for unit, count in operators.items() if count}
    return Placement(device, taken, str(graph.report.get("types", "float16")), word)


def _check_strict(placement: Placement, options: SessionOptions) -> None:
    if options.strict and placement.operators.get("CPU"):
        raise EngineError(f"strict: not everything runs on the NPU: {placement.operators}")


def _shaped(outputs: Sequence[Any], graph: Graph) -> list[Floats]:
    return [
        np.ascontiguousarray(output, np.float32).reshape(tensor.shape)
        for output, tensor in zip(outputs, graph.outputs, strict=True)
    ]
