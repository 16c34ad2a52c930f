"""Image features of vision tower and Q-Former, cached for the last images: ten questions cost one vision run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.errors import EngineError
from edgekit.runtimes.engines import Network
from edgekit.runtimes.inputs.images import Preprocessor, check

KEPT = 16
"""Images whose features are kept: 1.5 MB each at 257 tokens of 1408."""


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """One image, float32.

    Args:
        vision: (tokens, width) of the vision model.
        queries: (queries, width) of the Q-Former.
        projected: what the Q-Former gives on: (queries, language width) in the language model's embedding space, or
            (queries, dimensions) of length 1 in the space that images and texts share.
    """

    vision: Floats
    queries: Floats
    projected: Floats


class ImageEncoder:
    """Images to `ImageFeatures`. Not thread-safe.

    Args:
        networks: ``vision`` and ``qformer``.
        preprocess: of the contract.
        projected: name of the Q-Former's second output.
        kept: how many images are remembered.
    """

    def __init__(
        self, networks: Mapping[str, Network], preprocess: Preprocessor, projected: str, kept: int = KEPT
    ) -> None:
        self._vision, self._qformer = networks["vision"], networks["qformer"]
        self._preprocess, self._projected, self._kept = preprocess, projected, kept
        self._known: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self.runs = 0

    def close(self) -> None:
        """Let go of the networks; it cannot be called afterwards."""
        del self._vision, self._qformer
        self._known.clear()

    def __call__(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """Features of each image, uint8 (h, w, 3) BGR. What is not known yet runs in one batch, equal images once.

        Raises:
            InputError: not such an image.
            EngineError: an engine failed, or gave something unusable.
        """
        keys = [_key(image) for image in images]
        found = {key: self._known[key] for key in keys if key in self._known}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        found |= dict(zip(new, self.encode(list(new.values())), strict=True)) if new else {}
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return [found[key] for key in keys]

    def encode(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """As a call, but in one batch whatever is known, and nothing is kept."""
        pixels = np.concatenate([self._preprocess(image)[0].copy() for image in images])
        self.runs += 1
        vision = output(self._vision.run({"pixel_values": pixels}), "image_embeds", (len(images), None, None))
        made = self._qformer.run({"image_embeds": vision})
        queries = output(made, "query_output", (len(images), None, None))
        projected = output(made, self._projected, (len(images), queries.shape[1], None))
        return [ImageFeatures(*parts) for parts in zip(vision, queries, projected, strict=True)]


def output(given: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...]) -> Floats:
    """One output of a network as float32, copied out of the engine's memory; None in ``shape`` is any size.

    Raises:
        EngineError: it is not there, has another shape, or is not finite.
    """
    if name not in given:
        raise EngineError(f"a graph gave no {name!r}, only {', '.join(given) or 'nothing'}; convert the model again")
    found: Floats = np.array(given[name], np.float32)
    fits = len(shape) == found.ndim and all(
        wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise EngineError(f"a graph gave {name!r} of shape {found.shape}, not ({wanted})")
    if not np.isfinite(found).all():
        raise EngineError(f"a graph gave {name!r} with NaN or infinite numbers: try a higher precision")
    return found


def _key(image: Image) -> bytes:
    check(image)
    whole = np.ascontiguousarray(image)
    return hashlib.blake2b(whole.data, digest_size=16, key=repr(whole.shape).encode()).digest()
