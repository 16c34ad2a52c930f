"""Second stage of a vision-language model, in a child process of its own: one graph of one target."""

from __future__ import annotations

from pathlib import Path

from edgekit import converters, registry
from edgekit.conversion.jobs import BuildPartJob
from edgekit.conversion.ranges_file import read_ranges
from edgekit.converters import PartJob, Report
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.precision import PartPrecision, forms
from edgekit.runtimes.bundle.manifest import Graph


def work(job: BuildPartJob, report: Report) -> Graph:
    """Write one graph.

    Raises:
        ConversionError: the target cannot take it, or its files are not there or not as small as was asked for.
        SourceError: the checkpoint lacks a tensor.
    """
    source = Blip2(Path(job.source))
    out = Path(job.out)
    work = out.with_name(f"{out.name}-work")
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    language = source.family != "retrieval"
    converter = registry.module(converters.__name__, job.target)
    graph: Graph = converter.convert_part(
        PartJob(
            source=source,
            graph=job.graph,
            forms=forms(job.graph, PartPrecision(job.word, job.block), read_ranges(Path(job.folder))),
            layers=source.language.heads.layers if language else 0,
            out=out,
            work=work,
            threads=job.threads,
        ),
        report,
    )
    for name in graph.files:
        if not (out / name).is_file():
            raise ConversionError(f"the {job.target} converter did not write {name!r}")
    return graph
