"""HOST: an ONNX file (opset 7 to 22, float32, one image input) as a trained model for every target.

The graph is rebuilt as a torch module, because everything else in edgekit starts from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.arrays import Floats
from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import Origin
from edgekit.sources import Source, SourceRequest, TrainedModel

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn


FLOOR = 1e-5
"""Difference to ONNX Runtime that is rounding however small an output is: a sigmoid where nothing is seen."""


TIES = ("TopK", "ArgMax", "ArgMin", "NonMaxSuppression")
"""Operators whose result changes altogether when two numbers that are nearly equal change places, as on photographs."""


def matches(request: SourceRequest) -> bool:
    """Whether the spelling is that of an ONNX file."""
    return request.spec.lower().endswith(".onnx")


def load(request: SourceRequest) -> TrainedModel:
    """Read an ONNX file as it is, with its own outputs; a contract file has to say what they mean.

    ``module.tensor_names`` maps ONNX tensor names to fx node names. ``example`` is (1, C, H, W) float32; the batch is
    1 whatever the file has, a dynamic height and width become ``request.size``. With ``request.cut`` the network ends
    at these tensors. What was rebuilt has to agree with ONNX Runtime on the file itself.

    Raises:
        SourceError: damaged, quantized, with another input than one image, or with operators that cannot be rebuilt.
    """
    import torch

    from edgekit.runtimes.bundle.folder import sha256
    from edgekit.sources.onnx.rebuild import image_shape, read_onnx, rebuild

    path = Path(request.spec)
    model = read_onnx(path)
    name, shape = image_shape(model, path, request.size)
    changed = _changed(model, shape)
    try:
        module = rebuild(model, path, request.cut, request.size)
        example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        _check_rebuilt(path, module, name, example, request.cut)
    except SourceError as error:
        if not changed:
            raise
        raise SourceError(f"{error} ({changed}, which its graph may not allow: export it again)") from error

    def check(image: torch.Tensor) -> None:
        _check_rebuilt(path, module, name, image, request.cut)

    ties = any(node.op_type in TIES for node in model.graph.node)
    return TrainedModel(
        name=path.stem,
        module=module,
        example=example,
        origin=Origin(kind="onnx", name=path.name, sha256=sha256(path), cut=request.cut),
        heads=module if request.cut else None,
        check=check if request.cut or not ties else None,
        notes=(f"{len(model.graph.node)} ONNX operators rebuilt in torch", *([changed] if changed else [])),
    )


def _changed(model: onnx.ModelProto, shape: tuple[int, ...]) -> str:
    """The shapes that differ from the file's fixed ones, in words."""
    from edgekit.sources.onnx.rebuild import image_inputs

    (value,) = image_inputs(model)
    fixed = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if all(not was or was == now for was, now in zip(fixed, shape, strict=True)):
        return ""
    was, now = ("x".join(str(dim or "?") for dim in dims) for dims in (fixed, shape))
    return f"the file fixes its input to {was}, read as {now}"


def declared(path: Path) -> tuple[list[tuple[str, str, list[int | str]]], list[str]]:
    """The description of an ONNX file: inputs that are no initialisers as (name, dtype, shape), with the names of
    dynamic dimensions; and the names of its outputs.

    Raises:
        SourceError: as `load`.
    """
    from edgekit.sources.onnx.rebuild import image_inputs, read_onnx

    model = read_onnx(path)
    inputs = [
        (
            value.name,
            _element(value.type.tensor_type.elem_type),
            [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim],
        )
        for value in image_inputs(model)
    ]
    return inputs, [value.name for value in model.graph.output]


def _element(number: int) -> str:
    import onnx

    return "float32" if number == onnx.TensorProto.FLOAT else onnx.TensorProto.DataType.Name(number).lower()


def _check_rebuilt(path: Path, module: nn.Module, name: str, example: torch.Tensor, cut: Sequence[str]) -> None:
    """Compare the rebuilt network with ONNX Runtime on the same file: the source is the file, not our reading of it.

    Raises:
        SourceError: they differ, or ONNX Runtime cannot run the file.
    """
    import numpy as np
    import onnx
    import torch

    from edgekit.runtimes.engines.onnxruntime.session import failures

    model = onnx.load(path)
    _open_shapes(model, name, example.shape)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in cut if tensor not in known)
    try:
        expected = _run(model, name, example.numpy(), list(cut) or [output.name for output in model.graph.output])
    except failures() as error:
        raise SourceError(f"{path}: ONNX Runtime cannot run it, so nothing can be compared with it: {error}") from error
    with torch.no_grad():
        outputs = module(example)
    given = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    for reference, tensor in zip(expected, given, strict=True):
        wanted, found = reference.astype(np.float64), tensor.numpy().astype(np.float64)
        scale = float(np.abs(wanted).max(initial=0))
        distance = float(np.abs(wanted - found).max(initial=0))
        if not distance <= 1e-3 * scale + FLOOR:
            raise SourceError(
                f"{path}: rebuilt in torch it is {distance:.3g} off ONNX Runtime; please report this file"
            )


def _open_shapes(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    """Have a file take an input of this shape, whatever batch and size it was written with."""
    for value in model.graph.input:
        if value.name == name:
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dim.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def _run(model: onnx.ModelProto, name: str, image: Floats, outputs: list[str]) -> list[Floats]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    results: list[Floats] = session.run(outputs, {name: image})
    return results


def cut_at(path: Path, tensor_names: Sequence[str], size: tuple[int, int] | None = None) -> nn.Module:
    """The part of an ONNX file that computes the named tensors, returning them in this order.

    Nothing behind the cut is read, so it may hold operators that cannot be converted. One name gives a module that
    returns one tensor, several give a tuple.

    Raises:
        SourceError: as `load`.
        ContractError: a name that the graph does not have; the nearest are listed.
    """
    from edgekit.sources.onnx.rebuild import read_onnx, rebuild

    return rebuild(read_onnx(path), path, tensor_names, size)


SOURCE = Source("an ONNX file (.onnx)", matches, load, order=20)
