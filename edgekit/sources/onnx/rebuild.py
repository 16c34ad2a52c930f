"""An ONNX graph rebuilt as a torch.fx module that torch.export follows: static shapes, one image in.

Only the nodes that the wanted outputs need are rebuilt, and whatever does not depend on the image is computed at once,
so that chains of Shape, Gather and Concat leave nothing behind.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from torch import fx

from edgekit.errors import ContractError, SourceError
from edgekit.sources import check_size
from edgekit.sources.onnx import operators as onnx_operators
from edgekit.sources.onnx import shapes as onnx_shapes
from edgekit.sources.onnx import windows as onnx_windows
from edgekit.sources.onnx.step import Operand, Step, TorchGraph, Value

OPSETS = range(11, 23)
"""Opsets whose operators are known here; those up to 22 changed nothing but element types after 20."""

OPERATORS = {**onnx_operators.OPERATORS, **onnx_shapes.OPERATORS, **onnx_windows.OPERATORS}
OLD_OPSETS = range(7, 11)
"""Opsets that onnx's own converter brings to `CONVERTED`. ONNX Runtime reads no older ones."""

CONVERTED = 13

PLACEHOLDER = 64
"""Pixels: inputs below are what a network of any size was exported with, not the size it is made for."""

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinear")


def read_onnx(path: Path) -> Any:
    """A checked ONNX ModelProto with its external data.

    Raises:
        SourceError: missing, empty, damaged, invalid, without its external data, or of an unknown opset. Opsets
            7 to 10 are converted to 13.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file; give the path of an ONNX model")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: the file is empty (0 bytes); export the model again")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise SourceError(f"{path}: truncated or not an ONNX file ({_first_line(error)}); export it again") from error
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise SourceError(
            f"{path}: its external data cannot be read ({_first_line(error)}); keep it beside it"
        ) from error
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise SourceError(f"{path}: damaged or invalid ONNX ({_first_line(error)}); export it again") from error
    opset = _opset(model)
    if opset in OLD_OPSETS:
        model = _converted(path, model, opset)
    elif opset not in OPSETS:
        raise SourceError(f"{path}: opset {opset}, but edgekit reads {OLD_OPSETS[0]} to {OPSETS[-1]}; export it again")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _converted(path: Path, model: Any, opset: int) -> Any:
    """A model of an old opset in a newer one.

    Raises:
        SourceError: it has operators that onnx cannot convert.
    """
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, CONVERTED)
    except (RuntimeError, ValueError, version_converter.ConvertError) as error:
        raise SourceError(
            f"{path}: opset {opset}, and onnx cannot convert it to {CONVERTED} ({_first_line(error)}); export it again "
            f"with opset {OPSETS[0]} to {OPSETS[-1]}"
        ) from error


def image_inputs(model: Any) -> list[Any]:
    """The inputs of a model that are no initialisers; older files name these as inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def image_shape(model: Any, path: Path, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, int, int]]:
    """Name and shape (1, channels, height, width) of the image input. The batch becomes 1.

    Raises:
        SourceError: not exactly one float32 NCHW image, dynamic height and width without ``size``, or another size than
            the file's own, unless that is a placeholder.
    """
    inputs = image_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise SourceError(f"{path}: has {len(inputs)} inputs ({names}); edgekit converts networks with one image input")
    (value,) = inputs
    kind = value.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise SourceError(f"{path}: input {value.name!r} is {name}; export the model with a float32 input")
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if len(dims) != 4 or dims[1] not in (1, 3, 4):
        shown = [dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim]
        raise SourceError(
            f"{path}: input {value.name!r} has shape {shown}; one NCHW image (1, 3, height, width) is needed"
        )
    height, width = dims[2:]
    if (not height or not width) and size is None:
        raise SourceError(f"{path}: input {value.name!r} has a dynamic height or width; give the input size")
    placeholder = 0 < height < PLACEHOLDER and 0 < width < PLACEHOLDER
    differs = size is not None and any(fixed and fixed != wanted for fixed, wanted in zip(dims[2:], size, strict=True))
    if size is not None and differs and not placeholder:
        raise SourceError(f"{path}: its input is fixed to {height}x{width}, not {size[0]}x{size[1]}; export it again")
    height, width = size or (height, width)
    check_size(str(path), (height, width))
    return value.name, (1, dims[1], height, width)


def rebuild(model: Any, path: Path, outputs: Sequence[str] = (), size: tuple[int, int] | None = None) -> fx.GraphModule:
    """The part of an ONNX model that computes ``outputs`` as a torch module in eval mode.

    Args:
        model: from `read_onnx`.
        path: for messages.
        outputs: tensor names, in order; empty for the model's own outputs.
        size: height and width, where the model leaves them open.

    Returns:
        A module (1, C, H, W) float32 -> tensor, or tuple of tensors if there are several. Its ``tensor_names`` maps
        names of ONNX tensors to names of fx nodes, for all that depend on the image.

    Raises:
        SourceError: an operator, attribute or input that cannot be rebuilt.
        ContractError: an output name that the model does not have.
    """
    name, shape = image_shape(model, path, size)
    wanted = list(outputs) or [value.name for value in model.graph.output]
    nodes = list(model.graph.node)
    makers = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    _check_names(path, wanted, [name, *makers])
    network = TorchGraph()
    values: dict[str, Operand] = {name: network.input(name, shape)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for index in _needed(wanted, makers, nodes):
        _convert(path, nodes[index], _opset(model), network, values, constants)
    return _module(path, network, values, wanted)


def _convert(
    path: Path, node: Any, opset: int, network: TorchGraph, values: dict[str, Operand], constants: dict[str, Any]
) -> None:
    """Rebuild one node; its outputs are added to ``values``."""
    label = node.name or next(iter(node.output), "")
    for given in node.input:
        if given and given not in values:
            values[given] = _tensor(path, constants[given])
    names = list(node.output)
    while names and not names[-1]:
        names.pop()
    step = Step(
        network=network,
        operator=node.op_type,
        label=label,
        opset=opset,
        attributes={attribute.name: _attribute(path, attribute) for attribute in node.attribute},
        inputs=tuple(values[given] if given else None for given in node.input),
        outputs=tuple(names),
    )
    function = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if function is None:
        raise SourceError(f"{path}: {_unknown(node, label)}")
    try:
        result = function(step)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error
    except (RuntimeError, ValueError, TypeError, LookupError, NotImplementedError) as error:
        raise SourceError(
            f"{path}: operator {node.op_type} (node {label!r}) does not fit its inputs "
            f"({_first_line(error)}); check the file with ONNX Runtime"
        ) from error
    results = result if isinstance(result, (list, tuple)) else [result]
    values.update({output: part for output, part in zip(node.output, results, strict=False) if output})


def _module(path: Path, network: TorchGraph, values: dict[str, Operand], wanted: list[str]) -> fx.GraphModule:
    nodes = []
    for name in wanted:
        value = values.get(name)
        if not isinstance(value, Value):
            raise SourceError(f"{path}: output {name!r} does not depend on the image; cut the graph elsewhere")
        nodes.append(value.node)
    network.graph.output(nodes[0] if len(nodes) == 1 else tuple(nodes))
    network.graph.eliminate_dead_code()
    network.graph.lint()
    module = fx.GraphModule(network.root, network.graph).eval()
    kept = {node.name for node in module.graph.nodes}
    names = {name: value.node.name for name, value in values.items() if isinstance(value, Value)}
    module.__dict__["tensor_names"] = {name: node for name, node in names.items() if node in kept}
    return module


def _needed(wanted: list[str], makers: dict[str, int], nodes: list[Any]) -> list[int]:
    """Indices of the nodes that the wanted tensors are computed from, in the order of the graph."""
    found: set[int] = set()
    open_names = list(wanted)
    while open_names:
        index = makers.get(open_names.pop())
        if index is not None and index not in found:
            found.add(index)
            open_names += list(nodes[index].input)
    return sorted(found)


def _check_names(path: Path, wanted: list[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.3)
            raise ContractError(f"{path}: the graph has no tensor {name!r}; near it: {', '.join(near) or 'none'}")


def _unknown(node: Any, label: str) -> str:
    if node.op_type.startswith(QUANTIZED):
        return (
            f"operator {node.op_type} (node {label!r}): the graph is quantized already; give the float32 model, "
            "edgekit quantizes it for each target"
        )
    if node.op_type == "NonMaxSuppression":
        return (
            f"operator NonMaxSuppression (node {label!r}) cannot be converted, and need not be: edgekit does NMS "
            "itself; name the raw heads under cut: of a contract file, which edgekit inspect --contract-out writes"
        )
    domain = f"{node.domain}::" if node.domain else ""
    return (
        f"operator {domain}{node.op_type} (node {label!r}) cannot be converted; cut the graph before it or export "
        "the model differently"
    )


def _attribute(path: Path, attribute: Any) -> Any:
    """An attribute as a Python value: text, number, list of numbers, or tensor."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return _tensor(path, value) if isinstance(value, onnx.TensorProto) else value


def _tensor(path: Path, proto: Any) -> torch.Tensor:
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())
    except (TypeError, ValueError, KeyError) as error:  # KeyError: of a data type that there is not
        raise SourceError(f"{path}: tensor {proto.name!r} cannot be read ({_first_line(error)})") from error


def _opset(model: Any) -> int:
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
