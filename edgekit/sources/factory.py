"""``package.module:factory`` with ``--weights``: any PyTorch network that Python can build."""

from __future__ import annotations

import difflib
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, SourceError, UsageError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import Contract, Origin
from edgekit.sources import Source, SourceRequest, TrainedModel, _torchvision, check_size
from edgekit.sources._weights import load_weights, read_weights, state_hash
from edgekit.worker.user_modules import import_module, is_here

if TYPE_CHECKING:
    from torch import nn


_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def matches(request: SourceRequest) -> bool:
    """Whether it is spelled ``module:attribute``."""
    return bool(_SPEC.fullmatch(request.spec))


def load(request: SourceRequest) -> TrainedModel:
    """Import the module, call the factory without arguments, load the weights.

    The factory returns an ``nn.Module``; if that has a ``contract`` attribute (a `Contract`), nothing else needs to be
    told. Importing runs the user's own code, as naming it asks for.

    Raises:
        SourceError: not importable, no such factory, not a network, or weights that do not fit.
        UsageError: the input size is known from nowhere.
    """
    import torch

    module = _build(request.spec)
    origin_hash = ""
    if request.weights is not None:
        load_weights(module, read_weights(request.weights, trust=request.trust), request.weights)
        origin_hash = bundle.sha256(request.weights)
    contract = getattr(module, "contract", None)
    if contract is not None and not isinstance(contract, Contract):
        raise SourceError(f"{request.spec}: its .contract must be an edgekit.Contract, not {type(contract).__name__}")
    size = request.size or (contract.image.size if contract else None)
    if size is None:
        raise UsageError(
            f"{request.spec}: give the input size in a contract file (--contract, image: {{size: [h, w]}})"
        )
    check_size(request.spec, size)
    return TrainedModel(
        name=request.spec.rpartition(":")[2].replace("_", "-"),
        module=module.eval(),
        example=torch.zeros(1, 3, *size),
        origin=Origin(kind="factory", name=request.spec, sha256=origin_hash or state_hash(module)),
        contract=contract,
        heads=module if contract is not None else None,
        notes=_notes(request.spec),
        doubts=_doubts(request, module),
    )


def _notes(spec: str) -> tuple[str, ...]:
    module = sys.modules[spec.partition(":")[0]]
    here = (f"{module.__name__} was imported from the current folder",) if is_here(module) else ()
    return (*here, *_torchvision.notes())


def _doubts(request: SourceRequest, module: nn.Module) -> tuple[str, ...]:
    """Whether the weights are random, which shows when the factory is called again."""
    import torch

    if request.weights is not None:
        return ()
    first, again = module.state_dict(), _build(request.spec).state_dict()
    random = [name for name, value in first.items() if name in again and not torch.equal(value, again[name])]
    if not random:
        return ()
    return (
        f"the weights are random: calling {request.spec} twice gives two different networks (first in {random[0]}); "
        "give the trained ones with --weights",
    )


def _build(spec: str) -> nn.Module:
    from torch import nn

    module_name, _, attribute = spec.partition(":")
    try:
        imported = _imported(module_name)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{spec}: cannot import {error.name!r}; is it installed, or the right folder in PYTHONPATH?"
        ) from error
    except Exception as error:
        raise SourceError(f"{spec}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not hasattr(imported, attribute):
        near = ", ".join(difflib.get_close_matches(attribute, dir(imported), n=3)) or "none"
        raise SourceError(f"{spec}: {module_name} has no {attribute!r}; near it: {near}")
    factory = getattr(imported, attribute)
    try:
        built = factory if isinstance(factory, nn.Module) else factory()
    except EdgekitError:
        raise
    except Exception as error:
        raise SourceError(f"{spec}: calling it without arguments failed: {type(error).__name__}: {error}") from error
    if not isinstance(built, nn.Module):
        raise SourceError(f"{spec}: returned {built!r:.60}, which is no network (torch.nn.Module)")
    return built


def _imported(name: str) -> ModuleType:
    """The module; again with torchvision's operators declared, where they do not load beside this torch."""
    try:
        return import_module(name)
    except RuntimeError as error:
        if _torchvision.WITHOUT_OPERATORS not in str(error):
            raise
        _torchvision.declare_operators()
        return import_module(name)


SOURCE = Source(
    "package.module:factory with --weights FILE",
    matches,
    load,
    order=50,
    takes=frozenset({"contract", "size", "weights", "trust"}),
)
