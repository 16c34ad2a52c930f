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
            type=click.Choice(("auto", "min-max", "percentile", "squared")),
            default="auto",
            show_default=True,
            help="How ranges of activations are found; auto: the best for each tensor.",
        ),
        click.option("--no-equalisation", is_flag=True, help="No cross-layer equalization."),
        click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are."),
        click.option("--no-float-fallback", is_flag=True, help="No layer stays in float (no mixed precision)."),
        click.option("--no-islands", is_flag=True, hidden=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_methods(given: dict[str, Any]) -> Methods:
    """The methods of the plan; takes the values of `methods_options` out of what a command was given."""
    from edgekit.calibration.plan import Methods

    old_name, no_fallback = given.pop("no_islands"), given.pop("no_float_fallback")
    if old_name:
        click.echo("--no-islands is now called --no-float-fallback", err=True)
    return Methods(
        ranges=given.pop("ranges"),
        cross_layer_equalization=not given.pop("no_equalisation"),
        bias_correction=not given.pop("no_bias_correction"),
        float_fallback=not (no_fallback or old_name),
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
