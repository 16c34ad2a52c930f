"""Weights from a file, into a network that Python has built."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.sources._archive import refuse_bomb
from edgekit.sources._fit import load_strictly

if TYPE_CHECKING:
    from torch import nn

WRAPPERS = ("state_dict", "model", "model_state_dict", "ema")
"""Keys under which checkpoints keep a state dict."""


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
        for key in WRAPPERS:
            if isinstance(loaded.get(key), Mapping | nn.Module):
                return _state_dict(loaded[key], path)
        return dict(loaded)
    raise SourceError(f"--weights {path}: holds a {type(loaded).__name__}, not a state dict")


def load_weights(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a state dict that `read_weights` gave, also of a network that was trained as a ``DataParallel``.

    Raises:
        SourceError: it does not fit.
    """
    own = module.state_dict()
    if not any(name.startswith("module.") for name in own):  # as DataParallel saves it
        state = {str(name).removeprefix("module."): value for name, value in state.items()}
    load_strictly(module, state, f"--weights {path}")


def state_hash(module: nn.Module) -> str:
    """Hash of weights that came from no file."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
