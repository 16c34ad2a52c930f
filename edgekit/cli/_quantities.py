"""Quantities as people write them on a command line: ``50ms``, ``10%``, ``4,8``, ``12MB``."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"


class Quantity(click.ParamType):  # type: ignore[type-arg]
    """A number with a unit, as a number in the first of the units.

    Args:
        name: for the usage line.
        units: factor of each unit; a number without one is in the first.
        most: the largest number, in the first unit.
    """

    def __init__(self, name: str, units: dict[str, float], most: float = math.inf) -> None:
        self.name = name
        self.units = units
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(_NUMBER + r"([a-zA-Z%]*)", str(value))
        unit = found[2] if found and found[2] else next(iter(self.units))
        if not found or unit not in self.units:
            self.fail(f"{value!r} is not a number with one of the units {', '.join(self.units)}", param, ctx)
        number = float(found[1]) * self.units[unit]
        if number > self._most:
            self.fail(f"{value!r} is more than {self._most:g}", param, ctx)
        return number


SECONDS = Quantity("seconds", {"s": 1.0, "ms": 1e-3, "min": 60.0, "m": 60.0, "h": 3600.0})
MILLISECONDS = Quantity("ms", {"ms": 1.0, "s": 1e3})
SHARE = Quantity("share", {"": 1.0, "%": 0.01})
FRACTION = Quantity("share", {"": 1.0, "%": 0.01}, most=1.0)
BYTES = Quantity("size", {"MB": 1e6, "kB": 1e3, "GB": 1e9, "B": 1.0})


class Counts(click.ParamType):  # type: ignore[type-arg]
    """Numbers from 1 (or ``least``) on, separated by commas."""

    name = "counts"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",") if word.strip()]
        if not all(word.isdigit() and int(word) >= self._least for word in words):
            self.fail(f"{value!r} is not a list of numbers from {self._least} on, such as 1,2,4", param, ctx)
        return tuple(dict.fromkeys(int(word) for word in words))


class InputSize(click.ParamType):  # type: ignore[type-arg]
    """Height and width in pixels, or one number for both."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9]\d*)(?:[x×]([1-9]\d*))?", str(value).strip())
        if not found:
            self.fail(f"{value!r} is not a size: write 224, or 160x224 (height x width)", param, ctx)
        return int(found[1]), int(found[2] or found[1])


class BundleSize(InputSize):
    """One of the input sizes of a bundle, or ``nearest``: for each image the smallest that shows it in full."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        return "nearest" if value == "nearest" else super().convert(value, param, ctx)


class InputSizes(InputSize):
    """Input sizes, separated by commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        words = [word for word in str(value).split(",") if word.strip()]
        read = super().convert
        return tuple(read(word, param, ctx) for word in words or [str(value)])


INPUT_SIZE = InputSize()
INPUT_SIZES = InputSizes()
