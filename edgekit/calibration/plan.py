"""The quantisation plan of a model: found once on the source's graph, lowered by every target, kept as a readable file.

A plan is a folder: ``plan.json`` (`Plan`), and a folder for each of its graphs with ``graph.onnx`` and ``graph.pt2``:
the same network in the exchange form with everything done to it that is exact in float (equalisation) or belongs to
the weights (rounding, bias correction, fine-tuning). A target's quantiser finds weights that lie on its grid already,
but for layers that stay in float: these keep their own in ``mixed``, and ``rounded`` is the same without exception.

Tensors and layers are named as in ``graph.onnx``; a layer has the name of the tensor that it writes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.errors import InputError, UsageError
from edgekit.runtimes.bundle.manifest import Record

SCHEMA = 1

FILE = "plan.json"

MIXED = "mixed"
"""The graph for targets that may compute some layers in float."""

ROUNDED = "rounded"
"""The same with the weights of all layers rounded, also of those that stay in float: for integers, without its own."""

INTEGER = "integer"
"""The graph for targets that compute everything in integers: equalised wherever one scale would not do."""

BUDGET = "budget"
"""Why a layer stays in float: what all layers together lose was too much."""

RangeMethod = Literal["min-max", "moving average", "percentile", "absolute", "squared", "kl"]


class Methods(Record, frozen=True, kw_only=True):
    """What is done; all of it by default. Each can be switched off, to see what it is worth.

    ``ranges``: one method for every tensor, or ``auto``: the best of all for each. ``islands``: the stem, the heads and
    layers that one scale cannot hold stay in float where the target can do that.
    """

    equalisation: bool = True
    ranges: Literal["auto"] | RangeMethod = "auto"
    bias_correction: bool = True
    rounding: Literal["nearest", "adaptive"] = "nearest"
    islands: bool = True


class Range(Record, frozen=True, kw_only=True):
    """What a tensor holds, and the ends of the 8-bit grids that hold it best.

    ``lowest`` and ``highest`` were seen; ``low`` to ``high`` is the affine range (it contains 0), ``-limit`` to
    ``limit`` the symmetric one. ``method`` and ``symmetric_method`` say how they were found. ``error`` is that of the
    affine grid behind the activation that reads the tensor: root mean square, over the tensor's own.
    """

    lowest: float
    highest: float
    low: float
    high: float
    limit: float
    method: str
    symmetric_method: str
    error: float = 0.0


class Layer(Record, frozen=True, kw_only=True):
    """A convolution or matrix product with constant weights.

    ``spread`` is the ratio of the largest to the smallest channel of its input (one scale holds about 100), ``noise``
    the share of its output's variance that rounding its input to 8 bits makes. ``stays`` says why it stays in float
    (empty: it becomes INT8). ``damage`` is what it alone in INT8 costs the decoded results (0..1), where measured.
    ``products`` are the multiplications of one run.
    """

    name: str
    kind: str
    input: str
    depthwise: bool
    weights: int
    products: int
    spread: float
    noise: float
    stays: str = ""
    damage: float | None = None


class Equalised(Record, frozen=True, kw_only=True):
    """Channels made equal between a layer and the layers that read it, with the spread before and after.

    ``through`` is what lies between: ``relu``, ``leaky_relu``, ``silu``, ``layer_norm`` or nothing. ``gate`` names the
    tensor that the sigmoid reads since then, where it is SiLU.
    """

    layer: str
    readers: tuple[str, ...]
    through: str
    before: float
    after: float
    gate: str = ""


class HalfTrouble(Record, frozen=True, kw_only=True):
    """An operator that float16 cannot compute: a value of its output ``tensor`` overflows or is flushed to zero."""

    node: str
    tensor: str
    reason: Literal["overflow", "flushed"]
    largest: float


class PlannedGraph(Record, frozen=True, kw_only=True):
    """One graph of a plan: ranges by tensor, layers in the order of the graph, and what was equalised."""

    tensors: dict[str, Range]
    layers: tuple[Layer, ...]
    equalised: tuple[Equalised, ...] = ()

    @property
    def floats(self) -> tuple[str, ...]:
        """Names of the layers that stay in float."""
        return tuple(layer.name for layer in self.layers if layer.stays)

    def with_floats(self, names: Collection[str], why: str) -> PlannedGraph:
        """The same with more layers in float."""
        layers = [
            msgspec.structs.replace(one, stays=why) if one.name in names and not one.stays else one
            for one in self.layers
        ]
        return msgspec.structs.replace(self, layers=tuple(layers))


class Outlier(Record, frozen=True, kw_only=True):
    """A calibration image unlike the others: its place in the stream, how far off, and the tensor that says so."""

    image: int
    distance: float
    tensor: str


class Advice(Record, frozen=True, kw_only=True):
    """What the stream says about itself.

    ``curve`` holds pairs: after so many images the ranges were within this relative distance of the final ones.
    ``enough`` tells that more images would hardly change them. ``unlike`` (0..1) is how well the calibration images can
    be told from the scoring images; 0 means not at all. ``sentences`` say it in words, with what to do.
    """

    curve: tuple[tuple[int, float], ...] = ()
    enough: bool = True
    outliers: tuple[Outlier, ...] = ()
    unlike: float = 0.0
    sentences: tuple[str, ...] = ()


class Tuning(Record, frozen=True, kw_only=True):
    """What fine-tuning did: minutes, steps, and the loss on images held back before and after (kept only if lower)."""

    minutes: float
    steps: int
    before: float
    after: float
    kept: bool


class Plan(Record, frozen=True, kw_only=True):
    """Everything that was found out about one model and one calibration stream.

    ``model`` is the SHA-256 of the exchange graph, ``images_sha256`` that of the ``images`` calibration images.
    ``integer`` is None where nothing differs from ``mixed`` but the layers in float. ``corrected`` counts the biases
    that were changed. ``seconds`` is the time of each step.
    """

    schema: int = SCHEMA
    edgekit: str
    model: str
    images: int
    images_sha256: str
    methods: Methods
    mixed: PlannedGraph
    integer: PlannedGraph | None = None
    half: tuple[HalfTrouble, ...] = ()
    corrected: int = 0
    tuning: Tuning | None = None
    advice: Advice | None = None
    seconds: dict[str, float] = msgspec.field(default_factory=dict)


def check_place(folder: Path) -> None:
    """See that a plan can go into a folder.

    Raises:
        UsageError: it holds something else, or is a file.
    """
    if folder.exists() and not (folder / FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: holds something that is not a plan; choose another folder for the plan")


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write ``plan.json``, readable; returns its path."""
    path = folder / FILE
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
    return path


def read_plan(folder: Path) -> Plan:
    """Read a plan.

    Raises:
        InputError: there is none, or not one that this version reads.
    """
    path = folder / FILE
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; make a plan with: edgekit calibrate SOURCE --data DIR -o PLAN"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not a plan ({error}); make it again with edgekit calibrate") from error
    if plan.schema != SCHEMA:
        raise InputError(f"{path}: plan schema {plan.schema}, this edgekit reads {SCHEMA}; make it again")
    return plan
