"""What float16 cannot hold: found by name, and kept in float32."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")
pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from onnx.reference import ReferenceEvaluator
from onnx_graphs import node, weights, write

from edgekit.calibration.half import LARGEST, MOST_IMAGES, SMALLEST, around, fp16_issues
from edgekit.calibration.observation import watched
from edgekit.calibration.plan import Fp16Issue
from edgekit.calibration.samples import Samples
from edgekit.converters._onnx_precision import half
from edgekit.runtimes.bundle.manifest import ImageRule

SIZE = 8
SHAPE = (1, 3, SIZE, SIZE)


@pytest.fixture
def stream(tmp_path: Path) -> Samples:
    images = np.random.default_rng(1).integers(1, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    return Samples(tmp_path / "images.npy", ImageRule(size=(SIZE, SIZE), resize="stretch"))


def scaled(*factors: float) -> tuple[list[Any], dict[str, Any]]:
    """Nodes that multiply one after another, a ReLU between them, and a convolution at each end."""
    nodes, constants, before = [node("Conv", "x", "w", name="begin")], {"w": np.abs(weights(3, 3, 1, 1))}, "begin"
    for index, factor in enumerate(factors):
        constants[f"factor{index}"] = np.array(factor, np.float32)
        nodes += [
            node("Mul", before, f"factor{index}", name=f"scaled{index}"),
            node("Relu", f"scaled{index}", name=f"relu{index}"),
        ]
        before = f"relu{index}"
    return [*nodes, node("Conv", before, "w", name="end")], constants


CASES = {
    "overflow": ((2e3, 2e3, 1e-3, 1e-3), "overflow"),
    "flushed": ((1e-3, 1e-3, 1e-3, 1e3, 1e3, 1e3), "flushed"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_that_float16_cannot_compute_stays_float32(case: str, tmp_path: Path, stream: Samples) -> None:
    factors, reason = CASES[case]
    nodes, constants = scaled(*factors)
    path = write(tmp_path / "graph.onnx", nodes, constants, shape=SHAPE)
    troubles = fp16_issues(path, stream, 1)
    middle = range(1, 2) if reason == "overflow" else range(1, 4)
    expected = [name for index in middle for name in (f"scaled{index}", f"relu{index}")]
    assert [trouble.tensor for trouble in troubles] == expected
    assert [trouble.node for trouble in troubles] == [f"/{name}" for name in expected]
    assert {trouble.reason for trouble in troubles} == {reason}

    def outputs(model: Any) -> list[Any]:
        """By ONNX's own evaluator: ONNX Runtime computes float16 in float32 on a CPU, where nothing overflows."""
        onnx.checker.check_model(model, full_check=True)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            session = ReferenceEvaluator(model)
            return [session.run(None, {"x": sample})[0] for sample in stream]

    wanted = outputs(onnx.load(path))
    kept = half(onnx.load(path), troubles)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(kept).graph.value_info
    }
    assert onnx.TensorProto.FLOAT16 in types.values()  # or nothing was converted at all
    without = outputs(half(onnx.load(path)))
    for good, bad, right in zip(outputs(kept), without, wanted, strict=True):
        np.testing.assert_allclose(good, right, rtol=0.01)
        assert not np.isfinite(bad).any() if reason == "overflow" else not bad.any()


def test_troubles_say_how_large_the_values_were(tmp_path: Path, stream: Samples) -> None:
    nodes, constants = scaled(1e5, 1e-10)
    found = fp16_issues(write(tmp_path / "graph.onnx", nodes, constants, shape=SHAPE), stream, 1)
    session = watched(onnx.load(tmp_path / "graph.onnx"), ["scaled0"], 1)
    largest = max(np.abs(session.run(["scaled0"], {"x": sample})[0]).max() for sample in stream)
    assert (found[0].node, found[0].tensor, found[0].reason) == ("/scaled0", "scaled0", "overflow")
    assert found[0].largest == pytest.approx(largest)
    assert largest > LARGEST
    assert found[2].reason == "flushed"
    assert 0 < found[2].largest < SMALLEST


def test_what_float16_holds_and_what_is_nothing_but_zeros_is_no_trouble(tmp_path: Path, stream: Samples) -> None:
    nodes, constants = scaled(100.0, 0.0, 1.0)
    assert fp16_issues(write(tmp_path / "graph.onnx", nodes, constants, shape=SHAPE), stream, 1) == ()


def test_so_many_images_are_looked_at_and_no_more(tmp_path: Path, stream: Samples) -> None:
    images = np.ones((MOST_IMAGES + 1, SIZE, SIZE, 3), np.uint8)
    images[-1] = 255
    np.save(tmp_path / "late.npy", images)
    nodes, constants = scaled(1e6, 1e-6)
    constants["w"][:] = 1 / 3
    path = write(tmp_path / "graph.onnx", nodes, constants, shape=SHAPE)
    assert fp16_issues(path, Samples(tmp_path / "late.npy", stream.rule), 1) == ()
    np.save(tmp_path / "late.npy", images[1:])
    assert fp16_issues(path, Samples(tmp_path / "late.npy", stream.rule), 1) != ()


def test_who_reads_a_troubled_tensor_computes_in_float32_too(tmp_path: Path) -> None:
    nodes, constants = scaled(1.0, 1.0)
    model = onnx.load(write(tmp_path / "graph.onnx", nodes, constants, shape=SHAPE))
    trouble = Fp16Issue(node="/relu0", tensor="relu0", reason="overflow", largest=1e6)
    assert around(model, (trouble,)) == ["/relu0", "/scaled1"]
    assert around(model, ()) == []
