"""A torch.export program saved as ``.pt2``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import SourceError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import Origin
from edgekit.sources import Source, SourceRequest, TrainedModel, check_size
from edgekit.sources.exported.safety import refuse_code, refuse_damage

if TYPE_CHECKING:
    import torch


def matches(request: SourceRequest) -> bool:
    """Whether this is a file that ends in ``.pt2``."""
    return request.spec.endswith(".pt2")


def load(request: SourceRequest) -> TrainedModel:
    """Read the program.

    Raises:
        SourceError: no such file, damaged, able to run code without ``--trust``, exported in training mode, or not
            one NCHW float32 image in.
    """
    import torch

    path = Path(request.spec)
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    refuse_damage(path)
    if not request.trust:
        refuse_code(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = program.module(check_guards=False)  # guards are code of the file's; the size is fixed anyway
    except Exception as error:  # a file made by hand can make it raise anything
        raise SourceError(
            f"{path}: not a torch.export program that torch {torch.__version__} reads: {_brief(error)}"
        ) from error
    shape = input_shape(program, str(path))
    switches = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}  # argument: in training
    if any(node.target in switches and node.args[switches[node.target]] for node in program.graph.nodes):
        raise SourceError(f"{path}: exported in training mode; call .eval() on the network and export it again")
    return TrainedModel(
        name=path.stem,
        module=module,
        example=torch.zeros(shape),
        origin=Origin(kind="torch.export", name=path.name, sha256=bundle.sha256(path)),
    )


def input_shape(program: torch.export.ExportedProgram, origin: str) -> tuple[int, int, int, int]:
    """The (1, 3, height, width) of a program's only input; a symbolic batch becomes 1.

    Raises:
        SourceError: another number of inputs, or not an image.
    """
    import torch

    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor) or values[0].ndim != 4:
        raise SourceError(
            f"{origin}: takes {len(names)} inputs ({', '.join(map(str, names))}); one NCHW image is needed"
        )
    if values[0].dtype != torch.float32:
        raise SourceError(f"{origin}: the input is {values[0].dtype}; export the network with a float32 input")
    shape = [size if isinstance(size, int) else None for size in values[0].shape]
    batch, channels, height, width = shape
    if batch not in (1, None) or channels != 3 or height is None or width is None:
        given = ", ".join("dynamic" if size is None else str(size) for size in shape)
        raise SourceError(f"{origin}: the input is ({given}); export it with one image (1, 3, height, width)")
    check_size(origin, (height, width))
    return 1, 3, height, width


def _brief(error: Exception) -> str:
    """The last line of a torch error message, which has the reason, with the type of the error."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300] if str(error).strip() else ''}"


SOURCE = Source(
    "a torch.export program (.pt2)", matches, load, order=10, takes=frozenset({"contract", "size", "trust"})
)
