"""The precision of each part of a BLIP-2, as a user says it, and the forms of weights that it stands for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.errors import ConversionError, UsageError, choices
from edgekit.graph.blip2.blip2 import PARTS, Forms
from edgekit.graph.blip2.forms import Blocks, ChannelRanges, Float16, Float32, Form, Static

PART_NAMES = tuple(dict.fromkeys(PARTS.values()))
PRESETS: dict[str, tuple[str, ...]] = {
    "fp32": ("fp32", "fp32", "fp32"),
    "fp16": ("fp16", "fp16", "fp16"),
    "int8": ("int8", "int8", "int8"),
    "int4": ("int8", "int8", "int4"),
}
"""For vision, Q-Former and language: vision loses accuracy and speed with 4 bits, the others do not need more."""

BLOCK = 32
AWQ, GPTQ, SCALE = "awq", "gptq", "scale"
METHODS = (AWQ, GPTQ, SCALE, f"{AWQ}-{GPTQ}", f"{AWQ}-{SCALE}")
"""Ways of fitting weights of 4 bits to calibration data (`edgekit.graph.blip2.fitted`)."""

_WORD = re.compile(r"(fp32|fp16|int(\d+(?:\.\d+)?))(?:-g(32|64|128))?(?:-([a-z]+(?:-[a-z]+)?))?")
_VALID = ("fp32", "fp16", "int8", "int4", "int4-g64", "int4-g128", "int4-awq", "int4-gptq", "int4.5")


@dataclass(frozen=True)
class PartPrecision:
    """The precision of a part.

    Attributes:
        word: fp32, fp16, int8 or int4.
        block: inputs of an output that share a scale, where there are blocks.
        method: one of `METHODS`, by which weights of 4 bits are fitted to calibration data; empty for none.
        bits: what each weight of the linear layers may have in the mean, 4 to 8; None where all have the word's.
    """

    word: str
    block: int = BLOCK
    method: str = ""
    bits: float | None = None

    def __str__(self) -> str:
        word = self.word if self.bits is None else f"int{self.bits:g}"
        block = "" if self.block == BLOCK else f"-g{self.block}"
        return word + block + (f"-{self.method}" if self.method else "")

    def uses(self, method: str) -> bool:
        """Whether AWQ, GPTQ or the estimation of scales is among its methods."""
        return method in self.method.split("-")

    @property
    def fitted(self) -> bool:
        """Whether its weights follow from calibration data."""
        return bool(self.method) or self.bits is not None


@dataclass(frozen=True)
class Precision:
    """The precision of a whole model, by part."""

    vision: PartPrecision
    qformer: PartPrecision
    language: PartPrecision

    @property
    def name(self) -> str:
        """The preset of these precisions, or all of them: what a bundle is called after."""
        words = tuple(str(part) for part in self.parts)
        return next((preset for preset, given in PRESETS.items() if given == words), "-".join(words))

    @property
    def parts(self) -> tuple[PartPrecision, ...]:
        """In the order of `PART_NAMES`."""
        return self.vision, self.qformer, self.language

    @property
    def roughest(self) -> str:
        """The word of the part with the fewest bits, by which a conversion is judged."""
        return roughest([part.word for part in self.parts])

    @property
    def calibrated(self) -> bool:
        """Whether images have to be seen first: for the ranges of vision's activations, or to fit weights."""
        return self.vision.word == "int8" or any(part.fitted for part in self.parts)

    def of(self, graph: str) -> PartPrecision:
        """The precision of one graph."""
        part: PartPrecision = getattr(self, PARTS[graph])
        return part


def roughest(words: Iterable[str]) -> str:
    """Of precisions the word of the one with the fewest bits."""
    return max((read_part(word).word for word in words), key=list(PRESETS).index)


def read_part(text: str) -> PartPrecision:
    """The precision of a part from how it is written.

    Raises:
        UsageError: no such precision.
    """
    found = _WORD.fullmatch(text)
    if found is None or (found[3] and found[1].startswith("fp")):
        raise UsageError(f"--precision {choices(text, _VALID)}")
    word, bits, method = found[1], float(found[2] or 0), found[4] or ""
    if method and method not in METHODS:
        raise UsageError(f"--precision {text}: method {choices(method, METHODS)}")
    if bits and not 4 <= bits <= 8:
        raise UsageError(f"--precision {text}: weights have 4 bits to 8 in the mean, not {bits:g}")
    if method and (not bits or bits == 8):
        raise UsageError(f"--precision {text}: {method} is for weights of 4 bits; give int4-{method}, or leave it out")
    mixed = bits if bits not in (0, 4, 8) else None
    if mixed is not None:
        word = "int4"
    return PartPrecision(word if not bits or mixed else f"int{bits:g}", int(found[3] or BLOCK), method, mixed)


def read_precisions(given: Sequence[str], language_bits: float | None = None) -> tuple[Precision, ...]:
    """Presets, or precisions by part: ``("fp32", "int4")``, ``("vision=int8", "language=int4-g128")``.

    A part that is not named stays fp16; with one that is named more than once every combination is made.

    Args:
        given: the words.
        language_bits: what weights of a language part in int4 may have in the mean; None for 4.

    Raises:
        UsageError: another word, part or mixture; a budget without a language part in int4, or not from 4 to 8.
    """
    found = _read(given)
    return found if language_bits is None else tuple(_within(precision, language_bits) for precision in found)


def _within(precision: Precision, bits: float) -> Precision:
    """With a budget of the language part."""
    if not 4 <= bits <= 8:
        raise UsageError(f"--language-bits {bits:g}: weights have 4 bits to 8 in the mean")
    language = precision.language
    if language.word != "int4" or language.bits is not None:
        raise UsageError(f"--language-bits {bits:g} goes with a language part in int4, not in {language}")
    return replace(precision, language=read_part(str(replace(language, bits=bits))))


def _read(given: Sequence[str]) -> tuple[Precision, ...]:
    if not any("=" in one for one in given):
        return tuple(_precision(PRESETS.get(one, (one,) * 3)) for one in given)
    chosen: dict[str, list[str]] = {part: [] for part in PART_NAMES}
    for one in given:
        part, equals, word = one.partition("=")
        if not equals:
            raise UsageError(f"--precision {','.join(given)}: give presets, or PART=PRECISION for parts, not both")
        if part not in chosen:
            raise UsageError(f"--precision {one}: {choices(part, PART_NAMES)}")
        chosen[part].append(word)
    return tuple(map(_precision, itertools.product(*(dict.fromkeys(words or ["fp16"]) for words in chosen.values()))))


def _precision(words: Sequence[str]) -> Precision:
    return Precision(*map(read_part, words))


def forms(
    graph: str,
    precision: PartPrecision,
    ranges: Mapping[str, ChannelRanges] | None,
    wide: frozenset[str] = frozenset(),
) -> Forms:
    """How the weights of a graph are written in a precision; of 4 bits those in ``wide`` have 8.

    Raises:
        ConversionError: INT8 of vision without ranges of its activations.
    """
    form: Form
    if precision.word == "int8" and PARTS[graph] == "vision":
        if ranges is None:
            raise ConversionError("vision in int8 needs calibration images: give --data with a folder of photographs")
        return Forms(Static(ranges), Static(ranges))
    if precision.word.startswith("int"):
        form = Blocks(int(precision.word[3:]), precision.block, wide)
        # The head decides between tokens whose logits are close: four bits there cost more than anywhere else.
        return Forms(form, Blocks(8, precision.block))
    form = Float16() if precision.word == "fp16" else Float32()
    return Forms(form, form)
