"""Small files of every format of images and videos that is written here: what tests damage, and mutants come from."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image as pil  # noqa: N813

from edgekit.runtimes.inputs.media import IMAGE_SUFFIXES

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(suffix: str) -> bytes:
    picture: Any = PICTURE[..., 0].copy() if suffix in (".pgm", ".pbm") else PICTURE
    if suffix in (".hdr", ".pfm"):
        picture = PICTURE.astype(np.float32) / 255
    return bytes(cv2.imencode(suffix, picture)[1].tobytes())


def by_pillow(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    pil.fromarray(PICTURE).save(file, form, **options)
    return file.getvalue()


WRITTEN: dict[str, Callable[[], bytes]] = {
    **{
        suffix: lambda suffix=suffix: encoded(suffix)  # type: ignore[misc]
        for suffix in sorted({*IMAGE_SUFFIXES, ".pam", ".ras", ".sr", ".hdr", ".pfm"} - {".dib", ".jpe"})
    },
    "progressive": lambda: by_pillow("JPEG", progressive=True),
    "lossless": lambda: by_pillow("WEBP", lossless=True),
    "bigtiff": lambda: by_pillow("TIFF", big_tiff=True),
    "j2k": lambda: by_pillow("JPEG2000", no_jp2=True),
    "animated": lambda: by_pillow("WEBP", save_all=True, append_images=[pil.fromarray(255 - PICTURE)]),
}


def film(path: Path, codec: str) -> Path:
    """A video of five frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (48, 32))
    for number in range(5):
        writer.write(np.roll(PICTURE, number, 1))
    writer.release()
    return path
