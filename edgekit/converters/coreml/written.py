"""Parts of a BLIP-2 as Core ML packages, written tensor by tensor: neither torch nor coremltools' passes are run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.converters.coreml.layers import MilLayers
from edgekit.converters.coreml.mil import MAIN, OPSET, MilPackage
from edgekit.emulators.coreml.package import MANIFEST
from edgekit.errors import UsageError
from edgekit.graph.blip2.blip2 import WrittenPart
from edgekit.graph.blip2.forms import Float32
from edgekit.graph.blip2.opt import OptConfig
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.coreml.names import DECODE, PREFILL

PIECE = 32
"""Tokens of the prompt that are read at a time. A capacity is a multiple of it: no piece may pass the end."""


def write_part(part: WrittenPart, out: Path, capacity: int, text: int) -> Graph:
    """Write ``NAME.mlpackage``; a decoder has a function for a piece of the prompt and one for a single token.

    Half of the digits are computed in as all that a Neural Engine has, but for float32 and for T5, whose squares
    leave float16: its weights are stored in their precision and computed with in float32.

    Args:
        part: the graph and the forms of its weights.
        out: the folder that the package is made in.
        capacity: tokens of image, prompt and answer that a language model has room for.
        text: tokens of a text for retrieval.

    Raises:
        UsageError: less than a piece of the prompt, or no token of a text.
    """
    if capacity < PIECE or text < 1:
        raise UsageError(f"capacity={capacity} text={text}: capacity has to be {PIECE} or more, text 1 or more")
    single = isinstance(part.forms.layers, Float32)
    dtype = "fp32" if single or part.name in ("encoder", "decoder") else "fp16"
    states = dtype == "fp16"
    room, text = -(-_limited(part, capacity) // PIECE) * PIECE, min(text, part.source.texts)
    path = out / f"{part.name}.mlpackage"
    package, first, kinds = MilPackage(path), None, Counter[str]()
    for name, tokens in _functions(part.name).items():
        function = package.function(name, dtype)
        sizes = open_sizes(part.name, tokens, room, text, states)
        made = MilLayers(package, function, part.source.checkpoint, part.forms.layers, sizes, states, [], [])
        part.source.describe(part.name, made, part.forms.head)
        first = first or made
        kinds += function.kinds
    package.save()
    if first is None:
        raise TypeError("a package without a function")
    files = sorted(one.relative_to(out).as_posix() for one in path.rglob("*") if one.is_file())
    files.sort(key=lambda name: not name.endswith(MANIFEST))
    return Graph(
        name=part.name,
        files=tuple(files),
        inputs=tuple(first.inputs),
        outputs=tuple(first.outputs),
        report={"opset": OPSET, **dict(sorted(kinds.items()))},
    )


def _limited(part: WrittenPart, capacity: int) -> int:
    """A capacity beyond what the model can see would be of no use."""
    language = part.source.language
    return min(capacity, language.max_position_embeddings) if isinstance(language, OptConfig) else capacity


def _functions(name: str) -> Mapping[str, int]:
    """Functions of a graph, and the tokens that each takes."""
    if name == "language":
        return {PREFILL: PIECE, DECODE: 1}
    return {MAIN: 1}


def open_sizes(name: str, tokens: int, capacity: int, text: int, states: bool) -> Mapping[str, Sequence[int]]:
    """The open axes of a graph's inputs, in order, by the name of the input up to its first dot."""
    if name == "encoder":
        return {"inputs_embeds": (1, capacity), "mask": (1, capacity), "distances": (capacity, capacity)}
    keys = capacity if states else capacity + tokens
    return {
        "pixel_values": (1,), "image_embeds": (1,), "input_ids": (1, text), "attention_mask": (1, text),
        "inputs_embeds": (1, tokens), "position_ids": (1, tokens), "mask": (1, tokens, keys), "pick": (1, tokens),
        "past": (1, capacity), "cross": (1, capacity), "encoder_mask": (1, capacity), "distances": (tokens, keys),
    }  # fmt: skip
