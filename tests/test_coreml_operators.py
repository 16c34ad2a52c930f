"""The interpreter of Core ML packages, operator by operator: programs built by hand, saved, and computed.

The oracles are torch, numpy, and what coremltools itself computes where all of an operation's inputs are constants.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch: pip install edgekit[convert]")
ct = pytest.importorskip("coremltools", reason="needs the coreml toolchain: pip install edgekit[convert]")

from coreml_programs import close, compute, positive, random, save
from coremltools.converters.mil import Builder as mb  # noqa: N813

F = torch.nn.functional
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Each example saves a package: one that fails is told as it is, without a search for a smaller one."""


X = random(2, 4, 6, 5)
T = torch.from_numpy
UNARY = {
    "abs": (X, np.abs), "ceil": (X, np.ceil), "cos": (X, np.cos), "erf": (X, lambda x: torch.erf(T(x)).numpy()),
    "exp": (X, np.exp), "exp2": (X, np.exp2), "floor": (X, np.floor), "sign": (X, np.sign), "sin": (X, np.sin),
    "sinh": (X, np.sinh), "cosh": (X, np.cosh), "atan": (X, np.arctan), "tan": (X / 4, np.tan),
    "square": (X, np.square), "sqrt": (positive(3, 4), np.sqrt), "round": (X * 3, np.round),
    "tanh": (X, np.tanh), "identity": (X, lambda x: x),
    "relu": (X, lambda x: np.maximum(x, 0)), "relu6": (X * 6, lambda x: np.clip(x, 0, 6)),
    "sigmoid": (X, lambda x: 1 / (1 + np.exp(-x))), "silu": (X, lambda x: x / (1 + np.exp(-x))),
    "softplus": (X, lambda x: np.log1p(np.exp(x))), "softsign": (X, lambda x: x / (1 + np.abs(x))),
    "rsqrt": (positive(3, 4), lambda x: 1 / np.sqrt(x)), "log": (positive(3, 4), np.log),
    "inverse": (positive(3, 4), lambda x: 1 / (x + 1e-4)), "acos": (np.tanh(X), np.arccos),
    "asin": (np.tanh(X), np.arcsin), "atanh": (np.tanh(X) * np.float32(0.9), np.arctanh),
}  # fmt: skip


def test_every_plain_operator_gives_what_numpy_gives(tmp_path: Path) -> None:
    """Each reads a constant of its own, to which the input adds nothing."""
    zero = np.zeros(1, np.float32)
    package = save(
        tmp_path,
        lambda x: tuple(getattr(mb, name)(x=mb.add(x=x, y=array)) for name, (array, _) in UNARY.items()),
        zero,
    )
    for result, (name, (array, oracle)) in zip(compute(package, zero), UNARY.items(), strict=True):
        assert np.allclose(result, oracle(array), 2e-5, 2e-5), name


ONE = {
    "clip": (lambda x: mb.clip(x=x, alpha=-0.5, beta=0.7), lambda x: x.clamp(-0.5, 0.7)),
    "clamped_relu": (
        lambda x: mb.clamped_relu(x=x, alpha=0.3, beta=0.8), lambda x: torch.where(x >= 0, x.clamp(max=0.8), 0.3 * x)
    ),
    "threshold": (lambda x: mb.threshold(x=x, alpha=0.2), lambda x: x.clamp(min=0.2)),
    "thresholded_relu": (
        lambda x: mb.thresholded_relu(x=x, alpha=0.5), lambda x: torch.where(x >= 0.5, x, 0 * x)
    ),
    "gelu exact": (lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu),
    "gelu tanh": (lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"), lambda x: F.gelu(x, approximate="tanh")),
    "gelu sigmoid": (lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), lambda x: x * torch.sigmoid(1.702 * x)),
    "elu": (lambda x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7)),
    "leaky_relu": (lambda x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "linear_activation": (lambda x: mb.linear_activation(x=x, alpha=2.0, beta=0.5), lambda x: 2 * x + 0.5),
    "scaled_tanh": (lambda x: mb.scaled_tanh(x=x, alpha=2.0, beta=0.5), lambda x: 2 * torch.tanh(0.5 * x)),
    "sigmoid_hard": (lambda x: mb.sigmoid_hard(x=x, alpha=0.2, beta=0.5), lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    "prelu": (
        lambda x: mb.prelu(x=x, alpha=np.arange(4, dtype=np.float32)),
        lambda x: F.prelu(x, torch.arange(4.0)),
    ),
    "softplus_parametric": (
        lambda x: mb.softplus_parametric(x=x, alpha=np.full(4, 2, np.float32), beta=np.full(4, 0.5, np.float32)),
        lambda x: 2 * F.softplus(0.5 * x),
    ),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "layer_norm last": (
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=np.arange(5, dtype=np.float32), epsilon=1e-3),
        lambda x: F.layer_norm(x, [5], torch.arange(5.0), None, 1e-3),
    ),
    "layer_norm channels": (
        lambda x: mb.layer_norm(x=x, axes=[1], gamma=np.arange(4, dtype=np.float32), beta=np.ones(4, np.float32)),
        lambda x: F.layer_norm(x.movedim(1, -1), [4], torch.arange(4.0), torch.ones(4)).movedim(-1, 1),
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=np.ones(4, np.float32), variance=np.full(4, 4, np.float32)),
        lambda x: (x - 1) / math.sqrt(4 + 1e-5),
    ),
    "instance_norm": (lambda x: mb.instance_norm(x=x, epsilon=1e-5), F.instance_norm),
    "l2_norm": (
        lambda x: mb.l2_norm(x=x, epsilon=1e-6), lambda x: x / (x.square().sum((1, 2, 3), True) + 1e-6).sqrt()
    ),
    "max_pool": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ),
    "max_pool uneven": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="same"),
        lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 0), value=-math.inf), 2, 2),
    ),
    "max_pool up": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    ),
    "avg_pool": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 3], strides=[1, 1], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(x, 3, 1, 1),
    ),
    "avg_pool alone": (
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="same", exclude_padding_from_average=True
        ),
        lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    ),
    "reshape": (lambda x: mb.reshape(x=x, shape=[0, -1, 10, 3]), lambda x: x.reshape(2, 4, 10, 3)),
    "transpose": (lambda x: mb.transpose(x=x, perm=[3, 0, -2, 1]), lambda x: x.permute(3, 0, 2, 1)),
    "expand_dims": (lambda x: mb.expand_dims(x=x, axes=[0]), lambda x: x[None]),
    "squeeze": (lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0]), axes=[0]), lambda x: x),
    "flatten2d": (lambda x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(8, 30)),
    "concat": (lambda x: mb.concat(values=[x, x], axis=-1), lambda x: torch.cat((x, x), -1)),
    "concat interleaved": (
        lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=1, interleave=True),
        lambda x: torch.stack((x, x.relu()), 2).flatten(1, 2),
    ),
    "concat of one": (lambda x: mb.concat(values=[x], axis=1), lambda x: x),
    "stack": (lambda x: mb.stack(values=[x, x], axis=1), lambda x: torch.stack((x, x), 1)),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: x.tile(1, 2, 1, 3)),
    "reverse": (lambda x: mb.reverse(x=x, axes=[1, 3]), lambda x: x.flip(1, 3)),
    "slice_by_size": (
        lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2, 0], size=[2, 2, -1, 4]), lambda x: x[:, 1:3, 2:, :4]
    ),
    "gather": (
        lambda x: mb.gather(x=x, indices=np.array([[3, 0], [1, 1]], np.int32), axis=1),
        lambda x: x[:, [[3, 0], [1, 1]]],
    ),
    "gather batch": (
        lambda x: mb.gather(x=x, indices=np.array([[3], [1]], np.int32), axis=1, batch_dims=1),
        lambda x: torch.stack((x[0, [3]], x[1, [1]])),
    ),
    "gather_nd": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[1, 2], [0, 3]], np.int32)), lambda x: x[[1, 0], [2, 3]]
    ),
    "pad": (
        lambda x: mb.pad(x=x, pad=[0, 1, 2, 3], mode="constant", constant_val=0.5),
        lambda x: F.pad(x, (2, 3, 0, 1), value=0.5),
    ),
    "pad reflect": (
        lambda x: mb.pad(x=x, pad=[0, 0, 0, 0, 1, 2, 3, 1], mode="reflect"),
        lambda x: F.pad(x, (3, 1, 1, 2), mode="reflect"),
    ),
    "crop": (lambda x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 1]), lambda x: x[:, :, 1:4, :4]),
    "scatter_nd": (
        lambda x: mb.scatter_nd(
            data=x, indices=np.array([[1, 2], [0, 0]], np.int32), updates=np.ones((2, 6, 5), np.float32), mode="update"
        ),
        lambda x: x.index_put((torch.tensor([1, 0]), torch.tensor([2, 0])), torch.ones(2, 6, 5)),
    ),
    "scatter_nd adding": (
        lambda x: mb.scatter_nd(
            data=x, indices=np.array([[1], [1]], np.int32), updates=np.ones((2, 4, 6, 5), np.float32), mode="add"
        ),
        lambda x: x + torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1),
    ),
    "fill_like": (lambda x: mb.fill_like(ref_tensor=x, value=0.5), lambda x: torch.full_like(x, 0.5)),
    "argsort": (lambda x: mb.argsort(x=x, axis=2, ascending=True), lambda x: x.argsort(2).int()),
    "band_part": (lambda x: mb.band_part(x=x, lower=1, upper=0), lambda x: x.triu(-1).tril()),
    "pixel_shuffle": (lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), lambda x: F.pixel_shuffle(x, 2)),
    "cumsum": (
        lambda x: mb.cumsum(x=x, axis=2, exclusive=True, reverse=True),
        lambda x: x.flip(2).cumsum(2).flip(2) - x,
    ),
    "reduce_mean": (lambda x: mb.reduce_mean(x=x, axes=[-1, 1], keep_dims=True), lambda x: x.mean((1, 3), True)),
    "reduce_sum all": (lambda x: mb.reduce_sum(x=x, keep_dims=True), lambda x: x.sum().reshape(1, 1, 1, 1)),
    "reduce_max": (lambda x: mb.reduce_max(x=x, axes=[1]), lambda x: x.amax(1)),
    "reduce_min": (lambda x: mb.reduce_min(x=x, axes=[1]), lambda x: x.amin(1)),
    "reduce_prod": (lambda x: mb.reduce_prod(x=x, axes=[1, 3]), lambda x: x.prod(3).prod(1)),
    "reduce_l1": (lambda x: mb.reduce_l1_norm(x=x, axes=[1]), lambda x: x.abs().sum(1)),
    "reduce_l2": (lambda x: mb.reduce_l2_norm(x=x, axes=[1]), lambda x: x.norm(dim=1)),
    "reduce_squares": (lambda x: mb.reduce_sum_square(x=x, axes=[1]), lambda x: x.square().sum(1)),
    "reduce_logsumexp": (lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), lambda x: x.logsumexp(1)),
    "reduce_argmax": (lambda x: mb.reduce_argmax(x=x, axis=1), lambda x: x.argmax(1).int()),
    "upsample_nearest": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="nearest"),
    ),
    "upsample_bilinear": (
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=False),
    ),
    "upsample_bilinear aligned": (
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True),
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=True),
    ),
    "resize_nearest": (
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=4, target_size_width=9),
        lambda x: F.interpolate(x, (4, 9), mode="nearest"),
    ),
    "resize": (
        lambda x: mb.resize(x=x, shape=[9, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
        lambda x: F.interpolate(x, (9, 5), mode="bilinear", align_corners=False),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every case of ONE gives. They are one program: saving is what takes the time."""
    package = save(tmp_path_factory.mktemp("singles"), lambda x: tuple(build(x) for build, _ in ONE.values()), X)
    return dict(zip(ONE, compute(package, X), strict=True))


@pytest.mark.parametrize("case", ONE)
def test_operators_give_what_torch_gives(case: str, singles: dict[str, Any]) -> None:
    close(singles[case], ONE[case][1](T(X)).numpy(), 2e-5)


def test_two_tensors_broadcast_as_in_numpy(tmp_path: Path) -> None:
    x, y = random(2, 1, 4), random(3, 1, seed=1)
    kinds = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.divide, "maximum": np.maximum,
        "minimum": np.minimum, "floor_div": np.floor_divide, "mod": np.mod,
    }  # fmt: skip
    package = save(tmp_path, lambda x, y: tuple(getattr(mb, kind)(x=x, y=y) for kind in kinds), x, y)
    for found, oracle in zip(compute(package, x, y), kinds.values(), strict=True):
        close(found, oracle(x, y), 1e-4)


def test_comparisons_select_and_logic(tmp_path: Path) -> None:
    x, y = random(3, 4), random(3, 4, seed=1)

    def build(x: Any, y: Any) -> Any:
        both = mb.logical_and(x=mb.greater(x=x, y=0.0), y=mb.less_equal(x=y, y=0.5))
        either = mb.logical_or(x=both, y=mb.logical_not(x=mb.not_equal(x=x, y=x)))
        return mb.select(cond=either, a=x, b=y), mb.cast(x=mb.logical_xor(x=both, y=both), dtype="int32")

    chosen, none = compute(save(tmp_path, build, x, y), x, y)
    close(chosen, np.where(((x > 0) & (y <= 0.5)) | (x == x), x, y))
    assert not none.any()
    assert none.dtype == np.int32


def test_convolutions_of_every_kind(tmp_path: Path) -> None:
    weight, grouped, bias = random(6, 4, 3, 3), random(6, 2, 3, 2, seed=2), random(6, seed=3)
    transposed = random(4, 3, 3, 3, seed=4)

    def build(x: Any) -> Any:
        return (
            mb.conv(x=x, weight=weight, bias=bias, strides=[2, 1], pad_type="custom", pad=[1, 1, 1, 1]),
            mb.conv(x=x, weight=weight, pad_type="custom", pad=[0, 2, 1, 0], dilations=[2, 1]),
            mb.conv(x=x, weight=grouped, bias=bias, groups=2, pad_type="same", strides=[2, 2]),
            mb.conv(x=x, weight=grouped, groups=2, pad_type="same_lower"),
            mb.conv_transpose(x=x, weight=transposed, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 0]),
        )

    found = compute(save(tmp_path, build, X), X)
    x, w, g, b, t = (T(array) for array in (X, weight, grouped, bias, transposed))
    close(found[0], F.conv2d(x, w, b, (2, 1), 1).numpy(), 1e-4)
    close(found[1], F.conv2d(F.pad(x, (1, 0, 0, 2)), w, None, 1, 0, (2, 1)).numpy(), 1e-4)
    close(found[2], F.conv2d(F.pad(x, (0, 1, 0, 1)), g, b, 2, 0, 1, 2).numpy(), 1e-4)
    close(found[3], F.conv2d(F.pad(x, (1, 0, 1, 1)), g, None, 1, 0, 1, 2).numpy(), 1e-4)
    close(found[4], F.conv_transpose2d(x, t, None, 2)[:, :, 1:-1, 1:].numpy(), 1e-4)


def test_products_and_attention(tmp_path: Path) -> None:
    x, y = random(2, 3, 4), random(2, 5, 4, seed=1)
    weight, mask = random(6, 4, seed=2), np.tril(np.ones((3, 5), bool))

    def build(x: Any, y: Any) -> Any:
        return (
            mb.matmul(x=x, y=y, transpose_y=True),
            mb.linear(x=x, weight=weight, bias=np.ones(6, np.float32)),
            mb.scaled_dot_product_attention(query=x, key=y, value=y),
            mb.scaled_dot_product_attention(query=x, key=y, value=y, attn_mask=mask),
            mb.einsum(
                values=[mb.transpose(x=x, perm=[1, 0, 2]), mb.transpose(x=y, perm=[2, 0, 1])], equation="abc,cbd->abd"
            ),
        )

    found = compute(save(tmp_path, build, x, y, target="iOS18"), x, y)
    a, b = T(x), T(y)
    close(found[0], a @ b.mT)
    close(found[1], F.linear(a, T(weight), torch.ones(6)))
    scores = a @ b.mT / 2  # the square root of 4
    close(found[2], scores.softmax(-1) @ b)
    close(found[3], scores.masked_fill(~T(mask), -math.inf).softmax(-1) @ b)
    close(found[4], (a @ b.mT).transpose(0, 1))


@pytest.mark.parametrize("mode", ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS",
                                  "UNALIGN_CORNERS"])  # fmt: skip
def test_bilinear_sampling_modes_are_those_of_apples_table(mode: str, tmp_path: Path) -> None:
    """The grid points that coremltools documents for two pixels [0, 1]."""
    points = {
        "UNALIGN_CORNERS": ([0, 0.1, 0.5, 0.9, 1], [0, 0, 1 / 3, 2 / 3, 1, 1]),
        "STRICT_ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        "ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        "DEFAULT": ([0, 0.4, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]),
        "OFFSET_CORNERS": ([0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
    }[mode]
    x = np.array([[[[0, 1]]]], np.float32)

    def build(x: Any) -> Any:
        return tuple(
            mb.resize_bilinear(x=x, target_size_height=1, target_size_width=size, sampling_mode=mode) for size in (5, 6)
        )

    for found, wanted in zip(compute(save(tmp_path, build, x), x), points, strict=True):
        close(found[0, 0, 0], wanted, 1e-6)


def test_split_topk_and_depth(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        first, second = mb.split(x=x, split_sizes=[1, 3], axis=1)
        values, places = mb.topk(x=x, k=2, axis=2)
        deep = mb.space_to_depth(x=mb.slice_by_size(x=x, begin=[0, 0, 0, 0], size=[2, 4, 6, 4]), block_size=2)
        return first, second, values, places, deep, mb.depth_to_space(x=deep, block_size=2)

    first, second, values, places, deep, back = compute(save(tmp_path, build, X), X)
    close(first, X[:, :1])
    close(second, X[:, 1:])
    close(values, T(X).topk(2, 2).values)
    np.testing.assert_array_equal(places, T(X).topk(2, 2).indices)
    close(deep[:, :4], X[:, :, ::2, :4:2])  # the first place of each block
    close(deep[:, 4:8], X[:, :, ::2, 1:4:2])
    close(back, X[..., :4])


def test_shapes_that_are_computed(tmp_path: Path) -> None:
    """A reshape to what another operation found, as in graphs with free sizes."""
    x = random(2, 3, 4)

    def build(x: Any) -> Any:
        size = mb.shape(x=x)
        rest = mb.gather(x=size, indices=np.array([2], np.int32), axis=0)
        flat = mb.reshape(x=x, shape=mb.concat(values=[np.array([-1], np.int32), rest], axis=0))
        return flat, mb.fill(shape=rest, value=0.5), mb.range_1d(start=0, end=6, step=2)

    flat, filled, counted = compute(save(tmp_path, build, x), x)
    close(flat, x.reshape(6, 4))
    close(filled, np.full(4, 0.5))
    np.testing.assert_array_equal(counted, [0, 2, 4])


def test_a_slice_is_replaced(tmp_path: Path) -> None:
    x, update = random(3, 4), random(1, 2, seed=1)

    def build(x: Any, y: Any) -> Any:
        return mb.slice_update(x=x, update=y, begin=[1, 1], end=[2, 3])

    (found,) = compute(save(tmp_path, build, x, update, target="iOS18"), x, update)
    wanted = x.copy()
    wanted[1:2, 1:3] = update
    close(found, wanted)


@st.composite
def slices(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Parameters of slice_by_index for a tensor (5, 4, 3), none of which leaves nothing over."""
    result: dict[str, list[Any]] = {
        key: [] for key in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    }
    for size in (5, 4, 3):
        stride = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        first, last = sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))))
        begin, end = (first, last + 1) if stride > 0 else (last, first - 1)
        free = end < 0
        negative = draw(st.booleans())
        result["begin"].append(begin - size if negative else begin)
        result["end"].append(0 if free else end)
        result["stride"].append(stride)
        result["begin_mask"].append(draw(st.booleans()))
        result["end_mask"].append(free or draw(st.booleans()))
        result["squeeze_mask"].append(draw(st.sampled_from([False, False, True])))
    result["squeeze_mask"][draw(st.integers(0, 2))] = False
    result["stride"] = [
        1 if squeezed else step for squeezed, step in zip(result["squeeze_mask"], result["stride"], strict=True)
    ]
    result["begin_mask"] = [
        mask and not squeezed for squeezed, mask in zip(result["squeeze_mask"], result["begin_mask"], strict=True)
    ]
    return result


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], phases=QUICK)
@given(several=st.lists(slices(), min_size=10, max_size=10))
def test_slices_are_those_of_coremltools(several: list[dict[str, list[Any]]], tmp_path: Path) -> None:
    x = random(5, 4, 3)
    theirs = []

    def build(given: Any) -> Any:
        # coremltools computes what is constant; it is careless with the lists that it is given.
        for parameters in several:
            theirs.append(mb.slice_by_index(x=x, **{key: list(value) for key, value in parameters.items()}).val)
        return tuple(
            mb.slice_by_index(x=given, **{key: list(value) for key, value in parameters.items()})
            for parameters in several
        )

    for found, wanted in zip(compute(save(tmp_path, build, x), x), theirs, strict=True):
        close(found, wanted, 0)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], phases=QUICK)
@given(data=st.data())
def test_broadcasting_is_that_of_numpy(data: st.DataObject, tmp_path: Path) -> None:
    pairs = []
    for seed in range(12):
        full = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        shapes = [[data.draw(st.sampled_from([1, size])) for size in full] for _ in range(2)]
        cut = data.draw(st.integers(0, len(full) - 1))
        pairs.append((random(*shapes[0], seed=seed), random(*shapes[1][cut:], seed=seed + 100)))
    zero = np.zeros(1, np.float32)

    def build(x: Any) -> Any:
        return tuple(mb.sub(x=mb.add(x=x, y=left), y=mb.add(x=x, y=right)) for left, right in pairs)

    for found, (left, right) in zip(compute(save(tmp_path, build, zero), zero), pairs, strict=True):
        close(found, left - right)


def test_half_precision_rounds_every_result_and_overflows(tmp_path: Path) -> None:
    x = np.array([[1.0, 3.0, 300.0]], np.float32)

    def build(x: Any) -> Any:
        half = mb.cast(x=x, dtype="fp16")
        third = mb.cast(x=mb.mul(x=half, y=np.float16(1 / 3)), dtype="fp32")
        return third, mb.cast(x=mb.mul(x=half, y=half), dtype="fp32")

    package = save(tmp_path, build, x)
    third, squares = compute(package, x)
    np.testing.assert_array_equal(third, (x.astype(np.float16) * np.float16(1 / 3)).astype(np.float32))
    assert squares[0, 2] == math.inf
    free, unbounded = compute(package, x, rounding=False)
    assert unbounded[0, 2] == 90_000
    assert (free != third).any()


def test_quantize_and_dequantize_are_those_of_coremltools(tmp_path: Path) -> None:
    x = random(2, 3, 4) * 9
    by_channel = {"scale": np.array([0.1, 0.02, 0.05], np.float32), "axis": 1}
    zero = np.array([1, -20, 100], np.int8)
    theirs = []

    def build(given: Any) -> Any:
        def pair(value: Any) -> tuple[Any, Any]:
            one = mb.quantize(input=value, output_dtype="int8", zero_point=zero, **by_channel)
            return one, mb.quantize(input=value, output_dtype="uint8", scale=np.float32(0.03), zero_point=np.uint8(128))

        theirs.extend(one.val for one in pair(x))
        one, other = pair(given)
        return (
            mb.dequantize(input=one, zero_point=zero, **by_channel),
            mb.dequantize(input=other, scale=np.float32(0.03), zero_point=np.uint8(128)),
        )

    one, other = compute(save(tmp_path, build, x), x)
    scale = by_channel["scale"].reshape(1, 3, 1)  # type: ignore[attr-defined]
    close(one, (theirs[0].astype(np.float32) - zero.reshape(1, 3, 1)) * scale, 1e-6)
    close(other, (theirs[1].astype(np.float32) - 128) * np.float32(0.03), 1e-6)
    assert theirs[0].min() == -128, "clipping is part of it"
