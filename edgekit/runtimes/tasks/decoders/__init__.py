"""One file per family of heads. A decoder turns the raw heads of one family into candidates before NMS.

It is one function. Registering it makes its name valid in contracts; files of this folder are found by their place, a
module of your own by ``--import``:

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        strides: tuple[int, ...]

    @decoder("mine", channels=lambda options, classes: {"boxes": 4, "classes": classes})
    def mine(heads: Heads, options: Options, frame: Frame, threshold: float) -> Candidates:
        ...
"""

from __future__ import annotations

from edgekit.runtimes.tasks.decoders.arithmetic import Places as Places
from edgekit.runtimes.tasks.decoders.arithmetic import at_anchors as at_anchors
from edgekit.runtimes.tasks.decoders.arithmetic import at_places as at_places
from edgekit.runtimes.tasks.decoders.arithmetic import cell_corners as cell_corners
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite as check_finite
from edgekit.runtimes.tasks.decoders.arithmetic import from_centres as from_centres
from edgekit.runtimes.tasks.decoders.arithmetic import gather as gather
from edgekit.runtimes.tasks.decoders.arithmetic import grid_of as grid_of
from edgekit.runtimes.tasks.decoders.arithmetic import logit as logit
from edgekit.runtimes.tasks.decoders.arithmetic import matrix as matrix
from edgekit.runtimes.tasks.decoders.arithmetic import planes as planes
from edgekit.runtimes.tasks.decoders.arithmetic import sigmoid as sigmoid
from edgekit.runtimes.tasks.decoders.arithmetic import softmax as softmax
from edgekit.runtimes.tasks.decoders.arithmetic import survivors as survivors
from edgekit.runtimes.tasks.decoders.base import Candidates as Candidates
from edgekit.runtimes.tasks.decoders.base import Counts as Counts
from edgekit.runtimes.tasks.decoders.base import Frame as Frame
from edgekit.runtimes.tasks.decoders.base import Heads as Heads
from edgekit.runtimes.tasks.decoders.base import NoOptions as NoOptions
from edgekit.runtimes.tasks.decoders.base import Registered as Registered
from edgekit.runtimes.tasks.decoders.base import at_level as at_level
from edgekit.runtimes.tasks.decoders.base import attached as attached
from edgekit.runtimes.tasks.decoders.base import decoder as decoder
from edgekit.runtimes.tasks.decoders.base import every_decoder as every_decoder
from edgekit.runtimes.tasks.decoders.base import find as find
from edgekit.runtimes.tasks.decoders.points import points_of as points_of
