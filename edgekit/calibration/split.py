"""Split images into a calibration set, a hold-out set and proof images; no image is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.calibration.choosing import evenly_spaced, most_informative
from edgekit.calibration.samples import Samples, names_beside, new_stack
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.inputs.media import ImageReference, References, references

CALIBRATION, PROOF, HELD = "calibration.npy", "proof.npy", "held"
"""Names of the streams' files; images that are held back are the proof of a folder of their own."""

FEW = 32
"""Fewer calibration images than this are worth a warning."""

MOST_CALIBRATION = 300
MOST_PROOF = 64
MOST_HOLDOUT = 24
ENOUGH_VIEWS = 16
"""Fewer hold-out images than this are shown mirrored too, and closer where that is not enough."""

ENOUGH_TO_HOLD_OUT = 10
"""From this many calibration images on, a fifth of them is the hold-out set."""

PROOF_SHARE = 0.3


@dataclass(frozen=True)
class Split:
    """The streams of one conversion.

    ``holdout`` are calibration images kept apart, to compare ways of quantising on; None where there are few.
    ``held`` counts them, and each may be shown in several views. ``judged`` are the proof images as they were given;
    empty for generated ones.
    ``mirrored`` tells that every proof image is also shown flipped, because there are few; ``photographs`` counts the
    proof images before that.
    """

    calibration: Samples | None
    proof: Samples
    photographs: int
    mirrored: bool
    method: str
    digests: tuple[str, ...] = ()
    holdout: Samples | None = None
    held: int = 0
    judged: tuple[ImageReference, ...] = ()


def split(
    data: str,
    rule: ImageRule,
    folder: Path,
    *,
    seed: int,
    calibrate: bool,
    proof_data: str = "",
    refuse: frozenset[str] = frozenset(),
    choose: int = 0,
) -> Split:
    """Choose, decode once and store all streams.

    Args:
        data: folder, glob, list file, ``.npy``/``.npz`` stack or video.
        rule: resizes every image to the model's input.
        folder: where ``calibration.npy``, ``proof.npy`` and ``held/proof.npy`` go.
        seed: of the choice.
        calibrate: whether a calibration stream is needed; without it all images may serve as proof.
        proof_data: a second source for the proof; ``data`` is then used for calibration alone.
        choose: calibrate on this many images, those that represent all of them best; 0: on a random choice.
        refuse: digests (`digest`) of images that must not serve as proof: another bundle was calibrated on them.

    Raises:
        UsageError: too few images to do both.
        InputError: an image cannot be read.
    """
    chosen = references(data)
    judged, rest = _apart(chosen, references(proof_data) if proof_data else None, calibrate, seed)
    if calibrate and not len(rest):
        raise UsageError(
            f"--data {data}: {len(chosen)} image(s); int8 needs some for calibration and others for the proof, "
            f"at least 2 and better {FEW} or more"
        )
    calibration, holdout, held, seen = None, None, 0, set[str]()
    if calibrate:
        rest = rest if choose else rest[:MOST_CALIBRATION]
        back = min(MOST_HOLDOUT, len(rest) // 5) if len(rest) >= ENOUGH_TO_HOLD_OUT else 0
        lent, kept = rest[:back], rest[back:]
        taken = _pick(chosen, kept)
        if choose:
            taken = most_informative(taken, choose, rule, seed=seed)
        calibration = store(taken, rule, folder / CALIBRATION, seen=seen)
        holdout, held = _hold(_pick(chosen, lent), rule, folder / HELD, seen)
    # The same photograph under two names must not be calibrated on and judged on.
    known = refuse | seen
    mirrored = len(judged) < FEW
    proof = store(judged, rule, folder / PROOF, views=MIRRORED if mirrored else PLAIN, refuse=known)
    photographs = len(proof) // (2 if mirrored else 1)
    method = f"seeded choice of {len(calibration) if calibration else 0} from {len(chosen)}: {Path(data).name}"
    return Split(calibration, proof, photographs, mirrored, method, tuple(sorted(seen)), holdout, held, tuple(judged))


def _apart(
    chosen: References, proofs: References | None, calibrate: bool, seed: int
) -> tuple[list[ImageReference], NDArray[np.int64]]:
    """The images to be judged on, and the places of the others in an order in which to take them.

    The frames of a video are like their neighbours, so its last part is judged on and the others are spread evenly.
    """
    count = min(MOST_PROOF, max(1, round(len(chosen) * PROOF_SHARE))) if calibrate else MOST_PROOF
    if proofs is not None:
        order = np.random.default_rng(seed).permutation(len(proofs))[:MOST_PROOF]
        return _pick(proofs, order), np.random.default_rng(seed).permutation(len(chosen))
    if chosen.moving and calibrate and len(chosen) > 1:
        begin = len(chosen) - max(1, round(len(chosen) * PROOF_SHARE))
        spread = np.linspace(0, begin - 1, min(begin, MOST_CALIBRATION)).round().astype(np.int64)
        return evenly_spaced(chosen[begin:], count), np.random.default_rng(seed).permutation(np.unique(spread))
    order = np.random.default_rng(seed).permutation(len(chosen))
    return _pick(chosen, order[:count]), order[count:]


def _hold(
    chosen: Sequence[ImageReference], rule: ImageRule, folder: Path, seen: set[str]
) -> tuple[Samples | None, int]:
    """Store views of the hold-out images, if one is left that is not a copy of a calibration image, and count them."""
    if not chosen:
        return None, 0
    folder.mkdir(exist_ok=True)
    count = len(chosen)
    views = PLAIN if count >= ENOUGH_VIEWS else MIRRORED if 2 * count >= ENOUGH_VIEWS else CLOSER
    try:
        stored = store(chosen, rule, folder / PROOF, views=views, seen=seen)
    except UsageError:
        return None, 0
    return stored, len(stored) // len(views)


View = Callable[[Image], Image]
"""One way of showing an image."""


def _as_it_is(image: Image) -> Image:
    return image


def _mirrored(image: Image) -> Image:
    """Flipped left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def _closer(image: Image) -> Image:
    """The middle of an image, three quarters of each side."""
    height, width = image.shape[:2]
    top, left = height // 8, width // 8
    return np.ascontiguousarray(image[top : height - top, left : width - left])


def _closer_mirrored(image: Image) -> Image:
    return _mirrored(_closer(image))


PLAIN: tuple[View, ...] = (_as_it_is,)
MIRRORED = (*PLAIN, _mirrored)
CLOSER = (*MIRRORED, _closer, _closer_mirrored)
"""Views of each image, the more the fewer images there are."""


def store(
    chosen: Sequence[ImageReference],
    rule: ImageRule,
    path: Path,
    *,
    views: Sequence[View] = PLAIN,
    seen: set[str] | None = None,
    refuse: frozenset[str] = frozenset(),
) -> Samples:
    """Decode and resize images into one ``.npy`` stack, without holding more than one in memory.

    Args:
        chosen: what to open, in order.
        rule: of the model.
        path: the file to write.
        views: how to show each image, in order; the first is the image itself.
        seen: collects a digest of every resized image.
        refuse: digests of images to leave out.

    Raises:
        UsageError: nothing is left to store.
    """
    preprocess = Preprocessor(rule)
    digests = set[str]() if seen is None else seen
    shape = (len(chosen) * len(views), *rule.size, 3)
    stack = new_stack(path, np.uint8, shape)
    names: list[str] = []
    for reference in chosen:
        image = reference.open()
        own = digest(preprocess.resize(image)[0])
        if own in refuse or own in digests:
            continue
        digests.add(own)
        for view in views:
            stack[len(names)] = preprocess.resize(view(image))[0]
            names.append(Path(reference.name).name)
    count = len(names)
    names_beside(path).write_bytes(msgspec.json.encode(names))
    stack.flush()
    del stack
    if not count:
        raise UsageError("no image is left for the proof: the proof images are all among the calibration images")
    if count < shape[0]:
        _truncate(path, count)
    return Samples(path, rule)


def _pick(every: Sequence[ImageReference], order: NDArray[np.int64]) -> list[ImageReference]:
    """Chosen images in the order of the source: a video is then decoded once, not from its start for every frame."""
    return [every[index] for index in sorted(order.tolist())]


def digest(resized: Image) -> str:
    """The first 16 hex digits of the SHA-256 of an image's pixels in input size."""
    return hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest()[:16]


def _truncate(path: Path, count: int) -> None:
    """Keep the first ``count`` entries of a stack."""
    shorter = path.with_suffix(".short.npy")
    full = np.load(path, mmap_mode="r")
    kept = new_stack(shorter, full.dtype, (count, *full.shape[1:]))
    kept[:] = full[:count]
    kept.flush()
    shorter.replace(path)
