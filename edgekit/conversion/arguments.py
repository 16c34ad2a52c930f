"""Checks of the arguments of `edgekit.convert` and `edgekit.inspect`, each named as the user wrote it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import UsageError, choices
from edgekit.runtimes.bundle.manifest import Contract

Names = str | Sequence[str]
"""Names, as a sequence or separated by commas."""

StrPath = str | os.PathLike[str]

Size = int | tuple[int, int]
"""(height, width) in pixels, or one number for both."""

Sizes = Size | Sequence[Size]
"""One size, or a list of them."""


@dataclass(frozen=True)
class _Kind:
    """The type of an argument, in words, and whether a value has it."""

    words: str
    holds: Callable[[object], bool]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, bytes) and all(isinstance(one, str) for one in value)


def _is_size(value: object) -> bool:
    return _whole(value, 1) or (isinstance(value, tuple) and len(value) == 2 and all(_whole(one, 1) for one in value))


def _sizes(value: object) -> bool:
    return _is_size(value) or (
        isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(_is_size, value))
    )


def _batches(value: object) -> bool:
    return _whole(value, 1) or (
        isinstance(value, Sequence) and not isinstance(value, str) and all(_whole(one, 1) for one in value)
    )


def _mappings(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in value.values())


_PATH = _Kind("a path (str or Path)", lambda value: isinstance(value, str | os.PathLike))
_NAMES = _Kind('names: "onnx", "onnx,litert" or ["onnx", "litert"]', _texts)
_TEXT = _Kind("a str", lambda value: isinstance(value, str))
_COUNT = _Kind("a whole number from 0 on", lambda value: _whole(value, 0))
_SOME = _Kind("a whole number from 1 on", lambda value: _whole(value, 1))
_FLAG = _Kind("True or False", lambda value: isinstance(value, bool))
_CALL = _Kind("a function", callable)

_KINDS: Mapping[str, _Kind] = {
    **dict.fromkeys(("data", "out", "weights", "proof_data", "labels", "prompts", "plan", "image", "drawn"), _PATH),
    **dict.fromkeys(("target", "precision", "imports"), _NAMES),
    **dict.fromkeys(("name", "recipe", "ranges"), _TEXT),
    **dict.fromkeys(("choose", "seed"), _COUNT),
    **dict.fromkeys(("jobs", "threads"), _SOME),
    **dict.fromkeys(
        (
            *(
                "cross_layer_equalization",
                "bias_correction",
                "float_fallback",
                "gated",
                "trust",
                "contact_sheet",
                "golden",
            ),
            *("rebuild", "dry_run", "fail_if_slower", "replace_silu"),
        ),
        _FLAG,
    ),
    **dict.fromkeys(("progress", "notice"), _CALL),
    "contract": _Kind(
        "an edgekit.Contract or the path of a contract file",
        lambda value: isinstance(value, str | os.PathLike | Contract),
    ),
    "size": _Kind("a number of pixels, (height, width), or a list of these", _sizes),
    "batch": _Kind("a number of images or a list of them", _batches),
    "finetune": _Kind("seconds", lambda value: _number(value) and float(str(value)) >= 0),
    "max_drop": _Kind("a number 0..1", lambda value: _number(value) and 0 <= float(str(value)) <= 1),
    "language_bits": _Kind("a number of bits", _number),
    "max_size": _Kind("a number of bytes", lambda value: _number(value) and float(str(value)) > 0),
    "gate": _Kind('bounds by name: {"matched": 0.9}', lambda value: isinstance(value, Mapping)),
    "options": _Kind('options by target: {"rknn": {"platform": "rk3566"}}', _mappings),
}


def check(**given: object) -> None:
    """Refuse arguments of a wrong type, or numbers out of range; None stands for what was left out.

    Raises:
        UsageError: names the argument, what was given, and what it takes.
    """
    for name, value in given.items():
        kind = _KINDS[name]
        if value is not None and not kind.holds(value):
            raise UsageError(f"{name} must be {kind.words}, not {value!r} ({type(value).__name__})")


def refuse_unknown(function: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Refuse keywords that there are none of, and name the nearest.

    Raises:
        UsageError: there is one.
    """
    for name in unknown:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        meant = f"did you mean {near[0]}?" if near else choices(name, known)
        raise UsageError(f"edgekit.{function}(): there is no argument {name!r}; {meant}")


def one_of(name: str, given: Names, plural: Names) -> Names:
    """The value of an argument that may be written in the plural, too.

    Raises:
        UsageError: both are given.
    """
    if given and plural:
        raise UsageError(f"{name} and {name}s are one argument: give {name} alone")
    return plural or given


def names(given: Names) -> tuple[str, ...]:
    """Names of a sequence or of a list separated by commas, each once, in order."""
    every = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(name.strip() for name in every if name.strip()))


def listed(sizes: Sizes | None) -> tuple[tuple[int, int], ...]:
    """Every size as (height, width), each once, in order."""
    if sizes is None:
        return ()
    each: Sequence[Size] = [sizes] if isinstance(sizes, int) or _is_size(sizes) else sizes  # type: ignore[list-item]
    return tuple(dict.fromkeys((one, one) if isinstance(one, int) else one for one in each))


def pair(size: Size | None) -> tuple[int, int] | None:
    """(height, width) of a size."""
    return (size, size) if isinstance(size, int) else size
