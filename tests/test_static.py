"""Types are checked with the tests, beside them: mypy takes a minute of one core."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def test_types() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
