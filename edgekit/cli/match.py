"""``edgekit match``."""

from __future__ import annotations

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._generation import images_of, opened
from edgekit.cli._options import engine_options, json_option
from edgekit.cli._terminal import say


@click.command(cls=Command, renamed=UNIT, short_help="Compare a text with images, with a retrieval bundle.")
@click.argument("bundle")
@click.argument("text")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--also", multiple=True, metavar="TEXT", help="Another text. May be repeated.")
@engine_options
@json_option
def command(
    bundle: str,
    text: str,
    inputs: tuple[str, ...],
    also: tuple[str, ...],
    threads: int,
    unit: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Compare TEXT with INPUTS: images, folders, globs, videos.

    With --json, one line per image and text: {"image", "text", "probability", "similarity"}.
    """
    import msgspec

    model = opened(bundle, threads, unit, strict)
    for frame in images_of(inputs):
        matches = model.match(frame.image, [text, *also])
        for match in matches if isinstance(matches, list) else [matches]:
            named = msgspec.structs.replace(match, source=frame.name)
            if as_json:
                say(named.to_json())
            else:
                say(
                    f"{named.source}: {named.text!r}  probability {named.probability:.3f}, "
                    f"similarity {named.similarity:.3f}"
                )
