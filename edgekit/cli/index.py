"""``edgekit index``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._generation import opened
from edgekit.cli._options import engine_options, json_option
from edgekit.cli._terminal import say


@click.command(cls=Command, renamed=UNIT, short_help="Index images for edgekit search, with a retrieval bundle.")
@click.argument("bundle")
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the index.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images per run.")
@engine_options
@json_option
def command(
    bundle: str, inputs: tuple[str, ...], output: Path, batch: int, threads: int, unit: str, strict: bool, as_json: bool
) -> None:
    """Index INPUTS (images, folders, globs) with BUNDLE.

    With --json: {"index", "images", "vectors"}, the last being the vectors of each image.
    """
    import json

    from edgekit.runtimes.language.index import ImageIndex

    def progress(done: int) -> None:
        say(f"{done} images", err=True, end=False, again=True)

    model = opened(bundle, threads, unit, strict)
    index = ImageIndex.build(model, list(inputs), batch=batch, progress=None if as_json else progress)
    folder = index.save(output)
    if as_json:
        say(json.dumps({"index": str(folder), "images": len(index), "vectors": index.vectors.shape[1]}))
        return
    say(err=True)
    say(f"{folder}: {len(index)} images")
