"""Hours of tracking in minutes: memory, handles and threads stay what they were."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest
from effort import SOAK_MINUTES
from tiny_models import picture

from edgekit.runtimes.drawing.video_writer import VideoWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see what a process takes")
FRAMES, PER_CONNECTION = 120, 40


class Camera(BaseHTTPRequestHandler):
    """An MJPEG camera that gives some frames and hangs up."""

    connections = 0

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Frames."""
        type(self).connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # at the end of the test
            for number in range(PER_CONNECTION):
                image = cv2.imencode(".jpg", picture(number))[1].tobytes()
                self.wfile.write(b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image))
                self.wfile.write(image + b"\r\n")
                time.sleep(1 / 60)


@pytest.fixture
def camera() -> Iterator[str]:
    """The address of one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/camera"
        serving.shutdown()


@pytest.mark.nightly
def test_two_trackers_for_long(tmp_path: Path, camera: str) -> None:
    for package in ("onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    with VideoWriter(tmp_path / "film.avi", (64, 64), 30) as film:
        for number in range(FRAMES):
            film.write(picture(number // 8))
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(here / "soaking.py"), str(SOAK_MINUTES), str(tmp_path / "film.avi"), camera]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=90 * SOAK_MINUTES + 240
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    last = said[-1]
    assert last["frames"] == last["loops"] * FRAMES or last["loops"] > 1
    assert last["live"] > PER_CONNECTION
    assert last["tracks"] > 1
    assert Camera.connections > 2, "it came back"
    settled = said[len(said) // 4 : -1]
    assert len(settled) > 5
    half = len(settled) // 2
    before, after = (max(one["megabytes"] for one in part) for part in (settled[:half], settled[half:]))
    assert after - before < max(8, 0.05 * before), f"{before:.0f} to {after:.0f} MB"
    for what in ("handles", "threads"):
        most = [max(one[what] for one in part) for part in (settled[:half], settled[half:])]
        assert most[1] <= most[0] + 2, f"{what}: {most}"
    assert [one["frames"] for one in said] == sorted(one["frames"] for one in said)
    assert all(later["live"] >= sooner["live"] for sooner, later in itertools.pairwise(said))
