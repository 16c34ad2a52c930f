"""Exchange files: one float32 network with raw heads, as a torch.export program and as ONNX.

Every converter starts from one of the two, so what is simplified here (BatchNorm folded into convolutions) is
simplified once for all targets.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import SourceError
from edgekit.graph.refusals import changing_output, refusal

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

INPUT = "images"
"""Name of the input tensor."""

ONNX, PROGRAM = "graph.onnx", "graph.pt2"
"""Names of the two files."""

OPSET = 18
"""The dynamo exporter is native for opsets 18 to 25; 17 gives an invalid Split, 26 does not pass the checker."""


@dataclass(frozen=True)
class Exchange:
    """Paths of the two forms, the output shapes by contract name, and the number of exact rewrites of each kind."""

    onnx: Path
    program: Path
    shapes: dict[str, tuple[int, ...]]
    rewrites: dict[str, int] = field(default_factory=dict)


def write_exchange(module: nn.Module, example: torch.Tensor, outputs: tuple[str, ...], folder: Path) -> Exchange:
    """Export a network that returns raw heads, in the order of the names ``outputs``.

    Args:
        module: eval-mode network, one NCHW float32 input, returns a tensor or a flat tuple of tensors.
        example: an input of the final shape, batch 1.
        outputs: names of the outputs, in order.
        folder: where ``graph.onnx`` and ``graph.pt2`` are written.

    Raises:
        SourceError: the network cannot be exported, or has another number of outputs.
    """
    from edgekit.graph.rewrites import rewritten

    graph, rewrites = rewritten(flatten(module, example), example)
    program = export_program(graph, example)
    shapes = output_shapes(program)
    if len(shapes) != len(outputs):
        raise SourceError(
            f"the network has {len(shapes)} outputs, the contract names {len(outputs)}: {', '.join(outputs)}; "
            "name them all under cut: in the contract"
        )
    program_path, onnx_path = folder / PROGRAM, folder / ONNX
    save_program(program, program_path)
    _write_onnx(program, outputs, onnx_path)
    return Exchange(onnx_path, program_path, dict(zip(outputs, shapes, strict=True)), rewrites)


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a torch.export program to a file, by way of memory: where a disk is full, torch's own writer speaks of an
    unexpected position, and ends the process.

    Raises:
        OSError: it cannot be written.
    """
    import torch

    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def flatten(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """The network as one flat graph of aten operators, with BatchNorm folded into the convolutions before it and
    without the transposes of another framework's layout.

    Raises:
        SourceError: torch.export cannot follow the network.
    """
    from edgekit.graph.fold import fold_batch_norm
    from edgekit.graph.layout import simplify_layout

    return fold_batch_norm(simplify_layout(export_program(module, example).module()))


def export_program(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """A network as a torch.export program.

    Raises:
        SourceError: torch.export cannot follow it.
    """
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,))
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise SourceError(f"torch.export cannot follow this network: {refusal(error)}") from error
    if changing := changing_output(program):
        raise SourceError(f"torch.export cannot follow this network: {changing}")
    return program


def output_shapes(program: torch.export.ExportedProgram) -> list[tuple[int, ...]]:
    """Static shapes of a program's outputs, in order."""
    (result,) = [node for node in program.graph.nodes if node.op == "output"]
    return [tuple(int(size) for size in node.meta["val"].shape) for node in result.args[0]]


def _write_onnx(program: torch.export.ExportedProgram, outputs: tuple[str, ...], path: Path) -> None:
    """ONNX by the dynamo exporter, simplified and checked."""
    import onnx
    import onnxslim
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).partition("\n")[0]  # the rest is advice to PyTorch's developers
            raise SourceError(
                f"the ONNX exporter cannot write this network ({reason}); write that operator in another way"
            ) from error
    if exported is None:
        raise SourceError("the ONNX exporter gave no model; try the source as an .onnx file")
    model = onnxslim.slim(exported.model_proto)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


COMPLEX_DFT = "DFT of complex numbers"


def operators(path: Path) -> dict[str, str]:
    """Operator types of an exchange file, each with the name of the first node that has it.

    A Fourier transform of complex numbers has a name of its own, `COMPLEX_DFT`, too: some engines take those of real
    numbers only.
    """
    import onnx

    found: dict[str, str] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        found.setdefault(node.op_type, node.name)
        if node.op_type == "DFT" and not any(one.name == "onesided" and one.i for one in node.attribute):
            found.setdefault(COMPLEX_DFT, node.name)
    return found
