"""Options about quantisation that commands share, and the values they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.cli._command import tell
from edgekit.cli._quantities import SECONDS, Quantity

if TYPE_CHECKING:
    from edgekit.calibration.plan import Methods

Command = TypeVar("Command", bound=Callable[..., Any])


METHODS = {"--no-islands": "--no-float-fallback", "--no-equalisation": "--no-equalization"}
"""Former names of the switches."""


def methods_options(command: Command) -> Command:
    """Switches for what the quantisation plan does; all of it is done by default."""
    options = (
        click.option(
            "--ranges",
            type=click.Choice(("auto", "min-max", "percentile", "squared")),
            default="auto",
            show_default=True,
            help="How ranges of activations are found; auto: the best for each tensor.",
        ),
        click.option("--no-equalization", is_flag=True, help="No cross-layer equalization."),
        click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are."),
        click.option("--no-float-fallback", is_flag=True, help="Keep no layer in float (no mixed precision)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_methods(given: dict[str, Any]) -> Methods:
    """The methods of the plan; takes the values of `methods_options` out of what a command was given."""
    from edgekit.calibration.plan import Methods

    return Methods(
        ranges=given.pop("ranges"),
        cross_layer_equalization=not given.pop("no_equalization"),
        bias_correction=not given.pop("no_bias_correction"),
        float_fallback=not given.pop("no_float_fallback"),
    )


class _Duration(Quantity):
    """Seconds above 0, from ``10min`` or ``90s``; ``minutes=10``, the former way, works and tells."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text."""
        if isinstance(value, int | float):
            return float(value)
        key, equals, number = str(value).partition("=")
        if equals and key == "minutes":
            tell(f"--finetune {value} is written --finetune {number}min now")
            value = f"{number}min"
        if str(value).strip().replace(".", "").isdigit():
            self.fail(f"{value!r} has no unit: write {value}min or {value}s", param, ctx)
        seconds = super().convert(value, param, ctx)
        if seconds <= 0:
            self.fail(f"{value!r} is no time at all: write 10min, or leave it out", param, ctx)
        return seconds


def finetune_option(command: Command) -> Command:
    """``--finetune 10min``, in seconds; 0.0 when left out."""
    return click.option(
        "--finetune",
        type=_Duration("time", SECONDS.units),
        default=0.0,
        help="Fine-tune the INT8 weights for this long, without labels: 10min.",
    )(command)
