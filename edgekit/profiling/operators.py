"""DEVICE: where the time of an inference goes, by the engine's own profiler, in one form for all engines.

What reads an engine's profiler is a file of `edgekit.profiling.engines` with the engine's name. What it leaves empty is
filled in here from the times' compute units. For an engine without such a file, or without times for this bundle, the
record has the placement of the operators and the reason; there ``partitions`` is at least the number of units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from edgekit import registry
from edgekit.arrays import Floats
from edgekit.errors import UsageError
from edgekit.profiling import engines
from edgekit.profiling.engines import Measure, pieces
from edgekit.profiling.record import Operators
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs, open_session


def operators(bundle: Bundle, options: SessionOptions, feeds: Sequence[Floats], runs: int = 20) -> Operators:
    """Time of every operator of a bundle's graph.

    ``units`` counts the operators of the engine's graph, after its own fusion, by the compute unit that ran them.
    ``partitions`` counts the pieces that the order of execution falls into when cut wherever the unit changes.
    ``fallbacks`` are operators outside the unit that was meant to run them all: the device that was asked for, or the
    delegate that the engine is fast with.

    Args:
        bundle: an opened bundle.
        options: device and threads as they are measured with.
        feeds: inputs of the graph, NCHW float32 in its order.
        runs: how many inferences count, at least 1.

    Raises:
        EngineError: the engine is not installed, refuses the file, or failed.
        UsageError: unknown device, fewer than 1 run.
    """
    if runs < 1:
        raise UsageError(f"runs must be 1 or more, not {runs}")
    manifest = bundle.manifest
    if len(manifest.graphs) > 1:
        reason = f"{len(manifest.graphs)} graphs that call each other: operators are timed in bundles of one graph"
        return Operators(by="", unavailable=reason)
    graph = manifest.graphs[0]
    # For all that opening checks; the session itself goes before the profiler makes its own.
    placement = open_session(manifest.engine, bundle.path, graph, options).placement
    check_inputs(graph, feeds)
    measure: Measure | None = registry.find(engines.__name__, manifest.engine, "measure")
    if measure is None:
        found = Operators(by="", unavailable=f"edgekit reads no times of operators from engine {manifest.engine}")
    else:
        found = measure(bundle.path, graph, options, feeds, runs)
    return _completed(found) if found.times else _placed(found, placement)


def _completed(found: Operators) -> Operators:
    """With units and partitions as the times' compute units tell them."""
    return msgspec.structs.replace(
        found,
        units=found.units or dict(Counter(one.unit for one in found.times)),
        partitions=pieces(found.times),
    )


def _placed(found: Operators, placement: Placement) -> Operators:
    """Without times: what the engine told of the operators, or else where the opened session says that they run."""
    if found.units:
        return found
    units = dict(placement.operators)
    return msgspec.structs.replace(found, units=units, partitions=max(len(units), 1))
