"""``edgekit selfcheck``."""

from __future__ import annotations

import click

from edgekit.cli._options import imports_option, json_option
from edgekit.cli._terminal import say


@click.command(short_help="Replay a bundle's golden frames on this machine, and say whether the results agree.")
@click.argument("bundle")
@click.option("--unit", default="", help="Unit of the engine: cpu, cuda, npu ... [default: its first]")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads, 0 for the engine's choice.")
@imports_option
@json_option
def command(bundle: str, unit: str, threads: int, imports: tuple[str, ...], as_json: bool) -> None:
    """Replay the golden frames in BUNDLE with the engine of this machine. It needs neither the source nor data.

    --json prints a record for edgekit evidence add. The exit code is 1 if results differ.
    """
    import msgspec

    from edgekit.runtimes.selfcheck import selfcheck

    done = selfcheck(bundle, unit=unit, threads=threads)
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(done), indent=2).decode())
    else:
        than = "what it found when it was converted" if done.compared == "bundle" else "what its source found"
        verdict = "agree" if done.agreed else "DO NOT AGREE"
        how = f"{done.word} by {done.engine} on {done.machine}"
        say(f"{bundle}: {done.frames} golden frames {verdict} with {than}; {how}")
        for text in done.differences:
            say(f"  {text}")
    click.get_current_context().exit(0 if done.agreed else 1)
