"""Colors of classes and tracks, the same in every image, and of text on them."""

from __future__ import annotations

import colorsys
from functools import cache

Color = tuple[int, int, int]
"""Blue, green, red, 0..255 each."""


@cache
def color_of(number: int) -> Color:
    """BGR color of a class id or track id, the same in every image; neighbouring ids get clearly different hues.

    Hues step by the golden ratio, which spreads any number of classes evenly round the circle; saturation and
    brightness alternate, so that hues which come close after many classes still differ.
    """
    hue = (0.57 + number * 0.6180339887498949) % 1.0
    saturation, value = ((0.85, 1.0), (0.65, 0.95), (0.95, 0.8))[number // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def text_color_on(color: Color) -> Color:
    """Black or white BGR, whichever contrasts more with ``color`` (WCAG 2 relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)
