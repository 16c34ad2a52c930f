"""RKNN: Rockchip's NPUs by rknn-toolkit-lite2.

The session is written from the interface of rknn-toolkit-lite2 2.5.0 and has not run on a board yet. On other hosts
`edgekit.emulators.rknn` simulates the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, by_rows, check_inputs, padded_words

CORES = {"npu": 0, "npu0": 1, "npu1": 2, "npu2": 4, "npu01": 3, "npu012": 7}
"""Core masks of rknnlite. ``npu`` lets the driver choose, and is the only one on chips with a single core."""


class _Loaded:
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
        self.placement = placement_of(graph, device, "executed")
        check_strict(self.placement, options)

    def _infer(self, arrays: Sequence[NDArray[Any]]) -> list[Floats]:
        outputs = self._runtime.inference(
            inputs=[np.ascontiguousarray(array) for array in arrays],
            data_type=[array.dtype.name for array in arrays],
            data_format=["nchw"] * len(arrays),
        )
        if outputs is None:
            raise EngineError("rknnlite could not run the model; its log has the reason")
        return shaped(outputs, self._graph)


class RknnSession(_Loaded):
    """A file with one input."""

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        return self._infer(inputs)


class RknnNetwork(_Loaded):
    """A file with named inputs, of which one row runs at a time."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once, row after row; see `edgekit.runtimes.engines.Network`.

        Raises:
            EngineError: rknnlite failed.
            UsageError: a text with more tokens than the graph was compiled for.
        """
        return run_by_name(self._graph, feeds, self._infer)


def run_by_name(
    graph: Graph, feeds: Mapping[str, NDArray[Any]], run: Callable[[Sequence[NDArray[Any]]], list[Floats]]
) -> dict[str, NDArray[Any]]:
    """Run a graph that takes one row and fixed sizes: inputs by name to outputs by name.

    Raises:
        UsageError: a text with more tokens than the graph was compiled for.
    """

    def one(row: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        made = run([np.ascontiguousarray(row[tensor.name], tensor.dtype) for tensor in graph.inputs])
        return {tensor.name: array for tensor, array in zip(graph.outputs, made, strict=True)}

    return by_rows(one, padded_words(graph, feeds, ENGINE.name), 1)


def placement_of(graph: Graph, device: str, word: ProofWord) -> Placement:
    """The placement that the compiler reported; it is fixed in the file."""
    operators = {unit: int(graph.report.get(f"{unit.lower()}_operators", 0)) for unit in ("NPU", "CPU")}
    taken = {unit: count for unit, count in operators.items() if count}
    return Placement(device, taken, str(graph.report.get("types", "float16")), word)


def check_strict(placement: Placement, options: SessionOptions) -> None:
    """Refuse a placement that ``strict`` forbids.

    Raises:
        EngineError: operators run on the CPU.
    """
    if options.strict and placement.operators.get("CPU"):
        raise EngineError(f"strict: not everything runs on the NPU: {placement.operators}")


def shaped(outputs: Sequence[Any], graph: Graph) -> list[Floats]:
    """The outputs as float32 in the shapes of the manifest."""
    return [
        np.ascontiguousarray(output, np.float32).reshape(tensor.shape)
        for output, tensor in zip(outputs, graph.outputs, strict=True)
    ]


class Rknn(Engine):
    """rknn-toolkit-lite2."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> RknnSession:
        """Open the first file of a graph on the NPU."""
        return RknnSession(folder / graph.files[0], graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> RknnNetwork:
        """Open a part of a vision-language model on the NPU."""
        return RknnNetwork(folder / graph.files[0], graph, options)


ENGINE = Rknn(name="rknn", packages=("rknnlite",), extra="rknn", devices=tuple(CORES), hosts=("linux-aarch64",))
