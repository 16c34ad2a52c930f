"""The contract of a BLIP-2 folder: what its processor, tokenizer and generation settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import SourceError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.checkpoint import read_json
from edgekit.graph.blip2.opt import OptConfig
from edgekit.graph.blip2.t5 import T5Config
from edgekit.runtimes.bundle.manifest import Contract, ImageRule, Language
from edgekit.structures import from_builtins

PROCESSOR, PROCESSOR_OF_PARTS, TOKENIZER, GENERATION = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "generation_config.json",
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""The default normalisation of BLIP's processor."""

PROMPTS = {
    "caption": "a photo of",
    "short": "a short image caption:",
    "detailed": "a detailed description of the image:",
    "ask": "Question: {} Answer:",
}
"""The prompts BLIP-2 was published with (Li et al. 2023, arXiv:2301.12597)."""

GENERATION_NAMES = {
    "max_new_tokens": "max_new_tokens",
    "min_new_tokens": "min_new_tokens",
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
}
"""Of transformers' generation settings those that are taken over, and their names here."""


class _Processor(msgspec.Struct):
    size: dict[str, int] | None = None
    image_processor_type: str | None = None
    do_resize: bool | None = True
    do_center_crop: bool | None = False
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    resample: int = 3


def contract_of(source: Blip2) -> Contract:
    """Derive the contract of a BLIP-2 from its folder.

    Raises:
        SourceError: a missing or unreadable file, or a processor that resizes in another way than the published ones.
    """
    return Contract(task="vision-language", image=_image(source), language=_language(source))


def _image(source: Blip2) -> ImageRule:
    given = _processor(source.folder)
    if given.image_processor_type and "blip" not in given.image_processor_type.lower():
        raise SourceError(
            f"{source.folder / PROCESSOR}: {given.image_processor_type} is no processor for a BLIP-2; save its own"
        )
    if given.do_center_crop or given.do_resize is False:
        key, value = ("do_center_crop", "true") if given.do_center_crop else ("do_resize", "false")
        raise SourceError(f"{source.folder / PROCESSOR}: {key} is {value}; BLIP-2 resizes the whole image")
    size = source.vision.image_size
    stated = given.size or {"height": size, "width": size}
    if (stated.get("height"), stated.get("width")) != (size, size):
        raise SourceError(f"{source.folder / PROCESSOR}: size {stated}, the vision tower takes {size} x {size}")
    if given.resample not in (2, 3):
        raise SourceError(
            f"{source.folder / PROCESSOR}: resample {given.resample}; 2 (bilinear) and 3 (bicubic) are known"
        )
    normalised = given.do_normalize
    return ImageRule(
        size=(size, size),
        resize="stretch",
        interpolation="bicubic" if given.resample == 3 else "bilinear",
        scale=given.rescale_factor if given.do_rescale else 1.0,
        mean=given.image_mean if normalised else (0.0, 0.0, 0.0),
        std=given.image_std if normalised else (1.0, 1.0, 1.0),
    )


def _processor(folder: Path) -> _Processor:
    """The image processor's settings, which transformers 5 keeps in the file of the whole processor."""
    if (folder / PROCESSOR).is_file():
        found = read_json(folder / PROCESSOR)
    elif (folder / PROCESSOR_OF_PARTS).is_file():
        found = read_json(folder / PROCESSOR_OF_PARTS).get("image_processor") or {}
    else:
        raise SourceError(f"{folder}: no {PROCESSOR}, which says how images are resized; save the processor there too")
    try:
        return from_builtins(found, _Processor)
    except msgspec.ValidationError as error:
        raise SourceError(f"{folder / PROCESSOR}: {error}") from error


def _language(source: Blip2) -> Language:
    if not (source.folder / TOKENIZER).is_file():
        raise SourceError(
            f"{source.folder}: no {TOKENIZER}; save the fast tokenizer: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    if source.retrieval:
        positions = (source.config.get("qformer_config") or {}).get("max_position_embeddings", 512)
        return Language(family="retrieval", queries=source.queries, pad=_padding(source), positions=positions)
    config = source.language
    image = source.value("image_token_index")
    if image is None:
        image = source.value("image_token_id")
    if image is None:
        raise SourceError(f"{source.folder}: config.json names no image_token_index; which token stands for the image?")
    settings = read_json(source.folder / GENERATION) if (source.folder / GENERATION).is_file() else {}

    def said(name: str) -> Any:
        own = settings.get(name)
        return source.value(name) if own is None else own

    ends = said("eos_token_id")
    return Language(
        family="t5" if isinstance(config, T5Config) else "opt",
        queries=source.queries,
        image=image,
        pad=said("pad_token_id") or 0,
        eos=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        start=said("decoder_start_token_id") or 0,
        layers=config.heads.layers,
        heads=config.heads.count,
        head_size=config.heads.size,
        width=source.width,
        positions=config.max_position_embeddings if isinstance(config, OptConfig) else 0,
        prompts=PROMPTS,
        generation=_generation(settings),
    )


def _padding(source: Blip2) -> int:
    given = (source.config.get("qformer_config") or {}).get("pad_token_id")
    return int(given or 0)


def _generation(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of generation that differ from what is usual, under our names."""
    return {ours: settings[theirs] for theirs, ours in GENERATION_NAMES.items() if settings.get(theirs) is not None}
