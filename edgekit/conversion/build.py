"""Second stage, in a child process of its own: the exchange files become one target's files."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec

from edgekit import converters, registry
from edgekit.calibration.samples import Samples
from edgekit.conversion.jobs import BuildJob, Prepared
from edgekit.converters import Job, Report
from edgekit.errors import ConversionError
from edgekit.manifest import Graph

PREPARED = "prepared.json"


def work(job: BuildJob, report: Report) -> Graph:
    """Run one converter.

    Raises:
        ConversionError: it failed, or did not write what it says.
    """
    warnings.simplefilter("ignore")
    folder = Path(job.folder)
    prepared = msgspec.json.decode((folder / PREPARED).read_bytes(), type=Prepared)
    calibration = folder / "calibration.npy"
    scratch = folder / job.target
    scratch.mkdir(exist_ok=True)
    spec = converters.target(job.target)
    converter = registry.module("edgekit.converters", job.target)
    graph: Graph = converter.convert(
        Job(
            onnx=folder / "graph.onnx",
            program=folder / "graph.pt2",
            contract=prepared.contract,
            shapes=prepared.shapes,
            precision=job.precision,
            samples=Samples(calibration, prepared.contract.image) if calibration.exists() else None,
            out=Path(job.out),
            work=scratch,
            threads=job.threads,
            options=msgspec.convert(job.options, spec.options),
        ),
        report,
    )
    for name in graph.files:
        if not (Path(job.out) / name).is_file():
            raise ConversionError(f"the {job.target} converter did not write {name!r}")
    return graph
