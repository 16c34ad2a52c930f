"""What tasks return: arrays in the pixels of the original image, with names, drawing and export.

`Detections` (boxes), `Poses` (with keypoints), `Instances` (with masks), `Classification` (scores of an image) and
`Embedding` (its vector); `Text` and `Match` of vision-language models.
"""

from __future__ import annotations

from edgekit.results.classification import Classification as Classification
from edgekit.results.columns import ArrayColumn as ArrayColumn
from edgekit.results.columns import Column as Column
from edgekit.results.columns import column as column
from edgekit.results.columns import columns as columns
from edgekit.results.detections import Detection as Detection
from edgekit.results.detections import Detections as Detections
from edgekit.results.detections import Ids as Ids
from edgekit.results.embedding import Embedding as Embedding
from edgekit.results.instances import Instances as Instances
from edgekit.results.instances import MaskColumn as MaskColumn
from edgekit.results.masks import Masks as Masks
from edgekit.results.poses import Poses as Poses
from edgekit.results.result import Result as Result
from edgekit.results.result import Timings as Timings
from edgekit.results.text import Match as Match
from edgekit.results.text import Text as Text
from edgekit.results.text import TextTimings as TextTimings
