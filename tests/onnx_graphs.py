"""Small ONNX files for tests, and ONNX Runtime as the oracle for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from edgekit.sources import SourceRequest, TrainedModel
from edgekit.sources import onnx as onnx_file

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'convert'")
runtime = pytest.importorskip("onnxruntime", reason="needs an engine of the extra 'convert'")

SHAPE = (1, 3, 9, 7)
FLOAT = onnx.TensorProto.FLOAT
examples = settings(deadline=None, suppress_health_check=list(HealthCheck))


def node(operator: str, *inputs: str, name: str = "", count: int = 1, domain: str = "", **attributes: Any) -> Any:
    """A node whose outputs are named after ``name`` or its operator."""
    base = name or operator
    outputs = [base] if count == 1 else [f"{base}:{index}" for index in range(count)]
    return onnx.helper.make_node(operator, inputs, outputs, name=f"/{base}", domain=domain, **attributes)


def write(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = SHAPE,
    opset: int = 18,
    outputs: Sequence[str] | None = None,
    dtype: int = FLOAT,
    infer: bool = True,
) -> Path:
    """An ONNX file of one image input ``x`` and, if not told otherwise, all outputs of the last node."""
    value = onnx.helper.make_tensor_value_info
    names = list(nodes[-1].output) if outputs is None else list(outputs)
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    results = [
        onnx.helper.make_empty_tensor_value_info(name) if infer else value(name, FLOAT, [None]) for name in names
    ]
    graph = onnx.helper.make_graph(list(nodes), "graph", [value("x", dtype, shape)], results, tensors)
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save_model(onnx.shape_inference.infer_shapes(model) if infer else model, path)
    return path


def load(path: Path, size: tuple[int, int] | None = None) -> TrainedModel:
    return onnx_file.load(SourceRequest(str(path), size=size))


def image(shape: Sequence[int] = SHAPE, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(path: Path, x: Any) -> list[Any]:
    """ONNX Runtime's answer."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x.numpy()}))


def check(path: Path, x: Any | None = None, *, tolerance: float = 1e-5) -> Any:
    """Rebuilt, and exported from there by torch.export, the file gives what ONNX Runtime gives."""
    x = image() if x is None else x
    expected = oracle(path, x)
    module = load(path).module
    with torch.no_grad():
        results = module(x)
    for got, want in zip([results] if isinstance(results, torch.Tensor) else results, expected, strict=True):
        assert tuple(got.shape) == want.shape
        assert got.numpy().dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance)
    return module


def weights(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)
