"""The results of tasks: arrays in the pixels of the original image, with names, drawing and export.

`Detections` (boxes), `Poses` (with keypoints), `Instances` (with masks), `OrientedBoxes` (at any angle),
`Classification` (scores of an image), `LabelMap` (the class of every pixel) and `Embedding` (a vector); `Text` and
`Match` of vision-language models.
"""

from __future__ import annotations

from edgekit.runtimes.results.classification import Classification as Classification
from edgekit.runtimes.results.columns import ArrayColumn as ArrayColumn
from edgekit.runtimes.results.columns import Column as Column
from edgekit.runtimes.results.columns import column as column
from edgekit.runtimes.results.columns import columns as columns
from edgekit.runtimes.results.detections import Detection as Detection
from edgekit.runtimes.results.detections import Detections as Detections
from edgekit.runtimes.results.embedding import Embedding as Embedding
from edgekit.runtimes.results.instances import Instances as Instances
from edgekit.runtimes.results.instances import MaskColumn as MaskColumn
from edgekit.runtimes.results.label_map import LabelMap as LabelMap
from edgekit.runtimes.results.masks import Masks as Masks
from edgekit.runtimes.results.oriented import OrientedBoxes as OrientedBoxes
from edgekit.runtimes.results.poses import Poses as Poses
from edgekit.runtimes.results.result import Result as Result
from edgekit.runtimes.results.result import Timings as Timings
from edgekit.runtimes.results.text import Match as Match
from edgekit.runtimes.results.text import Text as Text
from edgekit.runtimes.results.text import TextTimings as TextTimings
