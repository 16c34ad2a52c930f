"""Make a quantisation plan from a graph in exchange form and calibration images."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec
import numpy as np

import edgekit
from edgekit.calibration import Progress
from edgekit.calibration import plan as files
from edgekit.calibration.advice import ImageStatistics
from edgekit.calibration.correspondence import planned_names
from edgekit.calibration.equalization import SPREAD, equalize
from edgekit.calibration.finetuning import finetune
from edgekit.calibration.fitting import fit, squared_error
from edgekit.calibration.layers import STEM, Response, feeding_layers, float_fallback_layers, responses
from edgekit.calibration.observation import Observations, observe
from edgekit.calibration.originals import originals_of, restore, write_originals
from edgekit.calibration.plan import (
    NOISE,
    Advice,
    Equalization,
    Layer,
    Methods,
    Plan,
    PlannedGraph,
    RangeMethod,
    TensorRange,
    Tuning,
)
from edgekit.calibration.rounding import round_weights
from edgekit.calibration.samples import Samples
from edgekit.errors import ConversionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import fx

CERTAINLY_NOT = -8.0
"""A logit as good as minus infinity."""

FLAT = 0.015
"""So near to its limit an activation counts as flat: a SiLU at -6."""

FAR = 1e3
"""So far out an activation that flattens has done so."""

Writer = Callable[["fx.GraphModule", Path], None]
"""Writes a module in exchange form (``graph.onnx`` and ``graph.pt2``) into a folder."""


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """The model and settings of a plan to make.

    Attributes:
        integer: also plan the graph for targets with 8-bit activations alone.
        finetune: minutes of fine-tuning; 0: none.
        score_outputs: outputs that are logits of scores.
        coordinate_outputs: outputs that are image coordinates, such as keypoints: one step of error there is pixels.
    """

    methods: Methods = dataclasses.field(default_factory=Methods)
    integer: bool = True
    threads: int = 2
    finetune: float = 0.0
    score_outputs: frozenset[str] = frozenset()
    coordinate_outputs: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Streams:
    """The images of a plan: those that ranges come from, and where there are any, the hold-out images that fine-tuning
    is judged on."""

    calibration: Samples
    holdout: Samples | None = None


def make_plan(
    program: Path, onnx: Path, streams: Streams, folder: Path, request: PlanRequest, write: Writer, progress: Progress
) -> Plan:
    """Find out how a network becomes INT8, and write the plan.

    Args:
        program: the torch.export form of the exchange graph.
        onnx: its ONNX form, whose tensors have the names of the program's nodes.
        streams: the images.
        folder: where the plan goes; it exists.
        request: what it is for.
        write: exports a changed network.
        progress: called with what is being done.

    Raises:
        UsageError: the request names a method that this version no longer has.
        ConversionError: no images, or the network gives NaN.
    """
    _refuse_retired(request.methods)
    samples = streams.calibration
    planner = _Planner(program, streams, request, write, progress)
    mixed = planner.graph(folder / files.ROUNDED, math.inf)
    restore(folder / files.ROUNDED, mixed.float_layers, folder / files.MIXED)
    integer = planner.graph(folder / files.INTEGER, SPREAD) if request.integer and planner.has_costly_sites else None
    plan = Plan(
        edgekit=edgekit.__version__,
        model=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        images=len(samples),
        images_sha256=samples.sha256(),
        methods=request.methods,
        mixed=mixed,
        integer=integer,
        corrected=planner.corrected,
        advice=planner.advice,
        tuning=planner.tuning,
        seconds=planner.seconds,
    )
    files.write_plan(plan, folder)
    return plan


def _refuse_retired(methods: Methods) -> None:
    """Methods of older plans that new ones cannot be made with.

    Raises:
        UsageError: there is one.
    """
    if methods.ranges in files.RETIRED_METHODS:
        raise UsageError(
            f"ranges {methods.ranges!r}: this method was removed, because it was no better than the others; choose "
            f"one of auto, {', '.join(get_args(RangeMethod))}"
        )
    if methods.rounding == "adaptive":
        raise UsageError(
            "rounding 'adaptive': it was removed, because it was no better than 'nearest'; leave it at 'nearest'"
        )


class _Planner:
    """Makes the graphs of one plan."""

    def __init__(
        self, program: Path, streams: Streams, request: PlanRequest, write: Writer, progress: Progress
    ) -> None:
        self._program, self._samples, self._request = program, streams.calibration, request
        self._streams = streams
        self._write, self._progress = write, progress
        self._statistics: ImageStatistics | None = ImageStatistics(streams.calibration.names)
        self.seconds: dict[str, float] = {}
        self.corrected = 0
        self.advice: Advice | None = None
        self.tuning: Tuning | None = None
        self.has_costly_sites = False

    def graph(self, folder: Path, through_silu: float) -> PlannedGraph:
        """Equalize, round, export and observe one graph."""
        import torch

        folder.mkdir(exist_ok=True)
        methods = self._request.methods
        module = torch.export.load(self._program).module()
        equalized: list[Equalization] = []
        if methods.cross_layer_equalization:
            with self._step("equalizing channels"):
                equalized = equalize(module, self._samples, through_silu=through_silu)
        source = copy.deepcopy(module) if self._request.finetune else None
        originals = originals_of(module)
        with self._step("rounding weights"):
            correct = methods.bias_correction
            done = round_weights(module, self._samples, correct_bias=correct, progress=self._progress)
        self.corrected = max(self.corrected, done.biases)
        with self._step("exporting"):
            self._write(module, folder)
        names = exported_names(module, folder)
        with self._step("observing"):
            seen = observe(
                folder / "graph.onnx", self._samples, self._request.threads, self._observed, self._statistics
            )
        with self._step("choosing ranges"):
            sites = tuple(_renamed(site, names) for site in equalized)
            graph = planned(folder / "graph.onnx", seen, self._request, sites)
        if source is None:
            write_originals(originals, names, folder)
        else:
            with self._step("fine-tuning"):
                self.tuning = self._tuned(module, source, graph, names)
                self._write(module, folder)
        if self._statistics is not None:  # the first graph's; the others show the same images
            self.advice, self._statistics = self._statistics.advice(), None
        costly = [layer for layer in graph.layers if layer.depthwise and layer.channel_ratio > SPREAD]
        self.has_costly_sites |= methods.cross_layer_equalization and bool(costly)
        return graph

    def _tuned(
        self, module: fx.GraphModule, source: fx.GraphModule, graph: PlannedGraph, names: Mapping[str, str]
    ) -> Tuning:
        """Train the rounded weights towards the outputs of the float network.

        Raises:
            ConversionError: its layers cannot be found in the exchange files.
        """
        if not names:
            raise ConversionError("this network cannot be fine-tuned: exporting it changes its operators")
        ends = {name: (one.low, one.high) for name, one in graph.tensors.items()}
        return finetune(
            module,
            self._samples,
            self._streams.holdout or (),
            minutes=self._request.finetune,
            ranges={node: ends[name] for node, name in names.items() if name in ends},
            floats=[node for node, name in names.items() if name in graph.float_layers],
            seed=0,
            progress=self._progress,
            threads=self._request.threads,
            reference=source,
        )

    def _observed(self, count: int) -> None:
        total = len(self._samples)
        self._progress(f"observing, image {count} of {total}", count / total)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._progress(name, 0.0)
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begun, 2)


def exported_names(module: fx.GraphModule, folder: Path) -> dict[str, str]:
    """The names that a module's nodes have in the exchange files that were written of it: exporting numbers them anew.

    Empty where exporting changed the operators, so that nodes and names cannot be paired.
    """
    import onnx
    import torch

    outputs = [output.name for output in onnx.load(folder / "graph.onnx", load_external_data=False).graph.output]
    exported = torch.export.load(folder / "graph.pt2").module().graph
    named = planned_names(exported, outputs)
    before, after = ([node for node in graph.nodes if node.op in _COMPUTING] for graph in (module.graph, exported))
    if [node.target for node in before[1:]] != [node.target for node in after[1:]]:
        return {}
    return {old.name: named[new.name] for old, new in zip(before, after, strict=True)}


_COMPUTING = ("placeholder", "call_function")


def _renamed(site: Equalization, names: Mapping[str, str]) -> Equalization:
    readers = tuple(names.get(reader, reader) for reader in site.readers)
    return msgspec.structs.replace(
        site, layer=names.get(site.layer, site.layer), readers=readers, gate=names.get(site.gate, site.gate)
    )


def planned(onnx: Path, seen: Observations, request: PlanRequest, equalized: tuple[Equalization, ...]) -> PlannedGraph:
    """Ranges and decisions for a graph from what was observed in it."""
    import onnx as onnx_package

    model = onnx_package.load(onnx)
    methods, behind = request.methods, responses(model)
    outputs = {output.name for output in model.graph.output}
    tensors = {
        # Nothing evens out what is cut off from an output, and the largest scores are what one looks for.
        name: fit(one, behind.get(name), "min-max" if name in outputs else methods.ranges)
        for name, one in seen.tensors.items()
    }
    tensors = {name: reaching_flat_ends(one, behind.get(name)) for name, one in tensors.items()}
    tensors |= {name: _without_certainty(tensors[name]) for name in request.score_outputs if name in tensors}
    fallback = float_fallback_layers(model) if methods.float_fallback else []
    # Poses of shapes, 300 scenes: of an OKS mAP of .495 INT8 loses .009 on onnx and openvino and .023 on ncnn with the
    # layers in front of the keypoints in INT8, and .005, .003 and .013 with them in float.
    fronts = feeding_layers(model, request.coordinate_outputs) if methods.float_fallback else []
    layers = []
    for name, one in seen.layers.items():
        site = one.site
        noise = one.noise_to_signal(squared_error(seen.tensors[site.input], tensors[site.input].limit))
        reason = ""
        if name in fallback:
            reason = "stem" if name in fallback[:STEM] else "places" if name in request.coordinate_outputs else "head"
        elif name in fronts:
            reason = "head"
        elif methods.float_fallback and noise > NOISE:
            reason = "channels"
        layers.append(
            Layer(
                name=name,
                kind=site.node.op_type,
                input=site.input,
                depthwise=site.depthwise,
                weights=int(site.weights.size),
                macs=one.macs,
                channel_ratio=one.channel_ratio,
                noise_to_signal=noise,
                float_reason=reason,
            )
        )
    return PlannedGraph(tensors=tensors, layers=tuple(layers), equalized=equalized)


def reaching_flat_ends(one: TensorRange, response: Response | None) -> TensorRange:
    """A range in front of an activation, widened to where the activation is flat, if it flattens at that end.

    A SiLU turns -20 into 0. Clipped at -4 all such values become -.07. Over a tensor they are few; but often they are
    most of one channel, and what is the same all over a channel adds up in the layers behind, where rounding errors
    even out. With every tensor of the demo detector on its grid, the mean drift of scores falls from .0215 to .0128,
    and the signed one from +.016 to .000.
    """
    if response is None:
        return one
    ends = {-1: one.low, 1: one.high}
    for side, extreme in ((-1, one.lowest), (1, one.highest)):
        limit, further = response(np.array([side * FAR, 2 * side * FAR]))
        if abs(limit - further) > FLAT:
            continue
        points = np.linspace(0, extreme, 1001)
        uneven = np.flatnonzero(np.abs(response(points) - limit) > FLAT)
        end = float(points[min(int(uneven[-1]) + 1, len(points) - 1)]) if uneven.size else 0.0
        ends[side] = side * max(side * ends[side], side * end)
    if (ends[-1], ends[1]) == (one.low, one.high):
        return one
    return msgspec.structs.replace(one, low=ends[-1], high=ends[1], fitted=(one.low, one.high))


def _without_certainty(one: TensorRange) -> TensorRange:
    """The range of logits, but for scores below 1/3000, which do not matter: that makes the others finer."""
    if one.high <= CERTAINLY_NOT or one.low >= CERTAINLY_NOT:
        return one
    return msgspec.structs.replace(one, low=CERTAINLY_NOT, limit=max(-CERTAINLY_NOT, one.high))
