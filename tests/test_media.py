"""Every kind of source, real files written here by OpenCV, Pillow and numpy; every way in which they can be bad."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import logging
import os
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.inputs.media import IMAGE_SUFFIXES, count, frames, read_image, references, select
from edgekit.runtimes.inputs.video import FrameReader, Video

pil = pytest.importorskip("PIL.Image", reason="needs Pillow as the independent oracle")


def picture(seed: int = 0, width: int = 48, height: int = 32) -> Image:
    """A smooth colour picture, which JPEG and video codecs keep."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def numbered(number: int) -> Image:
    """A frame that tells its number by its brightness."""
    return np.full((32, 48, 3), min(10 + 8 * number, 250), np.uint8)


def number_of(image: Image) -> int:
    return round((float(image.mean()) - 10) / 8)


def video(path: Path, length: int = 20, codec: str = "MJPG", rate: float = 10.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (48, 32))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec} video")
    for number in range(length):
        writer.write(numbered(number))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (2, 0, 1):
        save(tmp_path / "photos" / f"{number}.png", numbered(number))
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / "._0.png").write_bytes(b"left by macOS")
    save(tmp_path / "photos" / "more" / "3.PNG", numbered(3))
    return tmp_path / "photos"


def numbers(source: object) -> list[int]:
    return [number_of(frame.image) for frame in frames(source)]


class TestReadImage:
    @pytest.mark.parametrize("name", ["a.png", "b.bmp", "c.tiff", "d.ppm", "größe 鳥 ж.png", "no_suffix"])
    def test_lossless_files_come_back_exactly(self, tmp_path: Path, name: str) -> None:
        image = picture()
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix or ".png", image)[1].tobytes())
        assert np.array_equal(read_image(tmp_path / name), image)
        assert np.array_equal(read_image(str(tmp_path / name)), image)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
    def test_other_colour_models_become_bgr(self, tmp_path: Path, mode: str) -> None:
        made = pil.fromarray(picture()[..., ::-1]).convert(mode)
        path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
        made.save(path)
        with pil.open(path) as opened:
            expected = np.asarray(opened.convert("RGB"))[..., ::-1].astype(int)
        image = read_image(path)
        assert (image.shape, image.dtype) == (expected.shape, np.uint8)
        assert np.abs(image.astype(int) - expected).max() <= (3 if mode == "CMYK" else 0)

    @pytest.mark.parametrize("suffix", [".png", ".tiff"])
    def test_sixteen_bits_become_the_upper_eight(self, tmp_path: Path, suffix: str) -> None:
        deep = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 42
        cv2.imwrite(str(tmp_path / f"a{suffix}"), deep)
        image = read_image(tmp_path / f"a{suffix}")
        assert (image.dtype, image.shape) == (np.uint8, (32, 48, 3))
        assert np.abs(image[..., 0].astype(int) - (deep / 257).round().astype(int)).max() <= 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, tmp_path: Path, orientation: int) -> None:
        from PIL import ImageOps

        exif = pil.Exif()
        exif[0x112] = orientation
        pil.fromarray(picture()[..., ::-1]).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
        with pil.open(tmp_path / "a.jpg") as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened))[..., ::-1].astype(int)
        image = read_image(tmp_path / "a.jpg")
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 3

    def test_what_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"missing\.png: no such file"):
            read_image(tmp_path / "missing.png")
        with pytest.raises(InputError, match="is a directory, not an image"):
            read_image(tmp_path)
        (tmp_path / "empty.jpg").touch()
        with pytest.raises(InputError, match=r"empty\.jpg: is empty \(0 bytes\)"):
            read_image(tmp_path / "empty.jpg")
        (tmp_path / "text.jpg").write_text("hello, I am a photograph")
        with pytest.raises(InputError, match=r"text\.jpg: damaged, or not an image"):
            read_image(tmp_path / "text.jpg")
        with pytest.raises(InputError, match="cannot be read"):
            read_image("a\0b.png")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_unreadable_file(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", picture())
        path.chmod(0)
        with pytest.raises(InputError, match="cannot be read"):
            read_image(path)

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".tiff"]), st.floats(0.0, 0.97))
    def test_truncated_files_are_refused_and_not_filled_with_grey(
        self, tmp_path: Path, suffix: str, share: float
    ) -> None:
        data = cv2.imencode(suffix, picture(1, 200, 150))[1].tobytes()
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(data[: max(1, int(len(data) * share))])
        with pytest.raises(InputError, match=f"cut{suffix}"):
            read_image(path)

    def test_a_truncated_jpeg_is_found_by_its_markers_alone(self, tmp_path: Path) -> None:
        """With a whole thumbnail inside (an end marker before the scan), and with data behind the end of the image."""
        thumbnail = io.BytesIO()
        pil.fromarray(picture(2, 32, 24)).save(thumbnail, "JPEG")
        data = cv2.imencode(".jpg", picture(1, 200, 150))[1].tobytes()
        segment = b"\xff\xe1" + (len(thumbnail.getvalue()) + 2).to_bytes(2, "big") + thumbnail.getvalue()
        whole = data[:2] + segment + data[2:]
        path = tmp_path / "a.jpg"
        path.write_bytes(whole + b"a video that a telephone appended")
        assert read_image(path).shape == (150, 200, 3)
        path.write_bytes(whole[:-200])
        with pytest.raises(InputError, match="the JPEG is cut short"):
            read_image(path)

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.binary(min_size=1, max_size=300), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM"])
    )
    def test_arbitrary_bytes_give_an_image_or_an_input_error(self, tmp_path: Path, data: bytes, start: bytes) -> None:
        (tmp_path / "x").write_bytes(start + data)
        with contextlib.suppress(InputError):
            assert read_image(tmp_path / "x").dtype == np.uint8

    def test_the_error_is_the_only_message(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.png").write_bytes(cv2.imencode(".png", picture())[1].tobytes()[:300])
        logging: Any = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging
        before = logging.getLogLevel()
        with pytest.raises(InputError):
            read_image(tmp_path / "a.png")
        assert "WARN" not in capfd.readouterr().err
        assert logging.getLogLevel() == before


class TestStills:
    def test_one_image(self, folder: Path) -> None:
        (frame,) = frames(folder / "1.png")
        assert number_of(frame.image) == 1
        assert (frame.name, frame.index, frame.time) == (str(folder / "1.png"), 0, None)
        assert count(str(folder / "1.png")) == 1

    def test_a_folder_in_order_without_subfolders_and_other_files(self, folder: Path) -> None:
        assert numbers(folder) == [0, 1, 2]
        assert [frame.index for frame in frames(str(folder))] == [0, 1, 2]
        assert count(folder) == 3

    def test_patterns(self, folder: Path) -> None:
        assert numbers(f"{folder}/[01].png") == [0, 1]
        assert numbers(f"{folder}/*") == [0, 1, 2]
        assert numbers(f"{folder}/**/*.PNG") == [3]
        assert count(f"{folder}/**") == 4

    def test_a_file_whose_name_looks_like_a_pattern(self, tmp_path: Path) -> None:
        assert numbers(save(tmp_path / "a[1].png", numbered(7))) == [7]

    def test_lists_are_relative_to_their_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ["# calibration", "photos/2.png", "", "  photos/0.png  ", str(folder / "1.png")]
        path = folder.parent / "list.txt"
        path.write_text("\ufeff" + "\r\n".join(names), "utf-8")
        monkeypatch.chdir("/")
        assert numbers(path) == [2, 0, 1]
        assert count(path) == 3

    def test_a_list_may_name_videos(self, folder: Path) -> None:
        video(folder.parent / "v.avi", 3)
        path = folder.parent / "list.txt"
        path.write_text("photos/2.png\nv.avi\nphotos/0.png\nphotos/1.png")
        assert numbers(path) == [2, 0, 1, 2, 0, 1]

    def test_rgb(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", picture())
        (frame,) = frames(path, color="rgb")
        assert np.array_equal(frame.image, picture()[..., ::-1])
        assert frame.image.flags.c_contiguous

    def test_nothing_is_opened_before_it_is_asked_for(self, folder: Path) -> None:
        (folder / "1.png").write_bytes(b"damaged")
        stream = frames(folder)
        assert number_of(next(stream).image) == 0
        with pytest.raises(InputError, match=r"1\.png: damaged"):
            next(stream)

    def test_damaged_images_can_be_skipped(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / "1.png").write_bytes(b"damaged")
        with caplog.at_level(logging.WARNING):
            kept = list(frames(folder, on_error="skip"))
        assert [(number_of(frame.image), frame.index) for frame in kept] == [(0, 0), (2, 2)]
        assert "1.png" in caplog.text

    def test_a_missing_line_of_a_list_is_named(self, folder: Path) -> None:
        path = folder.parent / "list.txt"
        path.write_text("photos/0.png\nphotos/9.png")
        with pytest.raises(InputError, match=r"9\.png: no such file"):
            list(frames(path))
        assert len(list(frames(path, on_error="skip"))) == 1


class TestArrays:
    def test_one_and_many(self) -> None:
        stack = np.stack([numbered(n) for n in range(4)])
        assert [(f.name, f.index) for f in frames(stack)] == [(f"array#{n}", n) for n in range(4)]
        (one,) = frames(stack[2])
        assert one.name == "array"
        assert np.shares_memory(one.image, stack), "an array that is held already is not copied"
        assert numbers(stack) == [0, 1, 2, 3]
        assert count(stack) == 4

    @pytest.mark.parametrize("suffix", [".npy", ".npz", "-packed.npz"])
    def test_stacks_in_files(self, tmp_path: Path, suffix: str) -> None:
        stack = np.stack([picture(n) for n in range(5)])
        path = tmp_path / f"s{suffix}"
        {".npy": np.save, ".npz": np.savez, "-packed.npz": np.savez_compressed}[suffix](path, stack)
        for frame, expected in zip(frames(path), stack, strict=True):
            assert np.array_equal(frame.image, expected), "BGR in, BGR out"
            assert frame.image.flags.writeable
        assert count(path) == 5
        chosen = references(path)
        for index in (4, 0, 3, 3):
            assert np.array_equal(chosen[index].open(), stack[index])
        assert np.array_equal(next(frames(path, color="rgb")).image, stack[0][..., ::-1])

    def test_an_npz_of_several_arrays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "s.npz", day=np.stack([numbered(1), numbered(2)]), night=numbered(3))
        assert numbers(tmp_path / "s.npz") == [1, 2, 3]
        assert [f.name.rpartition("/")[2] for f in frames(tmp_path / "s.npz")] == ["day#0", "day#1", "night#0"]

    def test_an_npy_of_any_order(self, tmp_path: Path) -> None:
        stack = np.stack([picture(n) for n in range(3)])
        np.save(tmp_path / "f.npy", np.asfortranarray(stack))
        assert all(np.array_equal(f.image, s) for f, s in zip(frames(tmp_path / "f.npy"), stack, strict=True))
        np.savez(tmp_path / "f.npz", np.asfortranarray(stack))
        with pytest.raises(InputError, match=r"Fortran order; save numpy\.ascontiguousarray"):
            frames(tmp_path / "f.npz")

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (np.zeros((2, 8, 8, 3), np.float32), r"not float32 \(2, 8, 8, 3\)"),
            (np.zeros((8, 8), np.uint8), r"not uint8 \(8, 8\)"),
            (np.zeros((2, 3, 8, 8), np.uint8), r"not uint8 \(2, 3, 8, 8\)"),
            (np.zeros((0, 8, 8, 3), np.uint8), r"not uint8 \(0, 8, 8, 3\)"),
            (np.array([{"a": 1}]), "not object"),
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path: Path, array: np.ndarray, says: str) -> None:
        with pytest.raises(InputError, match=says):
            frames(array)
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "a.npz", array)
        for name in ("a.npy", "a.npz"):
            with pytest.raises(InputError, match=says):
                frames(tmp_path / name)

    def test_damaged_stacks_are_refused(self, tmp_path: Path) -> None:
        stack = np.stack([picture(n) for n in range(4)])
        np.save(tmp_path / "a.npy", stack)
        np.savez_compressed(tmp_path / "a.npz", stack)
        for name in ("a.npy", "a.npz"):
            data = (tmp_path / name).read_bytes()
            for share in (0.0, 0.003, 0.01, 0.5, 0.95):
                (tmp_path / f"cut-{name}").write_bytes(data[: int(len(data) * share)])
                with pytest.raises(InputError, match=f"cut-{name}"):
                    frames(tmp_path / f"cut-{name}")
        with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
            archive.writestr("readme.md", "no array")
        with pytest.raises(InputError, match="no array in this file"):
            frames(tmp_path / "other.npz")

    def test_a_flipped_bit_in_a_packed_stack_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez_compressed(path, np.stack([picture(n) for n in range(4)]))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(InputError, match="damaged"):
            list(frames(path))


class TestPil:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
    def test_modes(self, mode: str) -> None:
        made = pil.fromarray(picture()[..., ::-1]).convert(mode)
        (frame,) = frames(made)
        assert np.array_equal(frame.image, np.asarray(made.convert("RGB"))[..., ::-1])

    def test_upright_and_sixteen_bits(self, tmp_path: Path) -> None:
        exif = pil.Exif()
        exif[0x112] = 6
        pil.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
        with pil.open(tmp_path / "a.png") as opened:
            (frame,) = frames(opened)
        assert frame.image.shape == (48, 32, 3)
        assert frame.name == str(tmp_path / "a.png")
        deep = pil.fromarray(np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 42)
        (frame,) = frames(deep)
        assert 240 < frame.image.max() < 256, "not clipped to white"
        assert frame.image[0, 0, 0] == 0


class TestSequences:
    def test_mixtures_keep_their_order(self, folder: Path) -> None:
        clip = video(folder.parent / "v.avi", 2)
        mixture = [folder / "2.png", numbered(9), str(clip), (folder, pil.fromarray(numbered(5)))]
        assert numbers(mixture) == [2, 9, 0, 1, 0, 1, 2, 5]
        found = list(frames(mixture))
        assert [frame.index for frame in found] == list(range(8))
        assert found[1].name == "array[1]"
        assert len({frame.name for frame in found}) == 7, "2.png is given twice"
        assert count(mixture) == 8

    def test_cameras_make_the_count_unknown(self, folder: Path) -> None:
        assert count([folder, "camera:0"]) is None
        assert count("rtsp://example.invalid/x") is None


class TestVideo:
    @pytest.mark.parametrize(("name", "codec"), [("v.avi", "MJPG"), ("v.mp4", "mp4v")])
    def test_frames_names_and_times(self, tmp_path: Path, name: str, codec: str) -> None:
        path = video(tmp_path / name, 20, codec)
        found = list(frames(path))
        assert [number_of(frame.image) for frame in found] == list(range(20))
        assert [frame.name for frame in found] == [f"{path}#{n}" for n in range(20)]
        assert [frame.time for frame in found] == pytest.approx([n / 10 for n in range(20)], abs=1e-3)
        assert count(path) == 20

    def test_images_are_not_overwritten_by_later_frames(self, tmp_path: Path) -> None:
        kept = [frame.image for frame in frames(video(tmp_path / "v.avi", 5))]
        assert [number_of(image) for image in kept] == [0, 1, 2, 3, 4]

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see open files")
    def test_the_capture_is_released(self, tmp_path: Path) -> None:
        path = video(tmp_path / "v.avi")

        def opened() -> int:
            gc.collect()
            links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
            return sum(os.path.realpath(link) == str(path.resolve()) for link in links)

        stream = frames(path)
        next(stream)
        assert opened() == 1
        stream.close()  # type: ignore[attr-defined]
        assert opened() == 0
        list(frames(path))
        assert opened() == 0
        chosen = select(path, 3, seed=0)
        chosen[0].open()
        assert opened() == 1
        del chosen
        assert opened() == 0

    def test_what_is_no_video_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"\0" * 500)
        (tmp_path / "b.avi").touch()
        for name in ("a.mp4", "b.avi"):
            with pytest.raises(InputError, match=f"{name}: not a video that OpenCV can decode"):
                list(frames(tmp_path / name))
            with pytest.raises(InputError, match=f"{name}: not a video"):
                select(tmp_path / name, 1, seed=0)

    def test_a_video_cut_short_gives_its_frames_and_then_an_error(self, tmp_path: Path) -> None:
        path = video(tmp_path / "v.avi", 60)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        good = []
        with pytest.raises(InputError, match=r"ends after \d+ of 60 frames; the file is damaged or cut short"):
            good.extend(frame.index for frame in frames(path))
        assert good == list(range(len(good)))
        assert 5 < len(good) < 50
        assert len(list(frames(path, on_error="skip"))) == len(good)
        assert len(references(path)) == len(good), "counted by decoding, where the header is wrong"
        with pytest.raises(InputError, match="frame 59 cannot be decoded"):
            FrameReader(Video(str(path)))(59)

    def test_a_camera_that_is_not_there(self) -> None:
        for source in ("camera:87", 87):
            with pytest.raises(InputError, match="camera:87 cannot be opened; is it connected"):
                next(frames(source))

    def test_an_address_over_the_network(self, tmp_path: Path) -> None:
        video(tmp_path / "v.avi", 6)
        handler = partial(QuietHandler, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                base = f"http://somebody:secret@127.0.0.1:{server.server_port}"
                found = list(frames(f"{base}/v.avi"))
                assert [number_of(frame.image) for frame in found] == list(range(6))
                assert all("secret" not in frame.name for frame in found)
                with pytest.raises(InputError, match="cannot be opened; is the address right") as refused:
                    next(frames(f"{base}/missing.avi"))
                assert "secret" not in str(refused.value)
            finally:
                server.shutdown()

    def test_real_video(self, shared_data: Path) -> None:
        path = shared_data / "video" / "bikes.mp4"
        stream = frames(path)
        first = next(stream)
        second = next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert first.image.ndim == 3
        assert second.time == pytest.approx(0.04)
        assert count(path) == 250
        chosen = select(path, 5, seed=1)
        direct = {frame.name: frame.image for frame in itertools.islice(frames(path), 250)}
        assert all(np.array_equal(reference.open(), direct[reference.name]) for reference in chosen)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class TestReferences:
    def test_nothing_is_decoded_until_opened(self, folder: Path) -> None:
        (folder / "1.png").write_bytes(b"damaged")
        every = references(folder)
        assert [reference.name for reference in every] == [str(folder / f"{n}.png") for n in range(3)]
        assert number_of(every[2].open()) == 2
        with pytest.raises(InputError, match=r"1\.png"):
            every[1].open()

    def test_positions_across_parts(self, folder: Path) -> None:
        clip = video(folder.parent / "v.avi", 4)
        every = references([folder, clip, np.stack([numbered(7), numbered(8)])])
        assert len(every) == 9
        assert [number_of(reference.open()) for reference in every] == [0, 1, 2, 0, 1, 2, 3, 7, 8]
        assert number_of(every[-1].open()) == 8
        assert [number_of(reference.open()) for reference in every[6:8]] == [3, 7]
        with pytest.raises(IndexError):
            every[9]

    def test_video_frames_in_any_order(self, tmp_path: Path) -> None:
        every = references(video(tmp_path / "v.mp4", 20, "mp4v"))
        for index in (3, 4, 12, 5, 5, 19, 0):
            assert number_of(every[index].open()) == index

    @pytest.mark.parametrize("kind", ["folder", "video", "stack", "array"])
    def test_a_seeded_choice(self, tmp_path: Path, kind: str) -> None:
        stack = np.stack([numbered(n) for n in range(20)])
        make: dict[str, Callable[[], object]] = {
            "folder": lambda: [save(tmp_path / f"{n:02}.png", numbered(n)) for n in range(20)] and tmp_path,
            "video": lambda: video(tmp_path / "v.avi", 20),
            "stack": lambda: np.save(tmp_path / "s.npy", stack) or tmp_path / "s.npy",
            "array": lambda: stack,
        }
        source = make[kind]()
        chosen = [number_of(reference.open()) for reference in select(source, 6, seed=42)]
        assert chosen == [0, 2, 3, 7, 8, 16], "the same on every machine and for every kind"
        assert chosen != [number_of(reference.open()) for reference in select(source, 6, seed=43)]
        assert [number_of(r.open()) for r in select(source, 99, seed=1)] == list(range(20))

    def test_refusals(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="count must be at least 1, not 0"):
            select(folder, 0, seed=1)
        with pytest.raises(InputError, match="frames of a camera or stream cannot be chosen by number"):
            references("camera:0")


class TestRefusals:
    @pytest.mark.parametrize(
        ("source", "says"),
        [
            (
                "no/such/thing.jpg",
                "'no/such/thing.jpg': no such file or folder; a source of images may be an image file",
            ),
            ("no/such/*.jpg", r"no image or video matches this pattern"),
            ("", r"'' \(str\) is not a source of images; it may be an image file"),
            (None, r"None \(NoneType\) is not a source"),
            (True, r"True \(bool\) is not a source"),
            (-1, r"-1 \(int\) is not a source"),
            (1.5, r"1.5 \(float\) is not a source"),
            ([], r"\[\] \(list\) is not a source"),
            ({"a": 1}, r"\(dict\) is not a source"),
            ([None], r"None \(NoneType\) is not a source"),
            ("camera:front", "'camera:front': no such file"),
        ],
    )
    def test_what_is_no_source_is_refused_at_once(self, source: object, says: str) -> None:
        with pytest.raises(InputError, match=says):
            frames(source)
        with pytest.raises(InputError):
            count(source)

    def test_empty_folders_and_lists(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no image in this folder"):
            frames(tmp_path)
        (tmp_path / "list.txt").write_text("\n# nothing\n")
        with pytest.raises(InputError, match="names no image; write one path a line"):
            frames(tmp_path / "list.txt")
        (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(InputError, match="not a text file with one image path a line"):
            frames(tmp_path / "list.txt")

    def test_options(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="color 'grey' is not one of: bgr, rgb"):
            frames(folder, color="grey")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="on_error 'stop' is not one of: raise, skip"):
            frames(folder, on_error="stop")  # type: ignore[arg-type]

    def test_every_suffix_taken_for_an_image_has_a_decoder(self) -> None:
        writable = {".avif", ".bmp", ".dib", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
        assert writable <= IMAGE_SUFFIXES
