"""``edgekit device``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli._options import json_option
from edgekit.cli._terminal import say


@click.group(short_help="Add, list, check, set up and remove devices that are reached over SSH.")
def command() -> None:
    """Devices over SSH, for edgekit profile --on and edgekit recommend --on.

    The list is $EDGEKIT_DEVICES, or edgekit/devices.json in the user's configuration. Keys, known hosts and everything
    else are those of your own SSH configuration.
    """


@command.command()
@click.argument("name")
@click.argument("url", metavar="ssh://[USER@]HOST[:PORT]")
@click.option("--identity", default="", metavar="FILE", help="Private key. [default: what ssh finds by itself]")
@click.option("--known-hosts", default="", metavar="FILE", help="Known host keys. [default: what ssh uses by itself]")
@click.option("--python", default="python3", show_default=True, help="Python on the device, 3.10 or newer.")
@click.option("--folder", default="~/.edgekit", show_default=True, help="Where edgekit's files go on the device.")
def add(name: str, url: str, identity: str, known_hosts: str, python: str, folder: str) -> None:
    """Add a device to the list; do nothing on it."""
    from edgekit.profiling.devices import known

    known.add(known.described(name, url, identity=identity, known_hosts=known_hosts, python=python, folder=folder))
    say(f"{name}: added; next: edgekit device check {name}")


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the devices on the list, without connecting to them."""
    import msgspec

    from edgekit.cli._reports import table
    from edgekit.profiling.devices import known

    devices = list(known.devices().values())
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(devices), indent=2).decode())
    elif not devices:
        say("no devices yet; see: edgekit device add --help")
    else:
        rows = [[one.name, one.url, one.python, one.folder, one.identity or "ssh's own"] for one in devices]
        table(("device", "where", "python", "folder", "key"), rows)


@command.command()
@click.argument("name")
@json_option
def check(name: str, as_json: bool) -> None:
    """Connect to a device and say what it is and which engines run there.

    The exit code is 1 if it cannot be reached or is not set up.
    """
    import msgspec

    from edgekit.profiling.devices import known
    from edgekit.profiling.devices.connection import Connection
    from edgekit.profiling.devices.environment import inspect

    with Connection(known.device(name)) as connection:
        facts = connection.facts
        there = inspect(connection) if facts.environment else None
    if as_json:
        found = {
            "device": name,
            **msgspec.to_builtins(facts),
            "engines": there.engines if there else {},
            "packages": there.packages if there else {},
        }
        say(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        say(f"{name}: {facts.model or facts.system}, {facts.machine}, Python {facts.python}")
        say(f"{name}: {facts.folder}, {facts.free / 1e9:.1f} GB free")
        ready = " ".join(there.ready) if there else ""
        say(f"{name}: engines that run there: {ready or f'none; edgekit device setup {name} --engine NAME'}")
    click.get_current_context().exit(0 if there and there.ready else 1)


@command.command()
@click.argument("name")
@click.option(
    "--engine", "engines", multiple=True, required=True, metavar="ENGINE", help="Engine to install. May be repeated."
)
@click.option(
    "--wheels", type=click.Path(path_type=Path), help="Folder of wheels. [default: the device downloads them]"
)
@click.option("--system-site-packages", is_flag=True, help="Let the environment see the device's own packages.")
def setup(name: str, engines: tuple[str, ...], wheels: Path | None, system_site_packages: bool) -> None:
    """Make a Python environment on a device, with numpy and engines, or add engines to it.

    ENGINE is an engine's name (onnxruntime, litert, ...); language adds the packages for texts of BLIP-2.
    """
    from edgekit.profiling.devices import known
    from edgekit.profiling.devices.connection import Connection
    from edgekit.profiling.devices.environment import requirements
    from edgekit.profiling.devices.environment import setup as set_up

    device = known.device(name)
    requirements(engines, system_packages=system_site_packages)  # a wrong name is refused before anything is done

    def heard(line: str) -> None:
        say(f"{name}: {line}", err=True)

    with Connection(device) as connection:
        there = set_up(connection, engines, heard, wheels=wheels, system_packages=system_site_packages)
    say(f"{name}: set up in {connection.facts.folder}; engines that run there: {' '.join(there.ready)}")


@command.command()
@click.argument("name")
@click.option("--purge", is_flag=True, help="Also delete from the device what edgekit put there.")
def remove(name: str, purge: bool) -> None:
    """Remove a device from the list."""
    from edgekit.cli._reports import megabytes
    from edgekit.profiling.devices import known
    from edgekit.profiling.devices.connection import Connection

    device = known.device(name)
    if purge:
        with Connection(device) as connection:
            freed = connection.ask("purge", int, places=[])
        say(f"{name}: {megabytes(freed)} freed in {connection.facts.folder}")
    known.remove(name)
    say(f"{name}: removed")
