"""The heads of the shapes detector under a name of their own."""

from __future__ import annotations

from edgekit.runtimes.tasks.decoders import Candidates, Frame, Heads, decoder
from edgekit.runtimes.tasks.decoders.anchor_free import AnchorFree, anchor_free


@decoder("shapes_heads", channels=lambda options, classes: {"boxes": 4 * options.reg_max, "classes": classes})
def shapes_heads(heads: Heads, options: AnchorFree, frame: Frame, threshold: float) -> Candidates:
    """As `anchor_free`."""
    return anchor_free(heads, options, frame, threshold)
