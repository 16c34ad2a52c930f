"""INT8 for ONNX Runtime: as much in integers as pays, found by timing on the machine that converts."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Doubles, Floats
from edgekit.calibration.everywhere import quantise_everywhere
from edgekit.calibration.layers import sites
from edgekit.calibration.observation import watched
from edgekit.calibration.originals import Original, put_back, read_originals
from edgekit.converters import TIME_TO_FLOAT32, Job, Report

if TYPE_CHECKING:
    from onnx import ModelProto

FIRST = (0, 8, 15, 24)
"""How many first layers stay in float, beside those of the plan. Large maps with few channels gain least in integers:
on three detectors 15 are the fastest, on a ResNet none."""

UNTIMED = 8
"""How many where nothing can be timed: fast, if not the fastest, on all of them."""

ROUNDS, SECONDS = 20, 6.0
"""The most rounds and time of a measurement."""

MEANS_OF = 16
"""Images that the means of channels are known well enough from."""

INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp", "asimd")
"""What decides how fast integers are, best first, as Linux names it."""


@dataclass(frozen=True)
class Speed:
    """CPU time on one thread over that of the float32 file, in turns with it: median and quartiles of the rounds."""

    ratio: float
    low: float
    high: float

    def report(self) -> dict[str, str | int | float]:
        """The manifest's entries."""
        import onnxruntime

        return {
            TIME_TO_FLOAT32: round(self.ratio, 3),
            f"{TIME_TO_FLOAT32}, quartiles": f"{self.low:.3f} to {self.high:.3f}",
            "timed on": f"{instructions()}, onnxruntime {onnxruntime.__version__}, 1 thread",
        }


def instructions() -> str:
    """The instruction set of this machine, as far as integer arithmetic depends on it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    flags = set(text.split())
    return next((name for name in INSTRUCTIONS if name in flags), platform.machine())


def quantised(model: ModelProto, job: Job, report: Report, *, timed: bool) -> ModelProto:
    """The plan's graph with the body in integers; of several numbers of first layers in float the fastest.

    Args:
        model: of the job, changed.
        job: planned.
        report: progress.
        timed: whether ONNX Runtime here is what will run it.
    """
    plan = job.planned()
    names = [layer.name for layer in plan.layers]
    originals = read_originals(job.originals, names) if job.originals else {}
    means = channel_means(job, originals)
    put_back(model, originals)

    def with_first(count: int) -> ModelProto:
        kept = {*plan.float_layers, *names[:count]}
        layers = [name for name in names if name not in kept]
        return quantise_everywhere(_copy(model), plan, originals=originals, means=means, layers=layers)

    most = len(names) // 2
    if not timed:
        return with_first(min(UNTIMED, most))
    report("timing first layers in float", 0.3)
    forms = {count: with_first(count) for count in FIRST if count <= most}
    if len(forms) == 1:
        return forms[0]
    files = {str(count): form.SerializeToString() for count, form in forms.items()}
    speeds = speeds_of(job.onnx.read_bytes(), files, next(iter(job.calibration())))
    return forms[min(forms, key=lambda count: speeds[str(count)].ratio)]


def channel_means(job: Job, originals: Mapping[str, Original]) -> dict[str, Doubles]:
    """The mean of every channel that a layer reads, (channels,), by tensor, over the first calibration images."""
    import onnx

    if not originals:
        return {}
    model = onnx.load(job.onnx)
    layers = [site for site in sites(model) if site.name in originals]
    entry = model.graph.input[0].name
    names = list(dict.fromkeys(site.input for site in layers if site.input != entry))
    session = watched(model, names, job.threads)
    sums: dict[str, Doubles] = {}
    count = 0
    for count, sample in enumerate(job.calibration(), 1):
        values = dict(zip(names, session.run(names, {entry: sample}), strict=True)) | {entry: sample}
        for site in {site.input: site for site in layers}.values():
            mean = site.rows(values[site.input]).mean(1, dtype=np.float64)
            sums[site.input] = sums.get(site.input, np.zeros(mean.shape)) + mean
        if count == MEANS_OF:
            break
    return {name: total / count for name, total in sums.items()}


def speeds_of(float32: bytes, files: Mapping[str, bytes], sample: Floats) -> dict[str, Speed]:
    """How fast ONNX files are here beside a float32 one, all in turns.

    CPU time of one thread is compared: it hardly depends on what else the machine does.
    """
    sessions = {name: _session(content) for name, content in {"": float32, **files}.items()}
    entry = next(iter(sessions.values())).get_inputs()[0].name
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(None, {entry: sample})
    begun = time.monotonic()
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            start = time.thread_time()
            session.run(None, {entry: sample})
            spent[name].append(time.thread_time() - start)
        if time.monotonic() - begun > SECONDS and len(spent[""]) > 4:
            break
    base = np.array(spent.pop(""))
    return {name: _speed(np.array(times) / base) for name, times in spent.items()}


def integer_convolutions(path: Path) -> str:
    """How many of a file's convolutions ONNX Runtime computes in integers: ``67 of 76``."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        _session(path.read_bytes(), optimised)
        kinds = [node.op_type for node in onnx.load(optimised).graph.node]
    integers = sum(kind in ("QLinearConv", "ConvInteger") for kind in kinds)
    return f"{integers} of {integers + sum(kind in ('Conv', 'FusedConv') for kind in kinds)}"


def _session(content: bytes, optimised: Path | None = None) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def _speed(ratios: Doubles) -> Speed:
    low, middle, high = (float(value) for value in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Speed(middle, low, high)


def _copy(model: ModelProto) -> ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
