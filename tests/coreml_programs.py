"""Core ML programs built by hand, saved as packages and computed, for the tests of the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from edgekit.emulators.coreml.interpreter import Interpreter

_DTYPES = {"float32": types.fp32, "int32": types.int32}


def save(
    folder: Path, build: Callable[..., Any], *inputs: Any, target: str = "iOS17", half: bool = False, skip: bool = True
) -> Path:
    """A program of the inputs' shapes as an ``.mlpackage``; ``skip`` leaves it as it is built, unoptimised."""
    specs = [mb.TensorSpec(shape=array.shape, dtype=_DTYPES[str(array.dtype)]) for array in inputs]
    functions = [lambda: build(), lambda x: build(x), lambda x, y: build(x, y), lambda x, y, z: build(x, y, z)]
    program = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(functions[len(inputs)])
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY if skip else ct.PassPipeline.DEFAULT,
        skip_model_load=True,
    )
    model.save(str(folder / "op.mlpackage"))
    return folder / "op.mlpackage"


def compute(package: Path, *inputs: Any, **options: Any) -> list[Any]:
    interpreter = Interpreter(package, **options)
    found = interpreter.run({port.name: array for port, array in zip(interpreter.inputs, inputs, strict=True)})
    return [found[name] for name in interpreter.outputs]


def close(found: Any, expected: Any, most: float = 1e-5) -> None:
    wanted = np.asarray(expected)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=most, atol=most)


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def positive(*shape: int) -> Any:
    return np.abs(random(*shape)) + np.float32(0.1)
