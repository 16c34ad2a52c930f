"""Sony IMX500, the sensor of the Raspberry Pi AI Camera, which runs the network on its own frames.

Nothing can be handed to it, so no session exists for it: the network is loaded into the camera and its outputs come
with every frame. On a Raspberry Pi with the camera::

    sudo apt install imx500-all imx500-tools
    imx500-package -i packerOut.zip -o .              # writes network.rpk

    camera = IMX500("network.rpk")                    # of picamera2.devices
    model = edgekit.load(bundle)                      # refuses; see `contract_outputs` for what decodes the outputs

What a host computes instead: `edgekit.emulators.imx500`.
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
from edgekit.runtimes.engines import hint
from edgekit.runtimes.engines.base import Engine, Session, SessionOptions


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


class Imx500(Engine):
    """The camera's own sensor, which no session can be opened on."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Say what to do instead.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            "the AI Camera runs the network on its own frames and takes no image: package it with "
            f"'imx500-package -i {folder / graph.files[0]} -o .', load network.rpk with picamera2's IMX500 and decode "
            f"its outputs (edgekit.runtimes.engines.imx500.contract_outputs){hint(self.name)}"
        )


ENGINE = Imx500(
    name="imx500",
    packages=("picamera2",),
    devices=("camera",),
    hosts=("linux-aarch64",),
    install="sudo apt install imx500-all python3-picamera2",
)
