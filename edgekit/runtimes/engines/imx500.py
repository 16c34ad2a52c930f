"""Sony IMX500, the sensor of the Raspberry Pi AI Camera, which runs the network on its own frames.

Nothing can be handed to it, so no session exists for it: the network is loaded into the camera and its outputs come
with every frame. On a Raspberry Pi with the camera::

    sudo apt install imx500-all imx500-tools
    imx500-package -i packerOut.zip -o .              # writes network.rpk

    camera = IMX500("network.rpk")                    # of picamera2.devices
    model = edgekit.load(bundle)                      # refuses; see `contract_outputs` for what decodes the outputs

The stand-in ``quantiser`` computes ``quantised.onnx``, which Sony's quantiser wrote: its model with every rounding of
weights and activations spelled out as QuantizeLinear and DequantizeLinear. That is the arithmetic the converter was
given, computed in float32 by ONNX Runtime and not by Sony's tools or the chip, hence ``reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Engine, Placement, SessionOptions, StandIn, check_inputs
from edgekit.runtimes.engines.onnxruntime import failures

ENGINE = Engine(
    name="imx500",
    packages=("picamera2",),
    devices=("camera",),
    hosts=("linux-aarch64",),
    install="sudo apt install imx500-all python3-picamera2",
    stand_in=StandIn("quantiser", "reference", packages=("onnxruntime",)),
)


class Imx500Reference:
    """The quantiser's own model in ONNX Runtime."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        # ONNX Runtime's own optimisations of quantised graphs, even the basic ones, compute something else: on one
        # detector they made the error of the outputs 2.5 times as large as in the quantiser's model.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except failures() as error:
            raise EngineError(f"{path}: ONNX Runtime cannot open it: {error}") from error
        names = {tensor.name for tensor in (*self._session.get_inputs(), *self._session.get_outputs())}
        for tensor in (*graph.inputs, *graph.outputs):
            if tensor.name not in names:
                found = ", ".join(sorted(names))
                raise EngineError(f"{path.name} has no tensor {tensor.name!r}, only {found}; convert the model again")
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.placement = Placement(options.device, {}, "int8", "reference")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        feeds = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        outputs: list[Floats] = self._session.run(self._outputs, feeds)
        return outputs


def open_session(folder: Path, graph: Graph, options: SessionOptions) -> Imx500Reference:
    """Open the quantiser's model with device ``quantiser``.

    Raises:
        EngineError: the camera was asked for, or the file is damaged.
    """
    stand_in = ENGINE.stand_in
    if stand_in is not None and options.device == stand_in.device:
        return Imx500Reference(folder / graph.files[1], graph, options)
    raise EngineError(
        "the AI Camera runs the network on its own frames and takes no image: package it with "
        f"'imx500-package -i {folder / graph.files[0]} -o .', load network.rpk with picamera2's IMX500 and decode its "
        "outputs (edgekit.runtimes.engines.imx500.contract_outputs); unit='quantiser' shows what the file computes"
    )


def contract_outputs(graph: Graph, tensors: Sequence[NDArray[Any]]) -> list[Floats]:
    """The camera's outputs as the contract has them: NCHW float32, in the contract's order.

    Args:
        graph: of the bundle, ``bundle.manifest.graphs[0]``.
        tensors: what picamera2's ``IMX500.get_outputs(metadata)`` returns for a frame, with or without the batch;
            outputs of one shape have to be in the contract's order, others may be in any.

    Raises:
        EngineError: an output is missing.
    """
    left = [np.asarray(tensor, np.float32) for tensor in tensors]
    found = []
    for tensor in graph.outputs:
        shape = tensor.shape[1:]
        for position, array in enumerate(left):
            moved = _channels_first(array, shape)
            if moved is not None:
                found.append(moved)
                del left[position]
                break
        else:
            given = ", ".join(str(np.shape(array)) for array in tensors)
            raise EngineError(f"no output of the camera is {tensor.name!r} {shape}: it gave {given}")
    return found


def _channels_first(array: Floats, shape: tuple[int, ...]) -> Floats | None:
    """An array as (1, *shape), if it is that with or without a batch, in (C, H, W) or (H, W, C)."""
    bare = array[0] if array.ndim == len(shape) + 1 and array.shape[0] == 1 else array
    if bare.shape == (*shape[1:], shape[0]):  # as the camera has it, so before the other where both are possible
        return np.ascontiguousarray(np.moveaxis(bare, -1, 0))[None]
    return np.ascontiguousarray(bare)[None] if bare.shape == shape else None
