"""Options of generation, typed and validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from edgekit.errors import UsageError, choices
from edgekit.structures import from_builtins

Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Sequences = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Power = Annotated[float, msgspec.Meta(ge=-5, le=5)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PositiveShare = Annotated[float, msgspec.Meta(gt=0, le=1)]

_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


class GenerationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are chosen; the defaults are transformers', except that sampling keeps the whole vocabulary.

    Greedy with ``beams=1``, beam search with more, sampling with ``sample=True``.

    Args:
        max_new_tokens: the most tokens that are generated, the end token included.
        min_new_tokens: minimum number of tokens before an end token.
        beams: how many sequences a beam search keeps.
        returned: sequences returned for each prompt; at most ``beams``, any number while sampling.
        length_penalty: scores are divided by ``length ** length_penalty``: above 0 favours long sequences, 0 leaves
            the sum of the log-probabilities as it is.
        early_stopping: when a beam search ends: True as soon as ``beams`` sequences are finished, False when no running
            beam looks better at its present length, "never" when none can become better at any length.
        repetition_penalty: above 1 makes tokens that are there already less likely, those of the prompt included.
        no_repeat_ngram_size: n-grams of this length may not repeat, the prompt included; 0 is off.
        sample: draw tokens at random in place of taking the likeliest.
        temperature: of sampling; below 1 is bolder for the likely, above 1 more even.
        top_k: sample among this many likeliest tokens; 0 is all.
        top_p: sample among the likeliest tokens that make up this share of the probability; 1 is all.
        min_p: sample among tokens that are at least this times as likely as the likeliest; 0 is all.
        seed: of sampling: the same seed draws the same tokens, whatever else is in the batch; None draws anew.
        stop: texts that end a sequence; the layer that knows the tokenizer looks for them.

    Raises:
        UsageError: a value of another type or out of range, or options that cannot go together.
    """

    max_new_tokens: AtLeastOne = 20
    min_new_tokens: Count = 0
    beams: Sequences = 1
    returned: Sequences = 1
    length_penalty: Power = 1.0
    early_stopping: bool | Literal["never"] = False
    repetition_penalty: Positive = 1.0
    no_repeat_ngram_size: Count = 0
    sample: bool = False
    temperature: Positive = 1.0
    top_k: Count = 0
    top_p: PositiveShare = 1.0
    min_p: Share = 0.0
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            msgspec.structs.force_setattr(self, field.name, _checked(field.name, getattr(self, field.name), field.type))
        if "" in self.stop:
            raise UsageError(f"option stop={list(self.stop)!r}: an empty text ends everything; leave it out")
        if self.min_new_tokens > self.max_new_tokens:
            raise UsageError(
                f"option min_new_tokens={self.min_new_tokens} is above max_new_tokens={self.max_new_tokens}: "
                "raise max_new_tokens"
            )
        if self.sample and self.beams > 1:
            raise UsageError(
                f"options sample=True and beams={self.beams} cannot go together: take beams=1 "
                "(returned=N draws N sequences), or sample=False"
            )
        if not self.sample and self.returned > self.beams:
            raise UsageError(
                f"option returned={self.returned} is above beams={self.beams}: "
                f"take beams={self.returned} or more, or sample=True"
            )
        if not self.sample and (idle := [name for name in _OF_SAMPLING if getattr(self, name) != _DEFAULTS[name]]):
            raise UsageError(
                f"option {idle[0]}={getattr(self, idle[0])} means nothing without sampling: "
                "add sample=True, or leave it out"
            )


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(GenerationOptions)}


def generation_options(given: Mapping[str, Any], defaults: GenerationOptions | None = None) -> GenerationOptions:
    """Options from keywords, over a bundle's own defaults.

    Who turns the sampling of the defaults off turns off its temperature, top_k, top_p and min_p too.

    Raises:
        UsageError: an unknown name, or what `GenerationOptions` refuses.
    """
    for name in given:
        if name not in _DEFAULTS:
            raise UsageError(f"option {choices(name, _DEFAULTS)}")
    base = {} if defaults is None else msgspec.structs.asdict(defaults)
    if given.get("sample") is False:
        base = {name: value for name, value in base.items() if name not in _OF_SAMPLING}
    return GenerationOptions(**{**base, **given})


def _checked(name: str, value: Any, kind: Any) -> Any:
    """A value as its annotation wants it."""
    try:
        result = from_builtins(value, kind)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at ")[0].replace("`", "")
        raise UsageError(f"option {name}={value!r}: {what[0].lower()}{what[1:]}") from error
    if isinstance(result, float) and not math.isfinite(result):
        raise UsageError(f"option {name}={value}: expected a finite number")
    return result
