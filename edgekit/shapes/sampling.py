"""Drawing the shapes of a scene at random: what, where, how large, in which colour, and how much may be hidden."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgekit.shapes.outlines import CLASSES, place, unit_area, unit_outline
from edgekit.shapes.types import COLOURS, SceneOptions, ShapePlacement, Style

ATTEMPTS = 10
SMALLEST_DIAMETER = 20.0  # pixels; below, classes cannot be told apart
UNPAINTED = Style((0.0, 0.0, 0.0), 0.0, 0.0, "none", 0.0, 0.0)
JITTER = 0.06  # of a cell, either way, where shapes stand on a grid
LEAST_CONTRAST = 75.0  # Euclidean distance in BGR between a shape and what it is painted on


def sample_style(rng: np.random.Generator, colour: str) -> Style:
    """Draw how a shape of a named colour is painted; the colour stays recognisable."""
    base = np.array(COLOURS[colour], dtype=np.float64) + rng.uniform(-12, 12, 3)
    blue, green, red = (float(value) for value in np.clip(base, 0, 255))
    return Style(
        bgr=(blue, green, red),
        shade_angle=float(rng.uniform(0, 2 * math.pi)),
        shade=float(rng.uniform(0, 0.18)),
        texture=("none", "none", "stripes", "rings")[int(rng.integers(4))],
        edge=float(rng.uniform(0.8, 2.2)) if rng.random() < 0.3 else 0.0,
        shadow=float(rng.uniform(0.2, 0.5)) if rng.random() < 0.3 else 0.0,
    )


def sample_radius(rng: np.random.Generator, height: int, width: int, options: SceneOptions) -> float:
    """Draw a circumscribed radius in pixels, log-uniform between the smallest and the largest size."""
    side = min(height, width)
    low = max(options.min_size * side, SMALLEST_DIAMETER)
    high = max(options.max_size * side, low)
    return float(math.exp(rng.uniform(math.log(low), math.log(high)))) / 2


def contrasting_colour(
    rng: np.random.Generator, behind: npt.NDArray[np.float32], taken: frozenset[str] = frozenset()
) -> str:
    """Draw a named colour, none of `taken`, that stands out from the mean colour behind the shape (3,) BGR."""
    names = [name for name in COLOURS if name not in taken]
    order = [names[int(index)] for index in rng.permutation(len(names))]
    for name in order:
        if float(np.linalg.norm(np.array(COLOURS[name]) - behind)) >= LEAST_CONTRAST:
            return name
    return max(order, key=lambda name: float(np.linalg.norm(np.array(COLOURS[name]) - behind)))


def footprint(item: ShapePlacement, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Rough mask uint8 (H, W) of a placement, 0 or 1, for deciding whether it may stand there."""
    import cv2

    outline = place(unit_outline(item.class_id), item.centre, item.radius, item.rotation)
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(outline - 0.5).astype(np.int32)], 1)
    return mask


def _candidate(
    rng: np.random.Generator, height: int, width: int, options: SceneOptions, track_id: int
) -> tuple[ShapePlacement, npt.NDArray[np.uint8]]:
    """A shape somewhere, without a colour yet, and its footprint."""
    item = ShapePlacement(
        class_id=CLASSES.index(options.classes[int(rng.integers(len(options.classes)))]),
        colour="",
        centre=_somewhere(rng, height, width, options),
        radius=sample_radius(rng, height, width, options),
        rotation=float(rng.uniform(0, 360)) if options.most_rotation >= 180 else _small_turn(rng, options),
        style=UNPAINTED,
        track_id=track_id,
    )
    return item, footprint(item, height, width)


def _somewhere(rng: np.random.Generator, height: int, width: int, options: SceneOptions) -> tuple[float, float]:
    """A centre x, y in pixels."""
    if not options.grid:
        return float(rng.uniform(0, width)), float(rng.uniform(0, height))
    row, column = divmod(int(rng.integers(options.grid**2)), options.grid)
    x, y = rng.uniform(0.5 - JITTER, 0.5 + JITTER, 2)
    return float((column + x) * width / options.grid), float((row + y) * height / options.grid)


def _small_turn(rng: np.random.Generator, options: SceneOptions) -> float:
    """Degrees in [0, 360), near 0."""
    return float(rng.uniform(-options.most_rotation, options.most_rotation)) % 360


def _mean_behind(canvas: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import cv2

    return np.array(cv2.mean(canvas, mask)[:3], dtype=np.float32)


def _coloured(rng: np.random.Generator, item: ShapePlacement, colour: str, plain: bool = False) -> ShapePlacement:
    """The same placement in a named colour, with a style of its own."""
    style = sample_style(rng, colour)
    return replace(item, colour=colour, style=replace(UNPAINTED, bgr=style.bgr) if plain else style)


def sample_placements(
    rng: np.random.Generator, canvas: npt.NDArray[np.float32], options: SceneOptions
) -> tuple[ShapePlacement, ...]:
    """Draw the shapes of a still scene on a background float32 (H, W, 3), farthest first.

    A shape is tried at a few places; it stays out when it, or one that it would cover, would show less than
    `min_visibility` of its area. Shapes that overlap have different colours.
    """
    height, width = canvas.shape[:2]
    placed: list[ShapePlacement] = []
    masks: list[npt.NDArray[np.uint8]] = []
    floor = min(options.min_visibility + 0.04, 0.97)
    for track_id in range(1, int(rng.integers(options.min_objects, options.max_objects + 1)) + 1):
        for _ in range(ATTEMPTS):
            item, mask = _candidate(rng, height, width, options, track_id)
            free = np.equal(mask, 0)
            left: list[npt.NDArray[np.uint8]] = [np.multiply(other, free, dtype=np.uint8) for other in masks]
            everything = [*zip(placed, left, strict=True), (item, mask)]
            if all(_shown(other, visible) >= floor for other, visible in everything):
                touching = frozenset(
                    other.colour for other, old, new in zip(placed, masks, left, strict=True) if (old != new).any()
                )
                colour = contrasting_colour(rng, _mean_behind(canvas, mask), touching)
                placed.append(_coloured(rng, item, colour, options.plain))
                masks = [*left, mask]
                break
    return tuple(placed)


def _shown(item: ShapePlacement, visible: npt.NDArray[np.uint8]) -> float:
    """Visible fraction of a placement's area."""
    return float(np.count_nonzero(visible)) / (unit_area(item.class_id) * item.radius**2)
