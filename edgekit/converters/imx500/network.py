"""Rebuild the exchange program from torch modules and functions, because Sony's quantiser does not support aten.

Channel shuffles and splits (reshapes through 5 dimensions and back) become one slice of channels, which the converter
takes: what a chain of moves does is found by sending the numbers of its elements through it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import ImageRule

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

MOVES = frozenset(
    {"reshape", "view", "permute", "transpose", "select", "slice", "unsqueeze", "squeeze", "contiguous", "clone"}
    | {"chunk", "split", "split_with_sizes", "getitem", "flatten", "_unsafe_view", "expand", "unbind"}
)
"""Operators that compute nothing."""


def rebuild(module: fx.GraphModule) -> fx.GraphModule:
    """The same network of ``torch.nn`` layers and ``torch`` functions.

    Raises:
        ConversionError: an operator that the quantiser has no word for; it is named.
    """
    from torch import fx

    made = _Builder(module)
    unknown: set[str] = set()
    for node in module.graph.nodes:
        try:
            made.add(node)
        except KeyError:
            unknown.add(_called(node))
            made.skip(node)
    if unknown:
        raise ConversionError(
            f"imx500 has no {', '.join(sorted(unknown))}: it takes convolutions, poolings, activations, concatenations "
            "and arithmetic; put other operators behind the heads (cut), or take target onnx, openvino or litert"
        )
    network = fx.GraphModule(made.root, made.graph).eval()
    network.graph.eliminate_dead_code()
    network.recompile()
    return network


def take_pixels(network: fx.GraphModule, rule: ImageRule) -> None:
    """Make a rebuilt network take what the camera gives it, in place: RGB pixels as they are, read as pixel / 256.

    The normalisation and the order of colours go into the first convolution, or into one of 1x1 before it where a
    mean other than 0 would make the padding wrong.
    """
    import torch

    gain = [256 * rule.scale / std for std in rule.std]
    matrix = torch.diag(torch.tensor(gain))
    if rule.color == "bgr":
        matrix = matrix.flip(1)
    shift = torch.tensor([-mean / std for mean, std in zip(rule.mean, rule.std, strict=True)])
    (entry,) = [node for node in network.graph.nodes if node.op == "placeholder"]
    layers = [network.get_submodule(str(node.target)) if node.op == "call_module" else None for node in entry.users]
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d) and layer.groups == 1]
    with torch.no_grad():
        if len(convolutions) == len(layers) and not bool(shift.any()):
            for layer in convolutions:
                layer.weight.copy_(torch.einsum("omhw,mp->ophw", layer.weight, matrix))
            return
        first = torch.nn.Conv2d(3, 3, 1)
        first.weight.copy_(matrix.reshape(3, 3, 1, 1))
        if first.bias is not None:
            first.bias.copy_(shift)
    network.add_module("normalisation", first)
    with network.graph.inserting_after(entry):
        normalised = network.graph.call_module("normalisation", (entry,))
    entry.replace_all_uses_with(normalised, delete_user_cb=lambda user: user is not normalised)
    network.recompile()


class _Builder:
    """Builds the new graph, node by node."""

    def __init__(self, module: fx.GraphModule) -> None:
        import torch
        from torch import fx

        self.module = module
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self._new: dict[fx.Node, fx.Node] = {}

    def add(self, node: fx.Node) -> None:
        """Add the counterpart of a node.

        Raises:
            KeyError: there is none.
        """
        import torch

        if node.op == "placeholder":
            self._new[node] = self.graph.placeholder(node.name)
        elif node.op == "output":
            results: Any = node.args[0]
            self.graph.output(tuple(self._new[result] for result in results))
        elif node.op == "call_function":
            name = _name(node)
            channels = _channels(self.module, node) if name in MOVES else None
            if channels is not None:
                source, chosen = channels
                self._new[node] = self._slice(self._new[source], chosen, source.meta["val"].shape[1])
            elif name == "getitem":
                self._new[node] = self._function(node, operator.getitem)
            elif name in ("contiguous", "clone"):
                self._new[node] = self._new[node.args[0]]  # type: ignore[index]
            elif name in _LAYERS:
                self._new[node] = self._layer(node, _LAYERS[name](self, node))
            elif name in _SUMS:
                self._new[node] = self._sum(node, getattr(torch, name))
            else:
                self._new[node] = self._function(node, getattr(torch, {**_FUNCTIONS, **_MOVED}[name]))
        # Weights (get_attr) go into layers; guards (call_module) check shapes, which are fixed.

    def skip(self, node: fx.Node) -> None:
        """Skip an unsupported node, so that the rest of the graph is checked too."""
        self._new[node] = next(iter(self._new.values()))

    def _layer(self, node: fx.Node, layer: nn.Module) -> fx.Node:
        self.root.add_module(node.name, layer)
        return self.graph.call_module(node.name, (self._new[node.args[0]],))  # type: ignore[index]

    def _function(self, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        from torch import fx

        if node.kwargs.get("rounding_mode") is not None:
            raise KeyError(node.name)
        arguments, keywords = fx.map_arg((node.args, dict(node.kwargs)), lambda old: self._new[old])
        return self.graph.call_function(function, arguments, keywords)

    def _sum(self, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        """A sum or difference. The chip has none with a factor (``alpha``), so that becomes a product of its own."""
        import torch
        from torch import fx

        first, second = fx.map_arg(node.args, lambda old: self._new[old])
        factor: Any = node.kwargs.get("alpha", 1)
        if isinstance(second, fx.Node) and factor != 1:
            second = self.graph.call_function(torch.mul, (second, factor))
        elif factor != 1:
            second = second * factor
        return self.graph.call_function(function, (first, second))

    def _slice(self, source: fx.Node, chosen: list[int], count: int) -> fx.Node:
        """Channels of a tensor: a slice where they are evenly spaced, a choice by index otherwise."""
        import torch

        if chosen == list(range(count)):
            return source
        step = chosen[1] - chosen[0] if len(chosen) > 1 else 1
        if step > 0 and chosen == list(range(chosen[0], chosen[-1] + 1, step)):
            everything = slice(None)
            where = (everything, slice(chosen[0], chosen[-1] + 1, step), everything, everything)
            return self.graph.call_function(operator.getitem, (source, where))
        name = f"channels_{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, torch.tensor(chosen))
        return self.graph.call_function(torch.index_select, (source, 1, self.graph.get_attr(name)))

    def constant(self, node: Any) -> torch.Tensor:
        """The tensor of a weight."""
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        tensor: torch.Tensor = value
        return tensor


def _name(node: fx.Node) -> str:
    """The operator of a node without its overload and without the mark of working in place."""
    packet = getattr(node.target, "overloadpacket", node.target)
    name = str(getattr(packet, "__name__", packet))
    return name.rstrip("_") if not name.startswith("_") else name


def _called(node: fx.Node) -> str:
    """What an error calls an operator."""
    rounding = node.kwargs.get("rounding_mode")
    return _name(node) if rounding is None else f"{_name(node)} with rounding_mode={rounding!r}"


def _channels(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, list[int]] | None:
    """The tensor (1, C, H, W) and the channels of it that a chain of moves chooses, if that is all that it does."""
    import torch

    chain = [node]
    while _name(chain[0]) in MOVES and chain[0].op == "call_function":
        before: Any = chain[0].args[0]
        chain.insert(0, before)
    source, out = chain[0].meta.get("val"), node.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(out, torch.Tensor):
        return None
    if source.ndim != 4 or out.ndim != 4 or source.shape[0] != 1 or source.shape[2:] != out.shape[2:]:
        return None
    values: Any = torch.arange(source.numel()).reshape(source.shape)
    plane = source.shape[2] * source.shape[3]
    for move in chain[1:]:
        function: Any = move.target
        values = function(values, *move.args[1:], **move.kwargs)
    chosen = values[0, :, 0, 0] // plane
    wanted = chosen.reshape(-1, 1) * plane + torch.arange(plane)
    if values.shape[0] != 1 or not torch.equal(values.reshape(len(chosen), -1), wanted):
        return None
    return chain[0], [int(channel) for channel in chosen]


def _pair(value: Any, default: int) -> tuple[int, int]:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    if not numbers or numbers[0] is None:
        return default, default
    return int(numbers[0]), int(numbers[-1])


def _argument(node: fx.Node, index: int, name: str, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _convolution(builder: _Builder, node: fx.Node) -> nn.Module:
    import torch

    weight = builder.constant(node.args[1])
    bias = _argument(node, 2, "bias", None)
    groups = int(_argument(node, 6, "groups", 1))
    padding = _argument(node, 4, "padding", 0)
    layer = torch.nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        _pair(_argument(node, 3, "stride", 1), 1),
        padding if isinstance(padding, str) else _pair(padding, 0),
        _pair(_argument(node, 5, "dilation", 1), 1),
        groups,
        bias is not None,
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(builder.constant(bias))
    return layer


def _max_pool(_: _Builder, node: fx.Node) -> nn.Module:
    import torch

    kernel = _pair(node.args[1], 1)
    stride = _argument(node, 2, "stride", None) or kernel
    padding, dilation = _pair(_argument(node, 3, "padding", 0), 0), _pair(_argument(node, 4, "dilation", 1), 1)
    return torch.nn.MaxPool2d(
        kernel, _pair(stride, 1), padding, dilation, ceil_mode=bool(_argument(node, 5, "ceil_mode", False))
    )


def _average_pool(_: _Builder, node: fx.Node) -> nn.Module:
    import torch

    kernel = _pair(node.args[1], 1)
    stride = _argument(node, 2, "stride", None) or kernel
    padding = _pair(_argument(node, 3, "padding", 0), 0)
    ceil, include = bool(_argument(node, 4, "ceil_mode", False)), bool(_argument(node, 5, "count_include_pad", True))
    return torch.nn.AvgPool2d(kernel, _pair(stride, 1), padding, ceil, include)


def _upsample(mode: str) -> Callable[[_Builder, fx.Node], nn.Module]:
    def layer(_: _Builder, node: fx.Node) -> nn.Module:
        import torch

        height, width = node.meta["val"].shape[2:]
        align = {} if mode == "nearest" else {"align_corners": bool(_argument(node, 2, "align_corners", False))}
        return torch.nn.Upsample(size=(int(height), int(width)), mode=mode, **align)

    return layer


def _simple(name: str) -> Callable[[_Builder, fx.Node], nn.Module]:
    def layer(_: _Builder, node: fx.Node) -> nn.Module:
        import torch

        made: nn.Module = getattr(torch.nn, name)(*node.args[1:], **node.kwargs)
        return made

    return layer


_LAYERS: dict[str, Callable[[_Builder, Any], Any]] = {
    "conv2d": _convolution,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "relu": _simple("ReLU"),
    "relu6": _simple("ReLU6"),
    "silu": _simple("SiLU"),
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
    "hardswish": _simple("Hardswish"),
    "hardsigmoid": _simple("Hardsigmoid"),
    "hardtanh": _simple("Hardtanh"),
    "leaky_relu": _simple("LeakyReLU"),
    "gelu": _simple("GELU"),
}

_SUMS = ("add", "sub")
_FUNCTIONS = {"mul": "mul", "div": "div", "cat": "cat", "softmax": "softmax"}
_MOVED = {"reshape": "reshape", "view": "reshape", "_unsafe_view": "reshape", "permute": "permute"} | {
    name: name for name in ("transpose", "unsqueeze", "squeeze", "flatten", "chunk", "split", "unbind")
}
"""What torch calls an aten operator with the same arguments."""
