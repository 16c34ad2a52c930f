"""Images, stacks, lists and videos that claim too much, never end, or are no files: refused at once, and with a reason.

The claims are written into real files of every format, so that their headers are read as real encoders write them.
"""

from __future__ import annotations

import io
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="needs Pillow, which writes what OpenCV does not")

import PIL.Image as pil  # noqa: N813
from hostile_images import PICTURE, WRITTEN, by_pillow, encoded

from edgekit.errors import InputError
from edgekit.runtimes.inputs import MOST_PIXELS, files, headers, stacks
from edgekit.runtimes.inputs.media import count, frames, read_image, references
from edgekit.runtimes.inputs.video import Video
from edgekit.runtimes.model import read


@pytest.mark.parametrize("what", WRITTEN)
def test_the_size_is_read_as_encoders_write_it(what: str) -> None:
    data = WRITTEN[what]()
    assert headers.claimed_size(data) == (48, 32)
    for cut in range(0, min(len(data), 400)):  # a damaged header is never an error of another kind
        headers.claimed_size(data[:cut])


def test_garbage_before_a_jpegs_frame_header_does_not_hide_it() -> None:
    """Decoders read on to the next marker, so the claim must be found as they find it."""
    data = encoded(".jpg")
    assert headers.claimed_size(data[:2] + b"garbage\xff\xff\x00" + data[2:]) == (48, 32)


def claim(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header; the places are found by the size that is there."""
    for pattern, form in ((">HH", "hw"), (">II", "wh"), ("<HH", "wh"), ("<ii", "wh")):
        old = {"wh": (48, 32), "hw": (32, 48)}[form]
        new = {"wh": (width, height), "hw": (height, width)}[form]
        here = data.find(struct.pack(pattern, *old))
        if here >= 0:
            changed = data[:here] + struct.pack(pattern, *new) + data[here + struct.calcsize(pattern) :]
            if headers.claimed_size(changed) == (width, height):
                return changed
    return re.sub(rb"48 32", b"%d %d" % (width, height), data, count=1)


@pytest.mark.parametrize(
    ("suffix", "size"),
    [
        (".jpg", (30000, 30000)),
        (".gif", (46340, 23000)),
        (".png", (20000, 20000)),
        (".bmp", (20000, 20000)),
        (".ppm", (20000, 20000)),
        (".ras", (20000, 20000)),
    ],
)
def test_an_image_bomb_is_refused_by_what_it_claims(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(claim(encoded(suffix), *size))
    begun = time.monotonic()
    with pytest.raises(
        InputError,
        match=rf"bomb{suffix}: claims {size[0]} x {size[1]} pixels, and edgekit decodes at most {MOST_PIXELS};",
    ):
        read_image(path)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".hdr"])
def test_formats_that_need_more_memory_may_have_fewer_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    data = encoded(suffix)
    if suffix == ".jp2":
        place = data.find(b"\xff\x4f\xff\x51") + 8
        path.write_bytes(data[:place] + struct.pack(">II", 9000, 9000) + data[place + 8 :])
    else:
        path.write_bytes(
            claim(data, 9000, 9000) if suffix == ".avif" else data.replace(b"-Y 32 +X 48", b"-Y 9000 +X 9000")
        )
    with pytest.raises(
        InputError, match=f"claims 9000 x 9000 pixels, and edgekit decodes at most {MOST_PIXELS // 4} of this format"
    ):
        read_image(path)


def test_components_count_in_jpeg_2000() -> None:
    data = by_pillow("JPEG2000", no_jp2=True)
    assert headers.claimed_size(data[:40] + struct.pack(">H", 16384) + data[42:]) == (48 * 4096, 32)


def test_a_chunk_of_a_png_that_claims_more_than_there_is(tmp_path: Path) -> None:
    """OpenCV made room for 4 GB for it."""
    data = encoded(".png")
    place = data.find(b"IDAT")
    (tmp_path / "a.png").write_bytes(data[: place - 4] + b"\xf0\0\0\0" + data[place:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"a\.png: the PNG is cut short or damaged"):
        read_image(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_tiles_and_webp_canvases_count(tmp_path: Path) -> None:
    canvas = by_pillow("WEBP", save_all=True, append_images=[pil.fromarray(255 - PICTURE)])
    data = canvas[:24] + (99_999).to_bytes(3, "little") + (99_999).to_bytes(3, "little") + canvas[30:]
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(InputError, match="claims 100000 x 100000 pixels"):
        read_image(tmp_path / "a.webp")
    entries = [(256, 48), (257, 32), (322, 65536), (323, 65536)]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4))
    with pytest.raises(InputError, match="claims 65536 x 65536 pixels"):
        read_image(tmp_path / "a.tif")


def test_opencv_itself_is_bound_where_edgekit_cannot_read_the_header() -> None:
    """A fresh process, because OpenCV reads its bound when it is imported."""
    code = (
        "import edgekit.runtimes.model, cv2, numpy as np, sys\n"
        "data = np.frombuffer(sys.stdin.buffer.read(), np.uint8)\n"
        "try: print(cv2.imdecode(data, 1))\n"
        "except cv2.error as error: print(error.err)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=claim(encoded(".ppm"), 20000, 20000), capture_output=True, check=True
    )
    assert b"CV_IO_MAX_IMAGE_PIXELS" in done.stdout + done.stderr


def test_pil_images_are_bound_too() -> None:
    picture = pil.new("1", (20000, 20000))
    with pytest.raises(InputError, match="array: claims 20000 x 20000 pixels"):
        read(picture)


def test_a_damaged_pil_image_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(".png")[:900])
    with pytest.raises(InputError, match=r"cut\.png: cannot be decoded"):
        read(pil.open(path))


def npy(shape: str, version: int = 1, size: int = 64) -> bytes:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + bytes(size)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (f"({10**30}, 4, 4, 3)", "its header claims 48"),
        ("(5, 4, 4, 3)", "claims 240 bytes of images, and 64 follow it"),
        ("(-1, 4, 4, 3)", r"must be images.*\(-1, 4, 4, 3\)"),
        ("(1, -4, -4, 3)", "must be images"),
        ("(1, 100000, 100000, 3)", "claims 100000 x 100000 pixels"),
    ],
)
def test_stacks_that_claim_more_than_they_hold(tmp_path: Path, shape: str, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy(shape))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match=words):
            count(tmp_path / name)


def test_a_header_of_numpy_that_inflates_is_not_read(tmp_path: Path) -> None:
    """64 kB that inflate to a header of 64 MB."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 26) + b" " * (1 << 26))
    with pytest.raises(InputError, match="not a numpy file with images, or damaged"):
        count(tmp_path / "a.npz")


def test_a_small_archive_of_a_huge_image_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(npy("(1, 30000, 30000, 3)", size=0))
    with pytest.raises(InputError, match="claims 30000 x 30000 pixels"):
        count(tmp_path / "a.npz")


def test_archives_that_numpy_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy("(1, 4, 4, 3)"))
    with pytest.raises(InputError, match="compressed by method 14, which numpy does not write"):
        count(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", PICTURE, PICTURE, PICTURE, PICTURE)
    assert count(tmp_path / "b.npz") == 4
    monkeypatch.setattr(stacks, "MOST_ARRAYS", 3)
    with pytest.raises(InputError, match="has 4 arrays, and 3 are the most; stack the images in one"):
        count(tmp_path / "b.npz")


@pytest.mark.parametrize("codec", ["outside", "inside"])
def test_a_video_that_claims_absurd_frames(tmp_path: Path, codec: str) -> None:
    """In its own header, or in that of each frame: FFmpeg has the same bound, and what comes is an error or small."""
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for _ in range(3):
        writer.write(PICTURE)
    writer.release()
    data = bytearray(path.read_bytes())
    if codec == "outside":
        struct.pack_into("<ii", data, data.find(b"strf") + 12, 30000, 30000)
        struct.pack_into("<II", data, data.find(b"avih") + 40, 30000, 30000)
        path.write_bytes(data)
        assert {frame.image.shape for frame in frames(path)} == {(32, 48, 3)}
        return
    place = 0
    while (place := data.find(b"\xff\xc0", place)) >= 0:
        struct.pack_into(">HH", data, place + 5, 30000, 30000)
        place += 4
    path.write_bytes(data)
    with pytest.raises(InputError, match="no frame of this video can be decoded"):
        list(frames(path))


def test_the_size_that_a_video_states_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Capture:
        def __init__(self, address: str) -> None:
            self.get = lambda what: 30000.0
            self.isOpened, self.release = (lambda: True), (lambda: None)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    (tmp_path / "a.mp4").write_bytes(b"film")
    with pytest.raises(InputError, match=r"a\.mp4: claims 30000 x 30000 pixels"):
        Video(str(tmp_path / "a.mp4")).capture()


def test_a_file_without_end_in_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=rf"has {1 << 40} bytes, and edgekit reads at most {files.MOST_BYTES}"):
        read_image(path)


def pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["a.jpg", "a.npy", "a.npz", "a.txt", "a.mp4", "a"])
def test_a_named_pipe_is_told_by_every_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError, match="is a named pipe, which has no end to wait for; write what it gives to a file"
    ):
        count(pipe(tmp_path, name))


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/dev/zero: is a device.*a camera is written as camera:0"):
        read_image("/dev/zero")
    with pytest.raises(InputError, match=r"/dev/zero: is a device"):
        read("/dev/zero")
    with pytest.raises(InputError, match="is a named pipe"):
        read(pipe(tmp_path, "p"))
    (tmp_path / "link.jpg").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device"):
        read_image(tmp_path / "link.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(InputError, match="is a socket"):
            read_image(tmp_path / "s")
    with pytest.raises(InputError, match="File name too long"):
        count("x" * 5000)


def test_a_list_that_names_what_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("good.png\n/dev/zero\np\nfilm.mp4\n")
    (tmp_path / "good.png").write_bytes(encoded(".png"))
    pipe(tmp_path, "p"), pipe(tmp_path, "film.mp4")
    assert len([frame.name for frame in frames(tmp_path / "list.txt", on_error="skip")]) == 1
    with pytest.raises(InputError, match=r"film\.mp4: is a named pipe"):
        references(tmp_path / "list.txt")


def test_a_list_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("a.png\n" * 5)
    assert count(tmp_path / "list.txt") == 5
    monkeypatch.setattr("edgekit.runtimes.inputs.media.MOST_LISTED", 4)
    with pytest.raises(InputError, match="this list has more than 4 lines; split it"):
        count(tmp_path / "list.txt")
    monkeypatch.setattr("edgekit.runtimes.inputs.media.MOST_LIST_BYTES", 8)
    with pytest.raises(InputError, match="has 30 bytes, and edgekit reads at most 8"):
        count(tmp_path / "list.txt")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_colours_beside_a_straight_alpha_channel_stay(
    tmp_path: Path, compression: str | None, orientation: int
) -> None:
    """A TIFF gives the colours that Pillow gives; libtiff multiplies them by alpha if it is not told otherwise."""
    from PIL import ImageOps

    colours = np.random.default_rng(1).integers(0, 256, (32, 48, 4), dtype=np.uint8)
    exif = pil.Exif()
    exif[274] = orientation
    pil.fromarray(colours, "RGBA").save(tmp_path / "a.tif", compression=compression, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(pil.open(io.BytesIO((tmp_path / "a.tif").read_bytes()))))[..., 2::-1]
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)


def test_lab_colours_are_refused(tmp_path: Path) -> None:
    pil.fromarray(PICTURE, "LAB").save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: its colours are CIE L\*a\*b\*.*save it as RGB"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("form", ["TIFF", "GIF", "WEBP", "PNG"])
def test_of_several_pages_or_frames_the_first_is_read(tmp_path: Path, form: str) -> None:
    first, second = np.full((32, 48, 3), 40, np.uint8), np.full((32, 48, 3), 200, np.uint8)
    path = tmp_path / f"a.{form.lower()}"
    pil.fromarray(first).save(path, form, save_all=True, append_images=[pil.fromarray(second)])
    assert abs(int(read_image(path).mean()) - 40) < 3
    assert count(path) == 1
