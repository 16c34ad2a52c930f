"""One pass of the calibration images through a float exchange graph: statistics of every tensor and layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Doubles, Floats
from edgekit.calibration.layers import Site, activations, sites
from edgekit.calibration.ranges import TensorStatistics
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.calibration.advice import ImageStatistics


@dataclass
class LayerStatistics:
    """Running statistics of a layer's input and output, in memory that does not grow with the number of samples."""

    site: Site
    peaks: Floats = field(init=False)
    means: Doubles = field(init=False)
    """Largest magnitude and mean of each input channel."""

    macs: int = 0
    _sums: Doubles = field(init=False)
    _squares: Doubles = field(init=False)
    _count: int = 0
    _samples: int = 0

    def __post_init__(self) -> None:
        self.peaks = np.zeros(self.site.channels, np.float32)
        self.means = np.zeros(self.site.channels)
        self._sums, self._squares = np.zeros(len(self.site.weights)), np.zeros(len(self.site.weights))

    def add(self, given: Floats, made: Floats) -> None:
        """Take in one sample's input and output, (N, C, H, W) or (..., C)."""
        rows = self.site.rows(given)
        np.maximum(self.peaks, np.abs(rows).max(1), out=self.peaks)
        self._samples += 1
        self.means += (rows.mean(1, dtype=np.float64) - self.means) / self._samples
        rows = self.site.rows(made)
        self._sums += rows.sum(1, dtype=np.float64)
        self._squares += np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        self._count += rows.shape[1]
        # Each weight meets every output position; those of a transposed convolution meet every input position.
        positions = self.site.rows(given if self.site.node.op_type == "ConvTranspose" else made).shape[1]
        self.macs = self.site.weights.size * positions

    @property
    def channel_ratio(self) -> float:
        """Largest over smallest channel of the input; channels that are (nearly) always 0 do not count."""
        live = self.peaks[self.peaks > 1e-4 * self.peaks.max(initial=0)]
        return float(live.max() / live.min()) if live.size else 1.0

    def noise_to_signal(self, error: float) -> float:
        """Share of the output channels' variance, on average, that a mean squared ``error`` of the input makes.

        Channels of the input that were always 0 make none: every grid has a 0.
        """
        variance = self._squares / self._count - (self._sums / self._count) ** 2
        weights = self.site.weights.reshape(self.site.groups, -1, *self.site.weights.shape[1:])
        squares = np.square(weights, dtype=np.float64).reshape(*weights.shape[:3], -1).sum(3)
        caused = error * np.einsum("goi,gi->go", squares, self.peaks.reshape(self.site.groups, -1) > 0).ravel()
        return float(np.mean(caused / np.maximum(variance, caused + 1e-20)))


@dataclass(frozen=True)
class Observations:
    """Statistics of the input and of every activation by tensor, and of every layer by its name."""

    tensors: dict[str, TensorStatistics]
    layers: dict[str, LayerStatistics]
    samples: int


def observe(
    path: Path,
    samples: Iterable[Floats],
    threads: int,
    progress: Callable[[int], None],
    statistics: ImageStatistics | None = None,
) -> Observations:
    """Run a float ONNX file on every sample; one is held at a time.

    Args:
        path: exchange file with one input.
        samples: calibration tensors (1, 3, H, W) float32.
        threads: of the engine.
        progress: called with the number of samples done.
        statistics: collects the extremes of every tensor, image by image.

    Raises:
        ConversionError: no samples, a NaN, or an infinite value that a layer reads or writes.
    """
    import onnx

    model = onnx.load(path)
    entry = model.graph.input[0].name
    names = activations(model)
    layers = {site.name: LayerStatistics(site) for site in sites(model)}
    finite = {name for one in layers.values() for name in (one.site.input, one.site.name)}
    tensors = {name: TensorStatistics() for name in (entry, *names)}
    session = watched(model, names, threads)
    count = 0
    for count, sample in enumerate(samples, 1):
        values = dict(zip(names, session.run(names, {entry: sample}), strict=True)) | {entry: sample}
        ends = _ends(values)
        for name, both in ends.items():
            if np.isnan(both).any() or (name in finite and np.isinf(both).any()):
                found = "NaN" if np.isnan(both).any() else "infinite"
                raise ConversionError(f"tensor {name!r} is {found} on calibration image {count - 1}; check the model")
            tensors[name].add(values[name])
        for name, layer in layers.items():
            layer.add(values[layer.site.input], values[name])
        if statistics is not None:
            statistics.add(count - 1, ends)
        progress(count)
    if not count:
        raise ConversionError("int8 needs calibration images and there are none: give --data with photographs")
    return Observations(tensors, layers, count)


def _ends(values: Mapping[str, Floats]) -> dict[str, tuple[float, float]]:
    return {name: (float(value.min()), float(value.max())) for name, value in values.items() if value.size}


def extremes(path: Path, samples: Iterable[Floats], threads: int) -> dict[str, float]:
    """Largest magnitude of every activation of an ONNX file over some samples, by tensor."""
    import onnx

    model = onnx.load(path)
    entry, names = model.graph.input[0].name, activations(model)
    session = watched(model, names, threads)
    found = dict.fromkeys(names, 0.0)
    for sample in samples:
        for name, values in zip(names, session.run(names, {entry: sample}), strict=True):
            found[name] = max(found[name], float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
    return found


def watched(model: ModelProto, tensors: Iterable[str], threads: int) -> Any:
    """A session of a float model that gives these tensors too."""
    import onnx
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in (*model.graph.output, *model.graph.input)}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in given)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(copy.SerializeToString(), settings, providers=["CPUExecutionProvider"])
