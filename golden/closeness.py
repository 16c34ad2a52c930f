"""Comparison of two answers: whole numbers and texts exactly, other numbers within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def apart(expected: Any, answered: Any, tolerance: Mapping[str, float], place: str = "") -> list[str]:
    """In what two trees differ, a sentence each.

    Args:
        expected: objects, lists, arrays, numbers, texts.
        answered: the same.
        tolerance: how far numbers may be apart, by the name of the entry that they are in; others must be equal.
        place: where in the answer this is.
    """
    if isinstance(expected, dict) and isinstance(answered, dict):
        if expected.keys() != answered.keys():
            return [f"{place or 'answer'}: has {sorted(answered)}, not {sorted(expected)}"]
        inner = [apart(expected[key], answered[key], tolerance, f"{place}.{key}".strip(".")) for key in expected]
        return [one for found in inner for one in found]
    if isinstance(expected, list) and expected and isinstance(expected[0], dict | str):
        if not isinstance(answered, list) or len(answered) != len(expected):
            return [f"{place}: not {len(expected)} entries"]
        inner = [
            apart(a, b, tolerance, f"{place}[{i}]") for i, (a, b) in enumerate(zip(expected, answered, strict=True))
        ]
        return [one for found in inner for one in found]
    if isinstance(expected, str | bool | None) or isinstance(answered, str | bool | dict | None):
        return [] if expected == answered else [f"{place}: {answered!r}, not {expected!r}"]
    return _numbers(np.asarray(expected), np.asarray(answered), tolerance, place)


def _numbers(expected: Any, answered: Any, tolerance: Mapping[str, float], place: str) -> list[str]:
    if expected.shape != answered.shape and expected.size + answered.size:
        return [f"{place}: shape {answered.shape}, not {expected.shape}"]
    if not expected.size:
        return []
    away = np.abs(expected.astype(np.float64) - answered.astype(np.float64))
    allowed = tolerance.get(place.rpartition(".")[2], 0)
    return [] if away.max() <= allowed else [f"{place}: off by {away.max():.3g}, {allowed:g} is allowed"]
