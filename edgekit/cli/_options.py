"""Options that several commands share, and the values they take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from edgekit.cli._terminal import say, shown
from edgekit.errors import UsageError
from edgekit.worker.user_modules import import_given, is_here

Command = TypeVar("Command", bound=Callable[..., Any])


class TrackerName(click.types.StringParamType):
    """The name of a tracker. Help lists those that there are; an unknown one is refused when it is opened."""

    name = "name"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, looked up only when help is shown."""
        from edgekit.runtimes.tracking import tracker_names

        return f"[{'|'.join(tracker_names())}]"


def json_option(command: Command) -> Command:
    """``--json``: machine-readable output on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")(command)


def imports_option(command: Command) -> Command:
    """``--import MODULE``: a module of the user's own, which registers a decoder or adds a folder.

    It is imported as the line is read, before anything is looked up; commands hand the names on to their children.
    """
    return click.option(
        "--import",
        "imports",
        metavar="MODULE",
        multiple=True,
        callback=_import,
        help="Import your own module first; it can register a decoder and more (CONTRIBUTING.md).",
    )(command)


def _import(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    import_modules(names)
    return names


def engine_options(command: Command) -> Command:
    """``--threads``, ``--unit`` and ``--strict``: how to open a bundle."""
    strict = click.option("--strict", is_flag=True, help="Fail when an operator leaves the unit.")
    unit = click.option("--unit", default="", help="Unit of the engine: cpu, cuda, gpu, npu. [default: its first]")
    threads = click.option(
        "--threads", type=click.IntRange(0), default=0, help="CPU threads, 0 for the engine's choice."
    )
    return threads(unit(strict(command)))


def import_modules(names: Sequence[str]) -> None:
    """Import what ``--import`` named.

    Raises:
        UsageError: it cannot be imported.
    """
    for name in names:
        if is_here(import_given(name)):
            say(f"edgekit: imported {name} from the current folder", err=True)


def split_names(text: str) -> tuple[str, ...]:
    """Names from a comma-separated list, each once, in order."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def read_options(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """``TARGET.NAME=VALUE`` pairs, by target.

    Raises:
        UsageError: not of that form.
    """
    found: dict[str, dict[str, str]] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        target, dot, name = key.partition(".")
        if not (target and dot and name and equals):
            raise UsageError(f"--option {pair}: write it as TARGET.NAME=VALUE, for example rknn.platform=rk3566")
        found.setdefault(target, {})[name] = value
    return found


def track_option(command: Command) -> Command:
    """``--track-option NAME=VALUE``: options of the tracker of ``--track``."""
    return click.option(
        "--track-option",
        "track_options",
        multiple=True,
        metavar="NAME=VALUE",
        help="Tracker option: new_score=0.5 (docs/TRACKING.md). [default: the bundle's, else the papers']",
    )(command)


def read_values(given: Sequence[str], option: str) -> dict[str, bool | int | float | str]:
    """``NAME=VALUE`` pairs of an option; numbers, true and false are what they look like.

    Raises:
        UsageError: not of that form, or the same name twice.
    """
    found: dict[str, bool | int | float | str] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not (name and equals and text):
            raise UsageError(f"{option} {pair}: write it as NAME=VALUE, for example new_score=0.5")
        if name in found:
            raise UsageError(f"{option} {pair}: {name} is given twice")
        found[name] = _value(text)
    return found


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def console(*, stderr: bool = False) -> Any:
    """A rich console."""
    from rich.console import Console

    class Shown(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(shown(one) if isinstance(one, str) else one for one in objects), **options)

    drawn = Shown(stderr=stderr, highlight=False, soft_wrap=True)
    if not drawn.is_terminal:
        drawn.width = 140  # a file or a pipe has no width; tables must not be squeezed into 80 columns there
    return drawn
