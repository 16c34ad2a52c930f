"""Original weights: kept before rounding, and put back where a layer stays in float.

Which layers stay is decided after all have been rounded (their noise is observed in the rounded graph), and a budget
decides later still. So the weights from before are kept beside the graph, and put into its exchange files by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration.program_layers import constant, program_layers, storage
from edgekit.graph.exchange import save_program

if TYPE_CHECKING:
    import onnx
    from torch import fx

FILE = "originals.npz"
"""Beside ``graph.onnx``: ``NAME/weight`` and, where the layer has one, ``NAME/bias``."""


class Original(NamedTuple):
    """Weights and bias of a layer before rounding; ``bias`` is None where it had none."""

    weight: Floats
    bias: Floats | None


def originals_of(module: fx.GraphModule) -> dict[str, Original]:
    """The weights of every layer by its node, but for those that several layers share."""
    layers = program_layers(module)
    places = [storage(module, layer) for layer in layers]
    found: dict[str, Original] = {}
    for layer, place in zip(layers, places, strict=True):
        if places.count(place) > 1:
            continue
        bias: Any = layer.option(layer.bias, None) if layer.bias >= 0 else None
        found[layer.node.name] = Original(
            constant(module, layer.weight).detach().numpy().copy(),
            None if bias is None else constant(module, str(bias.target)).detach().numpy().copy(),
        )
    return found


def write_originals(originals: Mapping[str, Original], names: Mapping[str, str], folder: Path) -> None:
    """Keep them beside the exchange files, by the names that ``names`` gives the nodes; unnamed ones are left out."""
    arrays: dict[str, Any] = {}
    for node, original in originals.items():
        if node in names:
            arrays[f"{names[node]}/weight"] = original.weight
            if original.bias is not None:
                arrays[f"{names[node]}/bias"] = original.bias
    np.savez(folder / FILE, allow_pickle=False, **arrays)


def restore(source: Path, layers: Collection[str], folder: Path) -> int:
    """Write the exchange files of ``source`` into ``folder``, these layers with their own weights.

    A layer that is not the same in both files (a product whose bias became a sum) keeps its rounded weights.

    Returns:
        How many layers were given theirs.
    """
    import onnx
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    kept = read_originals(source / FILE, layers)
    model = onnx.load(source / "graph.onnx")
    places = _places(model, kept)
    if not places:
        for name in ("graph.onnx", "graph.pt2"):
            shutil.copyfile(source / name, folder / name)
        return 0
    program = torch.export.load(source / "graph.pt2")
    results = zip(model.graph.output, program.graph_signature.user_outputs, strict=True)
    nodes = {output.name: node for output, node in results}  # outputs alone have other names in ONNX
    done = 0
    for name, (weight, bias) in places.items():
        parameters = _parameters(program, nodes.get(name, name))
        original = kept[name]
        if parameters is None or not _fits(parameters[0], original.weight) or (bias is None) != (parameters[1] is None):
            continue
        values = [(weight, parameters[0], original.weight)]
        if bias is not None and parameters[1] is not None:
            # Correcting gave biases to layers that had none; _places and rounding agree on their length.
            own = np.zeros(tuple(parameters[1].shape), np.float32) if original.bias is None else original.bias
            values.append((bias, parameters[1], own))
        for tensor, parameter, value in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(value))
        done += 1
    onnx.save_model(model, folder / "graph.onnx")
    save_program(program, folder / "graph.pt2")
    return done


def put_back(model: onnx.ModelProto, originals: Mapping[str, Original]) -> None:
    """Give layers of an ONNX model the weights and biases that they had before rounding, in place."""
    import onnx

    for name, (weight, bias) in _places(model, originals).items():
        original = originals[name]
        weight.CopyFrom(onnx.numpy_helper.from_array(original.weight, weight.name))
        if bias is not None:
            own = np.zeros(tuple(bias.dims), np.float32) if original.bias is None else original.bias
            bias.CopyFrom(onnx.numpy_helper.from_array(own, bias.name))


def read_originals(path: Path, layers: Collection[str]) -> dict[str, Original]:
    """The weights of these layers from a file that `write_originals` wrote; none where there is no such file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        there = [name for name in layers if f"{name}/weight" in file]
        return {name: Original(file[f"{name}/weight"], file.get(f"{name}/bias")) for name in there}


def _places(
    model: onnx.ModelProto, kept: Mapping[str, Original]
) -> dict[str, tuple[onnx.TensorProto, onnx.TensorProto | None]]:
    """Initialisers of weights and bias of each of these layers that one operator is, alone with its weights."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found: dict[str, tuple[onnx.TensorProto, onnx.TensorProto | None]] = {}
    for node in model.graph.node:
        name = node.output[0]
        constants = list(node.input[1:])
        if name not in kept or not constants or any(c not in tensors or readers[c] > 1 for c in constants):
            continue
        weight = tensors[constants[0]]
        if tuple(weight.dims) == kept[name].weight.shape:
            found[name] = (weight, tensors[constants[1]] if len(constants) > 1 else None)
    return found


def _parameters(program: Any, name: str) -> tuple[Any, Any] | None:
    """Tensors of weights and bias of the node of this name in a program; the bias is None where it has none."""
    node = next((one for one in program.graph.nodes if one.name == name), None)
    if node is None:
        return None
    signature = program.graph_signature
    paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    weight, bias = (program.state_dict.get(paths.get(str(given), "")) for given in (*node.args[1:3], None)[:2])
    return None if weight is None else (weight, bias)


def _fits(tensor: Any, value: Floats) -> bool:
    return tuple(tensor.shape) == value.shape
