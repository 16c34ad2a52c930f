"""A vision-language bundle, opened and ready: captions, answers, vectors and matches of images, without torch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeGuard, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image, ImageLike, ImageLikes
from edgekit.errors import BundleError, UsageError, choices
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import Contract, Manifest
from edgekit.runtimes.engines import Isolation, Network, Placement, SessionOptions
from edgekit.runtimes.exclusive import Exclusive
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.language import GenerationOptions, LanguageGraph, generation_options
from edgekit.runtimes.language.codec import TextCodec
from edgekit.runtimes.language.features import ImageEncoder, ImageFeatures, output
from edgekit.runtimes.language.generator import TextGenerator
from edgekit.runtimes.language.parts import NETWORKS, kind_of, language_of, open_parts
from edgekit.runtimes.language.prompts import padded_texts
from edgekit.runtimes.model import read
from edgekit.runtimes.results import Match, Text

Level = Literal["vision", "queries", "language", "itc"]
LEVELS: dict[Level, str] = {"vision": "vision", "queries": "queries", "language": "projected", "itc": "projected"}
"""Where an image can be embedded, and which of `ImageFeatures` that is."""

KINDS = {
    "generation": "a generation bundle (BLIP-2 with OPT or T5: caption, ask, stream, embed)",
    "retrieval": "a retrieval bundle (BLIP-2 for image-text matching: embed, embed_text, match)",
}


Texts = list[str] | tuple[str, ...]
"""Several texts."""


class VisionLanguage:
    """A contract bound to its networks. It serves one thread at a time and refuses a second one: open one per thread.
    One text is generated at a time.

    A generation bundle (BLIP-2 with OPT or T5) captions, answers and embeds; a retrieval bundle (BLIP-2 for image-text
    matching) embeds images and texts and matches them.

    Images are paths, uint8 arrays (h, w, 3) BGR or PIL images, or a list of these (or an array (n, h, w, 3)); texts are
    a text or a list. A list beside a single one uses that for each; two lists go in pairs. What comes back is a list
    where either was one. A list runs as one batch; the features of the last images are remembered.

    Args:
        contract: with its ``language``.
        networks: ``vision`` and ``qformer``; of a retrieval bundle ``text`` and ``match`` too.
        language: the language model, None for retrieval.
        embeddings: (vocabulary, width) of its tokens, None for retrieval.
        tokenizer: of the bundle.
        manifest: all the bundle says of itself.

    Attributes:
        kind: ``generation`` or ``retrieval``.
        defaults: generation options of the bundle.
        encoder: vision and Q-Former; ``encoder.runs`` counts the runs.
        exclusive: held while the model runs.

    Raises:
        BundleError: parts are missing, or the generation defaults of the contract are not valid.
    """

    def __init__(
        self,
        contract: Contract,
        networks: Mapping[str, Network],
        language: LanguageGraph | None,
        embeddings: NDArray[Any] | None,
        tokenizer: TextCodec,
        manifest: Manifest | None = None,
    ) -> None:
        self._language = language_of(contract)
        self.kind = kind_of(self._language)
        missing = [name for name in NETWORKS[self.kind] if name not in networks]
        if self.kind == "generation":
            missing += [name for name, part in (("language", language), ("embeddings", embeddings)) if part is None]
        if missing:
            raise BundleError(f"a {self.kind} bundle without its {missing[0]!r}; convert the model again")
        try:
            self.defaults = generation_options(self._language.generation)
        except UsageError as error:
            raise BundleError(f"the bundle's own defaults: {error}; convert the model again") from error
        self.exclusive = Exclusive()
        self.contract, self.networks, self.tokenizer, self.manifest = contract, networks, tokenizer, manifest
        projected = "language_inputs" if self.kind == "generation" else "image_vectors"
        self.encoder = ImageEncoder(networks, Preprocessor(contract.image), projected)
        self._generator: TextGenerator | None = None
        if language is not None and embeddings is not None:
            self._generator = TextGenerator(self._language, language, embeddings, tokenizer)

    def __repr__(self) -> str:
        what = self.kind if self.manifest is None else self.manifest.summary
        return f"<VisionLanguage {what}{', closed' if self.exclusive.closed else ''}>"

    def __enter__(self) -> VisionLanguage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engines and their memory; what is called afterwards raises a UsageError. May be called again.

        Raises:
            UsageError: it is running in another thread.
        """
        if not self.exclusive.closed:
            with self.exclusive:
                self.networks, self._generator = {}, None
                self.encoder.close()
                self.exclusive.closed = True

    @property
    def placements(self) -> dict[str, Placement]:
        """Where each network ran, by its name; a language model does not report it."""
        return {name: network.placement for name, network in self.networks.items()}

    @property
    def identity(self) -> str:
        """SHA-256 over the bundle's files: vectors of one identity can be compared. Empty without a manifest."""
        if self.manifest is None:
            return ""
        return hashlib.sha256(msgspec.json.encode(self.manifest.files)).hexdigest()

    @overload
    def caption(
        self, image: ImageLike, prompt: str | None = None, *, style: str | None = None, **options: Any
    ) -> Text: ...
    @overload
    def caption(
        self, image: ImageLikes, prompt: str | Texts | None = None, *, style: str | None = None, **options: Any
    ) -> list[Text]: ...
    @overload
    def caption(self, image: ImageLike, prompt: Texts, *, style: str | None = None, **options: Any) -> list[Text]: ...

    def caption(
        self,
        image: ImageLike | ImageLikes,
        prompt: str | Texts | None = None,
        *,
        style: str | None = None,
        **options: Any,
    ) -> Text | list[Text]:
        """Describe an image.

        Args:
            image: see the class.
            prompt: what the text continues; the contract's usual one when left out.
            style: one of the contract's prompts instead, such as ``short`` or ``detailed``.
            options: of `language.GenerationOptions`, over the bundle's defaults. With ``returned`` above 1 the
                further texts are in ``others``.

        Raises:
            UsageError: a retrieval bundle, no such style or option, a prompt that is too long.
            InputError: not an image.
            EngineError: an engine failed, or gave something unusable.
        """
        prompts = self._generating("caption").prompts
        return self._written(image, _each(prompt, lambda one: prompts.caption(one, style)), options)

    @overload
    def ask(self, image: ImageLike, question: str, **options: Any) -> Text: ...
    @overload
    def ask(self, image: ImageLikes, question: str | Texts, **options: Any) -> list[Text]: ...
    @overload
    def ask(self, image: ImageLike, question: Texts, **options: Any) -> list[Text]: ...

    def ask(self, image: ImageLike | ImageLikes, question: str | Texts, **options: Any) -> Text | list[Text]:
        """Answer a question about an image; the contract says how it is asked.

        Ten questions about one image (a list of texts) are one batch behind one run of the vision model. Arguments and
        errors as `caption`.
        """
        prompts = self._generating("ask").prompts
        return self._written(image, _each(question, prompts.question), options)

    def stream(
        self,
        image: Any,
        prompt: str | None = None,
        *,
        style: str | None = None,
        question: str | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The pieces of one text as they are generated: together `caption`'s, or `ask`'s with ``question``.

        Spaces around the whole are in the pieces, and bytes at the end that make no whole character are not. Errors as
        `caption`, at the call; beams cannot be streamed.

        Raises:
            UsageError: also (while iterating) when the model has begun another text meanwhile.
        """
        generator = self._generating("stream")
        if question is not None and not (prompt is None and style is None):
            raise UsageError("stream takes a question, or a prompt or a style, not both")
        written = generator.prompts.caption(prompt, style) if question is None else generator.prompts.question(question)
        chosen = generation_options(options, self.defaults)
        (features,), _ = self._features([image])
        return self._stepwise(generator.stream(features.projected, written, chosen))

    def embed(self, image: ImageLike | ImageLikes, level: Level | None = None) -> Floats:
        """The features of an image: float32 (tokens, width), or (images, tokens, width) of a list.

        Args:
            image: see the class.
            level: ``vision``: tokens of the vision model; ``queries``: of the Q-Former; ``language``: in the embedding
                space of the language model (generation bundles, their default); ``itc``: vectors of length 1 that texts
                are compared with (retrieval bundles, their default).

        Raises:
            UsageError: no such level, or one that only the other kind of bundle has.
        """
        own: Level = "language" if self.kind == "generation" else "itc"
        other: Level = "itc" if self.kind == "generation" else "language"
        wanted = level or own
        if wanted == other:
            raise UsageError(f"level {wanted!r} needs {self._other}; this bundle has {own!r}, 'queries' and 'vision'")
        if wanted not in LEVELS:
            raise UsageError(f"level {choices(wanted, [name for name in LEVELS if name != other])}")
        features, _ = self._features(image if _is_many(image) else [image])
        made = np.stack([getattr(one, LEVELS[wanted]) for one in features])
        return made if _is_many(image) else made[0]

    def embed_text(self, text: str | Sequence[str]) -> Floats:
        """Vectors of texts, float32 (dimensions,) of length 1, or (texts, dimensions) of a list.

        Raises:
            UsageError: a generation bundle, or a text that is too long.
        """
        self._retrieving("embed_text")
        if isinstance(text, str):
            vector: Floats = self.embed_text([text])[0]
            return vector
        if not text:
            raise UsageError("an empty list of texts: give at least one")
        ids, mask = padded_texts(text, self.tokenizer, self._language)
        with self.exclusive:
            made = self.networks["text"].run({"input_ids": ids, "attention_mask": mask})
            return output(made, "text_vector", (len(text), None))

    @overload
    def match(self, image: ImageLike, text: str) -> Match: ...
    @overload
    def match(self, image: ImageLikes, text: str | Texts) -> list[Match]: ...
    @overload
    def match(self, image: ImageLike, text: Texts) -> list[Match]: ...

    def match(self, image: ImageLike | ImageLikes, text: str | Texts) -> Match | list[Match]:
        """How well a text fits an image.

        Raises:
            UsageError: a generation bundle, or a text that is too long.
        """
        self._retrieving("match")
        images, texts, many = _paired(image, text)
        features, names = self._features(images)
        vectors = self.embed_text(texts)
        ids, mask = padded_texts(texts, self.tokenizer, self._language)
        embeds = np.stack([one.vision for one in features])
        with self.exclusive:
            made = self.networks["match"].run({"image_embeds": embeds, "input_ids": ids, "attention_mask": mask})
            logits = output(made, "logits", (len(texts), 2)).astype(np.float64)
        fitting = 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -700, 700)))  # the second of a softmax over two
        similar = [float((one.projected @ vector).max()) for one, vector in zip(features, vectors, strict=True)]
        found = [
            Match(probability=float(probability), similarity=similarity, text=one, source=name)
            for probability, similarity, one, name in zip(fitting, similar, texts, names, strict=True)
        ]
        return found if many else found[0]

    def warm_up(self, runs: int = 1) -> None:
        """Run every part on an empty image, so that the first real one does not pay for the engines' lazy set-up."""
        empty = np.zeros((*self.contract.image.size, 3), np.uint8)
        options = GenerationOptions(max_new_tokens=2, min_new_tokens=2)
        with self.exclusive:
            for _ in range(runs):
                (features,) = self.encoder.encode([empty])
                if self._generator is None:
                    self.match(empty, "a")
                else:
                    self._generator.write([features.projected], [""], options)

    @property
    def _other(self) -> str:
        return KINDS["generation" if self.kind == "retrieval" else "retrieval"]

    def _generating(self, method: str) -> TextGenerator:
        if self._generator is None:
            raise UsageError(f"{method} needs {self._other}; this is {KINDS[self.kind]}")
        return self._generator

    def _retrieving(self, method: str) -> None:
        if self.kind != "retrieval":
            raise UsageError(f"{method} needs {self._other}; this is {KINDS[self.kind]}")

    def _features(self, images: Sequence[Any]) -> tuple[list[ImageFeatures], list[str]]:
        """Features and names; an image that is given several times is read once."""
        images = list(images)  # rows of an array are new objects each time they are asked for
        if not images:
            raise UsageError("an empty list of images: give at least one")
        found: dict[int, tuple[Image, str]] = {}
        for image in images:
            if id(image) not in found:
                found[id(image)] = read(image)
        every = [found[id(image)] for image in images]
        with self.exclusive:
            return self.encoder([image for image, _ in every]), [name for _, name in every]

    def _stepwise(self, pieces: Iterator[str]) -> Iterator[str]:
        """The pieces, each made while no other thread runs the model."""
        while True:
            with self.exclusive:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _written(self, image: Any, prompt: str | list[str], given: Mapping[str, Any]) -> Text | list[Text]:
        images, prompts, many = _paired(image, prompt)
        options = generation_options(given, self.defaults)
        began = time.perf_counter()
        features, names = self._features(images)
        spent = 1e3 * (time.perf_counter() - began)
        generator = self._generating("caption")
        with self.exclusive:
            texts = generator.write([one.projected for one in features], prompts, options, spent)
        named = [msgspec.structs.replace(text, source=name) for text, name in zip(texts, names, strict=True)]
        return named if many else named[0]


def open_vision_language(
    bundle: Bundle,
    *,
    threads: int = 0,
    unit: str = "",
    strict: bool = False,
    warm_up: int = 1,
    isolation: Isolation | None = None,
) -> VisionLanguage:
    """Open the graphs of a bundle.

    Args:
        bundle: opened, its files checked.
        threads: CPU threads for the engine, 0 for its own choice.
        unit: one of the engine's units, such as ``cpu`` or ``npu``; empty for its first.
        strict: make it an error when an operator leaves that unit.
        warm_up: runs on an empty image before returning.
        isolation: the child process to open the files in.

    Raises:
        BundleError: parts are missing or damaged.
        EngineError: the engine is missing, or refuses a file.
        UsageError: not a vision-language bundle, or a unit or thread count that the engine does not have.
    """
    parts = open_parts(bundle, SessionOptions(threads, unit, strict, isolation))
    manifest = bundle.manifest
    model = VisionLanguage(manifest.contract, parts.networks, parts.graph, parts.embeddings, parts.tokenizer, manifest)
    model.warm_up(warm_up)
    return model


def _is_many(images: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)


def _each(text: Any, write: Callable[[Any], str]) -> str | list[str]:
    """A prompt of each text that was given: one, a list, or None."""
    return write(text) if text is None or isinstance(text, str) else [write(one) for one in text]


def _paired(image: Any, text: str | Sequence[str]) -> tuple[list[Any], list[str], bool]:
    """Images and texts, as many of one as of the other, and whether there were several."""
    several, listed = _is_many(image), not isinstance(text, str)
    images, texts = list(image) if several else [image], list(text) if listed else [str(text)]
    if several and listed and len(images) != len(texts):
        raise UsageError(
            f"{len(images)} image(s) and {len(texts)} text(s) do not go in pairs: give as many, or a single one"
        )
    if not images or not texts:
        raise UsageError(f"an empty list of {'texts' if images else 'images'}: give at least one")
    count = max(len(images), len(texts))
    return (
        images if several else images * count,
        texts if listed else texts * count,
        several or listed,
    )
