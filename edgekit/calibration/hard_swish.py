"""Hard swish in place of SiLU: the same network with a cheaper activation, fitted to the source.

SiLU is x * sigmoid(x), hard swish x * relu6(x + 3) / 6: no exponential. Put in its place, it costs a detector several
points of mAP. So the layers are fitted anew, from the first to the last, without labels: each reads what the changed
network gives, and its weights become those with which its activations come nearest to the source's (regression with a
penalty on leaving the old weights; as reconstruction of pruned layers, He et al., arXiv 1707.06168). Through the
activation this takes a few damped Gauss-Newton steps. Gradients through the whole network are not needed: on the demo
detector the fit took 22 s and kept more than six minutes of distillation did.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.calibration import Progress
from edgekit.calibration.program_layers import ProgramLayer, constant, operator_of, program_layers, storage
from edgekit.calibration.samples import Samples
from edgekit.errors import UsageError
from edgekit.runtimes.inputs.images import Preprocessor

if TYPE_CHECKING:
    import torch
    from torch import fx

VIEWS = 48
"""Most images that the layers are fitted on; where there are fewer, they are shown mirrored, cut out and recoloured."""

LIVE_BYTES = 1 << 30
"""The memory that the activations of all views may take at once, in each of the two networks."""

PLACES = 12000
"""Places of all views together that a layer is fitted on."""

RELEVANCE = 2.0
"""How much more often a place is taken for each variance that it lies from its channels' means: almost all of an image
is background, and what stands out becomes a detection."""

PENALTY = 1e-4
"""On leaving the old weights, in mean squares of the layer's inputs."""

STEPS = 8
"""Of the fit through an activation."""

STEP = 0.8
"""Damping of a step."""


@dataclass(frozen=True)
class Fitted:
    """The numbers of SiLUs replaced, layers fitted, views used, and the seconds taken."""

    silus: int
    layers: int
    views: int
    seconds: float


def with_hard_swish(
    module: fx.GraphModule, samples: Samples, *, minutes: float, progress: Progress
) -> tuple[fx.GraphModule, Fitted]:
    """A copy of a network with every SiLU replaced by hard swish and its layers fitted to the original.

    Args:
        module: a float network of aten operators with one input, as `torch.export` gives it.
        samples: calibration images, at least one.
        minutes: time after which layers stay as they are; a layer that was begun is finished.
        progress: called with what is being done.

    Raises:
        UsageError: it has no SiLU.
    """
    import torch

    began = time.monotonic()
    student = copy.deepcopy(module)
    silus = [node for node in student.graph.nodes if operator_of(node) in ("silu", "silu_")]
    if not silus:
        raise UsageError("--replace-silu: this network has no SiLU; leave the option out")
    for node in silus:
        node.target = torch.ops.aten.hardswish.default
    student.recompile()
    views = [torch.from_numpy(view) for view in _views(samples, _count_of_views(student))]
    with torch.no_grad():
        fitted = _fit(module, student, views, began + 60 * minutes, progress)
    return student, Fitted(len(silus), fitted, len(views), round(time.monotonic() - began, 1))


def _count_of_views(module: fx.GraphModule) -> int:
    """As many as fit into the memory, at least 8."""
    nodes = list(module.graph.nodes)
    last = {before: place for place, node in enumerate(nodes) for before in node.all_input_nodes}
    ends: dict[int, int] = {}
    live = most = 0
    for place, node in enumerate(nodes):
        size = _bytes(node)
        live += size
        most = max(most, live)
        end = last.get(node, place)
        ends[end] = ends.get(end, 0) + size
        live -= ends.get(place, 0)
    return max(8, min(VIEWS, LIVE_BYTES // max(most, 1)))


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val") if node.op in ("placeholder", "call_function") else None
    several = value if isinstance(value, list | tuple) else (value,)
    return sum(4 * math.prod(map(int, one.shape)) for one in several if hasattr(one, "shape"))


def _views(samples: Samples, count: int) -> Iterator[Floats]:
    """The calibration images, spread over all of them, and variants of them where they are fewer."""
    preprocess, images = Preprocessor(samples.rule), samples.images
    random = np.random.default_rng(0)
    places = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    for number, place in zip(range(count), itertools.cycle(places)):
        image = np.ascontiguousarray(images[place])
        yield preprocess.normalise(image if number < len(places) else _variant(image, random)).copy()


def _variant(image: Image, random: np.random.Generator) -> Image:
    """An image mirrored, cut out and in other colours."""
    import cv2

    height, width = image.shape[:2]
    share = random.uniform(0.5, 1.0)
    rows, columns = int(share * height), int(share * width)
    top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
    cut = cv2.resize(image[top : top + rows, left : left + columns], (width, height))
    if random.random() < 0.5:
        cut = cut[:, ::-1]
    gains, offset = random.uniform(0.7, 1.3, 3), random.uniform(-20, 20)
    coloured: Image = np.clip(cut * gains + offset, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(coloured)


def _fit(
    teacher: fx.GraphModule, student: fx.GraphModule, views: Sequence[torch.Tensor], until: float, progress: Progress
) -> int:
    """Run both networks operator by operator on all views, and fit each layer as it is reached; returns how many."""
    import torch

    uses = Counter(storage(student, layer) for layer in program_layers(student))
    # Weights that several layers share are not one layer's to change.
    layers = {
        layer.node: layer
        for layer in program_layers(student)
        if layer.operator in ("conv2d", "linear") and uses[storage(student, layer)] == 1
    }
    generator = torch.Generator().manual_seed(0)
    left = {node: len(node.users) for node in student.graph.nodes}
    wanted, given = _Values(teacher, views), _Values(student, views)
    done = 0
    for before, node in zip(teacher.graph.nodes, student.graph.nodes, strict=True):
        wanted.compute(before)
        layer = layers.get(node)
        if layer is not None and time.monotonic() < until:
            activated = all(operator_of(user) == "hardswish" for user in node.users)
            _fit_layer(student, layer, given.of(layer.source), wanted.of(before), activated, generator)
            done += 1
            progress(f"fitting layer {done} of {len(layers)} to hard swish", done / len(layers))
        given.compute(node)
        for read, original in zip(node.all_input_nodes, before.all_input_nodes, strict=True):
            left[read] -= 1
            if not left[read]:
                given.forget(read)
                wanted.forget(original)
    return done


class _Values:
    """The outputs of a network's nodes for each view, as long as others still read them."""

    def __init__(self, module: fx.GraphModule, views: Sequence[torch.Tensor]) -> None:
        self._module, self._views = module, views
        self._found: dict[fx.Node, list[Any]] = {}

    def of(self, node: fx.Node) -> list[Any]:
        return self._found[node]

    def compute(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._found[node] = list(self._views)
        elif node.op == "get_attr":
            self._found[node] = [constant(self._module, str(node.target))] * len(self._views)
        elif node.op == "call_function":
            self._found[node] = [self._computed(node, view) for view in range(len(self._views))]

    def _computed(self, node: fx.Node, view: int) -> Any:
        from torch.fx.node import map_arg

        def value(one: fx.Node) -> Any:
            return self._found[one][view]

        target: Any = node.target
        return target(*map_arg(node.args, value), **map_arg(node.kwargs, value))

    def forget(self, node: fx.Node) -> None:
        self._found.pop(node, None)


def _fit_layer(
    module: fx.GraphModule,
    layer: ProgramLayer,
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
    activated: bool,
    generator: torch.Generator,
) -> None:
    """Change the weights and the bias of a layer of the student.

    Args:
        module: the student.
        layer: a convolution or a linear layer.
        inputs: what it reads, of each view.
        outputs: what the layer gives in the original network.
        activated: whether hard swish follows, in place of SiLU.
        generator: for the choice of places.
    """
    import torch
    from torch.nn import functional

    weight = constant(module, layer.weight)
    argument: Any = layer.option(layer.bias, None) if layer.bias >= 0 else None
    bias = constant(module, str(argument.target)) if argument is not None else None
    groups = int(layer.option(6, 1)) if layer.operator == "conv2d" else 1
    columns, rows = [], []
    for one, wanted in zip(inputs, outputs, strict=True):
        patches, values = _patches(layer, weight, one), _channels_first(layer, wanted)
        chosen = _chosen(values, max(1, PLACES // len(inputs)), generator)
        columns.append(patches[:, chosen])
        rows.append(values[:, chosen])
    read = torch.cat(columns, 1).reshape(groups, -1, sum(one.shape[1] for one in columns))
    if bias is not None:
        read = torch.cat([read, torch.ones_like(read[:, :1])], 1)
    wanted = torch.cat(rows, 1).reshape(groups, -1, read.shape[2])
    start = weight.reshape(groups, wanted.shape[1], -1)
    if bias is not None:
        start = torch.cat([start, bias.reshape(groups, -1, 1)], 2)
    solve = _solver(read)
    if activated:
        found = _through_activation(start, read, functional.silu(wanted), solve)
    else:
        found = start + solve((wanted - start @ read) @ read.transpose(1, 2))
    if not bool(torch.isfinite(found).all()):
        return
    weight.copy_((found[..., :-1] if bias is not None else found).reshape(weight.shape))
    if bias is not None:
        bias.copy_(found[..., -1].reshape(bias.shape))


def _solver(read: torch.Tensor) -> Any:
    """Solves the normal equations of a layer, by groups, with the penalty."""
    import torch

    moments = read @ read.transpose(1, 2)
    squares = torch.diagonal(moments, dim1=1, dim2=2)
    penalty = PENALTY * squares.mean(1, keepdim=True) + 1e-12
    factor = torch.linalg.cholesky(moments + torch.diag_embed(penalty.expand_as(squares)))

    def solve(right: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve(right.transpose(1, 2), factor).transpose(1, 2)

    return solve


def _through_activation(start: torch.Tensor, read: torch.Tensor, wanted: torch.Tensor, solve: Any) -> torch.Tensor:
    """Weights with which hard swish gives nearest to what is wanted: the best of some damped Gauss-Newton steps."""
    from torch.nn import functional

    weights, best, least = start, start, math.inf
    for _ in range(STEPS):
        sums = weights @ read
        missing = wanted - functional.hardswish(sums)
        error = float(missing.square().mean())
        if error < least:
            best, least = weights, error
        slope = ((2 * sums + 3) / 6).where(sums.abs() < 3, (sums >= 3).float())
        weights = weights + STEP * solve((slope * missing) @ read.transpose(1, 2))
    return best


def _patches(layer: ProgramLayer, weight: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """The inputs of each position of a layer's output, as columns."""
    from torch.nn import functional

    if layer.operator == "linear":
        return one.reshape(-1, one.shape[-1]).T
    stride, padding, dilation = (layer.option(place, default) for place, default in ((3, 1), (4, 0), (5, 1)))
    if isinstance(padding, str):  # conv2d.padding: same or valid
        spans = [d * (size - 1) for d, size in zip(_pair(dilation), weight.shape[2:], strict=True)]
        if padding == "same":
            one = functional.pad(one, [side for span in reversed(spans) for side in (span // 2, span - span // 2)])
        padding = 0
    return functional.unfold(one, tuple(weight.shape[2:]), _pair(dilation), _pair(padding), _pair(stride))[0]


def _pair(value: Any) -> tuple[int, int]:
    several = list(value) if isinstance(value, list | tuple) else [value]
    return (int(several[0]), int(several[-1]))


def _channels_first(layer: ProgramLayer, values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, values.shape[-1]).T if layer.operator == "linear" else values[0].flatten(1)


def _chosen(values: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Places of an output, those more often where it is far from its channels' means."""
    import torch

    mean = values.mean(1, keepdim=True)
    variance = (values - mean).square().mean(1, keepdim=True)
    distance = ((values - mean).square() / (variance + 1e-9)).mean(0)
    return torch.multinomial(1 + RELEVANCE * distance, min(count, values.shape[1]), generator=generator)
