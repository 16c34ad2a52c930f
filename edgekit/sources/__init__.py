"""HOST: one file, or one folder, per origin of a trained model, found by its ``SOURCE``; other files are helpers.

Sources import torch and other heavy packages inside their functions.
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
from edgekit.worker.user_modules import search_current_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.graph.blip2.blip2 import Blip2

MOST_PIXELS = 1 << 26
"""Of an input: 8192 x 8192. Larger ones are mistakes, and take gigabytes before anything notices."""

WHOLE = "model"
"""Name of the only part of a model that is one network."""


@dataclass(frozen=True)
class SourceRequest:
    """A source as the user names it, with its options.

    ``size`` is the input (height, width) of the contract, for sources that do not fix one themselves. ``cut`` names
    the tensors that the contract cuts at, for sources with names of their own. ``trust`` allows unpickling and is only
    ever set by the user.
    """

    spec: str
    weights: Path | None = None
    size: tuple[int, int] | None = None
    cut: tuple[str, ...] = ()
    trust: bool = False


@dataclass(frozen=True)
class Uncut:
    """How to decode the model's original, uncut outputs, to check that the cut changed nothing."""

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
        check: raises a SourceError where ``module`` gives something else for an input than the file itself does, for
            sources that are rebuilt.
        notes: how it was read.
        doubts: what a user should be warned of, in sentences.
    """

    name: str
    module: nn.Module
    example: torch.Tensor
    origin: Origin
    contract: Contract | None = None
    heads: nn.Module | None = None
    uncut: Uncut | None = None
    check: Callable[[torch.Tensor], None] | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenModel:
    """A model of several parts, which may be too large to load; each is written tensor by tensor."""

    name: str
    source: Blip2
    origin: Origin
    contract: Contract


@dataclass(frozen=True)
class Source:
    """Declaration of a kind of source, as ``SOURCE``.

    Attributes:
        kind: what the user gives, in words.
        matches: whether it is meant; looks at the spelling and the file's first bytes only.
        load: reads the model: of one network, or of several parts.
        order: sources with a lower number are asked first, one from outside before edgekit's own unless it says
            otherwise. A narrow source has a lower number than a wide one that would take the same model; no other two
            of edgekit's own claim one model.
        takes: names of options of a conversion that it reads, besides those that all read.
        refuses: why it cannot read others, by name.
        parts: of its models, as a user names them.
    """

    kind: str
    matches: Callable[[SourceRequest], bool]
    load: Callable[[SourceRequest], TrainedModel | WrittenModel]
    order: int = 0
    takes: frozenset[str] = frozenset({"contract", "size"})
    refuses: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = (WHOLE,)

    @property
    def written(self) -> bool:
        """Whether it yields a `WrittenModel`."""
        return self.parts != (WHOLE,)


def check_size(where: str, size: tuple[int, int]) -> None:
    """Refuse an input size that no network has.

    Raises:
        SourceError: (height, width) is empty, or of more than `MOST_PIXELS`.
    """
    height, width = size
    if min(size) < 1 or height * width > MOST_PIXELS:
        raise SourceError(f"{where}: an input of {height} x {width} pixels; 1 to {MOST_PIXELS} pixels are possible")


def every() -> tuple[Source, ...]:
    """All sources, in the order in which they are asked: by number, equal ones by name."""
    found: list[Source] = [module.SOURCE for module in registry.declared(__name__, "SOURCE").values()]
    return tuple(sorted(found, key=lambda source: source.order))


def find(request: SourceRequest) -> Source:
    """The kind of source that the user named; reads nothing.

    Raises:
        SourceError: no source knows it.
    """
    for source in every():
        if source.matches(request):
            return source
    kinds = "; ".join(source.kind for source in every())
    raise SourceError(f"{request.spec!r}: edgekit cannot tell what kind of model this is; give one of: {kinds}")


def locate(spec: str) -> _hub.Snapshot:
    """Where a source is on this machine; a model of the hub is fetched, unless the cache has it.

    Raises:
        SourceError: it cannot be fetched.
    """
    if _hub.is_hub(spec):
        return _hub.fetch(spec)
    return _hub.Snapshot(str(Path(spec).absolute()) if Path(spec).is_dir() else spec, "")


def load(request: SourceRequest) -> TrainedModel | WrittenModel:
    """Read a trained model from whatever the user named.

    Raises:
        SourceError: no source knows it, or the one that does cannot read it.
    """
    if request.trust:
        search_current_folder()  # what is unpickled may be of a class that is defined there
    return find(request).load(request)


def load_network(request: SourceRequest) -> TrainedModel:
    """Read a trained model that is one network.

    Raises:
        SourceError: no source knows it, the one that does cannot read it, or it has several parts.
    """
    found = load(request)
    if isinstance(found, WrittenModel):
        raise SourceError(f"{request.spec} has several parts ({', '.join(found.source.graphs)}); one network is needed")
    return found
