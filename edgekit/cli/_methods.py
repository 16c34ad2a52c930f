"""Options about quantisation that commands share, and the values they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.calibration.plan import Methods

Command = TypeVar("Command", bound=Callable[..., Any])


def methods_options(command: Command) -> Command:
    """Switches for what the quantisation plan does; all of it is done by default."""
    options = (
        click.option(
            "--ranges",
            type=click.Choice(("auto", "min-max", "moving average", "percentile", "absolute", "squared", "kl")),
            default="auto",
            show_default=True,
            help="How ranges of activations are found; auto: the best for each tensor.",
        ),
        click.option("--adaptive-rounding", is_flag=True, help="Round weights by the error of the layer's output."),
        click.option("--no-equalisation", is_flag=True, help="Leave channels as different as they are."),
        click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are."),
        click.option("--no-islands", is_flag=True, help="No layer stays in float."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_methods(given: dict[str, Any]) -> Methods:
    """The methods of the plan; takes the values of `methods_options` out of what a command was given."""
    from edgekit.calibration.plan import Methods

    return Methods(
        ranges=given.pop("ranges"),
        rounding="adaptive" if given.pop("adaptive_rounding") else "nearest",
        cross_layer_equalization=not given.pop("no_equalisation"),
        bias_correction=not given.pop("no_bias_correction"),
        float_fallback=not given.pop("no_islands"),
    )


def finetune_minutes(text: str) -> float:
    """Minutes from ``minutes=N``; 0 from nothing.

    Raises:
        UsageError: not of that form, or not more than 0.
    """
    if not text:
        return 0.0
    key, _, value = text.partition("=")
    try:
        minutes = float(value) if key == "minutes" else 0.0
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--finetune {text}: write it as minutes=N, for example --finetune minutes=10")
    return minutes
