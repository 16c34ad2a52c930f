"""The models of `tiny_blip2` behind edgekit's own protocols, run by torch: networks, language graph, bundle.

What the converters make is tested elsewhere; here these are the source itself, so that every number has to agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from test_language_generation import OPTGraph, T5Graph
from tiny_transformers import package

from edgekit.runtimes.bundle.folder import Bundle, stage
from edgekit.runtimes.bundle.manifest import Contract, Graph, ImageRule, Language, Manifest, Origin, Tensor
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.language.text import Tokenizer
from edgekit.runtimes.language.vision_language import VisionLanguage

PROMPTS = {"caption": "a photo of", "short": "a short caption", "detailed": "describe in detail",
           "ask": "Question: {} Answer:"}  # fmt: skip
PARTS = {
    "opt": ("vision", "qformer", "language"),
    "t5": ("vision", "qformer", "encoder", "decoder"),
    "retrieval": ("vision", "qformer", "text", "match"),
}


class TorchNetwork:
    """A `Network` of a function on torch tensors; counts its runs and the rows of each."""

    placement = Placement("cpu", {"torch": 1})

    def __init__(self, function: Any) -> None:
        self.function = function
        self.rows: list[int] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.rows.append(len(next(iter(feeds.values()))))
        with torch.no_grad():
            made = self.function(
                **{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feeds.items()}
            )
        return {name: value.numpy() for name, value in made.items()}


def source(folder: Path) -> Any:
    """The model as transformers loads it."""
    config = json.loads((folder / "config.json").read_text())
    return getattr(package(), config["architectures"][0]).from_pretrained(folder).eval()


def _queries(model: Any, image_embeds: Any) -> Any:
    tokens = model.query_tokens.expand(len(image_embeds), -1, -1)
    return model.qformer(query_embeds=tokens, encoder_hidden_states=image_embeds).last_hidden_state


def _vision(model: Any, pixel_values: Any) -> Any:
    return {"image_embeds": model.vision_model(pixel_values=pixel_values).last_hidden_state}


def _qformer(model: Any, image_embeds: Any) -> Any:
    queries = _queries(model, image_embeds)
    if hasattr(model, "language_projection"):
        return {"query_output": queries, "language_inputs": model.language_projection(queries)}
    return {"query_output": queries, "image_vectors": _unit(model.vision_projection(queries))}


def _text(model: Any, input_ids: Any, attention_mask: Any) -> Any:
    embedded = model.embeddings(input_ids=input_ids)
    made = model.qformer(query_embeds=embedded, query_length=0, attention_mask=attention_mask).last_hidden_state
    return {"text_vector": _unit(model.text_projection(made[:, 0]))}


def _match(model: Any, image_embeds: Any, input_ids: Any, attention_mask: Any) -> Any:
    tokens = model.query_tokens.expand(len(image_embeds), -1, -1)
    mask = torch.cat([attention_mask.new_ones(tokens.shape[:2]), attention_mask], 1)
    made = model.qformer(
        query_embeds=model.embeddings(input_ids=input_ids, query_embeds=tokens), query_length=tokens.shape[1],
        attention_mask=mask, encoder_hidden_states=image_embeds,
    ).last_hidden_state  # fmt: skip
    return {"logits": model.itm_head(made[:, : tokens.shape[1]]).mean(1)}


def _unit(values: Any) -> Any:
    return torch.nn.functional.normalize(values, dim=-1)


def networks(model: Any) -> dict[str, TorchNetwork]:
    parts = {"vision": _vision, "qformer": _qformer}
    if not hasattr(model, "language_model"):
        parts |= {"text": _text, "match": _match}
    return {name: TorchNetwork(partial(function, model)) for name, function in parts.items()}


def language_graph(model: Any) -> Any:
    if not hasattr(model, "language_model"):
        return None
    wrapper = T5Graph if model.language_model.config.is_encoder_decoder else OPTGraph
    return wrapper(model.language_model)


def embeddings(model: Any) -> NDArray[np.float32] | None:
    if not hasattr(model, "language_model"):
        return None
    return np.array(model.get_input_embeddings().weight.detach().numpy())


def contract(folder: Path, **changes: Any) -> Contract:
    """What a conversion would say of the model in a folder."""
    config = json.loads((folder / "config.json").read_text())
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    text, size = config["text_config"], processor["size"]
    rule = ImageRule(
        size=(size["height"], size["width"]), resize="stretch", interpolation="bicubic",
        mean=tuple(processor["image_mean"]), std=tuple(processor["image_std"]),
    )  # fmt: skip
    said: dict[str, Any] = {"queries": config["num_query_tokens"], "prompts": PROMPTS}
    if config["architectures"][0] == "Blip2ForImageTextRetrieval":
        said |= {"family": "retrieval", "positions": config["qformer_config"]["max_position_embeddings"]}
    elif text["model_type"] == "opt":
        said |= {"family": "opt", "positions": text["max_position_embeddings"], "width": text["hidden_size"]}
    else:
        said |= {"family": "t5", "start": text["decoder_start_token_id"], "width": text["d_model"]}
    if said["family"] != "retrieval":
        said |= {"image": config["image_token_index"], "pad": text["pad_token_id"], "eos": (text["eos_token_id"],)}
    return Contract(task="vision-language", image=rule, language=Language(**said | changes))


def opened(folder: Path, **changes: Any) -> VisionLanguage:
    """The model of a folder behind edgekit's runtime; ``changes`` are of the contract's language."""
    model = source(folder)
    made = VisionLanguage(
        contract(folder, **changes), networks(model), language_graph(model), embeddings(model),
        Tokenizer(folder / "tokenizer.json"),
    )  # fmt: skip
    made.torch = model  # type: ignore[attr-defined]
    return made


def write_bundle(folder: Path, to: Path, **changes: Any) -> Bundle:
    """A bundle as a conversion writes it, with empty graph files: `engine` puts torch behind them."""
    said = contract(folder, **changes)
    table = embeddings(source(folder))
    logits = Tensor(name="logits", shape=(-1, 1 if table is None else len(table)))
    tensors = (Tensor(name="any", shape=(-1,)),)
    outputs = (*tensors, logits)
    names = PARTS[said.language.family] if said.language is not None else ()
    graphs = tuple(Graph(name=name, files=(f"{name}.onnx",), inputs=tensors, outputs=outputs) for name in names)
    with stage(to) as staging:
        for name in names:
            (staging.folder / f"{name}.onnx").write_bytes(name.encode())
        (staging.folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        (staging.folder / "weights.sha").write_bytes((folder / "model.safetensors").read_bytes()[-64:])
        if table is not None:
            np.save(staging.folder / "embeddings.npy", table)
        staging.seal(
            Manifest(
                edgekit="0", name=folder.name, target="onnx", precision="fp32", engine="onnxruntime", graphs=graphs,
                contract=said, origin=Origin(kind="transformers", name="blip-2", sha256=""), toolchain={},
            )
        )  # fmt: skip
        return staging.commit()


def engine(monkeypatch: Any, folder: Path) -> Any:
    """Make bundles open with torch, over the model of ``folder``; gives that model."""
    model = source(folder)
    every = networks(model)
    monkeypatch.setattr(
        "edgekit.runtimes.language.parts.open_network", lambda name, path, graph, options: every[graph.name]
    )
    monkeypatch.setattr("edgekit.runtimes.language.parts.open_language", lambda *given: language_graph(model))
    return model
