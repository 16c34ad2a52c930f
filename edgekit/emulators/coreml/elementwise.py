"""MIL operators that compute each value by itself, and reductions, on torch tensors.

Semantics after Apple's definitions in coremltools (converters/mil/mil/ops/defs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgekit.emulators.coreml.call import Kernel, MilCall, operator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_UNARY = {
    "abs": "abs", "acos": "acos", "asin": "asin", "atan": "atan", "atanh": "atanh", "ceil": "ceil", "cos": "cos",
    "cosh": "cosh", "erf": "erf", "exp": "exp", "exp2": "exp2", "floor": "floor", "logical_not": "logical_not",
    "relu": "relu", "round": "round", "sigmoid": "sigmoid", "sign": "sign", "sin": "sin", "sinh": "sinh",
    "sqrt": "sqrt", "square": "square", "tan": "tan", "tanh": "tanh",
}  # fmt: skip

_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "maximum": "maximum", "minimum": "minimum", "pow": "pow",
    "floor_div": "floor_divide", "mod": "remainder", "equal": "eq", "not_equal": "ne", "less": "lt",
    "less_equal": "le", "greater": "gt", "greater_equal": "ge", "logical_and": "logical_and",
    "logical_or": "logical_or", "logical_xor": "logical_xor",
}  # fmt: skip


@operator(" ".join(_UNARY), "x")
def _unary(call: MilCall) -> Kernel:
    import torch

    found: Kernel = getattr(torch, _UNARY[call.kind])
    return found


@operator(" ".join(_BINARY), "x", "y")
def _binary(call: MilCall) -> Kernel:
    import torch

    found: Kernel = getattr(torch, _BINARY[call.kind])
    return found


@operator("real_div", "x", "y")
def _real_div(call: MilCall) -> Kernel:
    import torch

    if call.outputs[0].dtype.startswith("int"):
        raise call.refuse("divides integers, whose rounding Core ML does not document")
    return torch.div


@operator("identity", "x")
def _identity(call: MilCall) -> Kernel:
    return lambda x: x


@operator("clip clamped_relu", "x")
def _clip(call: MilCall) -> Kernel:
    import torch

    alpha, beta = call.number("alpha"), call.number("beta")
    if call.kind == "clip":
        return lambda x: torch.clamp(x, alpha, beta)
    return lambda x: torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@operator("relu6", "x")
def _relu6(call: MilCall) -> Kernel:
    import torch

    return lambda x: torch.clamp(x, 0, 6)


@operator("inverse rsqrt log", "x")
def _guarded(call: MilCall) -> Kernel:
    """A small epsilon is added to the argument; its default differs by operator."""
    import torch

    epsilon = call.number("epsilon", {"inverse": 1e-4, "rsqrt": 1e-12, "log": 1e-45}[call.kind])
    function: Callable[[Tensor], Tensor] = {"inverse": torch.reciprocal, "rsqrt": torch.rsqrt, "log": torch.log}[
        call.kind
    ]
    return lambda x: function(x + epsilon)


@operator("threshold thresholded_relu", "x")
def _threshold(call: MilCall) -> Kernel:
    import torch

    alpha = call.number("alpha")
    if call.kind == "threshold":
        return lambda x: torch.clamp(x, min=alpha)
    return lambda x: torch.where(x >= alpha, x, torch.zeros_like(x))


@operator("silu softsign softplus", "x")
def _smooth(call: MilCall) -> Kernel:
    from torch.nn import functional

    found: Kernel = {"silu": functional.silu, "softsign": functional.softsign, "softplus": functional.softplus}[
        call.kind
    ]
    return found


@operator("gelu", "x")
def _gelu(call: MilCall) -> Kernel:
    import torch
    from torch.nn import functional

    mode = call.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return lambda x: x * torch.sigmoid(1.702 * x)
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise call.refuse(f"unknown mode {mode!r}")
    approximate = "none" if mode == "EXACT" else "tanh"
    return lambda x: functional.gelu(x, approximate=approximate)


@operator("elu leaky_relu", "x")
def _negative_slope(call: MilCall) -> Kernel:
    from torch.nn import functional

    alpha = call.number("alpha")
    if call.kind == "elu":
        return lambda x: functional.elu(x, alpha)
    return lambda x: functional.leaky_relu(x, alpha)


@operator("linear_activation scaled_tanh sigmoid_hard", "x")
def _scaled(call: MilCall) -> Kernel:
    import torch

    alpha, beta = call.number("alpha"), call.number("beta")
    if call.kind == "linear_activation":
        return lambda x: alpha * x + beta
    if call.kind == "scaled_tanh":
        return lambda x: alpha * torch.tanh(beta * x)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@operator("prelu softplus_parametric", "x")
def _by_channel(call: MilCall) -> Kernel:
    """Parameters by channel, the second axis."""
    import torch
    from torch.nn import functional

    def channels(key: str) -> Tensor:
        return torch.from_numpy(np.asarray(call.parameters[key], np.float32).reshape(-1))

    alpha = channels("alpha")
    if call.kind == "prelu":
        return lambda x: torch.where(x >= 0, x, x * _laid(alpha, x))
    beta = channels("beta")
    return lambda x: _laid(alpha, x) * functional.softplus(_laid(beta, x) * x)


def _laid(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


CASTS = {
    "fp16": "float32", "fp32": "float32", "bool": "bool", "int8": "int8", "int16": "int16", "int32": "int32",
    "uint8": "uint8", "uint16": "int32",
}  # fmt: skip
"""The torch types that MIL types are held in. Half precision is rounded by the interpreter, as for all outputs."""


@operator("cast", "x")
def _cast(call: MilCall) -> Kernel:
    import torch

    name = call.text("dtype")
    if name not in CASTS:
        raise call.refuse(f"casts to {name!r}")
    dtype: torch.dtype = getattr(torch, CASTS[name])
    return lambda x: x.to(dtype)


@operator("select", "cond", "a", "b")
def _select(call: MilCall) -> Kernel:
    import torch

    return lambda cond, a, b: torch.where(cond.bool(), a, b)


_LEVELS = {"int8": (-128, 127), "uint8": (0, 255)}


@operator("quantize", "input")
def _quantize(call: MilCall) -> Kernel:
    """clip(round(input / scale) + zero point), halves rounded to even."""
    import torch

    kind = call.text("output_dtype")
    if kind not in _LEVELS:
        raise call.refuse(f"quantises to {kind!r}")
    low, high = _LEVELS[kind]
    dtype: torch.dtype = getattr(torch, kind)
    scale, zero = _grid(call)
    return lambda x: torch.clamp(torch.round(x / scale(x)) + zero(x), low, high).to(dtype)


@operator("dequantize", "input")
def _dequantize(call: MilCall) -> Kernel:
    scale, zero = _grid(call)
    return lambda x: (x.float() - zero(x)) * scale(x)


def _grid(call: MilCall) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Scale and zero point, each laid along the axis of a tensor when it is a vector."""
    import torch

    def laid(values: object) -> Callable[[Tensor], Tensor]:
        tensor = torch.from_numpy(np.array(values, np.float32))
        if tensor.dim() == 0:
            return lambda x: tensor
        axis = call.integer("axis")
        return lambda x: tensor.reshape([-1 if one == axis % x.dim() else 1 for one in range(x.dim())])

    return laid(call.parameters["scale"]), laid(call.parameters.get("zero_point", 0))


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "reduce_mean": lambda x, axes, keep: x.float().mean(axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    "reduce_l2_norm": lambda x, axes, keep: x.float().square().sum(axes, keepdim=keep).sqrt(),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "reduce_log_sum": lambda x, axes, keep: x.float().sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: x.float().logsumexp(axes, keepdim=keep),
}


@operator(" ".join(_REDUCE), "x")
def _reduce(call: MilCall) -> Kernel:
    function, keep = _REDUCE[call.kind], call.flag("keep_dims")
    axes = call.integers("axes") if call.given("axes") else None
    return lambda x: function(x, list(range(x.dim())) if axes is None else axes, keep)


@operator("reduce_prod", "x")
def _reduce_prod(call: MilCall) -> Kernel:
    keep = call.flag("keep_dims")
    axes = call.integers("axes") if call.given("axes") else None

    def product(x: Tensor) -> Tensor:
        for axis in sorted((one % x.dim() for one in (range(x.dim()) if axes is None else axes)), reverse=True):
            x = x.prod(axis, keepdim=keep, dtype=x.dtype)
        return x

    return product


@operator("reduce_argmax reduce_argmin", "x")
def _extreme(call: MilCall) -> Kernel:
    import torch

    function = torch.argmax if call.kind == "reduce_argmax" else torch.argmin
    axis, keep = call.integer("axis", -1), call.flag("keep_dims")
    return lambda x: function(x, axis, keepdim=keep)


@operator("cumsum", "x")
def _cumsum(call: MilCall) -> Kernel:
    axis, exclusive, reverse = call.integer("axis", 0), call.flag("exclusive"), call.flag("reverse")

    def total(x: Tensor) -> Tensor:
        given = x.flip(axis) if reverse else x
        found = given.cumsum(axis, dtype=x.dtype)
        found = found - given if exclusive else found
        return found.flip(axis) if reverse else found

    return total
