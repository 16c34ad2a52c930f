"""MIL operators that layers are made of, on torch tensors: convolution, products, normalisation, pooling, resizing.

Semantics after Apple's definitions in coremltools (converters/mil/mil/ops/defs).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.emulators.coreml.call import Kernel, MilCall, operator

if TYPE_CHECKING:
    from torch import Tensor


@operator("conv", "x", "weight", "bias")
def _conv(call: MilCall) -> Kernel:
    import torch
    from torch.nn import functional

    spatial = len(call.outputs[0].shape) - 2
    functions = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
    if spatial not in functions:
        raise call.refuse(f"has {spatial} spatial axes")
    function, groups = functions[spatial], call.integer("groups", 1)
    stride, dilation = call.integers_or("strides", [1] * spatial), call.integers_or("dilations", [1] * spatial)
    fixed = _fixed_padding(call, spatial)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if fixed is not None and fixed[0::2] == fixed[1::2]:
            return function(x, weight, bias, stride, fixed[0::2], dilation, groups)
        pads = fixed
        if pads is None:
            pads = _same(call, list(x.shape[2:]), list(weight.shape[2:]), stride, dilation)
        return function(torch.constant_pad_nd(x, _torch_order(pads)), weight, bias, stride, 0, dilation, groups)

    return run


def _fixed_padding(call: MilCall, spatial: int) -> list[int] | None:
    """(before, after) of each axis, None when it depends on the size of the input."""
    kind = call.text("pad_type", "valid")
    if kind == "custom":
        return call.integers_or("pad", [0] * 2 * spatial)
    if kind == "valid":
        return [0] * 2 * spatial
    if kind in ("same", "same_lower"):
        return None
    raise call.refuse(f"unknown pad_type {kind!r}")


def _same(call: MilCall, sizes: list[int], kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Padding for ceil(size / stride) outputs; what is odd goes to the end, or to the beginning with same_lower."""
    pads = []
    for size, taps, step, spread in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + (taps - 1) * spread + 1 - size)
        small, large = total // 2, total - total // 2
        pads += [large, small] if call.text("pad_type") == "same_lower" else [small, large]
    return pads


def _torch_order(pads: list[int]) -> list[int]:
    """(before, after) pairs, the last axis first."""
    return [value for pair in reversed(list(zip(pads[0::2], pads[1::2], strict=True))) for value in pair]


@operator("conv_transpose", "x", "weight", "bias")
def _conv_transpose(call: MilCall) -> Kernel:
    """The full transposed convolution, cropped: ``pad`` of it goes, or as much as ``output_shape`` leaves."""
    from torch.nn import functional

    spatial = len(call.outputs[0].shape) - 2
    functions = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
    if spatial not in functions:
        raise call.refuse(f"has {spatial} spatial axes")
    function, groups = functions[spatial], call.integer("groups", 1)
    stride, dilation = call.integers_or("strides", [1] * spatial), call.integers_or("dilations", [1] * spatial)
    pads = _fixed_padding(call, spatial)
    wanted = call.integers("output_shape")[2:] if call.given("output_shape") else None
    if pads is None:
        raise call.refuse("pad_type 'same' is not interpreted")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        full = function(x, weight, bias, stride, 0, 0, groups, dilation)
        for axis in range(spatial):
            before, after = pads[2 * axis : 2 * axis + 2]
            length = full.shape[2 + axis] - before - after if wanted is None else wanted[axis]
            lacking = before + length - full.shape[2 + axis]
            if lacking > 0:
                full = _lengthened(full, 2 + axis, lacking, bias)
            full = full.narrow(2 + axis, before, length)
        return full

    return run


def _lengthened(x: Tensor, axis: int, count: int, bias: Tensor | None) -> Tensor:
    """Positions beyond the full result, which nothing reaches but the bias."""
    import torch

    shape = list(x.shape)
    shape[axis] = count
    beyond = x.new_zeros(shape)
    if bias is not None:
        beyond = beyond + bias.reshape(1, -1, *[1] * (x.dim() - 2))
    return torch.cat((x, beyond), axis)


@operator("linear", "x", "weight", "bias")
def _linear(call: MilCall) -> Kernel:
    from torch.nn import functional

    return functional.linear


@operator("matmul", "x", "y")
def _matmul(call: MilCall) -> Kernel:
    import torch

    left, right = call.flag("transpose_x"), call.flag("transpose_y")
    if not left and not right:
        return torch.matmul
    return lambda x, y: torch.matmul(x.mT if left and x.dim() > 1 else x, y.mT if right and y.dim() > 1 else y)


@operator("einsum", "values")
def _einsum(call: MilCall) -> Kernel:
    import torch

    equation = call.text("equation")
    return lambda values: torch.einsum(equation, *values)


@operator("scaled_dot_product_attention", "query", "key", "value", "attn_mask")
def _attention(call: MilCall) -> Kernel:
    from torch.nn import functional

    return lambda query, key, value, mask: functional.scaled_dot_product_attention(query, key, value, mask)


@operator("softmax", "x")
def _softmax(call: MilCall) -> Kernel:
    import torch

    axis = call.integer("axis", -1)
    return lambda x: torch.softmax(x, axis)


@operator("layer_norm", "x", "gamma", "beta")
def _layer_norm(call: MilCall) -> Kernel:
    import torch
    from torch.nn import functional

    epsilon = call.number("epsilon", 1e-5)
    axes = call.integers("axes") if call.given("axes") else None

    def run(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        over = sorted(axis % x.dim() for axis in (range(x.dim()) if axes is None else axes))
        sizes = [x.shape[axis] for axis in over]
        if over == list(range(x.dim() - len(over), x.dim())):
            return functional.layer_norm(x, sizes, gamma, beta, epsilon)
        mean = x.mean(over, keepdim=True)
        found = (x - mean) * torch.rsqrt((x - mean).square().mean(over, keepdim=True) + epsilon)
        shape = [x.shape[axis] if axis in over else 1 for axis in range(x.dim())]
        found = found if gamma is None else found * gamma.reshape(shape)
        return found if beta is None else found + beta.reshape(shape)

    return run


@operator("batch_norm", "x", "mean", "variance", "gamma", "beta")
def _batch_norm(call: MilCall) -> Kernel:
    from torch.nn import functional

    epsilon = call.number("epsilon", 1e-5)
    return lambda x, mean, variance, gamma, beta: functional.batch_norm(
        x, mean, variance, gamma, beta, False, 0.0, epsilon
    )


@operator("instance_norm", "x", "gamma", "beta")
def _instance_norm(call: MilCall) -> Kernel:
    from torch.nn import functional

    epsilon = call.number("epsilon", 1e-5)
    return lambda x, gamma, beta: functional.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


@operator("l2_norm", "x")
def _l2_norm(call: MilCall) -> Kernel:
    """Over the last three axes, or over the only one."""
    import torch

    epsilon = call.number("epsilon", 1e-6)

    def run(x: Tensor) -> Tensor:
        axes = list(range(max(0, x.dim() - 3), x.dim()))
        return x * torch.rsqrt(x.square().sum(axes, keepdim=True) + epsilon)

    return run


@operator("max_pool avg_pool", "x")
def _pool(call: MilCall) -> Kernel:
    import torch
    from torch.nn import functional

    kernel = call.integers("kernel_sizes")
    spatial = len(kernel)
    stride, ceil = call.integers_or("strides", [1] * spatial), call.flag("ceil_mode")
    alone = call.flag("exclude_padding_from_average")
    fixed = _fixed_padding(call, spatial)
    largest = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[spatial]
    means = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[spatial]

    def run(x: Tensor) -> Tensor:
        pads = fixed if fixed is not None else _same(call, list(x.shape[2:]), kernel, stride, [1] * spatial)
        even = pads[0::2] == pads[1::2] and all(2 * pad <= size for pad, size in zip(pads[0::2], kernel, strict=True))
        if call.kind == "max_pool":
            if not even:
                x, pads = torch.constant_pad_nd(x, _torch_order(pads), -math.inf), [0] * 2 * spatial
            return largest(x, kernel, stride, pads[0::2], ceil_mode=ceil)
        if even:
            return means(x, kernel, stride, pads[0::2], ceil, not alone)
        if ceil:
            raise call.refuse("pads unevenly and rounds up")
        sums = means(torch.constant_pad_nd(x, _torch_order(pads)), kernel, stride)
        if not alone:
            return sums
        return sums / means(torch.constant_pad_nd(torch.ones_like(x), _torch_order(pads)), kernel, stride)

    return run
