"""HOST: the images that calibrate and prove a model, and the quantisation plan that makes it INT8."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with what is being done and the share (0..1) that is done."""
