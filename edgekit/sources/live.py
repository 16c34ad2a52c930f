"""A network that the caller holds in memory, with its contract in its attribute ``contract`` or in a file."""

from __future__ import annotations

import copy

from edgekit.errors import SourceError
from edgekit.sources import Request, Source, TrainedModel
from edgekit.sources.factory import trained_model


def matches(request: Request) -> bool:
    """Whether there is one."""
    return request.model is not None


def load(request: Request) -> TrainedModel:
    """Take over a copy of the network; the caller's stays as it is.

    Raises:
        SourceError: it is not a network.
        UsageError: the input size is known from nowhere.
    """
    from torch import nn

    if not isinstance(request.model, nn.Module):
        raise SourceError(f"a {type(request.model).__name__} is not a torch.nn.Module")
    module, name = copy.deepcopy(request.model), type(request.model).__qualname__
    return trained_model(request, module, name.rpartition(".")[2].lower(), f"{type(request.model).__module__}:{name}")


# A live network is no text, so that no other source may look at it first.
SOURCE = Source("a live torch.nn.Module (from Python)", matches, load, order=1)
