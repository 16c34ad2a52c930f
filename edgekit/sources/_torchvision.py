"""Importing torchvision, also beside a torch that it was not built for."""

from __future__ import annotations

import sys
from types import ModuleType

from edgekit.errors import SourceError

WITHOUT_OPERATORS = "operator torchvision::"
"""The error of importing it if its compiled operators do not load: ``operator torchvision::nms does not exist``."""

REMEDY = (
    "the installed torchvision was built for another torch, so that its compiled operators do not load; install the "
    "two together from one index: pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
)

NOTE = (
    "torchvision's compiled operators do not load beside this torch (pip install torch torchvision from one index "
    "mends it); only NMS and region pooling need them"
)

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_defined: list[object] = []
"""Keeps the definitions of operators alive."""


def import_torchvision(who: str) -> ModuleType:
    """The package, with its models.

    PyPI's torchvision is built for PyPI's torch; beside a torch for the CPU alone its operators do not load, and the
    import fails where it describes two of them. Networks need none of them, so they are declared without a body.

    Args:
        who: the source that needs it, for the message.

    Raises:
        SourceError: it is not installed, or its import fails for another reason.
    """
    try:
        try:
            import torchvision
        except RuntimeError as error:
            if WITHOUT_OPERATORS not in str(error):
                raise
            declare_operators()
            import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise SourceError(f"{who}: importing torchvision failed: {error}") from error
        raise SourceError(
            f"{who}: needs the optional package torchvision, of the build that fits torch: pip install torchvision "
            "--index-url https://download.pytorch.org/whl/cpu"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise SourceError(f"{who}: importing torchvision failed: {error}; {REMEDY}") from error
    library: ModuleType = torchvision
    return library


def declare_operators() -> None:
    """Declare the operators that torchvision's import describes, and forget the import that failed."""
    import torch

    if not _defined:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(name + _NMS)  # type: ignore[no-untyped-call]
        _defined.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def notes() -> tuple[str, ...]:
    """A note for users of a torchvision without its operators."""
    return (NOTE,) if _defined else ()
