"""Progress of long calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

Report = Callable[[str, float], None]
"""Called with a short text of what is being done and the share (0..1) that is done."""

Progress = Callable[[str, str, float], None]
"""Called with what is being worked on (``prepare``, ``onnx int8``), a short text, and the share (0..1) that is done.

It is called from several threads.
"""


def silent(what: str, text: str, share: float) -> None:
    """Progress that nobody watches."""


def report_of(progress: Progress, what: str) -> Report:
    """The reports of one thing that is worked on."""
    return partial(progress, what)


@dataclass(frozen=True)
class ProgressEvent:
    """One sign of progress, as the public interface gives it.

    Attributes:
        step: what is worked on: ``prepare``, ``calibrate``, ``onnx int8``, ``profile`` ...
        text: what is being done, in a few words.
        share: how much of the step is done (0..1).
    """

    step: str
    text: str
    share: float


OnProgress = Callable[[ProgressEvent], None]
"""A callback for progress. It may be called from several threads."""
