"""How long work tells of itself."""

from __future__ import annotations

from collections.abc import Callable
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
