"""The command line. One file per command, named like it; a command registers by declaring ``command``, and its other
names as ``ALIASES``.

Commands are thin: parse, call the API, print. Heavy imports happen inside them, so that ``--help`` stays instant.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

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
        pairs = ", ".join(f"{alias} for {name}" for alias, name in _aliases().items())
        formatter.write_paragraph()
        formatter.write_text(f"Aliases: {pairs}.")


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
    help="Import your own module first; it can add commands.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def edgekit(ctx: click.Context, debug: bool) -> None:
    """Convert trained PyTorch models to edge targets, and prove that they still work there."""
    ctx.obj = debug


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a target failed or fell outside its gate, 2 wrong use; 130 after Ctrl-C,
    143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # --debug is wanted where the error was just seen: at the end of the line, after the command.
    arguments = (["--debug"] if debug else []) + [argument for argument in arguments if argument != "--debug"]
    with _sigterm_as_interrupt() as terminated:
        raise SystemExit(_run(arguments, debug, terminated))


def _run(arguments: list[str], debug: bool, terminated: threading.Event) -> int:
    """The exit code of a command; what went wrong is told on stderr, or raised for ``debug``."""
    try:
        return edgekit.main(arguments, prog_name="edgekit", standalone_mode=False) or 0
    except click.exceptions.Abort:
        _complain("terminated" if terminated.is_set() else "interrupted")
        return 143 if terminated.is_set() else 130
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        say(text.getvalue(), err=True, end=False)
        return error.exit_code
    except EdgekitError as error:
        if debug:
            return _traced()
        _complain(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 1
    except Exception as error:  # noqa: BLE001 - this is the edge of the process: whatever it is, it is told
        if debug:
            return _traced()
        _complain(f"internal error: {type(error).__name__}: {error} (please report it; --debug shows the traceback)")
        return 1


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[threading.Event]:
    """Have SIGTERM interrupt like Ctrl-C, so that what is half done is cleaned up; the event tells that it came."""
    terminated = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        terminated.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there a handler may be set
        yield terminated
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _traced() -> int:
    """Tell the traceback of the error that is handled, as Python does, but as text; the exit code."""
    say(traceback.format_exc(), err=True, end=False)
    return 1


def _complain(text: str) -> None:
    say(f"edgekit: {text}", err=True)
