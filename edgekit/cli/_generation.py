"""Options of generation as flags, and the images of a command; shared by the commands that write texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.cli._terminal import say
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.runtimes.inputs.media import SourceFrame
    from edgekit.runtimes.language.vision_language import VisionLanguage
    from edgekit.runtimes.results import Text

Command = TypeVar("Command", bound=Callable[..., Any])

_FLAGS: dict[str, tuple[Any, str]] = {
    "beams": (click.IntRange(1), "Sequences that a beam search keeps; 1 is greedy."),
    "max_new_tokens": (click.IntRange(1), "Maximum number of new tokens."),
    "min_new_tokens": (click.IntRange(0), "Minimum number of new tokens."),
    "temperature": (click.FloatRange(0, min_open=True), "With --sample: below 1 favours likely tokens more."),
    "top_k": (click.IntRange(0), "With --sample: draw among this many likeliest tokens; 0 is all."),
    "top_p": (
        click.FloatRange(0, 1, min_open=True),
        "With --sample: draw among the likeliest that make up this share.",
    ),
    "min_p": (
        click.FloatRange(0, 1),
        "With --sample: draw among those at least this times as likely as the likeliest.",
    ),
    "seed": (click.IntRange(0), "With --sample: the same seed draws the same text."),
    "repetition_penalty": (click.FloatRange(0, min_open=True), "Above 1, tokens that occurred become less likely."),
    "no_repeat_ngram_size": (click.IntRange(0), "Length of n-grams that may not repeat; 0 is off."),
    "length_penalty": (click.FloatRange(-5, 5), "With beams: above 0 favours long texts, below 0 short ones."),
    "returned": (click.IntRange(1), "Texts for each image; at most --beams, any number with --sample."),
}


def generation_flags(command: Command) -> Command:
    """``--beams``, ``--sample`` and the others; those left out are the bundle's."""
    command = click.option("--stop", multiple=True, metavar="TEXT", help="End before this text. May be repeated.")(
        command
    )
    for name, (kind, words) in reversed(_FLAGS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=words)(command)
    return click.option("--sample/--no-sample", default=None, help="Draw tokens at random.")(command)


def generation_given(given: dict[str, Any]) -> dict[str, Any]:
    """Those of the flags that were given, as keywords of `edgekit.runtimes.language.GenerationOptions`."""
    found = {name: given[name] for name in (*_FLAGS, "sample") if given[name] is not None}
    return {**found, "stop": tuple(given["stop"])} if given["stop"] else found


def opened(bundle: str, threads: int, unit: str, strict: bool) -> VisionLanguage:
    """The vision-language bundle of a command.

    Raises:
        UsageError: another kind of bundle.
    """
    from edgekit.runtimes.bundle.folder import open_bundle
    from edgekit.runtimes.language.vision_language import open_vision_language

    found = open_bundle(bundle)
    if found.manifest.contract.language is None:
        task = found.manifest.contract.task
        raise UsageError(f"{bundle} is no vision-language model (its task is {task}): use edgekit run")
    # The only call of a short process pays for the set-up either way.
    return open_vision_language(found, threads=threads, unit=unit, strict=strict, warm_up=0)


def images_of(inputs: Sequence[str]) -> Iterator[SourceFrame]:
    """Every image of the inputs, one at a time; an input that is not there is told before any work is done."""
    from edgekit.runtimes.inputs.media import frames

    yield from (frame for source in [frames(one) for one in inputs] for frame in source)


def show(made: Text | list[Text], name: str, as_json: bool) -> None:
    """Print texts of one image: a JSON line each, or plainly, with their scores where there are several."""
    import msgspec

    for text in made if isinstance(made, list) else [made]:
        if as_json:
            say(msgspec.structs.replace(text, source=name).to_json())
            continue
        every = [text, *text.others]
        for one in every:
            say(f"{name}: {one.text}" + (f"  ({one.score:.3f})" if len(every) > 1 else ""))
