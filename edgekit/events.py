"""What long calls tell of themselves while they run, and how they are stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """One sign of progress.

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
