"""Sensitivity of each layer: the loss of the decoded results if it alone is INT8. Sorts layers for float fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.arrays import Floats
from edgekit.calibration import Progress
from edgekit.calibration.explicit import quantise
from edgekit.calibration.plan import PlannedGraph
from edgekit.errors import ConversionError

MOST_IMAGES = 16
"""Images that sensitivity is measured on; the time is proportional to layers times images."""

Judge = Callable[[Iterable[Sequence[Floats]]], float]
"""Takes the raw outputs of every image, in order, and says how well their decoded results agree with the source's
(0..1)."""


def measure_sensitivity(
    onnx: Path, graph: PlannedGraph, images: Sequence[Floats], judge: Judge, threads: int, progress: Progress
) -> PlannedGraph:
    """Measure the sensitivity of every layer of a plan's graph.

    The layer's weights and input are quantised in ONNX Runtime, on the plan's affine grid, and nothing else is.

    Args:
        onnx: the plan's graph.
        graph: its ranges and layers.
        images: tensors (1, 3, H, W) float32, none of them used for calibration.
        judge: compares outputs with the source's.
        threads: of the engine.
        progress: called with what is being done.

    Returns:
        The graph with ``sensitivity`` set: quality lost against the float graph, 0 where it does not suffer.
    """
    import onnx as onnx_package

    model = onnx_package.load(onnx)
    best = judge(outputs_of(model.SerializeToString(), images, threads))
    measured = []
    for number, layer in enumerate(graph.layers):
        progress(f"measuring layer {number + 1} of {len(graph.layers)}", number / len(graph.layers))
        try:
            alone = quantise(onnx_package.load(onnx), graph, symmetric=False, layers=(layer.name,))
        except ConversionError:  # it is a layer that stays in float on every engine
            measured.append(layer)
            continue
        lost = best - judge(outputs_of(alone.SerializeToString(), images, threads))
        measured.append(msgspec.structs.replace(layer, sensitivity=round(max(0.0, lost), 6)))
    return msgspec.structs.replace(graph, layers=tuple(measured))


def worst_first(graph: PlannedGraph) -> list[str]:
    """Names of the layers that are not in float yet, the most sensitive first; ties by the noise of their input."""
    left = [layer for layer in graph.layers if not layer.float_reason]
    return [
        layer.name for layer in sorted(left, key=lambda layer: (-(layer.sensitivity or 0.0), -layer.noise_to_signal))
    ]


def outputs_of(model: bytes, images: Sequence[Floats], threads: int) -> Iterator[Sequence[Floats]]:
    """The raw outputs of an ONNX model for each image."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    for image in images:
        yield session.run(None, {entry: image})
