"""``edgekit ask``."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._generation import generation_flags, generation_given, images_of, opened, show
from edgekit.cli._options import engine_options, json_option


@click.command(cls=Command, renamed=UNIT, short_help="Ask a vision-language bundle about images.")
@click.argument("bundle")
@click.argument("question")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--also", multiple=True, metavar="QUESTION", help="Another question. May be repeated.")
@generation_flags
@engine_options
@json_option
def command(
    bundle: str,
    question: str,
    inputs: tuple[str, ...],
    also: tuple[str, ...],
    threads: int,
    unit: str,
    strict: bool,
    as_json: bool,
    **generation: Any,
) -> None:
    """Ask BUNDLE a QUESTION about INPUTS: images, folders, globs, videos. All questions share one run per image.

    With --json, one line per answer: {"image", "prompt", "text", "score", "tokens", "others", "timings"}.
    """
    options = generation_given(generation)
    model = opened(bundle, threads, unit, strict)
    for frame in images_of(inputs):
        show(model.ask(frame.image, [question, *also], **options), frame.name, as_json)
