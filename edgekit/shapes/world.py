"""Still scenes of shapes, drawn from a seed."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UsageError
from edgekit.shapes.backgrounds import background
from edgekit.shapes.render import paint_shape, quantise, sense
from edgekit.shapes.sampling import sample_placements
from edgekit.shapes.truth import objects
from edgekit.shapes.types import Scene, SceneOptions

SMALLEST_SIDE = 48

# Seeds below this are for tests, demonstrations and scores; the detector is trained on seeds from here up.
FIRST_TRAINING_SEED = 1_000_000


def check_size(size: tuple[int, int]) -> None:
    """Raise UsageError where a scene of this (height, width) would have no room for shapes."""
    if min(size) < SMALLEST_SIDE:
        raise UsageError(f"size {size} is too small for a scene: give (height, width) of {SMALLEST_SIDE} or more each")


def scene(seed: int, size: tuple[int, int] = (256, 256), options: SceneOptions | None = None) -> Scene:
    """Draw the scene of a seed at (height, width); the same arguments give the same bytes.

    Raises UsageError for a size under 48 pixels or an unknown background, InputError for unreadable photographs.
    """
    check_size(size)
    options = options or SceneOptions()
    height, width = size
    rng = np.random.default_rng([seed, 0])
    canvas, kind = background(rng, height, width, options)
    placements = sample_placements(rng, canvas, options)
    for item in placements:
        paint_shape(canvas, item)
    image = sense(rng, canvas) if options.sensor else quantise(canvas)
    return Scene(image=image, objects=objects(placements, height, width), seed=seed, background=kind)
