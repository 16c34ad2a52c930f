"""Bundles in a child process: the same results, and nothing that happens there ends the caller."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import ROOT
from sample_bundles import forge
from test_old_bundles import EXPECTED, needs
from tiny_models import picture

import edgekit
from edgekit.errors import BundleError, EngineError, UsageError
from edgekit.isolation import messages
from edgekit.isolation.messages import Announced, Answered
from edgekit.runtimes.bundle.folder import open_bundle, sha256

OLD = ROOT / "tests" / "old_bundles"
IMAGE = picture(0)
DETECTOR = OLD / "detector-onnx-int8"


def pid_of(model: Any) -> int:
    found: int = model.session._child._process._running.pid
    return found


def lives(pid: int) -> bool:
    """Whether a process is still there after a moment."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("detector")])
def test_an_isolated_model_finds_what_it_finds_here(name: str) -> None:
    needs(name)
    here, there = edgekit.load(OLD / name, threads=1), edgekit.load(OLD / name, threads=1, isolated=True)
    for image in (str(OLD / "image.png"), IMAGE):
        np.testing.assert_array_equal(there(image).boxes, here(image).boxes)
        np.testing.assert_array_equal(there(image).scores, here(image).scores)
    assert there.placement == here.placement


def test_an_isolated_vision_language_model_says_what_it_says_here() -> None:
    needs("opt-onnx-int8")
    pytest.importorskip("tokenizers", reason="needs the extra 'language'")
    here, there = (edgekit.load(OLD / "opt-onnx-int8", edgekit.VisionLanguage, isolated=one) for one in (False, True))
    image = str(OLD / "image.png")
    assert there.caption(image).text == EXPECTED["opt-onnx-int8"]["caption"]
    answers = [[text.tokens for text in one.ask([image, image], "what?", beams=2)] for one in (here, there)]
    assert answers[0] == answers[1]
    assert list(there.stream(image)) == list(here.stream(image))
    np.testing.assert_array_equal(there.embed(image), here.embed(image))
    assert len(there.tokenizer) == len(here.tokenizer)


def mutant(to: Path, name: str, file: str, changes: dict[int, int]) -> Path:
    """A copy of an old bundle with these bytes in a file, and hashes that fit: found by mutating files at random."""
    shutil.copytree(OLD / name, to)
    content = bytearray((to / file).read_bytes())
    for place, byte in changes.items():
        content[place] = byte
    (to / file).write_bytes(content)
    entries = open_bundle(OLD / name).manifest.files
    files = tuple(
        msgspec.structs.replace(entry, sha256=sha256(to / file)) if entry.path == file else entry for entry in entries
    )
    return forge(to, to.with_name("forged"), files=files)


CRASHES = {20: 0, 94: 255, 106: 255, 138: 0, 747: 127, 1683: 127, 1740: 127, 3543: 128, 4767: 255}
ENDLESS = {3991: 2}
"""Changes after which ai-edge-litert 2.3.0 crashes, and after which it never ends; another version may refuse them."""


@pytest.mark.parametrize(("changes", "words"), [(CRASHES, "was killed by SIG"), (ENDLESS, "no answer within 3 s")])
def test_a_file_that_crashes_its_engine_or_never_ends_is_an_error(
    tmp_path: Path, changes: dict[int, int], words: str
) -> None:
    needs("detector-litert-int8")
    forged = mutant(tmp_path / "copy", "detector-litert-int8", "model.tflite", changes)
    begun = time.monotonic()
    with pytest.raises(EngineError, match=rf"forged, isolated: .*{words}|LiteRT cannot open it|not a whole model"):
        edgekit.load(forged, isolated=True, timeout=3)(IMAGE)
    assert time.monotonic() - begun < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can bound the memory of a process")
def test_a_file_that_takes_memory_without_end_is_an_error(tmp_path: Path) -> None:
    """Not isolated, ai-edge-litert 2.3.0 takes a gigabyte a second for it."""
    needs("detector-litert-int8")
    forged = mutant(tmp_path / "copy", "detector-litert-int8", "model.tflite", ENDLESS)
    with pytest.raises(EngineError, match=r"LiteRT cannot open it|was killed by SIG|MemoryError"):
        edgekit.load(forged, isolated=True, timeout=30)(IMAGE)


@pytest.fixture
def model() -> edgekit.Model[edgekit.Detections]:
    needs("detector-onnx-int8")
    return edgekit.load(DETECTOR, isolated=True)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE])
def test_a_crash_there_is_an_error_here(model: edgekit.Model[edgekit.Detections], number: signal.Signals) -> None:
    os.kill(pid_of(model), number)
    with pytest.raises(
        EngineError, match=rf"^{DETECTOR.name}, isolated: the child process was killed by {number.name}"
    ):
        model(IMAGE)
    with pytest.raises(EngineError, match=rf"was killed by {number.name}.*; open the bundle again"):
        model(IMAGE)


def test_no_answer_in_time_is_an_error_and_ends_the_child() -> None:
    needs("detector-onnx-int8")
    model = edgekit.load(DETECTOR, isolated=True, timeout=20)
    model.session._child._seconds = 0.5  # type: ignore[attr-defined]
    pid = pid_of(model)
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"isolated: no answer within 0.5 s, the child process was ended"):
        model(IMAGE)
    assert time.monotonic() - begun < 5
    with pytest.raises(EngineError, match="open the bundle again"):
        model(IMAGE)
    assert not lives(pid)


def test_the_child_goes_with_its_model(model: edgekit.Model[edgekit.Detections]) -> None:
    pid = pid_of(model)
    assert Path(f"/proc/{pid}").exists()
    model.session = None  # type: ignore[assignment]
    assert not lives(pid)


def test_errors_of_the_engine_are_told_as_they_are_here(tmp_path: Path) -> None:
    needs("detector-onnx-int8")
    manifest = open_bundle(DETECTOR).manifest
    (graph,) = manifest.graphs
    graph = msgspec.structs.replace(graph, files=("none.tflite",))
    forged = forge(DETECTOR, tmp_path / "forged", graphs=(graph,), files=manifest.files)
    with pytest.raises(BundleError, match="which the manifest does not list"):
        edgekit.load(forged, isolated=True)
    with pytest.raises(UsageError, match="unit 'tpu' is not one of"):
        edgekit.load(DETECTOR, isolated=True, unit="tpu")


def test_each_worker_of_a_pool_has_a_child_of_its_own() -> None:
    needs("detector-onnx-int8")
    with edgekit.load(DETECTOR, workers=2, isolated=True) as pool:
        pids = {pid_of(one) for one in pool._idle}
        assert len(pids) == 2
        assert len(pool([IMAGE] * 4)) == 4
    assert not any(map(lives, pids))


@pytest.mark.parametrize(("given", "said"), [({"timeout": 5}, "5"), ({"timeout": 0, "isolated": True}, "0")])
def test_a_timeout_belongs_to_isolation(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=rf"timeout={said}: it is the seconds, above 0, of isolated=True"):
        edgekit.load(DETECTOR, **given)


# ---- what the child says is not believed ----


def said(line: bytes, data: bytes = b"") -> Any:
    return messages.receive(io.BytesIO(line + data), Answered)


def test_what_the_child_says_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    stream = io.BytesIO()
    messages.send(stream, Answered(arrays=messages.announced({"a": array})), [array])
    found, arrays = messages.receive(io.BytesIO(stream.getvalue()), Answered) or (None, {})
    assert found is not None
    np.testing.assert_array_equal(arrays["a"], array)
    assert messages.receive(io.BytesIO(stream.getvalue()[:-1]), Answered) is None
    assert said(b"") is None
    assert said(b'{"number": 1') is None
    with pytest.raises(ValueError, match="arrays of more than"):
        said(msgspec.json.encode(Answered(arrays=(Announced("a", "int8", (1 << 20, 1 << 20)),))) + b"\n")
    for line in (b'{"arrays": [["a", "object", [1]]]}\n', b'{"arrays": [["a", "int8", [-1]]]}\n', b"[]\n", b"\xff\n"):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            said(line)
    monkeypatch.setattr(messages, "LINE", 100)
    with pytest.raises(ValueError, match="a line of more than 100 bytes"):
        said(b"x" * 200)
