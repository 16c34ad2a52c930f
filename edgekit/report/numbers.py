"""Numbers as one reads them."""

from __future__ import annotations

import math


def number(value: float | None, digits: int = 3) -> str:
    """``0.0123``, ``12,300``, ``1.2e-07``; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits}g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float | None) -> str:
    """A share of one in per cent, with three digits."""
    return number(share) if share is None or not math.isfinite(share) else f"{number(share * 100)} %"


def count(amount: int, one: str, several: str = "") -> str:
    """``1 layer``, ``1,200 layers``."""
    return f"{amount:,} {one if amount == 1 else several or one + 's'}"


def duration(seconds: float) -> str:
    """``48 s``, ``2 min 5 s`` or ``1 h 4 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds, 2) if 0 < seconds < 10 else whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(text: str, longest: int) -> str:
    """At most so many characters; what is too long is cut in the middle."""
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-(longest // 2) :]}"
