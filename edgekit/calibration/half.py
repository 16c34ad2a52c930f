"""float16 overflow and underflow: operators that have to stay in float32, found on the float graph."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.calibration.observation import extremes
from edgekit.calibration.plan import Fp16Issue
from edgekit.calibration.samples import Samples

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = 65504.0
SMALLEST = 2.0**-14
"""The largest finite float16, and the smallest normal one: engines flush what is below to zero."""

MOST_IMAGES = 32


def fp16_issues(onnx: Path, samples: Samples, threads: int) -> tuple[Fp16Issue, ...]:
    """The operators of a float graph whose results overflow float16, or vanish in it altogether.

    Args:
        onnx: exchange file.
        samples: images; the first `MOST_IMAGES` are used.
        threads: of the engine.
    """
    import onnx as onnx_package

    seen = extremes(onnx, itertools.islice(samples, MOST_IMAGES), threads)
    found = []
    for node in onnx_package.load(onnx, load_external_data=False).graph.node:
        for name in node.output:
            largest = seen.get(name, 0.0)
            if largest > LARGEST:
                found.append(Fp16Issue(node=node.name, tensor=name, reason="overflow", largest=largest))
            elif 0 < largest < SMALLEST:
                found.append(Fp16Issue(node=node.name, tensor=name, reason="flushed", largest=largest))
    return tuple(found)


def around(model: ModelProto, troubles: tuple[Fp16Issue, ...]) -> list[str]:
    """Names of the nodes that write or read a tensor which float16 cannot hold: none of them may compute in it."""
    tensors = {trouble.tensor for trouble in troubles}
    return [node.name for node in model.graph.node if tensors.intersection((*node.output, *node.input))]
