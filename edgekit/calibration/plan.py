"""The quantisation plan of a model: made once on the source's graph, used by every target, kept as a readable file.

A plan is a folder: ``plan.json`` (`Plan`), and one folder per graph with ``graph.onnx`` and ``graph.pt2``. These hold
the network in exchange form after every change that is exact in float (cross-layer equalization) or that concerns only
the weights (rounding, bias correction, fine-tuning), so a target's quantiser finds weights that already lie on its
grid. Layers that stay in float keep their original weights in ``mixed``; in ``rounded`` all weights are rounded.

Tensors and layers are named as in ``graph.onnx``; a layer is named after the tensor that it writes. The keys in
``plan.json`` are older than some of the Python names, and stay as they are: `msgspec.field` maps them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from edgekit.errors import InputError, UsageError
from edgekit.runtimes.bundle.manifest import Record
from edgekit.structures import from_json

SCHEMA = 1

FILE = "plan.json"

MIXED = "mixed"
"""The graph for targets that can compute some layers in float."""

ROUNDED = "rounded"
"""The mixed graph with all weights rounded: for integer-only targets that have activations of 16 bits too, and for all
of them where there is no ``integer`` graph."""

INTEGER = "integer"
"""The graph for targets with 8-bit activations alone: channels are equalized wherever one scale would not do."""

NOISE = 0.02
"""A layer stays in float when rounding its input makes more than this share of its output's variance.

Nearly all such layers are depthwise, and a few thousandths of the multiplications. YOLOX-Nano has five of them behind
the stem. At .1, .05 and .02 the error of its raw outputs, at anchors with objectness above .1, is .148, .104 and .087
of their spread in OpenVINO, and .191, .131 and .140 in LiteRT; time did not change by more than the noise of a loaded
machine. The demo detector and FastestDet have none.
"""

LOST = 0.1
"""The noise from which on a layer is worth activations of 16 bits, which cost an NPU more than float costs a CPU: from
`NOISE` on, Vela estimates 17.3 ms for YOLOX-Nano on an Ethos-U65-256, not 15.7."""

BUDGET = "budget"
"""Why a layer stays in float: the accuracy budget was exceeded with it in INT8."""

RangeMethod = Literal["min-max", "percentile", "squared"]
"""How the end of a range is found."""

RETIRED_METHODS = ("moving average", "absolute", "kl")
"""Methods that older plans were made with. They gave nothing over the others. Such plans open and build as ever."""


class Methods(Record, frozen=True, kw_only=True):
    """The methods that make INT8 accurate; all are on by default. Each can be switched off to measure its effect.

    Attributes:
        cross_layer_equalization: even out the channels between layers (CLE).
        ranges: one method for the activation ranges of all tensors, or ``auto``: for each tensor the best of all.
        bias_correction: let the biases undo the mean shift that rounded weights cause.
        rounding: of weights, to the nearest step; plans of older versions may have ``adaptive``.
        float_fallback: keep the stem, the heads, and layers whose input no single scale can hold in float, on targets
            that can do that (mixed precision).
    """

    cross_layer_equalization: bool = msgspec.field(default=True, name="equalisation")
    ranges: Literal["auto", "moving average", "absolute", "kl"] | RangeMethod = "auto"
    bias_correction: bool = True
    rounding: Literal["nearest", "adaptive"] = "nearest"
    float_fallback: bool = msgspec.field(default=True, name="islands")


class TensorRange(Record, frozen=True, kw_only=True):
    """The values of a tensor, and the ends of the 8-bit grids that fit it best.

    Attributes:
        lowest, highest: the extremes seen on the calibration images.
        low, high: the affine range (it contains 0), widened to where the activation that reads the tensor is flat.
        fitted: its ends before they were widened; None where they were not.
        limit: the symmetric range is ``-limit`` to ``limit``.
        method, symmetric_method: how they were found.
        error: of the affine grid, behind the activation that reads the tensor: root mean square error over the
            tensor's own root mean square.
    """

    lowest: float
    highest: float
    low: float
    high: float
    limit: float
    method: str
    symmetric_method: str
    error: float = 0.0
    fitted: tuple[float, float] | None = None

    @property
    def narrow(self) -> tuple[float, float]:
        """The ends of the affine range as they were fitted, for engines that lose by the widened ones."""
        return self.fitted or (self.low, self.high)


class Layer(Record, frozen=True, kw_only=True):
    """A convolution or matrix product with constant weights.

    Attributes:
        macs: multiply-accumulates of one inference.
        channel_ratio: largest over smallest channel of its input; one 8-bit scale holds about 100.
        noise_to_signal: share of its output's variance that rounding its input to 8 bits makes (1 / SQNR).
        float_reason: why it stays in float (``stem``, ``head``, ``places``, ``channels``, ``budget``); empty: INT8.
        sensitivity: what it costs the decoded results (0..1) if it alone is INT8; None: not measured.
    """

    name: str
    kind: str
    input: str
    depthwise: bool
    weights: int
    macs: int = msgspec.field(name="products")
    channel_ratio: float = msgspec.field(name="spread")
    noise_to_signal: float = msgspec.field(name="noise")
    float_reason: str = msgspec.field(default="", name="stays")
    sensitivity: float | None = msgspec.field(default=None, name="damage")


class Equalization(Record, frozen=True, kw_only=True):
    """One place where the channels between a layer and its readers were equalized.

    Attributes:
        through: what lies between: ``relu``, ``leaky_relu``, ``silu``, ``scaled silu``, ``layer_norm`` or nothing.
        before, after: largest over smallest channel.
        gate: the tensor that the sigmoid of a SiLU reads since then.
        groups: number of groups that the channels were split into, so that each has a scale of its own; ``after`` is
            the largest ratio within one.
    """

    layer: str
    readers: tuple[str, ...]
    through: str
    before: float
    after: float
    gate: str = ""
    groups: int = 1


class Fp16Issue(Record, frozen=True, kw_only=True):
    """An operator that float16 cannot compute: a value of its output ``tensor`` overflows or is flushed to zero."""

    node: str
    tensor: str
    reason: Literal["overflow", "flushed"]
    largest: float


class PlannedGraph(Record, frozen=True, kw_only=True):
    """One graph of a plan: ranges by tensor, layers in the order of the graph, and where channels were equalized."""

    tensors: dict[str, TensorRange]
    layers: tuple[Layer, ...]
    equalized: tuple[Equalization, ...] = msgspec.field(default=(), name="equalised")

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that stay in float."""
        return tuple(layer.name for layer in self.layers if layer.float_reason)

    @property
    def wide_layers(self) -> tuple[str, ...]:
        """Names of the layers that need activations of 16 bits where none can be float.

        They are those whose input no 8-bit grid holds, and if that is one of the stem, all of the stem: the whole image
        passes through it, so that its errors reach every output. YOLOX-Nano on 50 photographs (mAP .533), in LiteRT's
        reference kernels: all in 8 bits .382, those layers alone in 16 bits .496, with the rest of the stem .528.
        """
        lost = {one.name: one.float_reason for one in self.layers if one.noise_to_signal > LOST}
        stem = "stem" in lost.values()
        return tuple(
            one.name for one in self.layers if lost.get(one.name) == "channels" or (stem and one.float_reason == "stem")
        )

    def make_int8(self, name: str) -> PlannedGraph:
        """The same graph with one layer in INT8, whatever kept it in float."""
        layers = [msgspec.structs.replace(one, float_reason="") if one.name == name else one for one in self.layers]
        return msgspec.structs.replace(self, layers=tuple(layers))

    def keep_float(self, names: Collection[str], reason: str) -> PlannedGraph:
        """The same graph with more layers in float."""
        layers = [
            msgspec.structs.replace(one, float_reason=reason) if one.name in names and not one.float_reason else one
            for one in self.layers
        ]
        return msgspec.structs.replace(self, layers=tuple(layers))


class Outlier(Record, frozen=True, kw_only=True):
    """A calibration image unlike the others: its index and name, how far off it is, and the tensor that shows it."""

    image: int
    distance: float
    tensor: str
    name: str = ""

    @property
    def called(self) -> str:
        """The image for a reader."""
        return self.name or f"image {self.image}"


class Advice(Record, frozen=True, kw_only=True):
    """Advice on the calibration images.

    Attributes:
        curve: pairs (images, distance): after so many images the ranges were within this relative distance of the
            final ones.
        enough: more images would hardly change the ranges.
        outliers: images unlike all others.
        unlike: how well calibration and scoring images could be told apart (0..1), in plans of older versions.
        sentences: all that in words, with what to do.
    """

    curve: tuple[tuple[int, float], ...] = ()
    enough: bool = True
    outliers: tuple[Outlier, ...] = ()
    unlike: float = 0.0
    sentences: tuple[str, ...] = ()


class Tuning(Record, frozen=True, kw_only=True):
    """The effect of fine-tuning. ``before`` and ``after`` are losses on the hold-out images; kept only if lower."""

    minutes: float
    steps: int
    before: float
    after: float
    kept: bool


class LastLayer(Record, frozen=True, kw_only=True):
    """A classifier's last layer, which has many of its weights, and the cost of INT8 there.

    The plan keeps it in float; each bundle tries it in INT8 (`edgekit.conversion.last_layer`).

    Attributes:
        name: of the layer.
        share: of all weights (0..1).
        lost: quality lost against the same network with this layer in float (`edgekit.evaluation.agreement.quality`),
            in ONNX Runtime.
        images: number of images that this was measured on.
    """

    name: str
    share: float
    lost: float
    images: int

    def sentence(self) -> str:
        """The result, in words."""
        return (
            f"last layer ({self.name}): {self.share:.0%} of the weights; int8 there loses {self.lost:.4f} on "
            f"{self.images} images"
        )


AnyRecord = TypeVar("AnyRecord", bound=Record)


def _renamed(record: AnyRecord, names: Mapping[str, str], *fields: str, **changes: object) -> AnyRecord:
    """A record with other names in these fields, and with changes."""
    new = {field: names.get(getattr(record, field), getattr(record, field)) for field in fields}
    return msgspec.structs.replace(record, **new, **changes)


class Plan(Record, frozen=True, kw_only=True):
    """How one model becomes INT8, found on one set of calibration images.

    Attributes:
        model: SHA-256 of the exchange graph, and ``name`` what the model is called; empty in older plans.
        layer_names: what layers are called in the ONNX file that the network came from, by their names here.
        images, images_sha256: number and SHA-256 of the calibration images.
        integer: the graph for integer-only targets; None where it equals ``mixed`` but for the layers in float.
        fp16_issues: operators that stay in float32 in fp16 bundles.
        corrected: number of biases that were corrected.
        last_layer: what INT8 costs in a classifier's last layer; None where it is small, or nothing was measured.
        seconds: time of each step.
    """

    schema: int = SCHEMA
    edgekit: str
    model: str
    images: int
    images_sha256: str
    methods: Methods
    mixed: PlannedGraph
    integer: PlannedGraph | None = None
    name: str = ""
    layer_names: dict[str, str] = msgspec.field(default_factory=dict)
    fp16_issues: tuple[Fp16Issue, ...] = msgspec.field(default=(), name="half")
    corrected: int = 0
    tuning: Tuning | None = None
    advice: Advice | None = None
    last_layer: LastLayer | None = None
    seconds: dict[str, float] = msgspec.field(default_factory=dict)

    def for_readers(self) -> Plan:
        """The plan with layers and tensors called as in the ONNX file that the network came from, where known."""
        names = self.layer_names
        if not names:
            return self

        def named(text: str) -> str:
            return re.sub(r"\w+", lambda found: names.get(found[0], found[0]), text)

        def graph(one: PlannedGraph) -> PlannedGraph:
            return PlannedGraph(
                tensors={names.get(name, name): ends for name, ends in one.tensors.items()},
                layers=tuple(_renamed(layer, names, "name", "input") for layer in one.layers),
                equalized=tuple(
                    _renamed(
                        site, names, "layer", "gate", readers=tuple(names.get(name, name) for name in site.readers)
                    )
                    for site in one.equalized
                ),
            )

        advice = self.advice and _renamed(
            self.advice,
            names,
            outliers=tuple(_renamed(one, names, "tensor") for one in self.advice.outliers),
            sentences=tuple(map(named, self.advice.sentences)),
        )
        issues = tuple(_renamed(one, names, "tensor") for one in self.fp16_issues)
        integer = self.integer and graph(self.integer)
        return msgspec.structs.replace(
            self, mixed=graph(self.mixed), integer=integer, advice=advice, fp16_issues=issues
        )


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
        plan = from_json(path.read_bytes(), Plan)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; make a plan with: edgekit calibrate SOURCE --data DIR -o PLAN"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not a plan ({error}); make it again with edgekit calibrate") from error
    if plan.schema != SCHEMA:
        raise InputError(f"{path}: plan schema {plan.schema}, this edgekit reads {SCHEMA}; make it again")
    return plan
