"""Times of operators by ExecuTorch's event tracer, which its Python module is built with, XNNPACK's operators included.

XNNPACK's operators have the names of its kernels and no layers. A call of a delegate that tells nothing of its inside
is one operator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.profiling.engines import WARM_UP
from edgekit.profiling.engines._etdump import Event, read_blocks
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.executorch import DELEGATE, ENGINE, KERNELS, XNNPACK, captured

_BY = "executorch event tracer"
_RUN, _WHOLE, _DELEGATE, _KERNEL = "Execute", "Method::execute", "DELEGATE_CALL", "native_call_"
_TYPES = {"F32": "float32", "F16": "float16", "QS8": "int8", "QD8": "int8", "QU8": "uint8"}
"""Arithmetic as the names of XNNPACK's operators have it: ``Convolution (NHWC, QS8, QC8W) IGEMM #1``."""


def measure(folder: Path, graph: Graph, options: SessionOptions, feeds: Sequence[Floats], runs: int) -> Operators:
    """Run the program ``WARM_UP + runs`` times with the tracer on, of which the last ``runs`` count.

    Raises:
        EngineError: the engine refuses the file, or failed.
    """
    if options.device not in ("", *ENGINE.devices):
        return Operators(by="", unavailable=f"unit {options.device!r} is not what the file is for: no times of it")
    ENGINE.open_session(folder, graph, options)  # for all that it checks, and the number of threads
    data = _dump(folder / graph.files[0], feeds, WARM_UP + runs)
    if not data:
        return Operators(by="", unavailable="this executorch was built without its event tracer")
    try:
        rounds = [events for name, events in read_blocks(data) if name == _RUN][WARM_UP:]
    except ValueError as error:
        return Operators(by="", unavailable=f"this executorch writes dumps that edgekit cannot read: {error}")
    delegate = str(graph.report.get(DELEGATE, XNNPACK))
    every = [_operators(events, delegate) for events in rounds]
    if len(every) != runs or len({tuple(one.name for one in times) for times in every}) != 1:
        return Operators(by="", unavailable="this executorch traced other operators in each run")
    medians = np.median([[one.milliseconds for one in times] for times in every], axis=0)
    times = tuple(
        OperatorTime(name=one.name, kind=one.kind, milliseconds=float(median), unit=one.unit, arithmetic=one.arithmetic)
        for one, median in zip(every[0], medians, strict=True)
    )
    whole = [event.milliseconds for events in rounds for event in events if event.name == _WHOLE]
    return Operators(
        by=_BY,
        times=times,
        measured=float(np.median(whole)) if whole else 0.0,
        fallbacks=tuple(one.name for one in times if one.unit == KERNELS != delegate),
    )


def _dump(path: Path, feeds: Sequence[Floats], count: int) -> bytes:
    """ExecuTorch's trace of this many runs; nothing where it cannot trace."""
    import torch
    from executorch.extension.pybindings import portable_lib

    tensors = tuple(torch.from_numpy(np.array(array, np.float32)) for array in feeds)
    with captured(), tempfile.TemporaryDirectory(prefix="edgekit-profile-") as place:
        try:
            program = portable_lib._load_for_executorch(str(path), enable_etdump=True)
            for _ in range(count):
                program.run_method("forward", tensors)
            if not program.has_etdump():
                return b""
            written = Path(place) / "trace.etdump"
            program.write_etdump_result_to_file(str(written))
        except RuntimeError as error:
            raise EngineError(f"{path.name}: ExecuTorch failed while it was profiled: {error}") from error
        return written.read_bytes() if written.is_file() else b""


def _operators(events: list[Event], delegate: str) -> list[OperatorTime]:
    """The operators of one run: those within a delegate come before the call that they belong to."""
    found: list[OperatorTime] = []
    inner: list[OperatorTime] = []
    for event in events:
        if event.delegated:
            inner.append(_delegated(event, delegate))
        elif event.name == _DELEGATE:
            whole = OperatorTime(name=_DELEGATE, kind=_DELEGATE, milliseconds=event.milliseconds, unit=delegate)
            found += inner or [whole]
            inner = []
        elif event.name.startswith(_KERNEL):
            name = event.name.removeprefix(_KERNEL)
            kind = name.partition(".")[0]
            found.append(OperatorTime(name=name, kind=kind, milliseconds=event.milliseconds, unit=KERNELS))
    return found


def _delegated(event: Event, delegate: str) -> OperatorTime:
    """``Convolution (NHWC, F32) IGEMM #1`` is a Convolution in float32."""
    kind, _, rest = event.name.partition(" (")
    types = [_TYPES[word] for word in rest.partition(")")[0].split(", ") if word in _TYPES]
    return OperatorTime(
        name=event.name,
        kind=kind,
        milliseconds=event.milliseconds,
        unit=delegate,
        arithmetic=types[0] if types else "",
    )
