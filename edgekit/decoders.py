"""What a decoder of your own is written with, under the name that users type; see docs/CONTRACT.md."""

from __future__ import annotations

from edgekit.runtimes.tasks.decoders import Candidates as Candidates
from edgekit.runtimes.tasks.decoders import Frame as Frame
from edgekit.runtimes.tasks.decoders import Heads as Heads
from edgekit.runtimes.tasks.decoders import decoder as decoder

__all__ = ["Candidates", "Frame", "Heads", "decoder"]
