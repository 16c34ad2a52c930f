"""The graphs of a BLIP-2, and how to write each from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.arrays import Floats
from edgekit.errors import SourceError, choices
from edgekit.graph.blip2.cache import CacheKind
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Form
from edgekit.graph.blip2.layers import Layers
from edgekit.graph.blip2.onnx_layers import OnnxLayers
from edgekit.graph.blip2.opt import PREFIX as OPT
from edgekit.graph.blip2.opt import OptConfig, write_opt
from edgekit.graph.blip2.qformer import QFormer, QFormerConfig
from edgekit.graph.blip2.t5 import PREFIX as T5
from edgekit.graph.blip2.t5 import T5Config, write_decoder, write_encoder
from edgekit.graph.blip2.vision import VisionConfig, write_vision
from edgekit.graph.blip2.writer import GraphWriter
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.structures import from_builtins

MODEL_TYPE = "blip-2"

ARCHITECTURES = {
    "Blip2ForConditionalGeneration": "generation",
    "Blip2Model": "generation",
    "Blip2ForImageTextRetrieval": "retrieval",
}
"""Classes of transformers, and what their checkpoints are for."""

PARTS: Mapping[str, str] = {
    "vision": "vision",
    "qformer": "qformer",
    "text": "qformer",
    "match": "qformer",
    "language": "language",
    "encoder": "language",
    "decoder": "language",
}
"""The part of the model that each graph belongs to; a precision is chosen for a part."""


CACHED = ("language", "decoder")
"""The graphs with a cache."""


def part_of(tensor: str) -> str:
    """The part that a tensor of the checkpoint belongs to."""
    return {"language_model": "language", "vision_model": "vision"}.get(tensor.partition(".")[0], "qformer")


Config = TypeVar("Config", bound=msgspec.Struct)


class Outline(msgspec.Struct, frozen=True):
    """The ``config.json`` of the whole model."""

    architectures: tuple[str, ...] | None = None
    text_config: dict[str, Any] | None = None
    num_query_tokens: int = 32
    image_text_hidden_size: int = 256


@dataclass(frozen=True)
class Forms:
    """How the weights of a graph are written: of its linear layers, and of the head over the vocabulary."""

    layers: Form
    head: Form


@dataclass(frozen=True)
class WrittenPart:
    """One graph of a BLIP-2 in a precision, still to be written from the checkpoint.

    ``scales`` are those of a cache in 8 bits (`edgekit.graph.blip2.cache_scales`), where calibration data tells them.
    """

    source: Blip2
    name: str
    forms: Forms
    scales: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Layers of the decoder's cache; 0 without a language model."""
        return 0 if self.source.retrieval else self.source.language.heads.layers

    def describe(self, layers: Layers) -> None:
        """Write it with the layers of any format."""
        self.source.describe(self.name, layers, self.forms.head)

    def write(self, folder: Path, cache: CacheKind) -> Graph:
        """Write ``NAME.onnx`` into a folder; a tensor at a time is in memory."""
        return self.source.write(self.name, folder, self.forms, cache)


class Blip2:
    """A BLIP-2 in a folder as Hugging Face saves it.

    Raises:
        SourceError: another model, a language model that is not known, or a damaged folder.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint | None = None) -> None:
        self.folder = folder
        self.checkpoint = checkpoint or Checkpoint(folder)
        self.config = self.checkpoint.config
        try:
            self._outline = from_builtins(self.config, Outline)
        except msgspec.ValidationError as error:
            raise SourceError(f"{folder}: config.json: {error}") from error
        self.architecture = (self._outline.architectures or ("Blip2ForConditionalGeneration",))[0]
        if self.architecture not in ARCHITECTURES:
            raise SourceError(f"{folder}: architecture {choices(self.architecture, ARCHITECTURES)}")
        self.retrieval = ARCHITECTURES[self.architecture] == "retrieval"
        kind = (self._outline.text_config or {}).get("model_type", "opt")
        if not self.retrieval and kind not in ("opt", "t5"):
            raise SourceError(f"{folder}: language model {choices(kind, ('opt', 't5'))}")
        self.family = "retrieval" if self.retrieval else str(kind)

    def reading(self, checkpoint: Checkpoint) -> Blip2:
        """The same model with other values in its tensors."""
        return Blip2(self.folder, checkpoint)

    @cached_property
    def vision(self) -> VisionConfig:
        """Configuration of the vision tower."""
        return self._config("vision_config", VisionConfig)

    @cached_property
    def qformer(self) -> QFormerConfig:
        """Configuration of the Q-Former."""
        return self._config("qformer_config", QFormerConfig)

    @cached_property
    def language(self) -> OptConfig | T5Config:
        """Configuration of the language model."""
        kind: type[OptConfig | T5Config] = T5Config if self.family == "t5" else OptConfig
        return self._config("text_config", kind)

    @property
    def queries(self) -> int:
        """How many embeddings the Q-Former makes of an image."""
        return self._outline.num_query_tokens

    def _config(self, name: str, kind: type[Config]) -> Config:
        try:
            return from_builtins(self.config.get(name) or {}, kind)
        except msgspec.ValidationError as error:
            raise SourceError(f"{self.folder}: {name} of config.json: {error}") from error

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of its graphs, in the order in which an image passes them."""
        last = {"retrieval": ("text", "match"), "opt": ("language",), "t5": ("encoder", "decoder")}
        return ("vision", "qformer", *last[self.family])

    def write(self, name: str, folder: Path, forms: Forms, cache: CacheKind) -> Graph:
        """Write one graph into a folder; a tensor at a time is in memory."""
        with GraphWriter(folder, name) as writer:
            self.describe(name, OnnxLayers(writer, self.checkpoint, forms.layers, cache), forms.head)
            return writer.save()

    def describe(self, name: str, layers: Layers, head: Form) -> None:
        """Write one graph with the layers of any format; ``head`` is the form of the head over the vocabulary."""
        self._writers(layers, head)[name]()

    def _writers(self, layers: Layers, head: Form) -> dict[str, Callable[[], None]]:
        language, vision = self.language, self.vision
        qformer = QFormer(layers, self.qformer, self.queries, (vision.tokens, vision.hidden_size))
        writers: dict[str, Callable[[], None]] = {"vision": lambda: write_vision(layers, vision)}
        if self.retrieval:
            size = self._outline.image_text_hidden_size
            writers["qformer"] = lambda: qformer.write_queries("vision_projection", "image_vectors", size, unit=True)
            writers["text"] = lambda: qformer.write_text(size)
            writers["match"] = qformer.write_match
            return writers
        projection = "language_projection"
        writers["qformer"] = lambda: qformer.write_queries(projection, "language_inputs", self.width, unit=False)
        if isinstance(language, OptConfig):
            writers["language"] = lambda: write_opt(layers, language, head)
        else:
            writers["encoder"] = lambda: write_encoder(layers, language)
            writers["decoder"] = lambda: write_decoder(layers, language, head)
        return writers

    @property
    def texts(self) -> int:
        """Tokens of a text that the Q-Former has places for; 0 where it reads none."""
        return self.checkpoint.shape("embeddings.position_embeddings.weight")[0] if self.retrieval else 0

    @property
    def embedding(self) -> str:
        """Name of the tensor of token embeddings (vocabulary, width)."""
        return f"{T5}shared.weight" if self.family == "t5" else f"{OPT}embed_tokens.weight"

    @property
    def width(self) -> int:
        """Of those embeddings."""
        return self.checkpoint.shape(self.embedding)[1]

    def embeddings(self) -> Floats:
        """Embeddings of the language model's tokens, float32 (vocabulary, width)."""
        return self.checkpoint[self.embedding]

    def value(self, name: str) -> Any:
        """Something the configuration of the language model, or else the whole one, says; None where neither does."""
        inner = (self._outline.text_config or {}).get(name)
        return self.config.get(name) if inner is None else inner
