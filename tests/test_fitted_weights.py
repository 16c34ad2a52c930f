"""Weights fitted to what their layers read: never worse than rounding to nearest, and found again by every target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which is compared with")

import tiny_blip2
from blip2_writing import pixels, torch_model

from edgekit.arrays import Floats
from edgekit.calibration.samples import Samples
from edgekit.conversion.layer_inputs import observe_inputs, read_inputs
from edgekit.converters._xnnpack_integers import blocks as xnnpack_blocks
from edgekit.converters.coreml.layers import symmetric
from edgekit.converters.ncnn.layers import _blocks as ncnn_blocks
from edgekit.converters.tensorrt.forms import _blocks as tensorrt_blocks
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Blip2, part_of
from edgekit.graph.blip2.contract import contract_of
from edgekit.graph.blip2.fitted import Gain, fit, widest
from edgekit.graph.blip2.folds import folds, scales
from edgekit.graph.blip2.forms import Blocks, blocks
from edgekit.graph.blip2.precision import read_part
from edgekit.graph.blip2.rounding import Grid, clipped, errors, gptq, rescaled, rounded

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GRIDS: tuple[Grid, ...] = ("lowest", "symmetric")
seeds = st.integers(0, 10_000)
grids = st.sampled_from(GRIDS)
sizes = st.sampled_from([32, 64, 128])


def layer(seed: int, inputs: int = 96, outputs: int = 24, tokens: int = 200) -> tuple[Floats, Floats]:
    """A weight, and correlated inputs of which a few channels are large."""
    rng = np.random.default_rng(seed)
    mixture = np.eye(inputs) + rng.standard_normal((inputs, inputs)) / inputs**0.5
    seen = rng.standard_normal((tokens, inputs)) @ mixture
    seen[:, rng.choice(inputs, 4, replace=False)] *= 20
    return rng.standard_normal((outputs, inputs)).astype(np.float32), seen.astype(np.float32)


@given(seeds, grids, sizes, st.integers(5, 140))
@settings(deadline=None, max_examples=10)
def test_no_output_is_worse_than_rounded_to_nearest(seed: int, grid: Grid, size: int, inputs: int) -> None:
    weight, seen = layer(seed, inputs, 8, 60)
    plain = errors(weight, rounded(weight, 4, size, grid), seen) * (1 + 1e-4)
    assert (errors(weight, gptq(weight, seen, 4, size, grid), seen) <= plain).all()
    assert (errors(weight, rescaled(weight, seen, 4, size, grid), seen) <= plain).all()
    assert (errors(weight, rounded(clipped(weight, seen, 4, size, grid), 4, size, grid), seen) <= plain).all()
    factors = scales([weight], seen, lambda one: rounded(one, 4, size, grid))
    assert errors(weight, rounded(weight * factors, 4, size, grid) / factors, seen).sum() <= plain.sum()


@pytest.mark.parametrize("grid", GRIDS)
def test_large_and_correlated_inputs_are_made_use_of(grid: Grid) -> None:
    """Each method takes a third and more of the error away; on the inputs of other channels it does not."""
    weight, seen = layer(1)
    other = np.roll(seen, 7, axis=1)
    plain = errors(weight, rounded(weight, 4, 32, grid), seen).sum()

    def by_factors(given: Floats) -> Floats:
        factors = scales([weight], given, lambda one: rounded(one, 4, 32, grid))
        return rounded(weight * factors, 4, 32, grid) / factors

    def by_clipping(given: Floats) -> Floats:
        return rounded(clipped(weight, given, 4, 32, grid), 4, 32, grid)

    def by_gptq(given: Floats) -> Floats:
        return gptq(weight, given, 4, 32, grid)

    def by_scales(given: Floats) -> Floats:
        return rescaled(weight, given, 4, 32, grid)

    for method in (by_factors, by_clipping, by_gptq, by_scales):
        assert errors(weight, method(seen), seen).sum() < 0.67 * plain
        assert errors(weight, method(other), seen).sum() > 0.9 * plain


@given(seeds, grids, sizes)
@settings(deadline=None, max_examples=10)
def test_inputs_that_say_nothing_of_each_other_leave_rounding_to_nearest(seed: int, grid: Grid, size: int) -> None:
    rng = np.random.default_rng(seed)
    weight, alone = rng.standard_normal((6, 70)).astype(np.float32), np.diag(rng.uniform(0.1, 9, 70)).astype(np.float32)
    np.testing.assert_array_equal(gptq(weight, alone, 4, size, grid), rounded(weight, 4, size, grid))
    even = scales([weight], np.ones((1, 70), np.float32), lambda one: rounded(one, 4, size, grid))
    np.testing.assert_allclose(even, 1)


def test_inputs_that_say_little_or_nothing() -> None:
    weight, seen = layer(3)
    one = np.outer(np.arange(1, 201), np.geomspace(1e-3, 1e5, 96)).astype(np.float32)  # of rank 1, and steep
    for read in (one, np.zeros_like(seen), seen[:1]):
        plain = errors(weight, rounded(weight, 4, 32, "lowest"), read) * (1 + 1e-4)
        assert (errors(weight, gptq(weight, read, 4, 32, "lowest"), read) <= plain).all()
    seen[5, 5] = np.nan
    with pytest.raises(ConversionError, match="reads NaN or infinite values on the calibration data"):
        gptq(weight, seen, 4, 32, "lowest")


def onnx_integers(weight: Floats, size: int) -> Floats:
    integers, steps = blocks(weight, 4, size)
    wide = np.stack([integers & 15, integers >> 4], -1).reshape(len(weight), -1, size).astype(np.float32) - 8
    return (wide * steps[..., None]).reshape(weight.shape)


def tensorrt_integers(weight: Floats, size: int) -> Floats:
    integers, steps = tensorrt_blocks(weight, 4, size)
    return (integers * steps.repeat(size, 0)).T


def ncnn_integers(weight: Floats, size: int) -> Floats:
    inverse: list[Floats] = []
    integers = np.concatenate(list(ncnn_blocks(weight, Blocks(4, size), inverse)))
    return integers / np.concatenate(inverse).repeat(size, 1)


def xnnpack_integers(weight: Floats, size: int) -> Floats:
    integers, steps = xnnpack_blocks(weight, size)
    return integers * steps.repeat(size, 1)


def coreml_integers(weight: Floats, size: int) -> Floats:
    integers, steps = symmetric(weight, 4, size)
    return integers * steps.repeat(size, 1)


@pytest.mark.parametrize(
    ("written", "grid", "exact"),
    [
        (onnx_integers, "lowest", 1e-6),
        (tensorrt_integers, "symmetric", 1e-6),
        (ncnn_integers, "symmetric", 1e-6),
        (xnnpack_integers, "symmetric", 5e-3),  # of litert and executorch; scales have 8 bits
        (coreml_integers, "symmetric", 1e-3),  # scales in float16
    ],
)
def test_each_target_finds_the_integers_again(
    written: Callable[[Floats, int], Floats], grid: Grid, exact: float
) -> None:
    weight, seen = layer(2, inputs=128)
    for method in (gptq, rescaled):
        made = method(weight, seen, 4, 32, grid)
        np.testing.assert_allclose(written(made, 32), made, atol=exact * np.abs(made).max())
        other = method(weight, seen, 4, 32, GRIDS[grid == "lowest"])  # the other grid's integers lie elsewhere
        assert np.abs(written(other, 32) - other).max() > 0.01


@pytest.mark.parametrize("kind", ["opt", pytest.param("t5", marks=pytest.mark.nightly)])
def test_channels_between_layers_can_be_scaled(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every fold of every part: factors that are powers of two leave transformers' results as they are, to the bit."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import blip2_outliers

    source = getattr(tiny_blip2, kind)(tmp_path / "source")
    other = source
    for part in ("vision", "qformer", "language"):
        before, other = Blip2(other).checkpoint, blip2_outliers.write(other, tmp_path / part, 0.3, part=part)
        after = Blip2(other).checkpoint
        assert len([name for name in after.names if (after[name] != before[name]).any()]) >= 4
    for expected, found in zip(_results(torch_model(source)), _results(torch_model(other)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    sys.modules.pop("blip2_outliers")


def _results(model: Any) -> list[Any]:
    image = model.vision_model(torch.from_numpy(pixels(2))).last_hidden_state
    queries = model.query_tokens.expand(2, -1, -1)
    seen = model.language_projection(model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state)
    ids = {} if model.config.use_decoder_only_language_model else {"decoder_input_ids": torch.tensor([[0, 5, 9]] * 2)}
    return [image, seen, model.language_model(inputs_embeds=seen, **ids).logits]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Blip2, Path]:
    """A tiny OPT, and what its layers read."""
    root = tmp_path_factory.mktemp("observed")
    source = Blip2(tiny_blip2.opt(root / "opt"))
    contract = contract_of(source)
    rng = np.random.default_rng(0)
    np.save(root / "images.npy", rng.integers(0, 255, (3, tiny_blip2.SIZE, tiny_blip2.SIZE, 3), np.uint8))
    samples = Samples(root / "images.npy", contract.image)
    observe_inputs(source, contract, samples, ["a photo of", "red"], ("qformer", "language"), root / "inputs", _quiet)
    return source, root / "inputs"


def _quiet(text: str, share: float) -> None:
    pass


def test_what_layers_read_is_kept(observed: tuple[Blip2, Path]) -> None:
    source, folder = observed
    inputs = read_inputs(folder)
    decoder = "language_model.model.decoder.layers.0."
    query, key = (inputs[f"{decoder}self_attn.{name}_proj.weight"] for name in "qk")
    np.testing.assert_array_equal(query, key)
    assert len(list(folder.glob("*.f32"))) < len(inputs.names)  # queries, keys and values share a file
    # The layer reads a normalisation: without its gain and shift every token has mean 0 and variance 1.
    gain, shift = (source.checkpoint[f"{decoder}self_attn_layer_norm.{what}"] for what in ("weight", "bias"))
    plain = (query - shift) / gain
    np.testing.assert_allclose(plain.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(plain.std(1), 1, atol=1e-2)
    assert {part_of(name) for name in inputs.names} == {"qformer", "language"}
    assert not any("lm_head" in name for name in inputs.names)


def test_a_budget_chooses_layers(observed: tuple[Blip2, Path]) -> None:
    source, folder = observed
    inputs = read_inputs(folder)
    layers = [name for name in inputs.names if name.startswith("language_model.")]
    weights = {name: int(np.prod(source.checkpoint.shape(name))) for name in layers}
    gains = [Gain(name, size, float(number + 1)) for number, (name, size) in enumerate(weights.items())]
    assert widest(gains, 4) == frozenset()
    assert widest(gains, 8) == set(layers)
    for budget in (4.5, 6, 7.25):
        chosen = widest(gains, budget)
        spent = sum(size * (8 if name in chosen else 4) for name, size in weights.items()) / sum(weights.values())
        assert budget - 0.5 < spent <= budget
    made = fit(source, "language", read_part("int4.5"), inputs, "lowest")
    assert 0 < len(made.wide) < len(layers)
    assert made.report["bits"].startswith("4.")
    # Fitted to data, but for the layers that have 8 bits.
    made = fit(source, "language", read_part("int4.5-awq"), inputs, "lowest")
    for name in made.wide:
        assert np.isfinite(made.source.checkpoint[name]).all()


def test_only_what_was_observed_is_fitted(observed: tuple[Blip2, Path], tmp_path: Path) -> None:
    source, folder = observed
    part, inputs = read_part("int4-gptq"), read_inputs(folder)
    made = fit(source, "language", part, inputs, "lowest")
    # 24 inputs are no whole block: targets disagree on what to do then, so these layers are left alone.
    name = "language_model.model.decoder.layers.0.fc1.weight"
    np.testing.assert_array_equal(made.source.checkpoint[name], source.checkpoint[name])
    head = "language_model.model.decoder.embed_tokens.weight"
    np.testing.assert_array_equal(made.source.checkpoint[head], source.checkpoint[head])
    with pytest.raises(ConversionError, match="language in int4-gptq: no layer was observed on the calibration images"):
        fit(source, "language", part, read_inputs(tmp_path), "lowest")


def test_folds_are_what_the_graphs_allow(observed: tuple[Blip2, Path]) -> None:
    source, _ = observed
    assert len(folds(source, "language")) == 2 * 4
    assert len(folds(source, "vision")) == 2 * 3
    assert len(folds(source, "qformer")) == 4 + 2  # values alone: its normalisations are read by sums too
