"""Whether the tensors of a file are those of the network: one that is missing would stay random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError

if TYPE_CHECKING:
    import torch
    from torch import nn

SHOWN = 3
"""Names in a message; the others are counted."""

COUNTERS = "num_batches_tracked"
"""How many batches a BatchNorm has seen: read in training only, and left out by older files."""

Shape = tuple[int, ...]


def refuse_misfit(
    where: str,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Mapping[str, tuple[Shape, Shape]],
) -> None:
    """Refuse tensors that do not fit a network; source and bundle would agree all the same.

    Args:
        where: the file, for the message.
        missing: names that the network has and the file lacks.
        unexpected: names that the file has and the network lacks.
        mismatched: shapes in the file and in the network, by name.

    Raises:
        SourceError: there are any; with their counts and the first names.
    """
    shapes = [f"{name} {list(given)} for {list(wanted)}" for name, (given, wanted) in sorted(mismatched.items())]
    found = {
        "missing": sorted(name for name in missing if not name.endswith(COUNTERS)),
        "unexpected": sorted(name for name in unexpected if not name.endswith(COUNTERS)),
        "of another shape": shapes,
    }
    said = [f"{len(names)} {what} ({_first(names)})" for what, names in found.items() if names]
    if said:
        raise SourceError(
            f"{where} does not fit the network: tensors {', '.join(said)}; give the weights of this very network"
        )


def load_strictly(module: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict that has every tensor of a network and no other.

    Raises:
        SourceError: it does not fit, or holds something else than tensors, or quantised ones.
    """
    import torch

    own = module.state_dict()
    others = [str(name) for name, value in state.items() if name in own and not isinstance(value, torch.Tensor)]
    if others:
        raise SourceError(f"{where} does not fit the network: {_first(others)} is no tensor; save its state_dict()")
    shapes = {
        name: (tuple(state[name].shape), tuple(value.shape))
        for name, value in own.items()
        if isinstance(value, torch.Tensor) and name in state and state[name].shape != value.shape
    }
    refuse_misfit(where, own.keys() - state.keys(), (str(name) for name in state if name not in own), shapes)
    coded = [name for name, value in own.items() if value.is_floating_point() and not _is_float(state.get(name, value))]
    if coded:
        raise SourceError(
            f"{where}: {_first(coded)} {'is' if len(coded) == 1 else 'are'} quantised already "
            f"({state[coded[0]].dtype}); give the weights in float"
        )
    try:
        module.load_state_dict(dict(state), strict=False)  # but for counters, which were compared with the rest
    except (RuntimeError, AttributeError, TypeError) as error:
        raise SourceError(f"{where} does not fit the network: {error}") from error


def _is_float(value: torch.Tensor) -> bool:
    """Whether a tensor holds numbers, and not the codes of quantised ones."""
    return value.is_floating_point() and value.itemsize > 1


def _first(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
