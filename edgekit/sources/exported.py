"""A torch.export program saved as ``.pt2``."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import bundle
from edgekit.errors import SourceError
from edgekit.manifest import Origin
from edgekit.sources import Request, TrainedModel

if TYPE_CHECKING:
    import torch

KIND = "a torch.export program (.pt2)"

_SYMBOLIC = re.compile(r"(?:[su]\d+|\d+|Max|Min|Mod|FloorDiv|CeilDiv|PythonMod|True|False|Eq|Ne|[\s+\-*/(),<>=])*")


def matches(request: Request) -> bool:
    """Whether this is a file that ends in ``.pt2``."""
    return request.spec.endswith(".pt2")


def load(request: Request) -> TrainedModel:
    """Read the program.

    Raises:
        SourceError: no such file, damaged, holding pickled objects without ``--trust``, or not one NCHW image in.
    """
    import torch

    path = Path(request.spec)
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if not request.trust:
        refuse_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except (RuntimeError, KeyError, ValueError, AssertionError, zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{path}: not a torch.export program that torch {torch.__version__} reads: {error}"
        ) from error
    shape = input_shape(program, str(path))
    return TrainedModel(
        name=path.stem,
        module=program.module(),
        example=torch.zeros(shape),
        origin=Origin(kind="torch.export", name=path.name, sha256=bundle.sha256(path)),
    )


def input_shape(program: torch.export.ExportedProgram, origin: str) -> tuple[int, int, int, int]:
    """The (1, 3, height, width) of a program's only input; a symbolic batch becomes 1.

    Raises:
        SourceError: another number of inputs, or not an image.
    """
    import torch

    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor) or values[0].ndim != 4:
        raise SourceError(
            f"{origin}: takes {len(names)} inputs ({', '.join(map(str, names))}); one NCHW image is needed"
        )
    shape = [size if isinstance(size, int) else None for size in values[0].shape]
    batch, channels, height, width = shape
    if batch not in (1, None) or channels != 3 or height is None or width is None:
        given = ", ".join("dynamic" if size is None else str(size) for size in shape)
        raise SourceError(f"{origin}: the input is ({given}); export it with one image (1, 3, height, width)")
    return 1, 3, height, width


def refuse_pickles(path: Path) -> None:
    """Make sure that opening a ``.pt2`` cannot run code: ``torch.export.load`` unpickles some of its parts.

    Pickled payloads are refused, sample inputs must pass ``weights_only=True`` (where torch would silently fall back
    to the unrestricted kind), and symbolic sizes, which sympy evaluates, may hold nothing but arithmetic.

    Raises:
        SourceError: not a zip archive, or one of these.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/archive_format") for name in names):
                raise SourceError(
                    f"{path}: not a .pt2 archive of torch >= 2.8; save it again, or vouch for it with --trust"
                )
            for name in names:
                _check_part(path, name, archive)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path}: damaged or not a .pt2 file ({error}); copy or export it again") from error


def _check_part(path: Path, name: str, archive: zipfile.ZipFile) -> None:
    if name.endswith("_config.json"):
        payloads = json.loads(archive.read(name)).get("config", {})
        pickled = [key for key, payload in payloads.items() if _is_pickled(payload)]
        if pickled:
            raise SourceError(
                f"{path}: {', '.join(pickled[:3])} in {name} are pickled; vouch for the file with --trust"
            )
    elif name.endswith(".pt"):
        _check_tensors_only(path, name, archive.read(name))
    elif "/models/" in name and name.endswith(".json"):
        for text in re.findall(rb'"expr_str":\s*"((?:[^"\\]|\\.)*)"', archive.read(name)):
            if not _SYMBOLIC.fullmatch(text.decode("utf-8", "replace")):
                raise SourceError(
                    f"{path}: the symbolic size {text[:60]!r} is not arithmetic; vouch for it with --trust"
                )


def _is_pickled(payload: dict[str, Any]) -> bool:
    return bool(payload.get("use_pickle")) or not str(payload.get("path_name", "")).startswith(("weight_", "tensor_"))


def _check_tensors_only(path: Path, name: str, data: bytes) -> None:
    import pickle

    import torch

    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise SourceError(f"{path}: {name} holds more than tensors; vouch for the file with --trust") from error
