"""Making a plan: a graph in exchange form and a calibration stream in, a folder with the plan out."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import edgekit
from edgekit.calibration import plan as files
from edgekit.calibration.equalisation import SPREAD, equalise
from edgekit.calibration.fitting import fit, squared_error
from edgekit.calibration.layers import STEM, float_islands, responses
from edgekit.calibration.observation import Observed, observe
from edgekit.calibration.plan import Equalised, HalfTrouble, Layer, Methods, Plan, PlannedGraph
from edgekit.calibration.rounding import round_weights
from edgekit.calibration.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import fx

NOISE = 0.1
"""A layer stays in float when rounding its input makes more than this share of its output's variance."""

HALF_LARGEST = 65504.0
HALF_SMALLEST = 2.0**-14
"""The largest finite float16, and the smallest normal one: engines flush what is below to zero."""

Report = Callable[[str, float], None]
"""Told what is being done, and the share that is done."""

Writer = Callable[["fx.GraphModule", Path], None]
"""Writes a module in exchange form (``graph.onnx`` and ``graph.pt2``) into a folder."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a plan is made for.

    ``integer`` asks for the graph of targets that compute everything in integers.
    """

    methods: Methods = dataclasses.field(default_factory=Methods)
    integer: bool = True
    threads: int = 2


def make_plan(
    program: Path, onnx: Path, samples: Samples, folder: Path, wish: Wish, write: Writer, report: Report
) -> Plan:
    """Find out how a network becomes INT8, and write the plan.

    Args:
        program: the torch.export form of the exchange graph.
        onnx: its ONNX form, whose tensors have the names of the program's nodes.
        samples: the calibration stream.
        folder: where the plan goes; it exists.
        wish: what it is for.
        write: exports a changed network.
        report: told what is being done.

    Raises:
        ConversionError: no images, or the network gives NaN.
    """
    maker = _Maker(program, samples, wish, write, report)
    mixed = maker.graph(folder / files.MIXED, math.inf)
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
        seconds=maker.seconds,
    )
    files.write_plan(plan, folder)
    return plan


class _Maker:
    """Makes the graphs of one plan."""

    def __init__(self, program: Path, samples: Samples, wish: Wish, write: Writer, report: Report) -> None:
        self._program, self._samples, self._wish = program, samples, wish
        self._write, self._report = write, report
        self.seconds: dict[str, float] = {}
        self.corrected = 0
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
        with self._step("observing"):
            seen = observe(folder / "graph.onnx", self._samples, self._wish.threads, self._told)
        with self._step("choosing ranges"):
            graph = planned(folder / "graph.onnx", seen, methods, tuple(equalised))
        costly = [layer for layer in graph.layers if layer.depthwise and layer.spread > SPREAD]
        self.has_costly_sites |= methods.equalisation and bool(costly)
        return graph

    def _told(self, count: int) -> None:
        total = len(self._samples)
        self._report(f"observing, image {count} of {total}", count / total)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._report(name, 0.0)
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begun, 2)


def planned(onnx: Path, seen: Observed, methods: Methods, equalised: tuple[Equalised, ...]) -> PlannedGraph:
    """Ranges and decisions for a graph from what was observed in it."""
    import onnx as onnx_package

    model = onnx_package.load(onnx)
    behind = responses(model)
    tensors = {name: fit(one, behind.get(name), methods.ranges) for name, one in seen.tensors.items()}
    islands = float_islands(model) if methods.islands else []
    layers = []
    for name, one in seen.layers.items():
        site = one.site
        noise = one.noise(squared_error(seen.tensors[site.input], tensors[site.input].limit))
        stays = ""
        if name in islands:
            stays = "stem" if name in islands[:STEM] else "head"
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


def half_troubles(onnx: Path, seen: Observed) -> tuple[HalfTrouble, ...]:
    """The operators of a float graph whose results float16 cannot hold, from what was observed in it."""
    import onnx as onnx_package

    found = []
    for node in onnx_package.load(onnx, load_external_data=False).graph.node:
        for name in node.output:
            one = seen.tensors.get(name)
            largest = max(-one.low, one.high) if one else 0.0
            if largest > HALF_LARGEST:
                found.append(HalfTrouble(node=node.name, tensor=name, reason="overflow", largest=largest))
            elif 0 < largest < HALF_SMALLEST:
                found.append(HalfTrouble(node=node.name, tensor=name, reason="flushed", largest=largest))
    return tuple(found)
