"""``edgekit caption``."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._generation import generation_flags, generation_given, images_of, opened, show
from edgekit.cli._options import engine_options, json_option
from edgekit.cli._terminal import say


@click.command(cls=Command, renamed=UNIT, short_help="Describe images with a vision-language bundle.")
@click.argument("bundle")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--prompt", help="Text that the caption continues. [default: the bundle's]")
@click.option("--style", help="Use one of the bundle's prompts, such as short or detailed.")
@click.option("--stream", is_flag=True, help="Print the text while it is generated.")
@generation_flags
@engine_options
@json_option
def command(
    bundle: str,
    inputs: tuple[str, ...],
    prompt: str | None,
    style: str | None,
    stream: bool,
    threads: int,
    unit: str,
    strict: bool,
    as_json: bool,
    **generation: Any,
) -> None:
    """Describe INPUTS (images, folders, globs, videos) with BUNDLE.

    With --json, one line per image: {"image", "prompt", "text", "score", "tokens", "others", "timings"}.
    """
    from edgekit.errors import UsageError

    if stream and as_json:
        raise UsageError("--stream prints plain text: leave out --json")
    options = generation_given(generation)
    model = opened(bundle, threads, unit, strict)
    for frame in images_of(inputs):
        if not stream:
            show(model.caption([frame.image], prompt, style=style, **options), frame.name, as_json)
            continue
        say(f"{frame.name}: ", end=False)
        for piece in model.stream(frame.image, prompt, style=style, **options):
            say(piece, end=False)
        say()
