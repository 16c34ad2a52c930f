"""Times of ncnn's layers. ncnn for Python has no profiler, so its layers are computed one by one.

An `Extractor` computes no more than what a blob needs, and keeps what it has. Asking for the blobs of all layers in
their order therefore runs one layer at a time, in place where a whole inference works in place (light mode, and no
reference to the blob before is held). Python is handed a copy of each blob; what that takes is measured by asking for
the same blob again, and taken off. The sum agrees with a whole inference within about a tenth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.profiling.engines import WARM_UP
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.ncnn import ENGINE
from edgekit.runtimes.engines.ncnn.files import int8_layers
from edgekit.runtimes.engines.ncnn.session import NcnnSession

_AS_IT_IS = 1
"""Extract a blob as the next layer would read it: not unpacked, not converted to float32."""


def measure(folder: Path, graph: Graph, options: SessionOptions, feeds: Sequence[Floats], runs: int) -> Operators:
    """Compute all layers ``WARM_UP + runs`` times, in turns with whole inferences; the last ``runs`` count.

    ``measured`` is of the whole inferences, undisturbed.

    Raises:
        EngineError: the engine refuses the files, or failed.
    """
    session = ENGINE.open_session(folder, graph, options)
    layers = [layer for layer in session.net.layers() if layer.type != "Input"]
    blobs = [session.net.blobs()[layer.tops[0]].name for layer in layers]
    whole, spent = [], []
    for _ in range(WARM_UP + runs):
        begin = time.perf_counter()
        session.run(feeds)
        whole.append(1e3 * (time.perf_counter() - begin))
        spent.append(_one_by_one(session, graph, feeds, blobs))
    medians = np.maximum(np.median(spent[WARM_UP:], axis=0), 0)
    integer = int8_layers(folder / graph.files[0])
    floating = session.placement.arithmetic.partition(",")[0]
    floating = "float32" if floating.startswith("int8") else floating
    times = tuple(
        OperatorTime(
            name=layer.name,
            kind=layer.type,
            milliseconds=float(milliseconds),
            arithmetic="int8" if layer.name in integer else floating,
        )
        for layer, milliseconds in zip(layers, medians, strict=True)
    )
    return Operators(by="ncnn layer by layer", times=times, measured=float(np.median(whole[WARM_UP:])))


def _one_by_one(session: NcnnSession, graph: Graph, feeds: Sequence[Floats], blobs: list[str]) -> list[float]:
    """Milliseconds of each layer of one inference."""
    import ncnn

    extractor = session.net.create_extractor()
    extractor.set_light_mode(True)
    for tensor, array in zip(graph.inputs, feeds, strict=True):
        # A copy that is ncnn's own: a layer that works in place would write into ours.
        extractor.input(tensor.name, ncnn.Mat(np.ascontiguousarray(array[0], np.float32)).clone())
    return [_extracted(extractor, blob) - _extracted(extractor, blob) for blob in blobs]


def _extracted(extractor: Any, blob: str) -> float:
    """Milliseconds until a blob is there; the reference to it is let go at once."""
    begin = time.perf_counter()
    code = extractor.extract(blob, _AS_IT_IS)[0]
    spent = 1e3 * (time.perf_counter() - begin)
    if code:
        raise EngineError(f"ncnn failed to compute {blob!r} (code {code}) while it was profiled; convert again")
    return spent
