"""``edgekit embed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._generation import images_of, opened
from edgekit.cli._options import engine_options, json_option
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.arrays import Floats


@click.command(cls=Command, renamed=UNIT, short_help="Embed images and texts with a vision-language bundle.")
@click.argument("bundle")
@click.argument("inputs", nargs=-1)
@click.option("--text", "texts", multiple=True, help="A text to embed, with a retrieval bundle. May be repeated.")
@click.option(
    "--level",
    type=click.Choice(["vision", "queries", "language", "itc"]),
    help="Level of image embeddings. [default: itc for retrieval bundles, language for others]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A .npz file for one array per image or text.")
@engine_options
@json_option
def command(
    bundle: str,
    inputs: tuple[str, ...],
    texts: tuple[str, ...],
    level: Any,
    output: Path | None,
    threads: int,
    unit: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Embed INPUTS (images, folders, globs, videos) and texts with BUNDLE.

    With --json, one line each: {"image" or "text", "shape", "vectors"}. The file has "names", and the vectors of the
    first name as "0", of the second as "1" and so on.
    """
    import json

    from edgekit.errors import UsageError

    if not inputs and not texts:
        raise UsageError("nothing to embed: give images, or --text")
    model = opened(bundle, threads, unit, strict)
    made: list[tuple[str, str, Floats]] = [("text", text, model.embed_text(text)) for text in texts]
    made += [("image", frame.name, model.embed(frame.image, level)) for frame in images_of(inputs)]
    for kind, name, vectors in made:
        if as_json:
            say(json.dumps({kind: name, "shape": list(vectors.shape), "vectors": vectors.tolist()}))
        else:
            say(f"{name}: {' x '.join(map(str, vectors.shape))}")
    if output is not None:
        _write(output, [name for _, name, _ in made], [vectors for _, _, vectors in made])


def _write(path: Path, names: list[str], vectors: list[Floats]) -> None:
    import numpy as np

    from edgekit.runtimes.bundle.folder import writing

    arrays: dict[str, Any] = {str(place): one for place, one in enumerate(vectors)}
    with writing(path), path.open("wb") as stream:  # given a name, numpy may write to another
        np.savez(stream, names=np.array(names, np.str_), **arrays)
