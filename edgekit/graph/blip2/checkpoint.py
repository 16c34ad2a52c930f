"""A trained model as Hugging Face saves it: a configuration, and tensors in one or several safetensors files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import SourceError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.structures import from_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SourceError: no such file, or not a JSON object.
    """
    try:
        document: dict[str, Any] = from_json(path.read_bytes(), dict[str, Any])
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; save the model with save_pretrained()") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    return document


class Checkpoint:
    """The tensors of a folder by name. Each is read from its memory-mapped file when it is asked for, and not kept.

    The file is closed again each time: pages of an open one that were read stay with the process, and would add up to
    the whole checkpoint.

    Args:
        folder: with ``config.json`` and ``model.safetensors``, or its shards and their index.

    Attributes:
        shapes: of all tensors by name, from the headers of the files.

    Raises:
        SourceError: a missing or damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / CONFIG)
        self._where: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self._paths():
            with _opened(path) as file:
                self._where.update(dict.fromkeys(file.keys(), path))
                self.shapes.update((name, tuple(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118

    def _paths(self) -> list[Path]:
        if (self.folder / INDEX).is_file():
            named = read_json(self.folder / INDEX).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
                raise SourceError(f"{self.folder / INDEX}: no weight_map of file names; save the model again")
            return [self.folder / Path(name).name for name in sorted(set(named.values()))]
        return [self.folder / WEIGHTS]

    def __contains__(self, name: str) -> bool:
        return name in self._where

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it.

        Raises:
            SourceError: the checkpoint has no tensor of that name.
        """
        self._file(name)
        return self.shapes[name]

    def __getitem__(self, name: str) -> Floats:
        """A tensor as float32.

        Raises:
            SourceError: the checkpoint has no tensor of that name.
        """
        return self.stored(name).astype(np.float32)

    def stored(self, name: str) -> NDArray[Any]:
        """A tensor in the precision of its file; bfloat16 is a dtype of `ml_dtypes`.

        Raises:
            SourceError: the checkpoint has no tensor of that name.
        """
        with _opened(self._file(name)) as file:
            return np.asarray(file.get_tensor(name))

    def _file(self, name: str) -> Path:
        if name not in self._where:
            raise SourceError(f"{self.folder}: no tensor {name!r}; is this a whole BLIP-2?")
        return self._where[name]

    def sha256(self) -> str:
        """Hash of the configuration and of every file of weights."""
        total = hashlib.sha256((self.folder / CONFIG).read_bytes())
        for path in self._paths():
            total.update(bundle.sha256(path).encode())
        return total.hexdigest()


def _opened(path: Path) -> Any:
    import ml_dtypes  # noqa: F401 - gives numpy the bfloat16 that safetensors asks it for
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; only safetensors are read (save_pretrained() writes them)") from error
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path}: not a whole safetensors file ({error}); download it again") from error
