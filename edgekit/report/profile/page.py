"""HOST: profiles as one HTML page that needs nothing else: to look at, to filter, to print and to send."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit import __version__
from edgekit.errors import UsageError
from edgekit.profiling.record import Profile
from edgekit.profiling.records.naming import facets, named
from edgekit.report.page import Section, filters, page, write_text
from edgekit.report.profile import distributions, load, matrix, method, operators, stages, tradeoff


def write_page(profiles: Sequence[Profile], path: Path) -> None:
    """Write the page of these profiles, of any targets, tasks and machines.

    Args:
        profiles: at least one.
        path: of the file; its folder is made.

    Raises:
        UsageError: there are no profiles, or the file cannot be written.
    """
    if not profiles:
        raise UsageError(f"{path}: there are no profiles to show; measure some with: edgekit profile BUNDLE")
    given = named(profiles)
    sections = [
        Section("summary", "Summary", method.summary(given)),
        Section("profiles", "Profiles", matrix.section(given)),
        Section("latency", "Latency of calls", distributions.section(given)),
        Section("stages", "Stages of a call", stages.section(given)),
        Section("accuracy", "Accuracy, latency and size", tradeoff.section(given)),
        Section("operators", "Operators", operators.section(given)),
    ]
    sections += [*load.sections(given), Section("method", "How it was measured", method.section(given))]
    days = sorted({one.time[:10] for one in profiles})
    lead = f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}, written by edgekit {__version__}."
    write_text(page("Latency profiles", sections, lead=lead, tools=filters(facets(given), "profiles")), path)
