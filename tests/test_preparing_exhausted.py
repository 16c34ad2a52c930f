"""A full disk and too little memory while a source is prepared: said in words that help, by a process that lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

from edgekit.conversion.jobs import PrepareJob
from edgekit.conversion.prepare import _enough_memory, work
from edgekit.errors import ConversionError, SourceError
from edgekit.worker.messages import failed

MODULE = """
import torch
def hungry(): return torch.nn.Linear(10**8, 10**8)
"""

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from edgekit.calibration.samples import new_stack
from edgekit.graph.exchange import export_program, save_program

program = export_program(torch.nn.Conv2d(3, 64, 16).eval(), torch.rand(1, 3, 32, 32))
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
writes = (
    lambda: save_program(program, folder / "x.pt2"),
    lambda: new_stack(folder / "x.npy", np.float32, (10**6,)),
)
for write in writes:
    try:
        write()
        print("written")
    except OSError as error:
        print(error)
"""


def limited(folder: Path, limit: int) -> list[str]:
    """What is said where no file may be longer than this, as with a full disk or a quota."""
    given = [sys.executable, "-c", LIMITED, str(folder), str(limit)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
def test_a_file_that_cannot_be_written_in_full(tmp_path: Path) -> None:
    """PyTorch's own writer says "unexpected pos 64 vs 0", then ends the process."""
    for line, name in zip(limited(tmp_path, 50_000), ("x.pt2", "x.npy"), strict=True):
        assert line.startswith("[Errno 27] File too large")
        assert name in line or line == "[Errno 27] File too large"
    assert limited(tmp_path, 50_000_000) == ["written", "written"]  # negative control


def test_the_message_says_what_to_do() -> None:
    said = failed(OSError(28, "No space left on device", "graph.pt2")).message
    assert said == "OSError: [Errno 28] No space left on device: 'graph.pt2'; free space or choose another -o"


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hungry_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConversionError, match=r"not enough memory to prepare the source; .*--size.*ulimit -v"
    ) as caught:
        work(PrepareJob(folder=str(tmp_path), source="hungry_module:hungry", size=(8, 8)), lambda text, share: None)
    assert isinstance(caught.value.__cause__, SourceError)


def wrapped(error: Exception) -> None:
    with _enough_memory():
        try:
            raise error
        except Exception as found:
            raise SourceError("FILE: damaged") from found


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_is_found_out_behind_other_errors(error: Exception) -> None:
    with pytest.raises(ConversionError, match="not enough memory"):
        wrapped(error)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(SourceError, match=r"^FILE: damaged$"):
        wrapped(ValueError("no"))
