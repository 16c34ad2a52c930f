"""The size that an encoded image claims, from its own header, and how large an image may be.

A few kilobytes can claim an image of many gigabytes, which a decoder allocates before it notices that there is none.
So the claim is read before anything is decoded. All formats that OpenCV reads are known here; where a header is damaged
beyond that, OpenCV's own limit holds, as long as edgekit was imported before cv2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from edgekit.errors import InputError
from edgekit.runtimes.inputs import MOST_PIXELS

Size = tuple[int, int]
"""Width and height in pixels."""


_TIFF = rb"(II[*+]\x00|MM\x00[*+])"


def check_size(size: Size, name: str, most: int = MOST_PIXELS, form: str = "") -> None:
    """Refuse an image that claims more pixels than there may be.

    Raises:
        InputError: it does.
    """
    if size[0] * size[1] > most:
        raise InputError(
            f"{name}: claims {size[0]} x {size[1]} pixels, and edgekit decodes at most {most}{form}; "
            f"make it smaller, or cut it into tiles"
        )


def check_claim(data: bytes, name: str) -> None:
    """Refuse an encoded image whose header claims more pixels than there may be.

    Raises:
        InputError: it does.
    """
    if (size := claimed_size(data)) is not None:
        hungry = any(re.match(magic, data, re.DOTALL) for magic in _HUNGRY)
        check_size(size, name, *((MOST_PIXELS // 4, " of this format") if hungry else ()))


def claimed_size(data: bytes) -> Size | None:
    """Width and height that an encoded image claims; None where its header is not one of an image, or damaged."""
    for magic, read in _READERS:
        if re.match(magic, data, re.DOTALL):
            try:
                return read(data)
            except (struct.error, ValueError, IndexError, OverflowError):  # the header ends early
                return None
    return None


def _jpeg(data: bytes) -> Size | None:
    """ITU-T T.81, annex B: the frame header, before which there are segments. Decoders read over garbage between."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0:
        marker = data[place + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # no segment
            place += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        else:
            place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return None


def _png(data: bytes) -> Size | None:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes) -> Size | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> Size | None:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _webp(data: bytes) -> Size | None:
    """RFC 9649: the canvas of an extended file, the frame of a lossy (RFC 6386) or a lossless one."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


class Tag(NamedTuple):
    """The first value of a TIFF tag, and the place in the file where it is."""

    value: int
    place: int


def _tiff_tags(data: bytes) -> dict[int, Tag]:
    """The numeric tags in the first directory of a TIFF 6.0 or BigTIFF.

    Raises:
        struct.error: the file ends early.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (place,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, place)
    place += 8 if big else 2
    kinds = {1: "B", 3: "H", 4: "I", 16: "Q"}
    found: dict[int, Tag] = {}
    for entry in range(min(count, 0xFFFF)):
        start = place + entry * (20 if big else 12)
        tag, kind = struct.unpack_from(f"{order}HH", data, start)
        (values,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, start + 4)
        where = start + (12 if big else 8)
        if kind in kinds:
            form = f"{order}{kinds[kind]}"
            if values * struct.calcsize(form) > (8 if big else 4):  # the values are elsewhere
                (where,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, where)
            found[tag] = Tag(int(struct.unpack_from(form, data, where)[0]), int(where))
    return found


def _tiff(data: bytes) -> Size | None:
    """The image, or one of its tiles where that is larger: a decoder has room for a whole tile."""
    tags = _tiff_tags(data)

    def size(width: int, height: int) -> Size:
        return (tags[width].value, tags[height].value) if width in tags and height in tags else (0, 0)

    return max(size(256, 257), size(322, 323), key=lambda one: one[0] * one[1])


def straight_tiff(data: bytes, name: str) -> bytes:
    """A TIFF whose colours libtiff gives as they are: it multiplies those beside a straight alpha channel by it.

    Raises:
        InputError: its colours are in a space that OpenCV takes for RGB.
    """
    if not re.match(_TIFF, data):
        return data
    try:
        tags = _tiff_tags(data)
    except (struct.error, OverflowError):  # damaged: the decoder shall say so
        return data
    if (space := tags.get(262)) is not None and space.value in (8, 9, 10):
        raise InputError(f"{name}: its colours are CIE L*a*b*, which OpenCV does not convert; save it as RGB")
    if (extra := tags.get(338)) is not None and extra.value == 2:
        order = "little" if data[:2] == b"II" else "big"
        return data[: extra.place] + (1).to_bytes(2, order) + data[extra.place + 2 :]  # type: ignore[arg-type]
    return data


def _pnm(data: bytes) -> Size | None:
    """Netpbm: width and height in digits after the magic number; ``#`` begins a comment. OpenCV reads over the rest."""
    words = re.match(rb"P\S(?:#[^\n]*\n|[^#\d])*(\d+)(?:#[^\n]*\n|[^#\d])+(\d+)", data[: 1 << 16])
    return (int(words[1]), int(words[2])) if words else None


def _pam(data: bytes) -> Size | None:
    head = data[: max(0, data.find(b"ENDHDR"))]
    width, height = re.search(rb"(?m)^WIDTH\s+(\d+)", head), re.search(rb"(?m)^HEIGHT\s+(\d+)", head)
    return (int(width[1]), int(height[1])) if width and height else None


def _sun(data: bytes) -> Size | None:
    width, height = struct.unpack_from(">II", data, 4)
    return width, height


def _radiance(data: bytes) -> Size | None:
    found = re.search(rb"\n[-+]Y\s+(\d+)\s+[-+]X\s+(\d+)", data[: 1 << 16])
    return (int(found[2]), int(found[1])) if found else None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box between two places (ISO/IEC 14496-12)."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        stop = min(start + length, end) if length else end
        if length and length < head:
            return
        yield kind, start + head, stop
        start = stop


def _avif(data: bytes) -> Size | None:
    """The largest of all images that the file describes (meta, iprp, ipco, ispe)."""
    sizes = []
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            for inner, begin, stop in _inside(data, (start + 4, end), (b"iprp", b"ipco")):
                if inner == b"ispe" and stop - begin >= 12:
                    width, height = struct.unpack_from(">II", data, begin + 4)
                    sizes.append((int(width), int(height)))
        elif kind == b"moov":
            for inner, begin, stop in _inside(data, (start, end), (b"trak",)):
                if inner == b"tkhd" and stop - begin >= 8:
                    width, height = struct.unpack_from(">II", data, stop - 8)
                    sizes.append((width >> 16, height >> 16))
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _inside(data: bytes, span: tuple[int, int], path: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, int]]:
    """The boxes within boxes of the given kinds, each within the one before."""
    if not path:
        yield from _boxes(data, *span)
        return
    for kind, start, end in _boxes(data, *span):
        if kind == path[0]:
            yield from _inside(data, (start, end), path[1:])


def _jp2(data: bytes) -> Size | None:
    """The code stream's size in a JPEG 2000 file: that is what a decoder allocates."""
    for kind, start, _ in _boxes(data, 0, len(data)):
        if kind == b"jp2c":
            return _j2k(data[start : start + 64])
    return None


def _j2k(data: bytes) -> Size | None:
    """ISO/IEC 15444-1, A.5.1: the reference grid less the image's offset in it, for every four components of up to
    16384: a decoder has room for all."""
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    return max(0, right - left) * -(-components // 4), max(0, bottom - top)


_RADIANCE, _AVIF, _JP2, _J2K = (
    rb"#\?(RADIANCE|RGBE)",
    rb"....ftyp",
    rb"\x00\x00\x00\x0cjP  \r\n\x87\n",
    rb"\xff\x4f\xff\x51",
)
_HUNGRY = (_RADIANCE, _AVIF, _JP2, _J2K)
"""Formats of which OpenCV needs 15 to 17 bytes a pixel."""

_READERS: tuple[tuple[bytes, Callable[[bytes], Size | None]], ...] = (
    (rb"\xff\xd8", _jpeg),
    (rb"\x89PNG\r\n\x1a\n....IHDR", _png),
    (rb"GIF8[79]a", _gif),
    (rb"BM", _bmp),
    (rb"RIFF....WEBP", _webp),
    (_TIFF, _tiff),
    (rb"P[1-6Ff]", _pnm),
    (rb"P7\s", _pam),
    (rb"\x59\xa6\x6a\x95", _sun),
    (_RADIANCE, _radiance),
    (_AVIF, _avif),
    (_JP2, _jp2),
    (_J2K, _j2k),
)
"""How each format begins."""
