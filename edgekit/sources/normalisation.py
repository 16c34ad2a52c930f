"""Scales, means and standard deviations that cannot belong together, seen from what they would make of pixel values."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.runtimes.bundle.manifest import ImageRule

NARROWEST = 0.1
"""Networks see pixels over a range of 1 (0..1) or more; whoever divides twice is left with less than this."""

WIDEST = 300.0
"""Networks see values up to 255 (pixels as they are); whoever forgets to divide gives them more than this."""

WHOLE_PIXELS = 100.0
"""A range above this, before std, is that of pixels that were not scaled to 0..1."""


def contradiction(rule: ImageRule) -> tuple[str, str]:
    """The key of an image rule that does not fit the others, and why; two empty texts where all fit.

    Pixels become ``(pixel * scale - mean) / std``. No network is trained on values that are all below the mean, that
    differ by next to nothing, or that reach into the hundreds after a division by std.
    """
    top = 255 * rule.scale
    lows = [-mean / std for mean, std in zip(rule.mean, rule.std, strict=True)]
    highs = [(top - mean) / std for mean, std in zip(rule.mean, rule.std, strict=True)]
    become = f"black would become {min(lows):.4g} and white {max(highs):.4g}"
    if any(high < 0 for high in highs):
        why = f"mean {_texts(rule.mean)} is above all pixels, which scale {rule.scale:.4g} brings to 0..{top:.3g}"
        return "mean", f"{why}: {become}. {_meant(rule)}"
    if max(rule.std) > 1 and max(high - low for low, high in zip(lows, highs, strict=True)) < NARROWEST:
        why = f"std {_texts(rule.std)} divides pixels again that scale {rule.scale:.4g} brings to 0..{top:.3g}"
        return "std", f"{why}: {become}. {_meant(rule)}"
    if max(-min(lows), max(highs)) > WIDEST or (top > WHOLE_PIXELS and 0 < max(map(abs, rule.mean)) <= 1):
        parts = f"mean {_texts(rule.mean)} and std {_texts(rule.std)}"
        why = f"scale {rule.scale:.4g} leaves pixels at 0..{top:.4g}, and {parts} are for another range"
        return (
            "scale",
            f"{why}: {become}. They are in units after scale; probably scale: {1 / 255:.6f} (1/255) is meant",
        )
    return "", ""


def _meant(rule: ImageRule) -> str:
    """The probable meaning of a rule that scales pixels and has a mean or std in whole pixels."""
    units = "mean and std are in units after scale; probably scale: 1.0 is meant"
    if max(rule.std) > 1 or max(rule.mean) <= 1:
        return units
    return f"{units}, or mean: {[round(mean * rule.scale, 4) for mean in rule.mean]} (times scale)"


def _texts(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
