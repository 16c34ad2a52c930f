"""A BLIP-2 as it was given, in PyTorch by transformers, behind the parts of a bundle: for evaluation beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import SourceError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.contract import TOKENIZER, contract_of
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.language.text import Tokenizer
from edgekit.runtimes.language.vision_language import VisionLanguage
from edgekit.sources._pretrained import checked_class, import_transformers, load_pretrained, reason
from edgekit.sources._streamed import streamed

LARGE = 2 * 10**9
"""Bytes of a model in float32 above which its weights are read as they are needed, a module's at a time."""

Function = Callable[..., dict[str, Any]]
"""A part of the model: the model and tensors by name to tensors by name."""


def open_source(folder: Path, threads: int = 0) -> VisionLanguage:
    """The model of a folder in float32: captions, answers, vectors and matches of the source itself.

    Preprocessing, tokens and search are the runtime's, whose texts are compared with those of `generate` in the tests;
    the networks, the cache and all arithmetic are those of transformers.

    Args:
        folder: with a BLIP-2 as Hugging Face saves it.
        threads: of PyTorch, 0 for its own choice.

    Raises:
        SourceError: transformers is not installed, or cannot load it.
    """
    import torch

    source = Blip2(folder)
    if threads:
        torch.set_num_threads(threads)
    model = load_model(source)
    tokenizer = Tokenizer(folder / TOKENIZER, source=True)
    if source.retrieval:
        functions: dict[str, Function] = {"vision": _vision, "qformer": _vectors, "text": _text, "match": _match}
        return VisionLanguage(contract_of(source), _networks(model, functions), None, None, tokenizer)
    networks = _networks(model, {"vision": _vision, "qformer": _projected})
    graph: LanguageGraph = (EncoderDecoder if source.family == "t5" else DecoderOnly)(model.language_model)
    return VisionLanguage(contract_of(source), networks, graph, source.embeddings(), tokenizer)


def load_model(source: Blip2) -> Any:
    """The model in float32, by transformers, ready to run; a large one reads its weights from the files as it runs.

    Raises:
        SourceError: transformers is not installed or cannot load it, or the tensors do not fit.
    """
    import torch

    # A Blip2Model has the same weights under the same names.
    kind = "Blip2ForImageTextRetrieval" if source.retrieval else "Blip2ForConditionalGeneration"
    folder, shapes = source.folder, source.checkpoint.shapes
    if not is_large(source):
        return load_pretrained(folder, kind, source.config, shapes, dtype=torch.float32)
    found = checked_class(folder, kind, source.config, shapes)
    config = found.config_class.from_pretrained(folder, local_files_only=True)
    return streamed(lambda: found(config), shapes, source.checkpoint.stored, str(folder))


def is_large(source: Blip2) -> bool:
    """Whether the model stays in its files while it runs (`edgekit.sources._streamed`)."""
    return parameter_bytes(source) > LARGE


def load_tokenizer(source: Blip2) -> Any:
    """The tokenizer, by transformers.

    Raises:
        SourceError: it cannot load it.
    """
    transformers = import_transformers(source.folder)
    try:
        return transformers.AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged folder can make it raise anything
        raise SourceError(f"{source.folder}: transformers cannot load the tokenizer: {reason(error)}") from error


def parameter_bytes(source: Blip2) -> int:
    """Size of all tensors of a checkpoint in float32, without reading them."""
    return sum(4 * int(np.prod(shape)) for shape in source.checkpoint.shapes.values())


class TorchNetwork:
    """A function on torch tensors as a `Network`."""

    def __init__(self, model: Any, function: Function) -> None:
        self._model, self._function = model, function
        self.placement = Placement("cpu", arithmetic="float32")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once: inputs by name to outputs by name."""
        import torch

        given = {name: torch.from_numpy(np.array(value)) for name, value in feeds.items()}
        with torch.no_grad():
            made = self._function(self._model, **given)
        return {name: value.numpy() for name, value in made.items()}


class DecoderOnly:
    """An OPT as a `LanguageGraph`: explicit positions, and a cache that transformers keeps."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """See `LanguageGraph.start`."""
        import torch
        from transformers import DynamicCache

        self._mask, self._cache = torch.from_numpy(np.array(mask)), DynamicCache()
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        return self._run(positions, inputs_embeds=torch.from_numpy(np.array(embeddings)))

    def step(self, tokens: Ints) -> Floats:
        """See `LanguageGraph.step`."""
        import torch

        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        return self._run(self._mask.sum(1, keepdim=True) - 1, input_ids=torch.from_numpy(np.array(tokens))[:, None])

    def select(self, rows: Ints) -> None:
        """See `LanguageGraph.select`."""
        import torch

        chosen: Any = torch.from_numpy(np.array(rows))
        self._mask = self._mask[chosen]
        self._cache.reorder_cache(chosen)

    def _run(self, positions: Any, **inputs: Any) -> Floats:
        import torch

        with torch.no_grad():
            made = self._model(
                attention_mask=self._mask, position_ids=positions, past_key_values=self._cache, use_cache=True, **inputs
            )
        logits: Floats = made.logits[:, -1].numpy()
        return logits


class EncoderDecoder:
    """A T5 as a `LanguageGraph`: the encoder once, the decoder with caches of both attentions."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """See `LanguageGraph.start`."""
        import torch
        from transformers import DynamicCache, EncoderDecoderCache

        self._mask = torch.from_numpy(np.array(mask))
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with torch.no_grad():
            encoder = self._model.get_encoder()
            encoded = encoder(inputs_embeds=torch.from_numpy(np.array(embeddings)), attention_mask=self._mask)
        self._encoded = encoded.last_hidden_state
        return self.step(np.full(len(mask), self._model.config.decoder_start_token_id, np.int64))

    def step(self, tokens: Ints) -> Floats:
        """See `LanguageGraph.step`."""
        import torch

        with torch.no_grad():
            made = self._model(
                encoder_outputs=(self._encoded,),
                attention_mask=self._mask,
                past_key_values=self._cache,
                decoder_input_ids=torch.from_numpy(np.array(tokens))[:, None],
                use_cache=True,
            )
        logits: Floats = made.logits[:, -1].numpy()
        return logits

    def select(self, rows: Ints) -> None:
        """See `LanguageGraph.select`."""
        import torch

        chosen: Any = torch.from_numpy(np.array(rows))
        self._mask, self._encoded = self._mask[chosen], self._encoded[chosen]
        self._cache.reorder_cache(chosen)


def _networks(model: Any, functions: Mapping[str, Function]) -> dict[str, TorchNetwork]:
    return {name: TorchNetwork(model, function) for name, function in functions.items()}


def _vision(model: Any, pixel_values: Any) -> dict[str, Any]:
    return {"image_embeds": model.vision_model(pixel_values=pixel_values).last_hidden_state}


def _queries(model: Any, image_embeds: Any) -> Any:
    tokens = model.query_tokens.expand(len(image_embeds), -1, -1)
    return model.qformer(query_embeds=tokens, encoder_hidden_states=image_embeds).last_hidden_state


def _projected(model: Any, image_embeds: Any) -> dict[str, Any]:
    queries = _queries(model, image_embeds)
    return {"query_output": queries, "language_inputs": model.language_projection(queries)}


def _vectors(model: Any, image_embeds: Any) -> dict[str, Any]:
    queries = _queries(model, image_embeds)
    return {"query_output": queries, "image_vectors": _unit(model.vision_projection(queries))}


def _text(model: Any, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
    embedded = model.embeddings(input_ids=input_ids)
    made = model.qformer(query_embeds=embedded, query_length=0, attention_mask=attention_mask)
    return {"text_vector": _unit(model.text_projection(made.last_hidden_state[:, 0]))}


def _match(model: Any, image_embeds: Any, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
    import torch

    tokens = model.query_tokens.expand(len(image_embeds), -1, -1)
    count = tokens.shape[1]
    made = model.qformer(
        query_embeds=model.embeddings(input_ids=input_ids, query_embeds=tokens),
        query_length=count,
        attention_mask=torch.cat([attention_mask.new_ones(tokens.shape[:2]), attention_mask], 1),
        encoder_hidden_states=image_embeds,
    )
    return {"logits": model.itm_head(made.last_hidden_state[:, :count]).mean(1)}


def _unit(values: Any) -> Any:
    from torch.nn.functional import normalize

    return normalize(values, dim=-1)
