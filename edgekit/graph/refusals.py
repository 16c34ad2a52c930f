"""Why torch cannot export a network, in words that name the user's own line."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ADVICE = (
    "an exported network does the same for every image: compute both and choose with torch.where, leave it to the "
    "decoder, or cut the network before it (cut: in the contract)"
)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')


def refusal(error: BaseException) -> str:
    """The reason of torch.export's refusal, the place in the user's code, and what to do."""
    frames = list(_frames(error))
    where = f" at {_written(frames[-1])}" if frames else ""
    text = str(error)
    if type(error).__name__.startswith("GuardOnDataDependent") or "data-dependent" in text:
        return f"what it does depends on the values in the image{where}; {_ADVICE}"
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{reason}{where}"


def changing_output(program: torch.export.ExportedProgram) -> str:
    """The refusal of an output whose size depends on the values in the image; empty if there is none."""
    (result,) = [node for node in program.graph.nodes if node.op == "output"]
    for place, node in enumerate(result.args[0]):
        shape = getattr(getattr(node, "meta", {}).get("val"), "shape", ())
        if all(isinstance(size, int) for size in shape):
            continue
        found = _FRAME.findall(str(node.meta.get("stack_trace", "")))
        own = [frame for frame in found if not _is_library(frame[0])]
        where = f" at {own[-1][0]}:{own[-1][1]}, in {own[-1][2]}: {own[-1][3]}" if own else ""
        return f"the size of output {place} depends on the values in the image{where}; {_ADVICE}"
    return ""


def _frames(error: BaseException | None) -> Iterator[traceback.FrameSummary]:
    """Lines of the user's code that an error passed, the innermost last."""
    while error is not None:
        found = [frame for frame in _extracted(error.__traceback__) if not _is_library(frame.filename)]
        if found:
            yield from found
            return
        error = error.__cause__ or error.__context__


def _extracted(trace: TracebackType | None) -> traceback.StackSummary:
    return traceback.extract_tb(trace)


def _is_library(file: str) -> bool:
    """Whether a file is torch's, edgekit's, Python's own, or none."""
    import torch

    libraries = (Path(torch.__file__).parent, Path(__file__).parents[1], Path(traceback.__file__).parent)
    path = Path(file)
    installed = "site-packages" in path.parts
    return (
        not path.is_file()
        or (path.is_relative_to(libraries[2]) and not installed)
        or any(map(path.is_relative_to, libraries[:2]))
    )


def _written(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
