"""Cross-layer equalization (CLE): channels of similar size, exact in float, because a tensor has one scale.

Where the channels of a tensor differ a hundred times in size and the weights behind make up for it, no single 8-bit
scale holds them all. Scaling the channels of the layer before by s and the weights behind by 1/s leaves the function as
it is (Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, arXiv 1906.04721, 4.1).
They balance weights against weights; here activations are measured. A depthwise convolution has a scale for each
channel of its weights, so its input becomes equal altogether; other readers share a row's scale between channels, so
half of the ratio (its square root) goes to the weights, as SmoothQuant does it behind LayerNorm (arXiv 2211.10438).

ReLU and LeakyReLU commute with s, pooling and nearest upsampling too: these sites cost nothing, and neither does
x * sigmoid(x / r) with a constant r for each channel. For SiLU as it is (one operator since the exact rewrites of
`edgekit.graph`), the sigmoid reads x / s from a 1x1 depthwise convolution of its own, whose weights have a scale per
channel as well (a Mul with 1/s would have one scale for all of them).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration.plan import Equalization
from edgekit.calibration.separation import Chain, groups_of, separate

if TYPE_CHECKING:
    import torch
    from torch import fx

SPREAD = 100.0
"""Ratio of the largest to the smallest channel from which on one scale fails. On one trained detector 320x lost nearly
all accuracy in INT8 and 32x none."""

FREE = 8.0
"""The ratio from which on a site that costs nothing is equalized."""

MOST_SAMPLES = 32
"""Sizes of channels are known well enough after so many images."""

DEAD = 1e-4
"""Channels smaller than this share of the largest are left as they are: to scale up one that the images never woke
would leave nothing of it on an image that does."""

_COMMUTING = ("relu", "relu_", "leaky_relu", "leaky_relu_")
_PASSING = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "dropout", "clone", "contiguous")
_SILU = ("silu", "silu_")

SILU, SCALED_SILU = "silu", "scaled silu"


@dataclass(frozen=True)
class _Site:
    producer: fx.Node
    activation: fx.Node
    """The tensor that the readers see: the output of the activation, or the producer itself."""
    readers: tuple[fx.Node, ...]
    gate: fx.Node | None = None
    """The input of a SiLU's sigmoid that already has its own scale: x * sigmoid(x / r)."""

    @property
    def through(self) -> str:
        if self.gate is not None:
            return SCALED_SILU
        return "" if self.activation is self.producer else _name(self.activation).rstrip("_")


def equalize(
    module: fx.GraphModule, samples: Iterable[Floats], *, free: float = FREE, through_silu: float = SPREAD
) -> list[Equalization]:
    """Equalize a network in place wherever the channels between two layers differ more than allowed.

    A site is a convolution (or LayerNorm), ReLU, LeakyReLU, SiLU or nothing, and convolutions (or linear layers) that
    alone read the result.

    Args:
        module: a float network of aten operators with one input, as `torch.export` gives it.
        samples: calibration tensors (1, 3, H, W) float32; the first `MOST_SAMPLES` are used.
        free: the largest ratio of channels that is left alone where equalizing costs nothing.
        through_silu: the same where it costs a convolution; infinite: never. Where the channels can be kept apart
            instead (`edgekit.calibration.separation`), they are.

    Returns:
        What was equalized, in the order of the graph, named by nodes.
    """
    import torch

    done = _separated(module, samples, through_silu) if through_silu < float("inf") else []
    for site, largest in _measured(module, samples):
        alive, before = _spread(largest)
        if before <= (through_silu if site.through == SILU else free):
            continue
        scale = torch.where(alive, _wanted(module, site, largest), 1.0)
        scaled = largest * scale
        after = float(scaled[alive].max() / scaled[alive].min())
        if after < before:
            gate = _scale(module, site, scale)
            names = tuple(reader.name for reader in site.readers)
            done.append(
                Equalization(
                    layer=site.producer.name,
                    readers=names,
                    through=site.through,
                    before=before,
                    after=after,
                    gate=gate,
                )
            )
    module.recompile()
    return done


def _measured(module: fx.GraphModule, samples: Iterable[Floats]) -> list[tuple[_Site, torch.Tensor]]:
    """The sites of a network with the size of each channel, but for those that are always 0."""
    sites = [site for node in module.graph.nodes if (site := _site(module, node)) is not None]
    sizes = _sizes(module, [site.activation for site in sites], samples) if sites else {}
    found = [(site, sizes[site.activation]) for site in sites if site.activation in sizes]
    return [(site, largest) for site, largest in found if float(largest.max()) > 0]


def _spread(largest: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Which channels the images woke, and the ratio of the largest to the smallest of these."""
    alive = largest > DEAD * largest.max()
    return alive, float(largest.max() / largest[alive].min())


def _separated(module: fx.GraphModule, samples: Iterable[Floats], allowed: float) -> list[Equalization]:
    """Keep channels apart wherever they differ more than allowed in front of a depthwise convolution."""
    done: list[Equalization] = []
    gone: set[fx.Node] = set()
    for site, largest in _measured(module, samples):
        chain = _chain(module, site) if _spread(largest)[1] > allowed and site.producer not in gone else None
        if chain is None:
            continue
        groups = groups_of(largest)
        gone |= {chain.depthwise, chain.producer}
        layer, *_ = separate(module, chain, groups)
        after = max(_spread(largest[group])[1] for group in groups)
        readers = tuple(reader.name for reader in chain.readers)
        done.append(
            Equalization(
                layer=layer.name,
                readers=readers,
                through=SILU,
                before=_spread(largest)[1],
                after=after,
                groups=len(groups),
            )
        )
    return done


def _chain(module: fx.GraphModule, site: _Site) -> Chain | None:
    """The chains that can be split: a dense convolution, SiLU, a depthwise convolution and dense readers."""
    channels = int(site.producer.meta["val"].shape[1])
    if site.through != SILU or _groups(site.producer) != 1 or len(site.readers) != 1:
        return None
    (depthwise,) = site.readers
    behind = _site(module, depthwise)
    if not _depthwise(depthwise, channels) or depthwise.args[0] is not site.activation or behind is None:
        return None
    dense = all(_groups(reader) == 1 for reader in behind.readers)
    if not dense or behind.gate is not None:
        return None
    return Chain(site.producer, site.activation, depthwise, behind.activation, behind.readers)


def _site(module: fx.GraphModule, producer: fx.Node) -> _Site | None:
    normed = _is(producer, "layer_norm")
    if not normed and not _is(producer, "conv2d"):
        return None
    follower = next(iter(producer.users)) if len(producer.users) == 1 else producer
    activation = follower if not normed and _is(follower, *_COMMUTING, *_SILU) else producer
    gate = None
    if not normed and (found := _product(producer)) is not None and _scales_channels(module, found[0], producer):
        gate, activation = found
    readers = _readers(activation, "linear" if normed else "conv2d")
    if not readers:
        return None
    # Equal weights may be stored once for two layers: changing them would change both.
    own = producer.args[2:4] if normed else producer.args[1:3]
    weights = [
        weight
        for arguments in (own, *(one.args[1:3] for one in (*readers, *([gate] if gate else []))))
        for weight in arguments
    ]
    constants: list[Any] = [weight for weight in weights if weight is not None]
    if own[:1] == (None,) or any(weight.op != "get_attr" or len(weight.users) != 1 for weight in constants):
        return None
    return _Site(producer, activation, readers, gate)


def _product(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Of node * sigmoid(x), where x is made from ``node`` and nothing else reads either: x and the product."""
    products = [user for user in node.users if _is(user, "mul")]
    if len(node.users) != 2 or not products:
        return None
    for product in products:
        others = [argument for argument in product.args if argument is not node]
        sigmoid: Any = others[0] if len(others) == 1 else None
        if getattr(sigmoid, "op", "") != "call_function" or not _is(sigmoid, "sigmoid") or len(sigmoid.users) != 1:
            continue
        before = sigmoid.all_input_nodes[0]
        if {*node.users} == {product, before}:
            return before, product
    return None


def _scales_channels(module: fx.GraphModule, gate: fx.Node, node: fx.Node) -> bool:
    """Whether a node only multiplies or divides each channel of ``node`` by a constant, whichever operator does it."""
    if not _is(gate, "conv2d", "mul", "div") or len(gate.users) != 1:
        return False
    divisor: Any = gate.args[1]
    if gate.args[0] is not node or getattr(divisor, "op", "") != "get_attr":
        return False
    channels = int(node.meta["val"].shape[1])
    if _is(gate, "conv2d"):
        alone = _groups(gate) == channels and gate.args[2:3] in ((), (None,))
        shape = (channels, 1, 1, 1)
    else:
        alone, shape = True, (1, channels, 1, 1)
    return alone and tuple(_constant(module, divisor).shape) == shape


def _readers(node: fx.Node, kind: str) -> tuple[fx.Node, ...]:
    """The layers that read a tensor, also through what handles channels one by one; none if anything else reads it."""
    found: list[fx.Node] = []
    for user in node.users:
        if _is(user, kind) and user.args[0] is node:
            found.append(user)
        elif kind == "conv2d" and _is(user, *_PASSING):
            behind = _readers(user, kind)
            if not behind:
                return ()
            found += behind
        else:
            return ()
    return tuple(found)


def _is(node: fx.Node, *names: str) -> bool:
    return node.op == "call_function" and _name(node) in names


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", "")


def _groups(node: fx.Node) -> int:
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    return int(groups)


def _sizes(
    module: fx.GraphModule, watched: Iterable[fx.Node], samples: Iterable[Floats]
) -> dict[fx.Node, torch.Tensor]:
    """Largest absolute value (channels,) of each node's output; behind LayerNorm the channels come last."""
    import torch
    from torch import fx

    wanted = set(watched)
    sizes: dict[fx.Node, torch.Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in wanted:
                channels = result.ndim - 1 if _is(n, "layer_norm") else 1
                largest = result.abs().amax([axis for axis in range(result.ndim) if axis != channels])
                sizes[n] = torch.maximum(sizes[n], largest) if n in sizes else largest
            return result

    with torch.no_grad():
        for sample in itertools.islice(samples, MOST_SAMPLES):
            Watch(module).run(torch.from_numpy(np.ascontiguousarray(sample)))
    return sizes


def _wanted(module: fx.GraphModule, site: _Site, largest: torch.Tensor) -> torch.Tensor:
    """The scale of each channel (channels,), with which the largest channel stays as large as it is."""
    import torch

    shared = [one for one in site.readers if not _depthwise(one, len(largest))]
    floor = largest.clamp_min(1e-30)
    if not shared:
        return largest.max() / floor
    needs = torch.stack([_column_sizes(module, one, len(largest)) for one in shared]).amax(0)
    scale = torch.sqrt(needs.clamp_min(1e-12 * float(needs.max()) + 1e-30) / floor)
    result: torch.Tensor = scale * (largest.max() / (largest * scale).max())
    return result


def _depthwise(node: fx.Node, channels: int) -> bool:
    return _is(node, "conv2d") and _groups(node) == channels and channels > 1


def _column_sizes(module: fx.GraphModule, node: fx.Node, channels: int) -> torch.Tensor:
    """Largest weight that reads each channel, as a share of the largest in its row: rows have scales of their own."""
    weight = _constant(module, node.args[1]).detach()
    rows = weight.abs().reshape(*weight.shape[:2], -1).amax(2)
    shares = rows / rows.amax(1, keepdim=True).clamp_min(1e-30)
    groups = channels // weight.shape[1]
    result: torch.Tensor = shares.reshape(groups, -1, weight.shape[1]).amax(1).reshape(-1)
    return result


def _scale(module: fx.GraphModule, site: _Site, scale: torch.Tensor) -> str:
    """Multiply the channels before the readers by ``scale``; the name of what the sigmoid reads then, if any."""
    import torch

    producer, normed = site.producer, _is(site.producer, "layer_norm")
    with torch.no_grad():
        for argument in producer.args[2:4] if normed else producer.args[1:3]:
            if argument is not None:
                value = _constant(module, argument)
                value.mul_(scale.reshape(-1, *[1] * (value.ndim - 1)))
        for reader in site.readers:
            weight = _constant(module, reader.args[1])
            groups = len(scale) // weight.shape[1]
            inputs = scale.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
            weight.div_(inputs.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2)))
        if site.gate is not None:
            constant = _constant(module, site.gate.args[1])
            factor = scale.reshape(constant.shape)
            constant.copy_(constant * factor if _is(site.gate, "div") else constant / factor)
    return _unscale_gate(module, site, scale) if site.through == SILU else ""


def _unscale_gate(module: fx.GraphModule, site: _Site, scale: torch.Tensor) -> str:
    """Let the sigmoid of a SiLU read x / s; the name of what it reads."""
    import torch

    graph, name, aten = module.graph, f"{site.activation.name}_unscale", torch.ops.aten
    module.register_buffer(name, 1 / scale.reshape(-1, 1, 1, 1))
    with graph.inserting_before(site.activation):
        arguments = (site.producer, graph.get_attr(name), None, [1, 1], [0, 0], [1, 1], len(scale))
        original = graph.call_function(aten.conv2d.default, arguments)
        gate = graph.call_function(aten.sigmoid.default, (original,))
        product = graph.call_function(aten.mul.Tensor, (site.producer, gate))
    for node in (original, gate, product):
        node.meta = dict(site.activation.meta)
    site.activation.replace_all_uses_with(product)
    graph.erase_node(site.activation)
    return str(original.name)


def _constant(module: fx.GraphModule, node: Any) -> torch.Tensor:
    """The tensor that a ``get_attr`` node gives."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    tensor: torch.Tensor = value
    return tensor
