"""Every operator of an ONNX file, rebuilt in torch, against ONNX Runtime on the same file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx_graphs import FLOAT, SHAPE, check, examples, image, ints, node, onnx, torch, weights, write


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


# --- windows ---

window = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.one_of(
            st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda p: (*p, *p)), st.tuples(*[st.integers(0, 3)] * 4)
        ),
        "auto_pad": st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    }
)


def window_attributes(drawn: dict[str, Any], *names: str) -> dict[str, Any]:
    chosen = {name: list(drawn[name]) for name in names}
    return chosen | (
        {"pads": list(drawn["pads"])} if drawn["auto_pad"] == "NOTSET" else {"auto_pad": drawn["auto_pad"]}
    )


def runtime_can_pad(drawn: dict[str, Any]) -> bool:
    """ONNX Runtime computes a negative padding where a pooling window is smaller than its stride."""
    whole = all(stride <= size for stride, size in zip(drawn["strides"], drawn["kernel"], strict=True))
    return whole or not drawn["auto_pad"].startswith("SAME")


@examples
@given(window, st.sampled_from([1, 3]), st.booleans())
def test_conv(folder: Path, drawn: dict[str, Any], group: int, bias: bool) -> None:
    assume(drawn["auto_pad"] == "NOTSET" or drawn["dilations"] == (1, 1))  # ONNX Runtime refuses the combination
    attributes = window_attributes(drawn, "strides", "dilations")
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    constants = {"w": weights(6, 3 // group, *drawn["kernel"]), "b": weights(6)}
    check(write(folder / "conv.onnx", [node("Conv", *inputs, group=group, **attributes)], constants))


@examples
@given(window, st.sampled_from([1, 3]), st.tuples(st.integers(0, 1), st.integers(0, 1)))
def test_conv_transpose(folder: Path, drawn: dict[str, Any], group: int, extra: tuple[int, int]) -> None:
    symmetric = drawn["pads"][:2] == drawn["pads"][2:]
    extra = tuple(e if symmetric and e < s else 0 for e, s in zip(extra, drawn["strides"], strict=True))
    kernel = [(size - 1) * step + 1 for size, step in zip(drawn["kernel"], drawn["dilations"], strict=True)]
    assume(all(sum(drawn["pads"][i::2]) < kernel[i] for i in range(2)))
    made = node(
        "ConvTranspose", "x", "w", "b", group=group, strides=drawn["strides"], dilations=drawn["dilations"],
        pads=drawn["pads"], output_padding=extra,
    )  # fmt: skip
    check(write(folder / "ct.onnx", [made], {"w": weights(3, 2, *drawn["kernel"]), "b": weights(2 * group)}))


@examples
@given(window, st.booleans())
def test_max_pool(folder: Path, drawn: dict[str, Any], ceil: bool) -> None:
    pads, kernel = drawn["pads"], drawn["kernel"]
    ceil = ceil and pads[:2] == pads[2:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    assume(all(p < k for p, k in zip(pads, kernel * 2, strict=True)))  # a window of padding alone has no maximum
    assume(not ceil or drawn["auto_pad"] == "NOTSET")
    assume(runtime_can_pad(drawn))
    assume(drawn["auto_pad"] == "NOTSET" or drawn["dilations"] == (1, 1))
    attributes = window_attributes(drawn, "strides", "dilations")
    made = node("MaxPool", "x", kernel_shape=kernel, ceil_mode=int(ceil), **attributes)
    check(write(folder / "max.onnx", [made]))


@examples
@given(window, st.booleans(), st.booleans())
def test_average_pool(folder: Path, drawn: dict[str, Any], ceil: bool, include: bool) -> None:
    pads, kernel = drawn["pads"], drawn["kernel"]
    ceil = ceil and pads == (0, 0, 0, 0) and drawn["auto_pad"] == "NOTSET"
    assume(all(p < k for p, k in zip(pads, kernel * 2, strict=True)))
    assume(runtime_can_pad(drawn))
    attributes = window_attributes(drawn, "strides")
    made = node(
        "AveragePool", "x", kernel_shape=kernel, ceil_mode=int(ceil), count_include_pad=int(include), **attributes
    )
    check(write(folder / "average.onnx", [made]))


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(operator: str, folder: Path) -> None:
    check(write(folder / "global.onnx", [node(operator, "x")]))


@examples
@given(
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.one_of(
        st.tuples(st.integers(1, 20), st.integers(1, 20)), st.tuples(*[st.sampled_from([0.5, 1.5, 2.0, 3.0, 0.7])] * 2)
    ),
)
def test_resize_nearest(folder: Path, coordinates: str, rounding: str, wanted: tuple[Any, Any]) -> None:
    resize_case(folder, "nearest", coordinates, wanted, nearest_mode=rounding)


@examples
@given(
    st.sampled_from(["linear", "cubic"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners"]),
    st.one_of(
        st.tuples(st.integers(2, 20), st.integers(2, 20)), st.tuples(*[st.sampled_from([0.5, 1.5, 2.0, 3.0, 0.7])] * 2)
    ),
)
def test_resize_linear(folder: Path, mode: str, coordinates: str, wanted: tuple[Any, Any]) -> None:
    whole = all(float(size * scale).is_integer() for size, scale in zip(SHAPE[2:], wanted, strict=True))
    assume(coordinates != "align_corners" or isinstance(wanted[0], int) or whole)
    resize_case(folder, mode, coordinates, wanted)


def resize_case(folder: Path, mode: str, coordinates: str, wanted: tuple[Any, Any], **attributes: Any) -> None:
    inputs, constants = ["x", "", "", "sizes"], {"sizes": ints(1, 3, *map(int, wanted))}
    if isinstance(wanted[0], float):
        inputs, constants = ["x", "", "scales"], {"scales": np.array([1, 1, *wanted], dtype=np.float32)}
    made = node("Resize", *inputs, mode=mode, coordinate_transformation_mode=coordinates, **attributes)
    check(write(folder / "resize.onnx", [made], constants), tolerance=2e-4 if mode != "nearest" else 0)


def test_upsampling_by_two_is_torchs_own(folder: Path) -> None:
    """Converters know the interpolation operator, not a gather of rows: the common case must not become one."""
    for coordinates, rounding in [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")]:
        made = node(
            "Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding
        )
        path = write(folder / "up.onnx", [made], {"s": np.array([1, 1, 2, 2], dtype=np.float32)})
        targets = [n.target for n in check(path).graph.nodes if n.op == "call_function"]
        assert targets == [torch.nn.functional.interpolate]


@pytest.mark.parametrize("opset", [11, 13, 18, 19])
def test_resize_over_some_axes_and_older_opsets(opset: int, folder: Path) -> None:
    made = node("Resize", "x", "none", "none", "sizes", mode="linear")
    constants = {"sizes": ints(1, 3, 18, 21), "none": np.zeros(0, dtype=np.float32)}
    if opset >= 18:
        made = node("Resize", "x", "", "", "sizes", mode="linear", axes=[3, 2])
        constants = {"sizes": ints(21, 18)}
    check(write(folder / "axes.onnx", [made], constants, opset=opset), tolerance=1e-4)


@examples
@given(
    st.sampled_from(["constant", "reflect", "edge", "wrap"]),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.booleans(),
    st.booleans(),
)
def test_pad(folder: Path, mode: str, amounts: tuple[int, ...], axes: bool, crop: bool) -> None:
    inputs = ["x", "pads", "value"] if mode == "constant" else ["x", "pads", ""]
    top, left, bottom, right = amounts
    top = -top if crop and mode == "constant" else top
    constants = {"pads": ints(0, 0, top, left, 0, 0, bottom, right), "value": np.float32(1.5)}
    if axes:
        inputs.append("axes")
        constants |= {"axes": ints(3, -2), "pads": ints(left, top, right, bottom)}
    check(write(folder / "pad.onnx", [node("Pad", *inputs, mode=mode)], constants, opset=19))


# --- arithmetic ---

POSITIVE = ("Log", "Sqrt", "Reciprocal")
UNARY = (
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh",
)  # fmt: skip


@pytest.mark.parametrize(
    "operator",
    [*UNARY, "Elu", "Gelu", "HardSigmoid", "LeakyRelu", "Identity", "Dropout"],
)
def test_unary(operator: str, folder: Path) -> None:
    x = image() * 4
    check(write(folder / "u.onnx", [node(operator, "x")], opset=20), x.abs() + 0.1 if operator in POSITIVE else x)


def test_activations_with_numbers(folder: Path) -> None:
    for made in (
        node("LeakyRelu", "x", alpha=0.3),
        node("Elu", "x", alpha=0.7),
        node("HardSigmoid", "x", alpha=1 / 6, beta=0.5),
        node("HardSigmoid", "x", alpha=0.3, beta=0.4),
        node("Gelu", "x", approximate="tanh"),
        node("Clip", "x", "low", "high"),
        node("Clip", "x", "", "high"),
        node("Clip", "x", "low"),
        node("Clip", "x"),
    ):
        path = folder / "a.onnx"
        check(write(path, [made], {"low": np.float32(-0.5), "high": np.float32(0.25)}, opset=20), image() * 4)


@examples
@given(
    st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mod"]),
    st.sampled_from([(), (1,), (7,), (3, 1, 1), (1, 3, 9, 7), (2, 3, 9, 7), (1, 1, 1, 1, 1)]),
    st.booleans(),
)
def test_binary(folder: Path, operator: str, shape: tuple[int, ...], swap: bool) -> None:
    constant = np.abs(weights(*shape)) + 0.5
    attributes = {"fmod": 1} if operator == "Mod" else {}
    made = node(operator, *(("c", "x") if swap else ("x", "c")), **attributes)
    check(write(folder / "b.onnx", [made], {"c": np.asarray(constant, dtype=np.float32)}), image().abs() + 0.5)


def test_integers_comparisons_and_choice(folder: Path) -> None:
    nodes = [
        node("Cast", "x", name="whole", to=onnx.TensorProto.INT64),
        node("Div", "whole", "two", name="half"),
        node("Mod", "whole", "two", name="rest"),
        node("Equal", "rest", "zero", name="even"),
        node("Less", "half", "zero", name="low"),
        node("GreaterOrEqual", "half", "two", name="high"),
        node("Or", "low", "high", name="either"),
        node("And", "either", "even", name="both"),
        node("Xor", "both", "low", name="one"),
        node("Not", "one", name="chosen"),
        node("Where", "chosen", "x", "number", name="picked"),
        node("Cast", "chosen", name="number_again", to=FLOAT),
    ]
    constants = {"two": np.int64(2), "zero": np.int64(0), "number": np.float32(7)}
    path = write(folder / "i.onnx", nodes, constants, outputs=["half", "rest", "chosen", "picked", "number_again"])
    check(path, image() * 5)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, 3, -1, -2])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_softmax(operator: str, axis: int | None, opset: int, folder: Path) -> None:
    attributes = {} if axis is None else {"axis": axis}
    check(write(folder / "s.onnx", [node(operator, "x", **attributes)], opset=opset))


@pytest.mark.parametrize("shape", [(1,), (3, 1, 1), (1, 3, 1, 1), (7,), (9, 7), (3, 9, 7)])
def test_prelu(shape: tuple[int, ...], folder: Path) -> None:
    check(write(folder / "p.onnx", [node("PRelu", "x", "slope")], {"slope": weights(*shape)}))


@examples
@given(st.booleans(), st.booleans(), st.sampled_from([1.0, 0.5]), st.sampled_from([None, (5,), (3, 5), (1,)]))
def test_gemm(folder: Path, left: bool, right: bool, alpha: float, bias: tuple[int, ...] | None) -> None:
    constants = {"rows": ints(63, 3) if left else ints(3, 63), "w": weights(5, 63) if right else weights(63, 5)}
    inputs = ["m", "w"]
    if bias is not None:
        inputs.append("b")
        constants["b"] = weights(*bias)
    made = node("Gemm", *inputs, transA=int(left), transB=int(right), alpha=alpha, beta=0.25 if alpha < 1 else 1.0)
    check(write(folder / "g.onnx", [node("Reshape", "x", "rows", name="m"), made], constants), tolerance=1e-4)


def test_normalisations(folder: Path) -> None:
    constants = {
        "scale": weights(3), "bias": weights(3, seed=2), "mean": weights(3, seed=3), "var": np.abs(weights(3, seed=4)),
        "row": weights(7), "shift": weights(7, seed=5),
    }  # fmt: skip
    for made in (
        node("BatchNormalization", "x", "scale", "bias", "mean", "var", epsilon=1e-3),
        node("InstanceNormalization", "x", "scale", "bias"),
        node("LayerNormalization", "x", "row", "shift"),
        node("LayerNormalization", "x", "row", axis=2),
    ):
        check(write(folder / "n.onnx", [made], constants), tolerance=1e-4)


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2"])
@pytest.mark.parametrize("axes", [None, [1], [-1, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("opset", [11, 18])
def test_reduce(operator: str, axes: list[int] | None, opset: int, folder: Path) -> None:
    as_input = axes is not None and opset == 18
    attributes = {"axes": axes} if axes is not None and not as_input else {}
    inputs = ["x", "axes"] if as_input else ["x"]
    for keep in (0, 1):
        made = node(operator, *inputs, keepdims=keep, **attributes)
        check(write(folder / "r.onnx", [made], {"axes": ints(*(axes or []))}, opset=opset), tolerance=1e-4)


def test_selections(folder: Path) -> None:
    check(write(folder / "t.onnx", [node("TopK", "x", "k", count=2, axis=1)], {"k": ints(2)}))
    check(write(folder / "t.onnx", [node("TopK", "x", "k", count=2, largest=0)], {"k": ints(3)}))
    check(write(folder / "t.onnx", [node("ArgMax", "x", axis=1, keepdims=0)]))
    check(write(folder / "t.onnx", [node("ArgMin", "x", axis=-1)]))
    picked = [node("TopK", "x", "k", name="best", count=2), node("GatherElements", "x", "best:1", axis=3)]
    check(write(folder / "t.onnx", picked, {"k": ints(3)}))
    check(write(folder / "t.onnx", [node("GatherElements", "x", "i", axis=3)], {"i": ints(-1, 0).reshape(1, 1, 1, 2)}))


# --- shapes ---

cut = st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([1, 1, 2, 3, -1, -2]))


@examples
@given(st.dictionaries(st.sampled_from([1, 2, 3]), cut, min_size=1), st.booleans())
def test_slice(folder: Path, cuts: dict[int, tuple[int, int, int]], negative: bool) -> None:
    assume(all(len(range(SHAPE[axis])[slice(*cut)]) for axis, cut in cuts.items()))
    starts, ends, steps = (ints(*[cut[index] for cut in cuts.values()]) for index in range(3))
    axes = ints(*[axis - 4 if negative else axis for axis in cuts])
    constants = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    check(write(folder / "s.onnx", [node("Slice", "x", *constants)], constants), tolerance=0)


def test_slice_to_the_end(folder: Path) -> None:
    constants = {"starts": ints(1, 2), "ends": ints(2**63 - 1, 2**31 - 1), "axes": ints(2, 3)}
    check(write(folder / "s.onnx", [node("Slice", "x", *constants)], constants), tolerance=0)


@examples
@given(st.permutations(range(4)), st.sampled_from([[1, -1], [0, 0, -1], [9, 21], [3, 3, 3, 7], [-1], [1, 189, 1]]))
def test_reshape_and_transpose(folder: Path, order: list[int], shape: list[int]) -> None:
    nodes = [node("Transpose", "x", perm=order), node("Reshape", "Transpose", "shape")]
    assume(shape[0] != 0 or 189 % math.prod(SHAPE[axis] for axis in order[:2]) == 0)
    check(write(folder / "r.onnx", nodes, {"shape": ints(*shape)}), tolerance=0)


@pytest.mark.parametrize("opset", [11, 13])
def test_split(opset: int, folder: Path) -> None:
    sizes, constants = ([4, 2, 3], {"sizes": ints(4, 2, 3)})
    told = (
        node("Split", "x", "sizes", axis=2, count=3) if opset > 11 else node("Split", "x", axis=2, count=3, split=sizes)
    )
    check(write(folder / "s.onnx", [told], constants if opset > 11 else None, opset=opset), tolerance=0)
    check(write(folder / "s.onnx", [node("Split", "x", axis=1, count=3)], opset=opset), tolerance=0)
    uneven = node("Split", "x", axis=-1, count=3, num_outputs=3)
    check(write(folder / "s.onnx", [uneven], opset=18), tolerance=0)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset: int, folder: Path) -> None:
    as_input = opset >= 13
    for axes in ([0, 2], [-1, 1], [-2]):
        added = node("Unsqueeze", "x", "axes", name="u") if as_input else node("Unsqueeze", "x", name="u", axes=axes)
        back = node("Squeeze", "u", "axes") if as_input else node("Squeeze", "u", axes=axes)
        path = folder / "q.onnx"
        check(write(path, [added, back], {"axes": ints(*axes)}, opset=opset, outputs=["u", "Squeeze"]), tolerance=0)
    check(write(folder / "q.onnx", [node("Squeeze", "x")], opset=opset), tolerance=0)


@pytest.mark.parametrize("axis", range(-4, 5))
def test_flatten(axis: int, folder: Path) -> None:
    check(write(folder / "f.onnx", [node("Flatten", "x", axis=axis)]), tolerance=0)


def test_other_shapes(folder: Path) -> None:
    constants = {
        "wide": ints(2, 3, 1, 7), "times": ints(1, 2, 1, 3), "one": ints(1), "rows": ints(8, 0, -1),
        "grid": ints(0, 1, 2, -1).reshape(2, 2), "scalar": np.int64(-2), "more": weights(1, 2, 9, 7),
    }  # fmt: skip
    for made in (
        [node("ReduceMax", "x", name="m", axes=[2]), node("Expand", "m", "wide")],
        [node("Tile", "x", "times")],
        [node("Gather", "x", "rows", axis=2)],
        [node("Gather", "x", "grid", axis=3)],
        [node("Gather", "x", "scalar", axis=1)],
        [node("Concat", "x", "more", "x", axis=1)],
        [node("Concat", "x", "x", axis=-1)],
    ):
        check(write(folder / "o.onnx", made, constants, opset=13), tolerance=0)
    for made in (
        [node("SpaceToDepth", "x", blocksize=2), node("DepthToSpace", "SpaceToDepth", blocksize=2)],
        [node("SpaceToDepth", "x", name="s", blocksize=2), node("DepthToSpace", "s", blocksize=2, mode="CRD")],
    ):
        path = write(folder / "o.onnx", made, shape=(1, 4, 6, 8))
        check(path, image((1, 4, 6, 8)), tolerance=0)


def test_shape_arithmetic_leaves_nothing_behind(folder: Path) -> None:
    """The chain that exporters write for view(batch, channels // 3, -1): Shape, Gather, Div, Concat, Reshape."""
    nodes = [
        node("Shape", "x", name="shape"),
        node("Constant", name="at", value_int=1),
        node("Gather", "shape", "at", name="channels"),
        node("Div", "channels", "three", name="third"),
        node("Unsqueeze", "third", "first", name="third_list"),
        node("Concat", "one", "third_list", "rest", name="target", axis=0),
        node("Reshape", "x", "target", name="flat"),
        node(
            "ConstantOfShape", "target_shape", name="ones", value=onnx.numpy_helper.from_array(np.ones(1, np.float32))
        ),
        node("Range", "zero", "three", "one_scalar", name="range"),
        node("Cast", "range", name="numbers", to=FLOAT),
        node("ReduceSum", "numbers", name="three_again", keepdims=0),
        node("Mul", "ones", "three_again", name="threes"),
        node("Add", "flat", "threes", name="result"),
    ]
    constants = {
        "three": np.int64(3), "first": ints(0), "one": ints(1), "rest": ints(-1), "target_shape": ints(1, 1, 189),
        "zero": np.int64(0), "one_scalar": np.int64(1),
    }  # fmt: skip
    module = check(write(folder / "chain.onnx", nodes, constants))
    assert [n.name for n in module.graph.nodes if n.op == "call_function"] == ["flat", "result"]
