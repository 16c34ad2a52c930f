"""HOST: the data a model is calibrated and proven on, and how it becomes INT8."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with what is being done and the share (0..1) that is done."""
