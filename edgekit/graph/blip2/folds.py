"""Where channels between two layers can be scaled without a change of the result, and by how much they should be.

Activation-aware quantisation (AWQ, Lin et al. 2023, arXiv:2306.00978): weights whose inputs are large are scaled up, so
that rounding them costs less, and what gives those inputs is scaled down by as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Floats
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.opt import PREFIX as OPT
from edgekit.graph.blip2.opt import OptConfig
from edgekit.graph.blip2.rounding import errors
from edgekit.graph.blip2.t5 import PREFIX as T5
from edgekit.graph.blip2.t5 import T5Config

STRENGTHS = tuple(np.linspace(0, 1, 21))
"""Exponents of the mean magnitude of a channel that are tried; 0 changes nothing."""


@dataclass(frozen=True)
class Fold:
    """Channels between tensors.

    Attributes:
        readers: weights (outputs, channels) of all linear layers that read them, and nothing else does.
        givers: tensors that they are made by, along the first axis: a normalisation's weights, or a linear layer's.
        first: row of the givers at which the channels begin.
    """

    readers: tuple[str, ...]
    givers: tuple[str, ...]
    first: int = 0


def folds(source: Blip2, part: str) -> tuple[Fold, ...]:
    """The channels of a part that can be scaled, by what its graph computes between layers.

    A normalisation's channels where linear layers alone read them; an attention's, as it is linear in the values;
    behind a ReLU, which does not mind a positive factor, and behind one factor of a gated layer.
    """
    language = source.language
    if part == "vision":
        made = _of_vision(source)
    elif part == "qformer":
        made = _of_qformer(source)
    else:
        made = _of_opt(language) if isinstance(language, OptConfig) else _of_t5(language)
    known = source.checkpoint
    found = (Fold(fold.readers, tuple(one for one in fold.givers if one in known), fold.first) for fold in made)
    # Some normalisations have no weights; a bias may be missing.
    return tuple(fold for fold in found if any(one.endswith("weight") for one in fold.givers))


def _fold(readers: Sequence[str], giver: str, first: int = 0) -> Fold:
    names = tuple(f"{one}.weight" for one in readers)
    return Fold(names, (f"{giver}.weight", f"{giver}.bias"), first)


def _of_vision(source: Blip2) -> Iterator[Fold]:
    for number in range(source.vision.num_hidden_layers):
        prefix = f"vision_model.encoder.layers.{number}."
        yield _fold([f"{prefix}self_attn.qkv"], f"{prefix}layer_norm1")
        yield _fold([f"{prefix}self_attn.projection"], f"{prefix}self_attn.qkv", 2 * source.vision.hidden_size)
        yield _fold([f"{prefix}mlp.fc1"], f"{prefix}layer_norm2")


def _of_qformer(source: Blip2) -> Iterator[Fold]:
    """Its normalisations stand behind the sum and are read by the next one too: values alone are left."""
    for number in range(source.qformer.num_hidden_layers):
        for kind in ("attention", "crossattention"):
            prefix = f"qformer.encoder.layer.{number}.{kind}."
            if f"{prefix}output.dense.weight" in source.checkpoint:
                yield _fold([f"{prefix}output.dense"], f"{prefix}attention.value")


def _of_opt(config: OptConfig) -> Iterator[Fold]:
    for number in range(config.num_hidden_layers):
        prefix = f"{OPT}layers.{number}."
        attention = f"{prefix}self_attn."
        if config.do_layer_norm_before:
            yield _fold([f"{attention}{name}_proj" for name in "qkv"], f"{prefix}self_attn_layer_norm")
            yield _fold([f"{prefix}fc1"], f"{prefix}final_layer_norm")
        yield _fold([f"{attention}out_proj"], f"{attention}v_proj")
        if config.activation_function == "relu":
            yield _fold([f"{prefix}fc2"], f"{prefix}fc1")


def _of_t5(config: T5Config) -> Iterator[Fold]:
    for side, count in (("encoder", config.num_layers), ("decoder", config.heads.layers)):
        for number in range(count):
            prefix = f"{T5}{side}.block.{number}.layer."
            attention = f"{prefix}0.SelfAttention."
            yield _fold([f"{attention}{name}" for name in "qkv"], f"{prefix}0.layer_norm")
            yield _fold([f"{attention}o"], f"{attention}v")
            last = 1
            if side == "decoder":
                attention, last = f"{prefix}1.EncDecAttention.", 2
                yield _fold([f"{attention}q"], f"{prefix}1.layer_norm")
                yield _fold([f"{attention}o"], f"{attention}v")
            yield from _of_t5_forward(config, f"{prefix}{last}.")


def _of_t5_forward(config: T5Config, prefix: str) -> Iterator[Fold]:
    inner = f"{prefix}DenseReluDense."
    if config.gated:
        yield _fold([f"{inner}wi_0", f"{inner}wi_1"], f"{prefix}layer_norm")
        yield _fold([f"{inner}wo"], f"{inner}wi_1")
    else:
        yield _fold([f"{inner}wi"], f"{prefix}layer_norm")
        if config.activation == "relu":
            yield _fold([f"{inner}wo"], f"{inner}wi")


def scales(weights: Sequence[Floats], inputs: Floats, made: Callable[[Floats], Floats]) -> Floats:
    """Factors (channels,) for the columns of weights that read the same inputs: those with the least error of output.

    Args:
        weights: (outputs, channels) each.
        inputs: (tokens, channels).
        made: a weight as the target makes it of its integers.
    """
    magnitude = np.maximum(np.abs(inputs).mean(0), np.finfo(np.float32).tiny)
    # Of channels that are hardly ever used the factor would leave float16's range.
    magnitude = np.maximum(magnitude, magnitude.max() * 1e-4)
    best: Floats = np.ones_like(magnitude)
    least = np.inf
    for strength in STRENGTHS:
        tried: Floats = (magnitude**strength).astype(np.float32)
        tried /= np.sqrt(tried.max() * tried.min())
        error = sum(float(errors(weight, made(weight * tried) / tried, inputs).sum()) for weight in weights)
        if error < least:
            best, least = tried, error
    return best
