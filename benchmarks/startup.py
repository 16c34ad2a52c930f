"""What starting edgekit costs, beside bare Python with numpy and, where it is installed, ultralytics.

Whole processes in turns, medians of wall time: ``import edgekit``, ``edgekit --help``, and a first detection.

    python benchmarks/startup.py
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time

RUNS = 15

COMMANDS = {
    "python, numpy": [sys.executable, "-c", "import numpy"],
    "import edgekit (and numpy)": [sys.executable, "-c", "import numpy, edgekit"],
    "edgekit --help": [sys.executable, "-m", "edgekit", "--help"],
}
if importlib.util.find_spec("ultralytics"):
    COMMANDS["import ultralytics YOLO"] = [sys.executable, "-c", "from ultralytics import YOLO"]


def main() -> None:
    """Print the table."""
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(RUNS + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:  # the first round fills the disk cache
                spent[name].append(1e3 * (time.perf_counter() - start))
    bare = statistics.median(spent["python, numpy"])
    for name, values in spent.items():
        middle = statistics.median(values)
        print(f"{name:<28} {middle:7.0f} ms   {middle - bare:+7.0f} ms   ratio to bare {middle / bare:.2f}")


if __name__ == "__main__":
    main()
