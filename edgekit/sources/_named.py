"""Shared by sources by name: networks that a library builds, with weights from a file and nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import ImageRule, Origin
from edgekit.sources import SourceRequest
from edgekit.sources._weights import load_weights, read_weights, state_hash

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[int | None], "nn.Module"]
"""Builds the network for so many classes; for the library's own number where it is None."""

State = Mapping[str, Any]

_TRIALS = (7, 11)
"""Numbers of classes that no layer has by chance."""


def name_of(request: SourceRequest, library: str) -> str:
    """The name after ``library:``; empty for any other source."""
    start, _, name = request.spec.partition(":")
    return name if start == library else ""


def state_of(request: SourceRequest) -> dict[str, Any]:
    """The tensors of ``--weights`` by name, empty without it.

    Raises:
        SourceError: the file cannot be read.
    """
    if request.weights is None:
        return {}
    state = read_weights(request.weights, trust=request.trust)
    return {str(name).removeprefix("module."): value for name, value in state.items()}  # as DataParallel saves it


def built(request: SourceRequest, build: Build, state: State) -> nn.Module:
    """The network in eval mode with its weights, for as many classes as these are for.

    Raises:
        SourceError: the weights do not fit.
    """
    module = build(_classes_in(build, state))
    if request.weights is not None:
        load_weights(module, dict(state), request.weights)
    return module.eval().requires_grad_(False)


def _classes_in(build: Build, state: State) -> int | None:
    """The number of classes that weights are for, from a tensor whose size grows with it; None where none tells."""
    import torch

    if not state:
        return None
    with torch.device("meta"):
        few, many = (build(count).state_dict() for count in _TRIALS)
    for name, value in many.items():
        sizes = zip(few[name].shape, value.shape, strict=True) if name in few and name in state else ()
        for axis, (low, high) in enumerate(sizes):
            each = (high - low) // (_TRIALS[1] - _TRIALS[0])
            given = getattr(state[name], "shape", ())
            if each and axis < len(given):
                count: int = (given[axis] - low) // each + _TRIALS[0]
                return count if count > 0 else None
    return None


def origin_of(request: SourceRequest, kind: str, name: str, module: nn.Module) -> Origin:
    """The manifest's entry, with the hash of the weights."""
    sha256 = bundle.sha256(request.weights) if request.weights is not None else state_hash(module)
    return Origin(kind=kind, name=name, sha256=sha256)


def doubts_of(request: SourceRequest) -> tuple[str, ...]:
    """A warning where there are no weights."""
    if request.weights is not None:
        return ()
    return (f"the weights are random: nothing is downloaded; give those of {request.spec} with --weights FILE",)


def run_once(request: SourceRequest, module: nn.Module, rule: ImageRule) -> Any:
    """The outputs of a network for an empty image of the size of its contract.

    Raises:
        SourceError: it takes no such image.
    """
    import torch

    height, width = rule.size
    try:
        with torch.no_grad():
            return module(torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise SourceError(
            f"{request.spec}: takes no image of {height}x{width}: {str(error).splitlines()[0][:200]}"
        ) from error
