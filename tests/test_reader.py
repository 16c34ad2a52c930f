"""Frames decoded ahead: order, memory, dropping, reconnecting, errors, and stopping."""

from __future__ import annotations

import itertools
import resource
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from sample_bundles import sample_manifest

from edgekit.cli import edgekit
from edgekit.errors import InputError, UsageError
from edgekit.runtimes import model
from edgekit.runtimes.drawing.video_writer import VideoWriter
from edgekit.runtimes.inputs import media
from edgekit.runtimes.inputs.media import SourceFrame
from edgekit.runtimes.inputs.reader import Reader, overlapped
from edgekit.runtimes.top_down import TopDown


def film(path: Path, frames: int, size: tuple[int, int] = (64, 48), fps: float = 25) -> Path:
    """A video in which the brightness of each frame tells its number."""
    with VideoWriter(path, size, fps) as video:
        for number in range(frames):
            video.write(np.full((size[1], size[0], 3), number % 8 * 32, np.uint8))
    return path


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgekit")]


def test_every_frame_of_a_file_in_order(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", 40)
    alone = list(media.frames(path))
    with Reader(path, size=2) as reader:
        read = list(reader)
    assert [frame.index for frame in read] == list(range(40))
    assert [(frame.name, frame.time) for frame in read] == [(frame.name, frame.time) for frame in alone]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(read, alone, strict=True))
    assert (reader.dropped, reader.reconnects, reader.live, reader.keep) == (0, 0, False, "every")
    assert threads() == []


def test_the_newest_frame_is_kept_and_the_dropped_ones_are_counted(tmp_path: Path) -> None:
    with Reader(film(tmp_path / "a.avi", 40), keep="newest", size=1) as reader:
        while reader._thread.is_alive():
            time.sleep(0.01)
        read = list(reader)
    assert [frame.index for frame in read] == [39]
    assert reader.dropped == 39


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """The thread waits for who takes the frames; it does not decode the whole video into memory."""
    with Reader(film(tmp_path / "a.avi", 60), size=3) as reader:
        first = next(iter(reader))
        time.sleep(0.3)
        assert len(reader._queue) == 3
        assert first.index == 0
    assert threads() == []


def test_two_thousand_frames_at_constant_memory(tmp_path: Path) -> None:
    path = film(tmp_path / "long.avi", 2000, (320, 240))  # 460 MB decoded
    with Reader(path) as reader:
        taken = iter(reader)
        sum(1 for _ in itertools.islice(taken, 200))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert sum(1 for _ in taken) == 1800
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 30_000, f"{grown} kB more"


def test_an_error_comes_where_the_frames_are_taken(tmp_path: Path) -> None:
    good = film(tmp_path / "a.avi", 10).read_bytes()
    (tmp_path / "cut.avi").write_bytes(good[: len(good) // 2])
    with Reader(tmp_path / "cut.avi") as reader, pytest.raises(InputError, match=r"cut\.avi"):
        list(reader)
    assert threads() == []


def test_a_missing_source_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        Reader(tmp_path / "nothing.mp4")


def test_leaving_early_stops_the_thread(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", 200)
    with Reader(path) as reader:
        for frame in reader:
            if frame.index == 3:
                break
    assert threads() == []
    with pytest.raises(KeyboardInterrupt), Reader(path):
        raise KeyboardInterrupt
    assert threads() == []


class Camera:
    """Stands in for `inputs.media.frames` of a stream: each connection gives so many frames and stops, or fails."""

    def __init__(self, *connections: int | str) -> None:
        self.connections = iter(connections)

    def __call__(self, source: Any, silence: float) -> Iterator[SourceFrame]:
        return self._frames(next(self.connections, 0))

    def _frames(self, what: int | str) -> Iterator[SourceFrame]:
        if isinstance(what, str):
            raise InputError(what)
        for number in range(what):
            yield SourceFrame(np.zeros((2, 2, 3), np.uint8), f"rtsp://camera#{number}", number, number / 10)
        raise InputError(f"the stream stopped after {what} frames")


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Any:
    def connect(*connections: int | str) -> None:
        monkeypatch.setattr(media, "frames", Camera(*connections))

    return connect


def test_a_stream_that_breaks_off_is_opened_again(camera: Any) -> None:
    camera(3, "away", 2, *["gone"] * 99)
    with Reader("rtsp://camera", keep="every", reconnect=0.5) as reader:
        taken = iter(reader)
        read = list(itertools.islice(taken, 5))
        with pytest.raises(InputError, match=r"gone; it did not come back within 0\.5 s"):
            next(taken)
    assert [frame.index for frame in read] == [0, 1, 2, 3, 4]
    assert reader.live
    assert reader.reconnects >= 2
    times = [frame.time or 0.0 for frame in read]
    assert times == sorted(times), "one clock over all connections"
    assert times[3] > times[2]


def test_without_reconnecting_a_stream_that_stops_is_an_error(camera: Any) -> None:
    camera(2, 5)
    with Reader("rtsp://camera", keep="every") as reader:
        taken = iter(reader)
        assert [next(taken).index, next(taken).index] == [0, 1]
        with pytest.raises(
            InputError, match=r"the stream stopped after 2 frames; reconnect=SECONDS \(--reconnect\) waits"
        ):
            next(taken)
    assert reader.reconnects == 0


class Server(BaseHTTPRequestHandler):
    """An MJPEG camera: 5 frames, then what the path says. ``/shy`` has frames from the second connection on."""

    connections = 0

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Frames."""
        type(self).connections += 1
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = cv2.imencode(".jpg", noise)[1].tobytes()
        if self.path == "/mute":
            self.server.closing.wait(5)  # type: ignore[attr-defined]
            return
        self.send_response(200)
        if self.path.startswith("/photo"):
            self.send_header("Content-Type", "image/jpeg")
            if self.path == "/photo.jpg":
                self.send_header("Content-Length", str(len(image)))
            self.end_headers()
            self.wfile.write(image)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
        self.end_headers()
        for _ in range(5):
            self.wfile.write(b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image))
            self.wfile.write(image + b"\r\n")
        if self.path == "/silent":
            self.server.closing.wait(5)  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[str]:
    Server.connections = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as serving:
        serving.closing = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.closing.set()  # type: ignore[attr-defined]
        serving.shutdown()


def end_of(source: str, **options: Any) -> tuple[int, str]:
    """How many frames come, and the error at the end."""
    count = 0
    try:
        with Reader(source, keep="every", **options) as reader:
            for _ in reader:
                count += 1
    except InputError as error:
        return count, str(error)
    return count, ""


def test_a_server_that_goes_silent_is_noticed_in_time(server: str) -> None:
    begun = time.monotonic()
    count, words = end_of(f"{server}/silent", silence=1.0)
    assert count == 5
    assert "/silent: the stream stopped after 5 frames (no frame for 1 s); reconnect=SECONDS" in words
    assert time.monotonic() - begun < 3


def test_a_server_that_closes_is_an_error(server: str) -> None:
    count, words = end_of(f"{server}/closing")
    assert count == 5
    assert "/closing: the stream stopped after 5 frames (the other end closed it); reconnect=SECONDS" in words
    with pytest.raises(InputError, match="stopped after 5 frames"):
        list(media.frames(f"{server}/closing", on_error="skip"))  # it is no image that could be skipped


def test_a_server_that_never_answers_is_given_up_in_time(server: str) -> None:
    begun = time.monotonic()
    assert end_of(f"{server}/mute", silence=1.0) == (
        0,
        f"{server}/mute cannot be opened; is the address right and the server reachable?",
    )
    assert time.monotonic() - begun < 3


def test_a_real_stream_comes_back(server: str) -> None:
    with Reader(f"{server}/closing", keep="every", reconnect=5) as reader:
        assert len(list(itertools.islice(reader, 12))) == 12
    assert reader.reconnects == 2
    assert Server.connections >= 3


def test_what_has_an_end_ends_also_over_a_network(server: str) -> None:
    with Reader(f"{server}/photo.jpg") as reader:
        assert len(list(reader)) == 1
    assert len(list(media.frames(f"{server}/photo.jpg"))) == 1
    for name in ("photo.jpg", "photo-of-unknown-length"):
        assert model.read(f"{server}/{name}")[0].shape == (48, 64, 3)
    with pytest.raises(InputError, match="holds several images"):
        model.read(f"{server}/closing")


def test_postprocessing_beside_inference_keeps_the_order(tmp_path: Path) -> None:
    where: set[str] = set()

    def second(index: int) -> int:
        where.add(threading.current_thread().name)
        return index * 10

    with Reader(film(tmp_path / "a.avi", 12)) as reader:
        assert list(overlapped(reader, lambda frame: frame.index, second)) == [10 * index for index in range(12)]
    assert all(name.startswith("edgekit-post") for name in where)
    assert threads() == []


def test_what_came_before_an_error_is_given_first(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "3.png").write_bytes(b"no image")
    with Reader(tmp_path) as reader:
        found = overlapped(reader, lambda frame: frame.index, lambda index: index)
        assert [next(found), next(found), next(found)] == [0, 1, 2]
        with pytest.raises(InputError, match=r"3\.png"):
            next(found)


def test_an_error_in_postprocessing_is_raised(tmp_path: Path) -> None:
    def second(index: int) -> int:
        return 1 // (3 - index)

    with Reader(film(tmp_path / "a.avi", 12)) as reader:
        found = overlapped(reader, lambda frame: frame.index, second)
        assert [next(found), next(found), next(found)] == [0, 0, 1]
        with pytest.raises(ZeroDivisionError):
            next(found)
    assert threads() == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"keep": "oldest"}, "keep 'oldest' is not one of: every, newest"),
        ({"size": 0}, "size must be at least 1, not 0"),
        ({"reconnect": -1}, "reconnect must be 0 or more seconds, not -1"),
        ({"reconnect": float("nan")}, "reconnect must be 0 or more seconds, not nan"),
        ({"reconnect": 1}, r"reconnect and silence are for cameras and streams, and ndarray is none"),
        ({"silence": 1}, "reconnect and silence are for cameras and streams"),
    ],
)
def test_wrong_wishes(wrong: Any, words: str) -> None:
    with pytest.raises(UsageError, match=r"silence must be above 0 and below 86400 seconds, not 0"):
        Reader("rtsp://camera", silence=0)
    with pytest.raises(UsageError, match=words):
        Reader(np.zeros((2, 2, 3), np.uint8), **wrong)


class Told(Exception):  # noqa: N818
    """What a `Reader` was asked for."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(source: str, **options: float) -> None:
        raise Told(source, options)

    monkeypatch.setattr("edgekit.runtimes.inputs.reader.Reader", reader)


def unopened() -> Any:
    """A model of which nothing but its contract is there."""
    opened = object.__new__(model.Model)
    opened.contract, opened.manifest = sample_manifest().contract, None
    return opened


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("how", ["stream", "stream_with_images", "track", "track_with_images"])
def test_models_hand_the_patience_on(how: str) -> None:
    opened = unopened()
    with pytest.raises(Told) as asked:
        next(getattr(opened, how)("rtsp://camera", reconnect=3.0, silence=2.0))
    assert asked.value.args == ("rtsp://camera", {"reconnect": 3.0, "silence": 2.0})


@pytest.mark.usefixtures("told")
def test_two_models_in_a_row_hand_it_on_too() -> None:
    with pytest.raises(Told) as asked:
        next(object.__new__(TopDown).stream("rtsp://camera", reconnect=3.0))
    assert asked.value.args == ("rtsp://camera", {"reconnect": 3.0, "silence": None})


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("track", [[], ["--track", "sort"]])
def test_the_command_line_hands_it_on(monkeypatch: pytest.MonkeyPatch, track: list[str]) -> None:
    monkeypatch.setattr(model, "load", lambda *given, **options: unopened())
    arguments = ["run", "bundle", "rtsp://camera", "--reconnect", "1min", "--silence", "500ms", *track]
    error = CliRunner().invoke(edgekit, arguments).exception
    assert isinstance(error, Told)
    assert error.args == ("rtsp://camera", {"reconnect": 60.0, "silence": 0.5})
