"""HOST: one file per origin of a trained model. A source registers by declaring ``KIND``, ``matches`` and ``load``.

``matches(request) -> bool`` looks at the spelling and the file's first bytes only; ``load(request)`` reads the model: a
`TrainedModel` of one network, or a `WrittenModel` of several. ``TAKES`` names what else of a conversion's request the
source reads, and ``PARTS`` the parts that a user may name, where there are several. Sources import torch and other
heavy packages inside their functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import registry
from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, Origin, Output
from edgekit.sources import _hub

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.graph.blip2.blip2 import Blip2

WHOLE = "model"
"""Name of the only part of a model that is one network."""


@dataclass(frozen=True)
class Request:
    """What the user said about a source.

    ``size`` is the input (height, width) of the contract, for sources that do not fix one themselves. ``cut`` names
    the tensors that the contract cuts at, for sources with names of their own. ``trust`` allows unpickling and is only
    ever set by the user. ``model`` is a live network, which then is the source.
    """

    spec: str
    weights: Path | None = None
    size: tuple[int, int] | None = None
    cut: tuple[str, ...] = ()
    trust: bool = False
    model: nn.Module | None = None


@dataclass(frozen=True)
class Uncut:
    """How to decode the outputs of the model as it was given, to check that cutting it changed nothing."""

    decoder: Decoder
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model read from its source.

    Attributes:
        name: short name for bundles.
        module: the network as given, in eval mode; one input, NCHW float32, batch 1.
        example: an input of the right shape and dtype.
        origin: kind, file name and hash for the manifest.
        contract: derived from the source where it can be; None when only a contract file can tell.
        heads: the same network returning raw heads in the order of ``contract.outputs``, where the source knows its
            own head; None leaves the cut to `edgekit.graph.heads`.
        uncut: how to decode what ``module`` returns, where that is known.
    """

    name: str
    module: nn.Module
    example: torch.Tensor
    origin: Origin
    contract: Contract | None = None
    heads: nn.Module | None = None
    uncut: Uncut | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class WrittenModel:
    """A model of several parts, which may be too large to load: each is written from the checkpoint by tensors."""

    name: str
    source: Blip2
    origin: Origin
    contract: Contract


@dataclass(frozen=True)
class Source:
    """What an origin of models declares of itself.

    ``kind`` says what it is. ``takes`` names the options of a conversion that it reads, ``refuses`` says of others why
    it cannot; ``parts`` are those that a user may name.
    """

    kind: str
    matches: Callable[[Request], bool]
    load: Callable[[Request], TrainedModel | WrittenModel]
    takes: frozenset[str]
    parts: tuple[str, ...] = (WHOLE,)
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def written(self) -> bool:
        """Whether it yields a `WrittenModel`."""
        return self.parts != (WHOLE,)


def every() -> tuple[Source, ...]:
    """All sources, in the order in which they are asked."""
    # A live network is no text, so that no other source may look at it first.
    modules = sorted(registry.declared(__name__, "KIND").values(), key=lambda one: not one.__name__.endswith(".live"))
    return tuple(
        Source(
            kind=one.KIND,
            matches=one.matches,
            load=one.load,
            takes=one.TAKES,
            parts=getattr(one, "PARTS", (WHOLE,)),
            refuses=getattr(one, "REFUSES", {}),
        )
        for one in modules
    )


def find(request: Request) -> Source:
    """The source of what the user named; nothing is read.

    Raises:
        SourceError: no source knows it.
    """
    for source in every():
        if source.matches(request):
            return source
    kinds = "; ".join(source.kind for source in every())
    raise SourceError(f"{request.spec!r} is no source that edgekit knows; give one of: {kinds}")


def locate(spec: str) -> _hub.Snapshot:
    """Where a source is on this machine; a model of the hub is fetched, unless the cache has it.

    Raises:
        SourceError: it cannot be fetched.
    """
    if _hub.is_hub(spec):
        return _hub.fetch(spec)
    return _hub.Snapshot(str(Path(spec).absolute()) if Path(spec).is_dir() else spec, "")


def load(request: Request) -> TrainedModel | WrittenModel:
    """Read a trained model from whatever the user named.

    Raises:
        SourceError: nothing matches, or the source that matches cannot read it.
    """
    return find(request).load(request)


def load_network(request: Request) -> TrainedModel:
    """Read a trained model that is one network.

    Raises:
        SourceError: nothing matches, the source that matches cannot read it, or it has several parts.
    """
    found = load(request)
    if isinstance(found, WrittenModel):
        raise SourceError(f"{request.spec} has several parts ({', '.join(found.source.graphs)}); one network is needed")
    return found
