"""Writes the generated tables into README.md: the targets from their specs, the figures from a run of the demo.

    python docs/tables.py            write
    python docs/tables.py --check    exit 1 when README.md is not what would be written

The figures come from docs/figures/demo.json, which ``edgekit demo --json`` gives.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from edgekit import converters

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DEMO = ROOT / "docs" / "figures" / "demo.json"


def targets() -> str:
    """One row per target, from its spec."""
    rows = ["| target | for | precisions | engine on the device | proof |", "|---|---|---|---|---|"]
    for name in converters.target_names():
        spec = converters.target(name)
        rows.append(f"| {name} | {spec.summary} | {' '.join(spec.precisions)} | {spec.engine} | {spec.proof} |")
    return "\n".join(rows)


def demo() -> str:
    """mAP by target and precision, with the change to the source in PyTorch."""
    measured = json.loads(DEMO.read_text(encoding="utf-8"))["measured"]
    source = next(row for row in measured if row["target"] == "torch")
    precisions = ["fp32", "fp16", "int8"]
    rows = [f"| target | {' | '.join(precisions)} |", "|---|" + "---|" * len(precisions)]
    rows.append(f"| PyTorch (the source) | {source['mAP']:.4f} | | |")
    for target in dict.fromkeys(row["target"] for row in measured if row["target"] != "torch"):
        cells = []
        for precision in precisions:
            found = [row for row in measured if (row["target"], row["precision"]) == (target, precision)]
            cells.append(f"{found[0]['mAP']:.4f} ({found[0]['mAP'] - source['mAP']:+.4f})" if found else "")
        rows.append(f"| {target} | {' | '.join(cells)} |")
    return "\n".join(rows)


def filled(text: str) -> str:
    """The README with everything between the markers made anew."""
    for name, made in (("targets", targets()), ("demo", demo())):
        begin, end = f"<!-- begin {name} (docs/tables.py) -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no place for the table: {begin} ... {end}")
        text = pattern.sub(lambda _, b=begin, m=made, e=end: f"{b}\n{m}\n{e}", text)
    return text


if __name__ == "__main__":
    current = README.read_text(encoding="utf-8")
    wanted = filled(current)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if current == wanted else "README.md is out of date: run python docs/tables.py")
    README.write_text(wanted, encoding="utf-8")
