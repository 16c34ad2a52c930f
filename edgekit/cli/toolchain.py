"""``edgekit toolchain``."""

from __future__ import annotations

import click

from edgekit.cli._options import json_option
from edgekit.cli._terminal import say


@click.group(short_help="Install, list, check and remove the toolchains that need an environment of their own.")
def command() -> None:
    """Isolated environments for toolchains that conflict with others.

    They are in $EDGEKIT_TOOLCHAINS, or in edgekit's folder of the user's data. Only install installs.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show every toolchain, its size and whether it is installed."""
    import json

    from edgekit.cli._reports import table
    from edgekit.conversion import installation
    from edgekit.worker import toolchains

    known = [(one, installation.users(one.name)) for one in installation.declared().values()]
    if as_json:
        data = [
            {
                "toolchain": one.name,
                "summary": one.summary,
                "targets": targets,
                "state": one.state,
                "megabytes": one.megabytes,
                "licence": one.licence,
                "folder": str(toolchains.root() / one.name),
            }
            for one, targets in known
        ]
        say(json.dumps(data, indent=2))
        return
    rows = [[one.name, one.summary, " ".join(targets), f"{one.megabytes} MB", one.state] for one, targets in known]
    table(("toolchain", "what", "for", "size", "state"), rows, right=("size",))


@command.command()
@click.argument("names", nargs=-1, required=True)
def install(names: tuple[str, ...]) -> None:
    """Install toolchains, or complete an interrupted installation."""
    from edgekit.conversion import installation
    from edgekit.worker import toolchains

    for toolchain in [installation.find(name) for name in names]:
        where = toolchains.root() / toolchain.name
        say(f"{toolchain.name}: {toolchain.summary}; {toolchain.megabytes} MB in {where}, and its wheels beside it")
        if toolchain.licence:
            say(f"{toolchain.name}: {toolchain.licence}")
        installation.install(toolchain, say)
        say(f"{toolchain.name}: installed")


@command.command()
@click.argument("names", nargs=-1, required=True)
def remove(names: tuple[str, ...]) -> None:
    """Delete toolchains; their wheels are kept for another installation without a network."""
    from edgekit.cli._reports import megabytes
    from edgekit.conversion import installation

    for name in names:
        say(f"{name}: {megabytes(installation.remove(name))} freed")


@command.command()
@click.argument("names", nargs=-1)
@json_option
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Import the packages of toolchains and compare their versions with the pins.

    Without NAMES, check all installed ones. The exit code is 1 if one of them does not work.
    """
    import json

    from edgekit.conversion import installation
    from edgekit.errors import ToolchainError

    asked = [installation.find(name) for name in names]
    chosen = asked or [one for one in installation.declared().values() if one.state != "missing"]
    results: dict[str, str] = {}
    for toolchain in chosen:
        try:
            installation.check(toolchain)
            results[toolchain.name] = "works" if toolchain.state == "installed" else toolchain.state
        except ToolchainError as error:
            results[toolchain.name] = str(error)
    if as_json:
        say(json.dumps(results, indent=2))
    elif not results:
        say("no toolchain is installed; see: edgekit toolchain list")
    else:
        for name, result in results.items():
            say(f"{name}: {result}")
    click.get_current_context().exit(0 if all(result == "works" for result in results.values()) else 1)
