"""Opens examples/web in headless Chromium, for the tests of the web target."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import ROOT

EXAMPLE = ROOT / "examples" / "web"
# fmt: off
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=720,900",
    "--proxy-server=127.0.0.1:9",  # whatever is not on this machine is looked for at a proxy that is not there
]
# fmt: on
PATIENCE = 90.0

# The page under test in a frame. An image that comes with the answer ends the loading, which Chromium waits for.
FRAME = """<!doctype html><body style="margin: 0"><img src="/finished" hidden>
<iframe src="/index.html{query}" style="border: 0; width: 100%; height: 98vh"></iframe>
<script>
  const look = setInterval(async () => {{
    const page = document.querySelector("iframe").contentDocument;
    const status = page?.getElementById("status")?.textContent ?? "";
    if (!/ found | ready|error/.test(` ${{status}}`)) return;
    if (status === "ready" && {wants_image}) return;
    clearInterval(look);
    const body = JSON.stringify([status, page.getElementById("result").textContent]);
    await fetch("/answer", {{ method: "POST", body }});
  }}, 50);
</script>"""


def chromium() -> str:
    """The browser's program, empty when there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or ""


class _Site(SimpleHTTPRequestHandler):
    """Serves one folder, the frame, and takes the answer; notes every path that was asked for."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/frame.html":
            self._send("text/html", self.server.frame.encode())
        elif self.path == "/finished":
            self.server.answered.wait(PATIENCE)
            self._send("image/gif", b"")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.server.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send("text/plain", b"")
        self.server.answered.set()

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def visit(folder: Path, bundle: Path, distribution: Path, image: Path | None, screenshot: Path) -> tuple[str, Any]:
    """What the page says in a browser that reaches nothing but a server of ``folder``: its status, its detections.

    ``distribution`` is the folder dist/ of onnxruntime-web. The links are made in ``folder``, which is empty.
    """
    for source in EXAMPLE.iterdir():
        (folder / source.name).symlink_to(source)
    (folder / "bundle").symlink_to(bundle)
    (folder / "ort").symlink_to(distribution)
    if image is not None:
        (folder / image.name).symlink_to(image)
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Site, directory=str(folder)))
    server.asked, server.answer, server.answered = [], ["no answer", ""], threading.Event()
    query = f"?image={image.name}" if image else ""
    server.frame = FRAME.format(query=query, wants_image=json.dumps(image is not None))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/frame.html"
    profile = folder.with_name(f"{folder.name}-profile")
    try:
        subprocess.run(
            [chromium(), *FLAGS, f"--user-data-dir={profile}", f"--screenshot={screenshot}", address],
            capture_output=True,
            timeout=PATIENCE + 30,
            check=False,
        )
    finally:
        server.answered.set()
        server.shutdown()
        server.server_close()
    status, detections = server.answer
    return status, json.loads(detections) if detections else None
