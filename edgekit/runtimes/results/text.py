"""Text: a vision-language model's text about an image. Match: how well a text fits one."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edgekit.errors import InputError
from edgekit.structures import from_builtins, from_json

AnyDocument = TypeVar("AnyDocument", bound="_Document")


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """Written as a JSON object and read back."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, as JSON has them; the image's name is under ``image``."""
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return document

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_dict(cls: type[AnyDocument], document: object) -> AnyDocument:
        """The inverse of `to_dict`.

        Raises:
            InputError: not what `to_dict` writes.
        """
        try:
            return from_builtins(document, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"not a {cls.__name__.lower()} that edgekit wrote: {error}") from error

    @classmethod
    def from_json(cls: type[AnyDocument], text: str | bytes) -> AnyDocument:
        """The inverse of `to_json`.

        Raises:
            InputError: not JSON, or not what `to_json` writes.
        """
        try:
            return from_json(text, cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"not a {cls.__name__.lower()} that edgekit wrote: {error}") from error


class TextTimings(_Document, frozen=True, kw_only=True):
    """Milliseconds that a generation took. Of a batch, what the whole of it took.

    Args:
        vision: preparing the images, vision and Q-Former; next to nothing for images that were seen before.
        prefill: reading the prompts, up to the first token.
        decode: all further tokens.
        steps: runs of the language model after the prefill, each of which is one token of every text.
    """

    vision: float
    prefill: float
    decode: float
    steps: int

    @property
    def first_token(self) -> float:
        """Time to the first token, in ms."""
        return self.vision + self.prefill

    @property
    def per_token(self) -> float:
        """Mean time per token after the first, in ms; 0 if there was none."""
        return self.decode / self.steps if self.steps else 0.0

    @property
    def total(self) -> float:
        """All of it, in ms."""
        return self.vision + self.prefill + self.decode


class Text(_Document, frozen=True, kw_only=True, rename={"source": "image"}):
    """A generated text. ``str(text)`` is the text alone.

    Args:
        source: name of the image, empty for arrays.
        prompt: what the text continues or answers.
        text: without the prompt, without spaces around it, cut before a stop text.
        score: sum of the tokens' log-probabilities divided by ``length ** length_penalty``
            (`edgekit.runtimes.language.Generated`).
        tokens: ids that were generated, the end token included where there is one.
        others: with ``returned`` above 1 the further texts, the best first; they have no others and no timings.
        timings: what it cost.
    """

    source: str = ""
    prompt: str = ""
    text: str
    score: float
    tokens: tuple[int, ...] = ()
    others: tuple[Text, ...] = ()
    timings: TextTimings | None = None

    def __str__(self) -> str:
        return self.text


class Match(_Document, frozen=True, kw_only=True, rename={"source": "image"}):
    """How well a text fits an image, by BLIP-2's two measures (Li et al., 2023, arXiv:2301.12597, 3.2).

    Args:
        source: name of the image, empty for arrays.
        text: the text.
        probability: that the text belongs to the image (image-text matching), 0..1; it reads both together.
        similarity: cosine of the text's vector and the nearest of the image's (image-text contrast), -1..1.
    """

    source: str = ""
    text: str = ""
    probability: float
    similarity: float
