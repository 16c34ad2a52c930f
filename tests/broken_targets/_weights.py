"""Changing single weights of a written ONNX file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgekit.converters import Job
from edgekit.converters._onnx_precision import FILE

Floats = NDArray[np.float32]


def change(job: Job, output: str, place: int, change: Callable[[Floats], Floats]) -> None:
    """Replace the weights (``place`` 1) or the biases (2) of the convolution that gives ``output``."""
    import onnx

    model = onnx.load(job.out / FILE)
    (node,) = (node for node in model.graph.node if output in node.output)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[place])
    changed = change(onnx.numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save_model(model, job.out / FILE)
