"""ONNX operators without a sliding window as torch functions: arithmetic, activations, normalisations, reductions.

Semantics follow the ONNX operator specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from edgekit.sources.onnx.step import Operand, Step, Value, axis_of

UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}

BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Div": torch.div,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

VARIADIC: dict[str, Callable[..., Any]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL2": torch.linalg.vector_norm,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceSum": torch.sum,
}

DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
"""Element types of ONNX that a cast may name (TensorProto.DataType)."""


def unary(step: Step) -> Any:
    return step.emit(UNARY[step.operator], step.operand(0))


def binary(step: Step) -> Any:
    """Two operands; a constant of one element becomes a number, which converters handle best."""
    left, right = step.operand(0), step.operand(1)
    whole = not left.dtype.is_floating_point
    if step.operator == "Div" and whole:
        return step.emit(torch.div, left, right, rounding_mode="trunc")
    if step.operator in ("Add", "Mul") and isinstance(right, Value):
        left, right = right, left
    if step.operator in ("Add", "Mul", "Sub", "Div", "Pow") and not whole:
        return step.emit(BINARY[step.operator], left, _number(right, left))
    return step.emit(BINARY[step.operator], left, right)


def _number(operand: Operand, other: Operand) -> Any:
    """A constant of one element as a number, where that changes neither shape nor dtype of the result."""
    if isinstance(operand, Value) or not isinstance(other, Value) or operand.numel() != 1:
        return operand
    fits = operand.ndim <= len(other.shape) and operand.dtype == other.dtype
    return float(operand) if fits else operand


def modulo(step: Step) -> Any:
    return step.emit(torch.fmod if step.attribute("fmod", 0) else torch.remainder, step.operand(0), step.operand(1))


def variadic(step: Step) -> Any:
    result = step.operand(0)
    for index in range(1, len(step.inputs)):
        result = step.emit(VARIADIC[step.operator], result, step.operand(index))
    return result


def clip(step: Step) -> Any:
    low = float(step.constant(1)) if step.has(1) else None
    high = float(step.constant(2)) if step.has(2) else None
    if low is None and high is None:
        return step.operand(0)
    return step.emit(torch.clamp, step.operand(0), min=low, max=high)


def activation(step: Step) -> Any:
    """Activations with numbers of their own."""
    x = step.operand(0)
    if step.operator == "LeakyRelu":
        return step.emit(F.leaky_relu, x, step.attribute("alpha", 0.01))
    if step.operator == "Elu":
        return step.emit(F.elu, x, step.attribute("alpha", 1.0))
    if step.operator == "Gelu":
        return step.emit(F.gelu, x, approximate=step.require("approximate", ("none", "tanh"), "none"))
    alpha, beta = step.attribute("alpha", 0.2), step.attribute("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return step.emit(F.hardsigmoid, x)
    return step.emit(torch.clamp, step.emit(torch.add, step.emit(torch.mul, x, alpha), beta), min=0.0, max=1.0)


def prelu(step: Step) -> Any:
    """Slopes broadcast as in NumPy; torch has them per channel only."""
    x, slope = step.operand(0), step.constant(1)
    rank = len(x.shape)
    per_channel = [1] * (rank - 2)
    if slope.numel() == 1 or (rank > 2 and list(slope.shape)[-rank + 1 :] == [x.shape[1], *per_channel]):
        return step.emit(F.prelu, x, slope.flatten())
    scaled = step.emit(torch.mul, step.emit(torch.clamp, x, max=0.0), slope)
    return step.emit(torch.add, step.emit(torch.relu, x), scaled)


def softmax(step: Step) -> Any:
    """Before opset 13 the axis begins a range of axes that are taken together."""
    x = step.operand(0)
    function = F.softmax if step.operator == "Softmax" else F.log_softmax
    axis = axis_of(step, step.attribute("axis", -1 if step.opset >= 13 else 1), len(x.shape))
    if step.opset >= 13 or math.prod(x.shape[axis + 1 :]) == 1:
        return step.emit(function, x, dim=axis)
    rows = step.emit(torch.reshape, x, [*x.shape[:axis], math.prod(x.shape[axis:])])
    return step.emit(torch.reshape, step.emit(function, rows, dim=axis), list(x.shape))


def cast(step: Step) -> Any:
    number = step.attribute("to", 0)
    if number not in DTYPES:
        raise step.refusal(f"casts to element type {number}, which is not supported; export the model in float32")
    x, dtype = step.operand(0), DTYPES[number]
    return x if x.dtype == dtype else step.emit(torch.Tensor.to, x, dtype)


def same(step: Step) -> Any:
    """Operators that are the identity in inference."""
    if step.operator == "Dropout" and (len(step.outputs) > 1 or (step.has(2) and bool(step.constant(2)))):
        raise step.refusal("is in training mode; export the model after model.eval()")
    return step.operand(0)


def where(step: Step) -> Any:
    return step.emit(torch.where, step.operand(0), step.operand(1), step.operand(2))


def gemm(step: Step) -> Any:
    a, b = step.operand(0), step.operand(1)
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    bias = step.operand(2) if step.has(2) else None
    a = step.emit(torch.t, a) if step.attribute("transA", 0) else a
    if alpha == beta == 1.0 and (bias is None or len(bias.shape) == 1):
        return step.emit(F.linear, a, b if step.attribute("transB", 0) else step.emit(torch.t, b), bias)
    b = step.emit(torch.t, b) if step.attribute("transB", 0) else b
    product = step.emit(torch.mul, step.emit(torch.matmul, a, b), alpha)
    return product if bias is None else step.emit(torch.add, product, step.emit(torch.mul, bias, beta))


def batch_normalization(step: Step) -> Any:
    if step.attribute("training_mode", 0) or len(step.outputs) > 1:
        raise step.refusal("is in training mode; export the model after model.eval()")
    scale, bias, mean, variance = (step.constant(index) for index in range(1, 5))
    epsilon = step.attribute("epsilon", 1e-5)
    return step.emit(F.batch_norm, step.operand(0), mean, variance, scale, bias, False, 0.0, epsilon)


def instance_normalization(step: Step) -> Any:
    scale, bias, epsilon = step.constant(1), step.constant(2), step.attribute("epsilon", 1e-5)
    return step.emit(F.instance_norm, step.operand(0), None, None, scale, bias, True, 0.0, epsilon)


def layer_normalization(step: Step) -> Any:
    x = step.operand(0)
    shape = list(x.shape[axis_of(step, step.attribute("axis", -1), len(x.shape)) :])
    scale = step.emit(torch.broadcast_to, step.constant(1), shape)
    bias = step.emit(torch.broadcast_to, step.constant(2), shape) if step.has(2) else None
    if len(step.outputs) > 1:
        raise step.refusal("returns mean and deviation, which are not supported; use its first output only")
    return step.emit(F.layer_norm, x, shape, scale, bias, step.attribute("epsilon", 1e-5))


def reduce(step: Step) -> Any:
    x = step.operand(0)
    axes = step.attribute("axes", None)
    if axes is None and step.has(1):
        axes = step.integers(1)
    if not axes and step.attribute("noop_with_empty_axes", 0):
        return x
    rank = len(x.shape)
    numbers = [axis_of(step, axis, rank) for axis in axes] if axes else list(range(rank))
    keywords = {"dim": numbers, "keepdim": bool(step.attribute("keepdims", 1))}
    return step.emit(REDUCTIONS[step.operator], x, **keywords)


def arg_max(step: Step) -> Any:
    step.require("select_last_index", (0,), 0)
    x = step.operand(0)
    axis = axis_of(step, step.attribute("axis", 0), len(x.shape))
    function = torch.argmax if step.operator == "ArgMax" else torch.argmin
    return step.emit(function, x, dim=axis, keepdim=bool(step.attribute("keepdims", 1)))


def top_k(step: Step) -> Any:
    (count,) = step.integers(1)
    x = step.operand(0)
    axis = axis_of(step, step.attribute("axis", -1), len(x.shape))
    return step.emit(torch.topk, x, count, axis, bool(step.attribute("largest", 1)), bool(step.attribute("sorted", 1)))


OPERATORS: dict[str, Callable[[Step], Any]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(VARIADIC, variadic),
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(("Elu", "Gelu", "HardSigmoid", "LeakyRelu"), activation),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("Identity", "Dropout"), same),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_max),
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Clip": clip,
    "Gemm": gemm,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "Mod": modulo,
    "PRelu": prelu,
    "TopK": top_k,
    "Where": where,
}
