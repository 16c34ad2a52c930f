"""INT8 for ONNX Runtime, in browsers too: the first layers stay in float as long as that is faster, by timing."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.arrays import Doubles
from edgekit.calibration.everywhere import quantise_everywhere
from edgekit.calibration.layers import sites
from edgekit.calibration.observation import watched
from edgekit.calibration.originals import Original, put_back, read_originals
from edgekit.converters import Job, Report
from edgekit.runtimes import engines as runtimes
from edgekit.runtimes.engines import SessionOptions, open_session, substitute
from edgekit.timing import Ratio, in_turns

if TYPE_CHECKING:
    from onnx import ModelProto

FIRST = (0, 8, 15, 24)
"""How many first layers stay in float, beside those of the plan. Large maps with few channels gain least in integers:
on three detectors 15 are the fastest, on a ResNet none."""

UNTIMED = 8
"""How many where the engine is not here: fast, if not the fastest, on all of them."""

FILE = "model.onnx"

MEANS_OF = 16
"""Images that the means of channels are known well enough from."""


def quantised(model: ModelProto, job: Job, report: Report, *, engine: str) -> ModelProto:
    """The plan's graph with the body in integers; of several numbers of first layers in float the fastest.

    Args:
        model: of the job, changed.
        job: planned.
        report: progress.
        engine: that will run it; it is timed if it is here, or its emulator.
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
    forms = {count: with_first(count) for count in FIRST if count <= most}
    if len(forms) == 1:
        return forms[0]
    report("timing first layers in float", 0.3)
    speeds = speeds_of({str(count): form.SerializeToString() for count, form in forms.items()}, job, engine)
    if not speeds:
        return with_first(min(UNTIMED, most))
    return forms[min(forms, key=lambda count: speeds[str(count)].median)]


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


def speeds_of(files: Mapping[str, bytes], job: Job, engine: str) -> dict[str, Ratio]:
    """How fast ONNX files are here on one thread beside the float32 one of a job, all in turns.

    Returns:
        By name; empty where the engine is not installed.
    """
    other = substitute(engine)
    here = not runtimes.engine(engine).missing
    if not here and (other is None or other.missing):
        return {}
    options = SessionOptions(threads=1, device="" if here or other is None else other.device)
    entry = dataclasses.replace(job, batches=(), sizes=()).graph(FILE)
    sample = next(iter(job.calibration()))
    with tempfile.TemporaryDirectory() as folder:

        def opened(name: str, content: bytes) -> Callable[[], object]:
            place = Path(folder) / name
            place.mkdir()
            (place / FILE).write_bytes(content)
            return functools.partial(open_session(engine, place, entry, options).run, [sample])

        base = opened("float32", job.onnx.read_bytes())
        return in_turns(base, {name: opened(name, content) for name, content in files.items()})


def integer_convolutions(path: Path) -> str:
    """How many of a file's convolutions ONNX Runtime computes in integers: ``67 of 76``."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(optimised).graph.node]
    integers = sum(kind in ("QLinearConv", "ConvInteger") for kind in kinds)
    return f"{integers} of {integers + sum(kind in ('Conv', 'FusedConv') for kind in kinds)}"


def _copy(model: ModelProto) -> ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
