"""All sources of images: files, folders, lists, stacks, videos, cameras, datasets, arrays.

Images are uint8 (height, width, 3) BGR wherever they come from; arrays and stacks that are given are taken as BGR.
"""

from __future__ import annotations

import bisect
import glob
import logging
import os
import random
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, chain, takewhile
from itertools import count as numbers
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError, choices
from edgekit.runtimes.inputs import files, headers, stacks
from edgekit.runtimes.inputs.huggingface import Examples
from edgekit.runtimes.inputs.video import SILENCE, FrameReader, Read, StreamStoppedError, Video, quiet
from edgekit.runtimes.inputs.video import SUFFIXES as VIDEO_SUFFIXES

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
))
# fmt: on
"""File name endings that are taken for an image in folders and patterns."""

MOST_SILENCE = 86_400

MOST_LIST_BYTES = 1 << 28
MOST_LISTED = 4_000_000
"""Lines that a list of images may have."""

KINDS = (
    "an image file, a folder of images, a glob pattern, a .txt list of image files, a .npy or .npz stack, a video, "
    "a camera ('camera:0' or 0), an rtsp:// or http:// address, a Hugging Face dataset (hf://OWNER/NAME), "
    "a numpy array, a PIL image, or a list of these"
)

Source: TypeAlias = "str | os.PathLike[str] | int | NDArray[Any] | Sequence[Any] | Any"
OnError: TypeAlias = Literal["raise", "skip"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One image of a source, with its name and position.

    Attributes:
        image: uint8 (height, width, 3), BGR unless asked for otherwise.
        name: path of the image, or ``video.mp4#12`` (frame or position counted from 0) of what holds many.
        index: position in the whole stream, from 0; a skipped image leaves a gap.
        time: seconds since the start of the video or camera; None for stills.
    """

    image: Image = field(repr=False)
    name: str
    index: int
    time: float | None = None


@dataclass(frozen=True, eq=False)
class ImageReference:
    """An image that has not been read yet. ``open()`` reads it, and raises InputError where it cannot be read."""

    name: str
    open: Callable[[], Image] = field(repr=False)


@dataclass(frozen=True)
class _Stills:
    """Images that can be read in any order."""

    length: int
    name: Callable[[int], str]
    open: Callable[[int], Image]

    def read(self) -> Read:
        for index in range(self.length):
            name = self.name(index)
            try:
                yield name, None, self.open(index)
            except InputError as error:
                yield name, None, error


@dataclass(frozen=True)
class _Fetched:
    """Images of a dataset, fetched in order; those already fetched can be opened in any order."""

    examples: Examples

    @property
    def length(self) -> int:
        return len(self.examples)

    def name(self, index: int) -> str:
        return f"{self.examples.name}#{index}"

    def open(self, index: int) -> Image:
        return _decoded(self.examples[index], self.name(index))

    def read(self) -> Read:
        try:
            for index in takewhile(self.examples.reaches, numbers()):
                try:
                    yield self.name(index), None, self.open(index)
                except InputError as error:
                    yield self.name(index), None, error
        except InputError as error:  # the stream broke off
            yield self.examples.name, None, error


_Part: TypeAlias = "_Stills | Video | _Fetched"


def frames(
    source: Source, color: Literal["bgr", "rgb"] = "bgr", on_error: OnError = "raise", *, silence: float = SILENCE
) -> Iterator[SourceFrame]:
    """The images of a source one after the other; only one is in memory at a time.

    A source is an image file, a folder (its images by name, without subfolders), a glob pattern (``**`` goes into
    subfolders), a ``.txt`` list (one path a line, relative to the list's folder; ``#`` starts a comment line), a
    ``.npy`` or ``.npz`` stack or a numpy array (uint8 (n, height, width, 3) or (height, width, 3), BGR), a video
    file, a camera (``camera:0`` or ``0``), an address that OpenCV can open, a seeded choice of a Hugging Face dataset
    (``hf://OWNER/NAME?split=train&count=500``: see `inputs.huggingface`), a PIL image, or a list of these.
    A source that is not there or is empty is refused at once, before the first frame is asked for.

    Args:
        source: see above.
        color: channel order of the images that come out.
        on_error: ``raise`` at an image that cannot be read, or ``skip`` it with a warning in the log. A stream that
            stops is an error in any case.
        silence: seconds that a network stream may be silent.

    Raises:
        InputError: no such source, nothing in it, or (while iterating) a damaged image, which is named, or a camera or
            stream that stopped.
        UsageError: a wrong ``color``, ``on_error`` or ``silence``.
    """
    if color not in ("bgr", "rgb"):
        raise UsageError(f"color {choices(color, ('bgr', 'rgb'))}")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error {choices(on_error, ('raise', 'skip'))}")
    if not 0 < silence < MOST_SILENCE:
        raise UsageError(f"silence must be above 0 and below {MOST_SILENCE} seconds, not {silence:g}")
    parts = [replace(part, silence=silence) if isinstance(part, Video) else part for part in _parts(source)]
    return _frames(parts, color, on_error)


def _frames(parts: list[_Part], color: str, on_error: str) -> Iterator[SourceFrame]:
    index = 0
    for part in parts:
        with closing(part.read()) as read:  # type: ignore[type-var]
            for name, seconds, outcome in read:
                if not isinstance(outcome, InputError):
                    image = outcome if color == "bgr" else np.ascontiguousarray(outcome[..., ::-1])
                    yield SourceFrame(image, name, index, seconds)
                elif on_error == "raise" or isinstance(outcome, StreamStoppedError):
                    raise outcome
                else:
                    log.warning("skipped: %s", outcome)
                index += 1


def is_live(source: Source) -> bool:
    """Whether the source is a camera or a network stream."""
    return any(isinstance(part, Video) and part.live for part in _parts(source))


def count(source: Source) -> int | None:
    """Number of images that `frames` gives; None if unknown in advance (cameras, streams, some videos)."""
    total = 0
    for part in _parts(source):
        if (length := part.length) is None:
            return None
        total += length
    return total


class References(Sequence[ImageReference]):
    """Lazy references to every image of a source; see `references`. ``moving``: they are all frames of videos."""

    def __init__(self, parts: list[_Part]) -> None:
        self.moving = all(isinstance(part, Video) for part in parts)
        self._parts = [_numbered(part) if isinstance(part, Video) else part for part in parts]
        self._ends = list(accumulate(part.length for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> ImageReference: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageReference]: ...

    def __getitem__(self, index: int | slice) -> ImageReference | list[ImageReference]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        which = bisect.bisect_right(self._ends, index)
        part = self._parts[which]
        local = index - (self._ends[which] - part.length)
        return ImageReference(part.name(local), partial(part.open, local))


def _numbered(video: Video) -> _Stills:
    return _Stills(video.reliable_length(), lambda number: f"{video.name}#{number}", FrameReader(video))


def references(source: Source) -> References:
    """Every image of a source (as `frames` takes it) without reading any, to be opened in any order.

    References into one video share its decoder: opened in ascending order, the video is decoded once.

    Raises:
        InputError: no such source, nothing in it, or a camera or stream, which cannot be chosen from.
    """
    return References(_parts(source))


def select(source: Source, count: int, seed: int) -> list[ImageReference]:
    """``count`` images of a source, chosen at random without repetition, in the order of the source.

    The same source, count and seed give the same choice on every machine. All are taken where there are no more.

    Raises:
        InputError: as `references`. UsageError: a count below 1.
    """
    if count < 1:
        raise UsageError(f"count must be at least 1, not {count}")
    every = references(source)
    chosen = random.Random(seed).sample(range(len(every)), min(count, len(every)))  # noqa: S311 - not for secrets
    return [every[index] for index in sorted(chosen)]


def read_image(path: str | os.PathLike[str]) -> Image:
    """An image file as uint8 (height, width, 3) BGR, upright.

    Grey and palette images become colour, 16 bits become 8 (the upper ones), transparency is dropped (the colours
    beside it stay as they are), and the EXIF orientation is applied (as far as the installed OpenCV reads it for the
    format). Of a file that holds several images (TIFF, GIF, WebP, APNG, AVIF) the first page or frame is read; edgekit
    takes no animation for a video.

    Raises:
        InputError: missing, a directory, a named pipe or device, empty, unreadable, damaged, not an image, or larger
            than `inputs.MOST_PIXELS` or `files.MOST_BYTES`.
    """
    # Not by cv2.imread, which cannot open non-ASCII paths everywhere and does not say what failed.
    return _decoded(files.read_file(path), str(path))


def _decoded(data: bytes, name: str) -> Image:
    """An encoded image as `read_image` gives it; ``name`` is for errors."""
    import cv2

    if not data:
        raise InputError(f"{name}: is empty (0 bytes), not an image")
    headers.check_claim(data, name)
    # OpenCV 4 fills what a truncated JPEG lacks with grey, and calls it a success.
    if data.startswith(b"\xff\xd8") and not _jpeg_is_whole(data):
        raise InputError(f"{name}: the JPEG is cut short; copy or download it again")
    if data.startswith(b"\x89PNG") and not _png_is_whole(data):
        raise InputError(f"{name}: the PNG is cut short or damaged; copy or download it again")
    try:
        with quiet():
            image = cv2.imdecode(np.frombuffer(headers.straight_tiff(data, name), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{name}: cannot be decoded ({error.err})") from error
    if image is None:
        raise InputError(f"{name}: damaged, or not an image that OpenCV can decode; a source may be {KINDS}")
    return image  # type: ignore[return-value]


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether an end-of-image marker follows the start of the scan (ITU-T T.81, annex B).

    The marker of an embedded thumbnail comes before the scan, and inside a scan 0xFF is always stuffed.
    """
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return True  # not as the standard has it: the decoder shall judge
        marker = data[position + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _png_is_whole(data: bytes) -> bool:
    """Whether every chunk up to the last one is there (PNG, third edition, 5.3): OpenCV makes room for up to 4 GB for
    what a chunk's length claims."""
    place = 8
    while place + 12 <= len(data):
        kind = data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        if kind == b"IEND":
            return place <= len(data)
    return False


def _parts(source: Source, name: str = "array") -> list[_Part]:
    """The parts of a source. ``name`` is for arrays, which have none."""
    if isinstance(source, np.ndarray):
        return [_held(source, name)]
    if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
        return [Video(source, live=True)]
    if isinstance(source, str | os.PathLike) and (text := os.fspath(source)):
        return _named(text)
    if isinstance(source, list | tuple) and source:
        return list(chain.from_iterable(_parts(item, f"{name}[{place}]") for place, item in enumerate(source)))
    pil = sys.modules.get("PIL.Image")  # who has a PIL image has imported PIL
    if pil is not None and isinstance(source, pil.Image):
        called = getattr(source, "filename", "") or name
        return [_Stills(1, lambda _: called, lambda _: _from_pil(source, called))]
    raise InputError(f"{source!r} ({type(source).__name__}) is not a source of images; it may be {KINDS}")


def _named(text: str) -> list[_Part]:
    if re.match(r"(?i)(rtsps?|rtmps?|https?|udp|tcp|rtp)://", text):
        return [Video(text, live=True)]
    if camera := re.fullmatch(r"camera:(\d+)", text):
        return [Video(int(camera[1]), live=True)]
    if re.match(r"(?i)hf://", text):
        return [_Fetched(Examples(text))]
    path, there = Path(text), files.status(text)
    if there is not None and stat.S_ISDIR(there.st_mode):
        try:
            found = sorted(entry for entry in path.iterdir() if _is_visible(entry, IMAGE_SUFFIXES))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error
        if not found:
            raise InputError(f"{path}: no image in this folder (subfolders are not searched: try '{path}/**/*.jpg')")
        return _files(found)
    if files.is_regular(text):
        if path.suffix.lower() == ".txt":
            return _files(_listed(path))
        if path.suffix.lower() in stacks.SUFFIXES:
            return [_stored(stack) for stack in stacks.open_stacks(path)]
        return _files([path])
    if glob.has_magic(text):
        hits = sorted(Path(hit) for hit in glob.glob(text, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [hit for hit in hits if _is_visible(hit, IMAGE_SUFFIXES | VIDEO_SUFFIXES)]
        if not found:
            raise InputError(f"{text!r}: no image or video matches this pattern")
        return _files(found)
    raise InputError(f"{text!r}: no such file or folder; a source of images may be {KINDS}")


def _is_visible(path: Path, suffixes: frozenset[str]) -> bool:
    # macOS leaves files like ._photo.jpg beside photo.jpg, which are not images.
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _files(paths: Sequence[Path]) -> list[_Part]:
    """Images and videos in order, neighbouring images together."""
    parts: list[_Part] = []
    run: list[Path] = []
    for path in [*paths, None]:
        if path is not None and path.suffix.lower() not in VIDEO_SUFFIXES:
            run.append(path)
            continue
        if run:
            parts.append(_Stills(len(run), partial(_path_name, run), partial(_read_path, run)))
            run = []
        if path is not None:
            parts.append(Video(str(path)))
    return parts


def _path_name(paths: Sequence[Path], index: int) -> str:
    return str(paths[index])


def _read_path(paths: Sequence[Path], index: int) -> Image:
    return read_image(paths[index])


def _listed(path: Path) -> list[Path]:
    data = files.read_file(path, MOST_LIST_BYTES)
    if data.count(b"\n") > MOST_LISTED:
        raise InputError(f"{path}: this list has more than {MOST_LISTED} lines; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file with one image path a line ({error})") from error
    named = [line.strip() for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not named:
        raise InputError(f"{path}: this list names no image; write one path a line")
    return [path.parent / name for name in named]


def _held(array: NDArray[Any], name: str) -> _Stills:
    """Images in an array that the caller holds: handed on without a copy."""
    images = stacks.as_images(array, name)
    many = array.ndim == 4
    return _Stills(len(images), lambda i: f"{name}#{i}" if many else name, lambda i: images[i])


def _stored(stack: stacks.Stack) -> _Stills:
    return _Stills(stack.length, lambda i: f"{stack.name}#{i}", stack.read)


def _from_pil(picture: Any, name: str) -> Image:
    from PIL import ImageOps

    headers.check_size(picture.size, name)
    try:
        upright = ImageOps.exif_transpose(picture)
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:  # a file that PIL opened and cannot decode
        raise InputError(f"{name}: cannot be decoded ({error})") from error
    if upright.mode.startswith("I;16"):  # convert() would clip 16 bits to white
        grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.ascontiguousarray(np.asarray(upright.convert("RGB"), np.uint8)[..., ::-1])
