"""``edgekit search``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._generation import opened
from edgekit.cli._options import engine_options, json_option
from edgekit.cli._terminal import say


@click.command(cls=Command, renamed=UNIT, short_help="Find images of an index by a text or by an image.")
@click.argument("bundle")
@click.argument("index")
@click.argument("query")
@click.option("--image", is_flag=True, help="QUERY is the path of an image, not a text.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Maximum number of images to list.")
@click.option(
    "--rerank", type=click.IntRange(0), default=0, help="Rerank this many of the best by image-text matching."
)
@engine_options
@json_option
def command(
    bundle: str,
    index: str,
    query: str,
    image: bool,
    top: int,
    rerank: int,
    threads: int,
    unit: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Search INDEX, which edgekit index made with the same BUNDLE, for QUERY.

    With --json, one line per image, the best first: {"image", "score", "probability"}.
    """
    import msgspec

    from edgekit.runtimes.language.index import ImageIndex

    found = ImageIndex.open(index, opened(bundle, threads, unit, strict))
    for hit in found.search(Path(query) if image else query, top, rerank=rerank):
        if as_json:
            say(msgspec.json.encode(hit).decode())
            continue
        likely = f"  probability {hit.probability:.3f}" if hit.probability is not None else ""
        say(f"{hit.score:.3f}{likely}  {hit.source}")
