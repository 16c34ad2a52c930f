"""SimCC: a keypoint as two classifications. RTMPose too."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from edgekit.runtimes.tasks.decoders.arithmetic import matrix
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, decoder
from edgekit.runtimes.tasks.decoders.points import CENTRE, one_person


class SimCC(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``split`` bins to a pixel."""

    split: Annotated[float, msgspec.Meta(gt=0)] = 2.0


@decoder("simcc", task="pose", whole=("x", "y"))
def simcc(heads: Heads, options: SimCC, frame: Frame, threshold: float) -> Candidates:
    """Two classifications a keypoint, roles ``x`` (1, k, width * split) and ``y`` (1, k, height * split).

    The best bins are the place, the lower of the two values the score (SimCC, Li et al. 2022; RTMPose takes the same).
    """
    (horizontal,), (vertical,) = heads["x"], heads["y"]
    across, down = matrix(horizontal), matrix(vertical)
    for values, wanted in ((across, frame.width * options.split), (down, frame.height * options.split)):
        if values.shape[1] != round(wanted):
            raise ValueError(f"{values.shape[1]} bins where {round(wanted)} are needed for split {options.split:g}")
    scores = np.minimum(across.max(1), down.max(1))
    place = CENTRE + np.stack([across.argmax(1), down.argmax(1)], 1) / np.float32(options.split)
    points = np.concatenate([place, np.clip(scores, 0, 1)[:, None]], 1).astype(np.float32)
    return one_person(points, frame, threshold)
