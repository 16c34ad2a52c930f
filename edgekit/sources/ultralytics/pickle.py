"""Reading the pickle of an ultralytics checkpoint without running what is in it.

torch's restricted unpickler reads it, with an allowlist made for the file at hand: layers of torch and ultralytics, and
plain data. Classes of layers are made empty and filled with their state, never called, because a pickle that calls
``DetectionModel(cfg)`` has text of its own evaluated as Python.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import pickle
import secrets
import struct
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.sources._archive import refuse_bomb

INSTALL = "pip install --no-deps ultralytics, and torchvision from the index that torch came from"
"""Packages besides edgekit[convert] for this source. ultralytics only reads torchvision's version at import."""

MODULE_PACKAGES = ("torch.nn.modules", "ultralytics.nn.modules", "ultralytics.nn.tasks")
"""Where the nn.Module subclasses of a checkpoint may come from."""

NUMPY_DATA = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
PATHS = tuple(f"{module}.{name}Path" for module in ("pathlib", "pathlib._local") for name in ("Posix", "Windows"))
SETTINGS = ("ultralytics.utils.IterableSimpleNamespace", "ultralytics.yolo.utils.IterableSimpleNamespace")
TRAINING_PACKAGES = ("ultralytics.utils.loss.", "ultralytics.utils.tal.", "ultralytics.yolo.utils.")
"""Losses and label assigners that older trainers saved along: read as empty objects, never as their classes."""

TRUST = "If you trust where the file comes from, give --trust (it may then run any code)"

DAMAGE = (RuntimeError, EOFError, LookupError, TypeError, ValueError, AssertionError, struct.error)
"""Errors of torch on bytes that are no pickle."""


def pickled_globals(path: Path) -> list[str]:
    """Names of the classes and functions a checkpoint asks for beyond torch's own safe ones; runs nothing.

    Raises:
        SourceError: the file is empty, truncated, no zip archive of torch.save, or one that unpacks to many times its
            size.
    """
    import torch

    if not path.is_file():
        raise SourceError(f"{path}: no such file; give the path of an ultralytics checkpoint")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: the file is empty (0 bytes); copy or train the checkpoint again")
    refuse_bomb(path)
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except ValueError as error:
        raise SourceError(
            f"{path}: {_first_line(error)}; give the original checkpoint of the training (best.pt), not an export of it"
        ) from error
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise SourceError(_damaged(path, error)) from error


def unpickle(path: Path, names: list[str], trust: bool) -> Any:
    """The object in a checkpoint whose `pickled_globals` are ``names``.

    Raises:
        SourceError: ultralytics is missing, the file is damaged, or asks for something that is not allowed without
            ``trust``.
    """
    import torch

    with _ultralytics(path):
        try:
            if trust:
                return torch.load(path, map_location="cpu", weights_only=False)
            with torch.serialization.safe_globals(_allowlist(path, names)):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise SourceError(f"{path}: refused to unpickle it: {_reason(error)}. {TRUST}") from error
        except (ImportError, AttributeError) as error:
            raise SourceError(
                f"{path}: its classes are not in the installed packages ({_first_line(error)}); install the version of "
                "ultralytics it was trained with"
            ) from error
        except DAMAGE as error:
            raise SourceError(_damaged(path, error)) from error


@contextlib.contextmanager
def _ultralytics(path: Path) -> Iterator[None]:
    """Import ultralytics without letting it install, reach the network, print, or write into the user's home."""
    with tempfile.TemporaryDirectory(prefix="edgekit-ultralytics-") as folder:
        wanted = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
        before = {name: os.environ.get(name) for name in (*wanted, "YOLO_CONFIG_DIR")}
        os.environ.update(wanted)
        os.environ.setdefault("YOLO_CONFIG_DIR", folder)
        try:
            _import_ultralytics(path)
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _import_ultralytics(path: Path) -> None:
    try:
        importlib.import_module("ultralytics.nn.tasks")
    except ImportError as error:
        raise SourceError(
            f"{path}: reading it needs the optional package ultralytics (AGPL-3.0), which cannot be imported here "
            f"({_first_line(error)}); {INSTALL}"
        ) from error


def _allowlist(path: Path, names: list[str]) -> list[Any]:
    """The objects that torch's restricted unpickler may use for the globals ``names`` of one file.

    Raises:
        SourceError: a global is neither a network layer nor plain data.
    """
    allowed: list[Any] = []
    refused = []
    for name in names:
        entries = _allow_data(name) or _allow_layer(name)
        allowed += entries
        if not entries:
            refused.append(name)
    if refused:
        raise SourceError(
            f"{path}: the pickle asks for {', '.join(sorted(refused))}: neither layers of torch or of the installed "
            f"ultralytics nor plain data. Give a network of your own as package.module:factory with --weights {path} "
            f"and a contract (docs/CONTRACT.md). {TRUST}"
        )
    return allowed


def _allow_data(name: str) -> list[Any]:
    """Allowlist entries for what is no layer: numbers, paths, settings, training leftovers as empty objects."""
    import numpy as np

    if name in NUMPY_DATA:
        value = np.dtype if name == "numpy.dtype" else np.float64(0).__reduce__()[0]
        kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]
        return [(value, name), *((kind, f"numpy.dtypes.{kind.__name__}") for kind in kinds)]
    if name in PATHS:
        return [(pathlib.PureWindowsPath if name.endswith("WindowsPath") else pathlib.PurePosixPath, name)]
    if name in SETTINGS:
        return [(types.SimpleNamespace, name)]
    if name.startswith(TRAINING_PACKAGES):
        return [(_Leftover, name)]
    return [(_forward_method, name)] if name == "builtins.getattr" else []


def _forward_method(*arguments: Any) -> Any:
    """The only ``getattr`` allowed in a checkpoint: fused models pickle ``layer.forward_fuse`` as their ``forward``."""
    from torch import nn

    if len(arguments) == 2 and isinstance(arguments[0], nn.Module) and arguments[1] in ("forward", "forward_fuse"):
        layer, name = arguments
        return getattr(type(layer), name).__get__(layer)
    raise pickle.UnpicklingError(f"it calls getattr with {', '.join(map(repr, arguments[1:])) or 'nothing'}")


class _Leftover:
    """Placeholder for an object of the training that is not needed; keeps its state as data."""


def _allow_layer(name: str) -> list[Any]:
    """Allowlist entries for a class of layers: a stand-in that makes empty instances, and the class to fill them.

    The unpickler fills only instances of allowed classes, so the real class is allowed too, but under a name that no
    file can know.
    """
    from torch import nn

    package, _, attribute = name.rpartition(".")
    if not _inside(package):
        return []
    try:
        real = getattr(importlib.import_module(package), attribute, None)
    except ImportError:
        return []
    if not (isinstance(real, type) and issubclass(real, nn.Module) and real.__new__ is object.__new__):
        return []
    if not _inside(real.__module__):
        return []
    return [(_stand_in(real), name), (real, secrets.token_hex(16))]


def _inside(package: str) -> bool:
    return any(package == allowed or package.startswith(f"{allowed}.") for allowed in MODULE_PACKAGES)


def _stand_in(real: type) -> type:
    """A class whose instances are empty instances of ``real``, made without running its constructor."""

    def empty(cls: type, *args: object) -> object:
        if args:
            raise pickle.UnpicklingError(f"it calls {real.__name__} with arguments of its own")
        return object.__new__(real)

    return type(real.__name__, (), {"__new__": empty})


def _damaged(path: Path, error: Exception) -> str:
    return f"{path}: truncated or damaged, not a readable checkpoint ({_first_line(error)}); copy or train it again"


def _reason(error: pickle.UnpicklingError) -> str:
    """The unpickler's own reason; torch wraps it in advice on how to switch the check off."""
    for cause in (error.__cause__, error.__context__):
        if isinstance(cause, pickle.UnpicklingError):
            return _first_line(cause)
    return next((line.strip() for line in str(error).splitlines() if "error:" in line), _first_line(error))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
