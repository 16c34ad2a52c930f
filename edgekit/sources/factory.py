"""``package.module:factory`` with ``--weights``: any PyTorch network that Python can build."""

from __future__ import annotations

import difflib
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, SourceError, UsageError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import Contract, Origin
from edgekit.sources import Source, SourceRequest, TrainedModel, check_size
from edgekit.sources._archive import refuse_bomb
from edgekit.sources._fit import load_strictly
from edgekit.worker.user_modules import import_module, is_here

if TYPE_CHECKING:
    from torch import nn


_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "ema")


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
        _load_weights(module, read_weights(request.weights, trust=request.trust), request.weights)
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
        origin=Origin(kind="factory", name=request.spec, sha256=origin_hash or _state_hash(module)),
        contract=contract,
        heads=module if contract is not None else None,
        notes=_notes(request.spec),
    )


def _notes(spec: str) -> tuple[str, ...]:
    module = sys.modules[spec.partition(":")[0]]
    return (f"{module.__name__} was imported from the current folder",) if is_here(module) else ()


def _build(spec: str) -> nn.Module:
    from torch import nn

    module_name, _, attribute = spec.partition(":")
    try:
        imported = import_module(module_name)
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


def read_weights(path: Path, *, trust: bool) -> dict[str, Any]:
    """A state dict from safetensors, or from a torch file by the restricted unpickler.

    Raises:
        SourceError: no such file, damaged, or holding objects other than tensors without ``trust``.
    """
    import torch

    if not path.is_file():
        raise SourceError(f"--weights {path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    refuse_bomb(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"--weights {path}: holds more than tensors{_object_in(str(error))}; save a state dict, use "
            "safetensors, or vouch for the file with --trust"
        ) from error
    except Exception as error:  # a damaged file can make it raise anything
        raise SourceError(f"--weights {path}: damaged or not a torch file: {error}") from error
    return _state_dict(loaded, path)


def _object_in(text: str) -> str:
    """The object that torch's restricted unpickler names in its error, in brackets."""
    found = re.search(r"GLOBAL (\w[\w.]*)", text)
    return f" (an object of {found[1]})" if found else ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise SourceError(f"--weights {path}: damaged or not a safetensors file: {error}") from error


def _state_dict(loaded: object, path: Path) -> dict[str, Any]:
    """The state dict in what a checkpoint holds, looking through the usual wrappers."""
    from torch import nn

    if isinstance(loaded, nn.Module):
        return dict(loaded.state_dict())
    if isinstance(loaded, Mapping):
        for key in _WRAPPERS:
            if isinstance(loaded.get(key), Mapping | nn.Module):
                return _state_dict(loaded[key], path)
        return dict(loaded)
    raise SourceError(f"--weights {path}: holds a {type(loaded).__name__}, not a state dict")


def _load_weights(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    own = module.state_dict()
    if not any(name.startswith("module.") for name in own):  # as DataParallel saves it
        state = {str(name).removeprefix("module."): value for name, value in state.items()}
    load_strictly(module, state, f"--weights {path}")


def _state_hash(module: nn.Module) -> str:
    """Hash of weights that came from no file."""
    import hashlib

    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


SOURCE = Source(
    "package.module:factory with --weights FILE",
    matches,
    load,
    order=50,
    takes=frozenset({"contract", "size", "weights", "trust"}),
)
