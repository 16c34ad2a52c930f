"""Making a plan: a graph in exchange form and a calibration stream in, a folder with the plan out."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import edgekit
from edgekit.arrays import Floats
from edgekit.calibration import plan as files
from edgekit.calibration.advice import Witness
from edgekit.calibration.correspondence import planned_names
from edgekit.calibration.equalisation import SPREAD, equalise
from edgekit.calibration.finetuning import finetune
from edgekit.calibration.fitting import fit, squared_error
from edgekit.calibration.layers import STEM, float_islands, in_front, responses
from edgekit.calibration.observation import Observed, observe, testify
from edgekit.calibration.originals import originals_of, restore, write_originals
from edgekit.calibration.plan import Advice, Equalised, Layer, Methods, Plan, PlannedGraph, Range, Tuning
from edgekit.calibration.rounding import round_weights
from edgekit.calibration.samples import Samples
from edgekit.errors import ConversionError
from edgekit.progress import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import fx

NOISE = 0.1
"""A layer stays in float when rounding its input makes more than this share of its output's variance."""

CERTAINLY_NOT = -8.0
"""A logit as good as minus infinity."""

Writer = Callable[["fx.GraphModule", Path], None]
"""Writes a module in exchange form (``graph.onnx`` and ``graph.pt2``) into a folder."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a plan is made for.

    ``integer`` asks for the graph of targets that compute everything in integers, ``finetune`` for minutes of
    fine-tuning. ``scores`` names the outputs that are logits of scores, ``places`` those that are places in the image,
    such as keypoints: an error of one step is one of pixels there.
    """

    methods: Methods = dataclasses.field(default_factory=Methods)
    integer: bool = True
    threads: int = 2
    finetune: float = 0.0
    scores: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Streams:
    """The images of a plan: those that ranges come from, and where there are any, those held back to judge it and those
    that the conversion is proven on, with which the others are compared."""

    calibration: Samples
    held: Samples | None = None
    proof: Iterable[Floats] | None = None


def make_plan(
    program: Path, onnx: Path, streams: Streams, folder: Path, wish: Wish, write: Writer, report: Report
) -> Plan:
    """Find out how a network becomes INT8, and write the plan.

    Args:
        program: the torch.export form of the exchange graph.
        onnx: its ONNX form, whose tensors have the names of the program's nodes.
        streams: the images.
        folder: where the plan goes; it exists.
        wish: what it is for.
        write: exports a changed network.
        report: told what is being done.

    Raises:
        ConversionError: no images, or the network gives NaN.
    """
    samples = streams.calibration
    maker = _Maker(program, streams, wish, write, report)
    mixed = maker.graph(folder / files.ROUNDED, math.inf)
    restore(folder / files.ROUNDED, mixed.floats, folder / files.MIXED)
    integer = maker.graph(folder / files.INTEGER, SPREAD) if wish.integer and maker.has_costly_sites else None
    plan = Plan(
        edgekit=edgekit.__version__,
        model=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        images=len(samples),
        images_sha256=samples.sha256(),
        methods=wish.methods,
        mixed=mixed,
        integer=integer,
        corrected=maker.corrected,
        advice=maker.advice,
        tuning=maker.tuning,
        seconds=maker.seconds,
    )
    files.write_plan(plan, folder)
    return plan


class _Maker:
    """Makes the graphs of one plan."""

    def __init__(self, program: Path, streams: Streams, wish: Wish, write: Writer, report: Report) -> None:
        self._program, self._samples, self._wish = program, streams.calibration, wish
        self._streams = streams
        self._write, self._report = write, report
        self._witness: Witness | None = Witness()
        self.seconds: dict[str, float] = {}
        self.corrected = 0
        self.advice: Advice | None = None
        self.tuning: Tuning | None = None
        self.has_costly_sites = False

    def graph(self, folder: Path, through_silu: float) -> PlannedGraph:
        """Equalise, round, export and observe one graph."""
        import torch

        folder.mkdir(exist_ok=True)
        methods = self._wish.methods
        module = torch.export.load(self._program).module()
        equalised: list[Equalised] = []
        if methods.equalisation:
            with self._step("equalising channels"):
                equalised = equalise(module, self._samples, through_silu=through_silu)
        source = copy.deepcopy(module) if self._wish.finetune else None
        originals = originals_of(module)
        with self._step("rounding weights"):
            done = round_weights(
                module,
                self._samples,
                method=methods.rounding,
                correct_bias=methods.bias_correction,
                report=self._report,
            )
        self.corrected = max(self.corrected, done.biases)
        with self._step("exporting"):
            self._write(module, folder)
        names = exported_names(module, folder)
        with self._step("observing"):
            seen = observe(folder / "graph.onnx", self._samples, self._wish.threads, self._told, self._witness)
        with self._step("choosing ranges"):
            sites = tuple(_renamed(site, names) for site in equalised)
            graph = planned(folder / "graph.onnx", seen, self._wish, sites)
        if source is None:
            write_originals(originals, names, folder)
        else:
            with self._step("fine-tuning"):
                self.tuning = self._tuned(module, source, graph, names)
                self._write(module, folder)
        if self._witness is not None:  # the first graph's; the others show the same images
            self.advice, self._witness = self._advised(folder / "graph.onnx", self._witness), None
        costly = [layer for layer in graph.layers if layer.depthwise and layer.spread > SPREAD]
        self.has_costly_sites |= methods.equalisation and bool(costly)
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
            self._streams.held or (),
            minutes=self._wish.finetune,
            ranges={node: ends[name] for node, name in names.items() if name in ends},
            floats=[node for node, name in names.items() if name in graph.floats],
            seed=0,
            report=self._report,
            threads=self._wish.threads,
            reference=source,
        )

    def _advised(self, onnx: Path, witness: Witness) -> Advice:
        """What the stream says of itself, and of the images that the conversion is judged on."""
        if self._streams.proof is None:
            return witness.advice()
        scoring = Witness()
        with self._step("looking at the proof images"):
            testify(onnx, self._streams.proof, self._wish.threads, scoring)
        return witness.advice(scoring)

    def _told(self, count: int) -> None:
        total = len(self._samples)
        self._report(f"observing, image {count} of {total}", count / total)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._report(name, 0.0)
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


def _renamed(site: Equalised, names: Mapping[str, str]) -> Equalised:
    readers = tuple(names.get(reader, reader) for reader in site.readers)
    return msgspec.structs.replace(
        site, layer=names.get(site.layer, site.layer), readers=readers, gate=names.get(site.gate, site.gate)
    )


def planned(
    onnx: Path,
    seen: Observed,
    wish: Wish,
    equalised: tuple[Equalised, ...],
) -> PlannedGraph:
    """Ranges and decisions for a graph from what was observed in it."""
    import onnx as onnx_package

    model = onnx_package.load(onnx)
    methods, behind = wish.methods, responses(model)
    outputs = {output.name for output in model.graph.output}
    tensors = {
        # Nothing evens out what is cut off from an output, and the largest scores are what one looks for.
        name: fit(one, behind.get(name), "min-max" if name in outputs else methods.ranges)
        for name, one in seen.tensors.items()
    }
    tensors |= {name: _without_certainty(tensors[name]) for name in wish.scores if name in tensors}
    islands = float_islands(model) if methods.islands else []
    # Poses of shapes, 300 scenes: of an OKS mAP of .495 INT8 loses .009 on onnx and openvino and .023 on ncnn with the
    # layers in front of the keypoints in INT8, and .005, .003 and .013 with them in float.
    fronts = in_front(model, wish.places) if methods.islands else []
    layers = []
    for name, one in seen.layers.items():
        site = one.site
        noise = one.noise(squared_error(seen.tensors[site.input], tensors[site.input].limit))
        stays = ""
        if name in islands:
            stays = "stem" if name in islands[:STEM] else "places" if name in wish.places else "head"
        elif name in fronts:
            stays = "head"
        elif methods.islands and noise > NOISE:
            stays = "channels"
        layers.append(
            Layer(
                name=name,
                kind=site.node.op_type,
                input=site.input,
                depthwise=site.depthwise,
                weights=int(site.weights.size),
                products=one.products,
                spread=one.spread,
                noise=noise,
                stays=stays,
            )
        )
    return PlannedGraph(tensors=tensors, layers=tuple(layers), equalised=equalised)


def _without_certainty(one: Range) -> Range:
    """The range of logits, but for scores below 1/3000, which do not matter: that makes the others finer."""
    if one.high <= CERTAINLY_NOT or one.low >= CERTAINLY_NOT:
        return one
    return msgspec.structs.replace(one, low=CERTAINLY_NOT, limit=max(-CERTAINLY_NOT, one.high))
