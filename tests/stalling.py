"""Given with ``--import``: stops the child process of one stage for ever, so that a test can interrupt it there.

Where it is imported, in order: 1 is the command itself, 2 reads the source, 3 builds, 4 proves. The environment says
which one stalls (``STALL_AT``) and where it leaves its number and that of a child of its own (``STALL_FOLDER``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

folder = Path(os.environ["STALL_FOLDER"])
with (folder / "stages").open("ab", buffering=0) as stages:
    stages.write(b".")
    reached = stages.tell()
if reached == int(os.environ["STALL_AT"]):
    tool = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "new").write_text(f"{os.getpid()} {tool.pid}")
    (folder / "new").rename(folder / "stalled")
    time.sleep(600)
