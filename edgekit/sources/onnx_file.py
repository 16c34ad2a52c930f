"""HOST: an ONNX file (opset 11 to 22, float32, one image input) as a trained model for every target.

The graph is rebuilt as a torch module, because everything else in edgekit starts from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.manifest import Origin
from edgekit.sources import Request, TrainedModel

if TYPE_CHECKING:
    from torch import nn

KIND = "an ONNX file (.onnx)"


def matches(request: Request) -> bool:
    """Whether the spelling is that of an ONNX file."""
    return request.spec.lower().endswith(".onnx")


def load(request: Request) -> TrainedModel:
    """Read an ONNX file as it is, with its own outputs; a contract file has to say what they mean.

    ``module.tensor_names`` maps ONNX tensor names to fx node names. ``example`` is (1, C, H, W) float32; a dynamic
    batch is fixed to 1, a dynamic height and width to ``request.size``.

    Raises:
        SourceError: damaged, quantized, with another input than one image, or with operators that cannot be rebuilt.
    """
    import torch

    from edgekit.bundle import sha256
    from edgekit.sources._onnx_to_torch import image_shape, read_onnx, rebuild

    path = Path(request.spec)
    model = read_onnx(path)
    _, shape = image_shape(model, path, request.size)
    return TrainedModel(
        name=path.stem,
        module=rebuild(model, path, size=request.size),
        example=torch.zeros(shape),
        origin=Origin(kind="onnx", name=path.name, sha256=sha256(path)),
        notes=(f"{len(model.graph.node)} ONNX operators rebuilt in torch",),
    )


def cut_at(path: Path, tensor_names: Sequence[str], size: tuple[int, int] | None = None) -> nn.Module:
    """The part of an ONNX file that computes the named tensors, returning them in this order.

    Nothing behind the cut is read, so it may hold operators that cannot be converted. One name gives a module that
    returns one tensor, several give a tuple.

    Raises:
        SourceError: as `load`.
        ContractError: a name that the graph does not have; the nearest are listed.
    """
    from edgekit.sources._onnx_to_torch import read_onnx, rebuild

    return rebuild(read_onnx(path), path, tensor_names, size)
