"""Result types under the name that users type: ``edgekit.results.Detections``."""

from __future__ import annotations

from edgekit.runtimes.results import ArrayColumn as ArrayColumn
from edgekit.runtimes.results import Classification as Classification
from edgekit.runtimes.results import Column as Column
from edgekit.runtimes.results import Detection as Detection
from edgekit.runtimes.results import Detections as Detections
from edgekit.runtimes.results import Embedding as Embedding
from edgekit.runtimes.results import Instances as Instances
from edgekit.runtimes.results import LabelMap as LabelMap
from edgekit.runtimes.results import MaskColumn as MaskColumn
from edgekit.runtimes.results import Masks as Masks
from edgekit.runtimes.results import Match as Match
from edgekit.runtimes.results import OrientedBoxes as OrientedBoxes
from edgekit.runtimes.results import Poses as Poses
from edgekit.runtimes.results import Result as Result
from edgekit.runtimes.results import Text as Text
from edgekit.runtimes.results import TextTimings as TextTimings
from edgekit.runtimes.results import Timings as Timings
from edgekit.runtimes.results import column as column
from edgekit.runtimes.results import columns as columns

__all__ = [
    "ArrayColumn",
    "Classification",
    "Column",
    "Detection",
    "Detections",
    "Embedding",
    "Instances",
    "LabelMap",
    "MaskColumn",
    "Masks",
    "Match",
    "OrientedBoxes",
    "Poses",
    "Result",
    "Text",
    "TextTimings",
    "Timings",
    "column",
    "columns",
]
