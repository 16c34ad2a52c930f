"""Zip archives that PyTorch reads: a bound on what they unpack to, before anything is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from edgekit.errors import SourceError

RATIO = 20
"""Times its own size that an archive may unpack to. PyTorch stores tensors uncompressed; zipped again they shrink by a
tenth, text to a tenth."""

FREE = 1 << 24
"""Bytes that every archive may unpack to, however small it is."""


def refuse_bomb(path: Path, inner: IO[bytes] | None = None, size: int = 0) -> None:
    """Refuse an archive that unpacks to many times its size; a file that is no zip archive passes.

    What the directory declares is what is counted: zipfile and PyTorch read no more of an entry than that, and refuse
    one whose data does not end there.

    Args:
        path: the archive.
        inner: an archive within it, to be looked at instead.
        size: of that one.

    Raises:
        SourceError: it does.
    """
    try:
        with zipfile.ZipFile(inner or path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError):
        return  # whoever reads it says what it is instead
    size = size or path.stat().st_size
    if declared > max(RATIO * size, FREE):
        raise SourceError(
            f"{path}: {size:,} bytes that unpack to {declared:,}; PyTorch writes no such archive, save the model again"
        )
