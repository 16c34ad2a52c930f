"""Options of generation: what is taken, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgekit.errors import UsageError
from edgekit.runtimes.language import GenerationOptions, generation_options


def test_the_defaults_are_greedy() -> None:
    assert generation_options({}) == GenerationOptions()
    assert (GenerationOptions().beams, GenerationOptions().sample, GenerationOptions().max_new_tokens) == (1, False, 20)


def test_options_come_as_json_too() -> None:
    options = GenerationOptions(beams=4, returned=2, early_stopping="never", length_penalty=-1, stop=("\n",))
    assert msgspec.json.decode(msgspec.json.encode(options), type=GenerationOptions) == options
    with pytest.raises(msgspec.ValidationError, match="unknown field `beam`"):
        msgspec.json.decode(b'{"beam": 2}', type=GenerationOptions)


def test_values_become_what_they_are_declared_as() -> None:
    options = generation_options({"length_penalty": 2, "stop": ["a", "b"]})
    assert options.stop == ("a", "b")
    assert isinstance(options.length_penalty, float)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"beam": 2}, "option 'beam' is not one of: max_new_tokens, min_new_tokens, beams, "),
        ({"max_new_tokens": 0}, "option max_new_tokens=0: expected int >= 1"),
        ({"max_new_tokens": "20"}, "option max_new_tokens='20': expected int, got str"),
        ({"min_new_tokens": -1}, "option min_new_tokens=-1: expected int >= 0"),
        ({"beams": 0}, "option beams=0: expected int >= 1"),
        ({"beams": True}, "option beams=True: expected int, got bool"),
        ({"returned": 0}, "option returned=0: expected int >= 1"),
        ({"length_penalty": 6}, "option length_penalty=6: expected float <= 5"),
        ({"length_penalty": float("nan")}, "option length_penalty=nan: expected float >= -5"),
        ({"early_stopping": "always"}, "option early_stopping='always': invalid enum value 'always'"),
        ({"repetition_penalty": 0}, "option repetition_penalty=0: expected float > 0"),
        ({"repetition_penalty": float("inf")}, "option repetition_penalty=inf: expected a finite number"),
        ({"no_repeat_ngram_size": -2}, "option no_repeat_ngram_size=-2: expected int >= 0"),
        ({"sample": 1}, "option sample=1: expected bool, got int"),
        ({"sample": True, "temperature": 0}, "option temperature=0: expected float > 0"),
        ({"sample": True, "top_k": -1}, "option top_k=-1: expected int >= 0"),
        ({"sample": True, "top_p": 0}, "option top_p=0: expected float > 0"),
        ({"sample": True, "top_p": 1.5}, "option top_p=1.5: expected float <= 1"),
        ({"sample": True, "min_p": -0.1}, "option min_p=-0.1: expected float >= 0"),
        ({"seed": -1}, "option seed=-1: expected int >= 0"),
        ({"stop": "end"}, "option stop='end': expected array, got str"),
        ({"stop": [1]}, "option stop=[1]: expected str, got int"),
        ({"stop": ["a", ""]}, "option stop=['a', '']: an empty text ends everything; leave it out"),
        (
            {"min_new_tokens": 30},
            "option min_new_tokens=30 is above max_new_tokens=20: raise max_new_tokens",
        ),
        (
            {"sample": True, "beams": 4},
            "options sample=True and beams=4 cannot go together: take beams=1 (returned=N draws N sequences), "
            "or sample=False",
        ),
        (
            {"returned": 3, "beams": 2},
            "option returned=3 is above beams=2: take beams=3 or more, or sample=True",
        ),
        ({"temperature": 0.7}, "option temperature=0.7 means nothing without sampling: add sample=True, or leave it"),
        ({"top_p": 0.9, "beams": 3}, "option top_p=0.9 means nothing without sampling"),
    ],
)
def test_what_is_wrong_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        generation_options(given)
    assert words in str(refused.value)
    if "beam" not in given:  # The same words for who makes them directly.
        with pytest.raises(UsageError) as direct:
            GenerationOptions(**given)
        assert str(direct.value) == str(refused.value)


def test_sampling_may_return_several() -> None:
    assert generation_options({"sample": True, "returned": 5}).returned == 5


def test_given_options_go_before_the_bundles_own() -> None:
    defaults = GenerationOptions(sample=True, temperature=0.5, top_p=0.8, max_new_tokens=40)
    assert generation_options({"top_p": 0.9}, defaults) == GenerationOptions(
        sample=True, temperature=0.5, top_p=0.9, max_new_tokens=40
    )
    # Who does not sample has no use for the temperature of the defaults.
    assert generation_options({"sample": False, "beams": 3}, defaults) == GenerationOptions(max_new_tokens=40, beams=3)
    with pytest.raises(UsageError, match="sample=True and beams=3 cannot go together"):
        generation_options({"beams": 3}, defaults)
    with pytest.raises(UsageError, match=r"temperature=0.3 means nothing without sampling"):
        generation_options({"sample": False, "temperature": 0.3}, defaults)
