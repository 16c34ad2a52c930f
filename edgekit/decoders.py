"""The public names for writing your own decoder; see docs/DECODERS.md."""

from __future__ import annotations

from edgekit.runtimes.tasks.decoders import Candidates as Candidates
from edgekit.runtimes.tasks.decoders import Frame as Frame
from edgekit.runtimes.tasks.decoders import Heads as Heads
from edgekit.runtimes.tasks.decoders import NoOptions as NoOptions
from edgekit.runtimes.tasks.decoders import at_anchors as at_anchors
from edgekit.runtimes.tasks.decoders import attached as attached
from edgekit.runtimes.tasks.decoders import cell_corners as cell_corners
from edgekit.runtimes.tasks.decoders import check_finite as check_finite
from edgekit.runtimes.tasks.decoders import decoder as decoder
from edgekit.runtimes.tasks.decoders import from_centres as from_centres
from edgekit.runtimes.tasks.decoders import gather as gather
from edgekit.runtimes.tasks.decoders import grid_of as grid_of
from edgekit.runtimes.tasks.decoders import logit as logit
from edgekit.runtimes.tasks.decoders import planes as planes
from edgekit.runtimes.tasks.decoders import points_of as points_of
from edgekit.runtimes.tasks.decoders import sigmoid as sigmoid
from edgekit.runtimes.tasks.decoders import softmax as softmax
from edgekit.runtimes.tasks.decoders import survivors as survivors

__all__ = [
    "Candidates",
    "Frame",
    "Heads",
    "NoOptions",
    "at_anchors",
    "attached",
    "cell_corners",
    "check_finite",
    "decoder",
    "from_centres",
    "gather",
    "grid_of",
    "logit",
    "planes",
    "points_of",
    "sigmoid",
    "softmax",
    "survivors",
]
