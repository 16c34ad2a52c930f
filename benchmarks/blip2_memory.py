"""Peak memory of writing the language graph of a BLIP-2 of published width, by depth, target and precision.

Each conversion runs in a process of its own. Its peak must stay below twice the largest tensor in float32 plus 1 GB,
and must not grow with depth; both are checked, and the exit status is 1 where they do not hold. What is checked is
memory of the process itself. "with files" counts pages of files that it has mapped as well: OpenVINO maps the weights
that it saves, and the system takes such pages back as soon as it is short of memory.

    python benchmarks/blip2_memory.py --work FOLDER [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from blip2_checkpoint import LARGEST, Depths, write

LIMIT = 2 * LARGEST + 10**9
GROWTH = 0.1
"""By how much of the peak at the smaller depth the deeper one may lie above it: an allocator is not exact."""

WATCHED = 0.005
"""Seconds between two looks at a process; its largest tensor takes a hundred times as long."""


def convert(folder: Path, out: Path, target: str, word: str) -> dict[str, float]:
    """Write the graph in this process: seconds, peak bytes before and behind it, bytes of the files."""
    from edgekit import converters, registry
    from edgekit.converters import WrittenJob
    from edgekit.graph.blip2.blip2 import Blip2, WrittenPart
    from edgekit.graph.blip2.precision import PartPrecision, forms

    converter = registry.module(converters.__name__, target)
    part = WrittenPart(Blip2(folder), "language", forms("language", PartPrecision(word), None))
    for path in (out, out / "work"):
        path.mkdir()
    before, start = peak(), time.perf_counter()
    job = WrittenJob(part=part, out=out, work=out / "work", options=converters.target(target).options())
    graph = converter.convert_written(job, lambda *_: None)
    size = sum((out / name).stat().st_size for name in graph.files)
    return {"seconds": time.perf_counter() - start, "before": before, "peak": peak(), "bytes": size}


def peak() -> float:
    """The most memory this process had, in bytes: pages of mapped files included.

    From /proc where there is one: what getrusage says begins with what the parent process had.
    """
    import resource

    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def own(process: subprocess.Popen[str]) -> float:
    """The most memory of a process that is not pages of files, in bytes, watched until it ends; 0 where unknown."""
    status, found = Path(f"/proc/{process.pid}/status"), 0.0
    while process.poll() is None:
        if status.is_file():
            lines = status.read_text().splitlines()
            found = max([found, *(1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(WATCHED)
    return found


def measured(work: Path, depth: int, target: str, word: str) -> dict[str, Any]:
    """Convert in a process of its own; what it wrote is removed."""
    folder = work / f"memory-{depth}"
    if not folder.is_dir():  # in a process of its own as well: torch would stay in this one
        subprocess.run([sys.executable, __file__, "--work", str(work), "--make", str(depth)], check=True)
    out = work / f"memory-{depth}-{target}-{word}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--work", str(work), "--child", str(folder), str(out), target, word]
    with (work / "child.log").open("w+") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            anonymous = own(process)
            printed = process.stdout.read() if process.stdout else ""
        shutil.rmtree(out, ignore_errors=True)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{target} {word} at {depth} layers failed:\n{log.read()[-2000:]}")
    found = json.loads(printed.splitlines()[-1])
    return {"target": target, "precision": word, "layers": depth, "own": anonymous or found["peak"], **found}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the model (about 2 GB), kept between runs")
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 8), help="two depths of the language model")
    parser.add_argument("--targets", nargs="+", default=("onnx", "openvino"))
    parser.add_argument("--precisions", nargs="+", default=("int8", "int4"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = arguments()
    if given.make:
        write(given.work / f"memory-{given.make}", Depths(given.make, 1, 2))
        return
    if given.child:
        folder, out, target, word = given.child
        print(json.dumps(convert(Path(folder), Path(out), target, word)))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    cases = [(target, word) for target in given.targets for word in given.precisions]
    rows = [measured(given.work, depth, *case) for case in cases for depth in given.layers]
    small, large = rows[0::2], rows[1::2]
    for less, more in zip(small, large, strict=True):
        more["growth"] = more["own"] / less["own"] - 1
    holds = all(row["own"] < LIMIT and row.get("growth", 0) < GROWTH for row in rows)
    if given.json:
        print(json.dumps({"limit": LIMIT, "largest_tensor": LARGEST, "holds": holds, "rows": rows}, indent=2))
    else:
        print(f"limit {LIMIT / 1e9:.2f} GB = 2 x {LARGEST / 1e6:.0f} MB + 1 GB, growth below {GROWTH:.0%}: {holds}")
        print(f"{'target':<10}{'precision':<10}{'layers':>7}{'peak GB':>9}{'growth':>8}", end="")
        print(f"{'with files':>12}{'written GB':>12}{'seconds':>9}")
        for row in rows:
            growth = f"{row['growth']:+.0%}" if "growth" in row else ""
            print(
                f"{row['target']:<10}{row['precision']:<10}{row['layers']:>7}{row['own'] / 1e9:>9.2f}{growth:>8}"
                f"{row['peak'] / 1e9:>12.2f}{row['bytes'] / 1e9:>12.2f}{row['seconds']:>9.0f}"
            )
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
