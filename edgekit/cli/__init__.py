"""The command line. One file per command, named like it; a command registers by declaring ``command``, and its other
names as ``ALIASES``.

Commands are thin: parse, call the API, print. Heavy imports happen inside them, so that ``--help`` stays instant.
"""

from __future__ import annotations

import io
import sys
import traceback
from typing import NoReturn

import click

from edgekit import __version__, registry
from edgekit.cli._options import import_modules
from edgekit.cli._terminal import say
from edgekit.errors import EdgekitError


class _Commands(click.Group):
    """A group whose commands are the modules of this package, imported one at a time when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(registry.names(__name__))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = name if name in registry.names(__name__) else _aliases().get(name)
        if own is None:
            return None
        found: click.Command = registry.module(__name__, own).command
        return found

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The names that other tools have for the same."""
        pairs = ", ".join(f"{alias} is {name}" for alias, name in _aliases().items())
        formatter.write_paragraph()
        formatter.write_text(f"Also: {pairs}.")


def _aliases() -> dict[str, str]:
    """Further names of commands, each with the command's own."""
    declared = registry.declared(__name__, "ALIASES")
    return {alias: name for name, module in declared.items() for alias in module.ALIASES}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgekit")
@click.option(
    "--import",
    "imports",
    metavar="MODULE",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, names: import_modules(names),
    help="Import a module of yours first, which adds commands.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def edgekit(ctx: click.Context, debug: bool) -> None:
    """Trained PyTorch models to the edge, with proof that they still work there."""
    ctx.obj = debug


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a target failed or fell outside its gate, 2 wrong use."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # --debug is wanted where the error was just seen: at the end of the line, after the command.
    arguments = (["--debug"] if debug else []) + [argument for argument in arguments if argument != "--debug"]
    try:
        code = edgekit.main(arguments, prog_name="edgekit", standalone_mode=False)
    except click.exceptions.Abort:
        _complain("interrupted")
        raise SystemExit(130) from None
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        say(text.getvalue(), err=True, end=False)
        raise SystemExit(error.exit_code) from None
    except EdgekitError as error:
        if debug:
            _trace()
        _complain(f"error: {error}")
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 - this is the edge of the process: whatever it is, it is told
        if debug:
            _trace()
        _complain(f"internal error: {type(error).__name__}: {error} (please report it; --debug shows the traceback)")
        raise SystemExit(1) from None
    raise SystemExit(code or 0)


def _trace() -> NoReturn:
    """End with the traceback of the error that is handled, as Python does, but as text."""
    say(traceback.format_exc(), err=True, end=False)
    raise SystemExit(1) from None


def _complain(text: str) -> None:
    say(f"edgekit: {text}", err=True)
