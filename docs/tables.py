"""Writes the generated tables: the targets from their specs, their proof and the figures from a full run of the demo.

    python docs/tables.py            write
    python docs/tables.py --check    exit 1 when a page is not what would be written

The figures come from docs/figures/demo.json, which ``edgekit demo --json`` gives, and from docs/figures/ablation.json,
which docs/ablation.py writes.
"""

from __future__ import annotations

import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

from edgekit import converters
from edgekit.conversion import installation
from edgekit.runtimes import engine

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "docs" / "figures" / "demo.json"
ABLATION = ROOT / "docs" / "figures" / "ablation.json"


PRECISIONS = ("fp32", "fp16", "int8", "w8a8")


def measured() -> list[dict[str, Any]]:
    """The rows of the last full run of the demo; the first is the source."""
    rows: list[dict[str, Any]] = json.loads(DEMO.read_text(encoding="utf-8"))["measured"]
    return rows


def targets() -> str:
    """What there is, from the specs, and how strongly each was proven, from the evidence of the demo."""
    found = {(row["target"], row["precision"]): row for row in measured()}
    lines = [f"| target | for | engine on the device | {' | '.join(PRECISIONS)} |", "|---|---|---|---|---|---|---|"]
    for name in converters.target_names():
        spec = converters.target(name)
        cells = [_proof(found.get((name, p))) if p in spec.precisions else "" for p in PRECISIONS]
        lines.append(f"| {name} | {spec.summary} | {engine(spec.engine).name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _proof(row: dict[str, Any] | None) -> str:
    return f"{row['word']} {row['matched']:.1%}" if row else "not in the last run"


def demo() -> str:
    """mAP by target and precision, with the change to the source in PyTorch."""
    source, *rows = measured()
    lines = [f"| target | {' | '.join(PRECISIONS)} |", "|---|---|---|---|---|"]
    lines.append(f"| PyTorch (the source) | {source['mAP']:.4f} | | | |")
    for target in dict.fromkeys(row["target"] for row in rows):
        of = {row["precision"]: row["mAP"] for row in rows if row["target"] == target and row["mAP"] is not None}
        cells = [f"{of[p]:.4f} ({of[p] - source['mAP']:+.4f})" if p in of else "" for p in PRECISIONS]
        if of:
            lines.append(f"| {target} | {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> str:
    """Every option of every target, with its default and its values."""
    lines = ["| --option | default | values |", "|---|---|---|"]
    for name in converters.target_names():
        kind = converters.target(name).options
        hints = typing.get_type_hints(kind)
        for option in kind.__struct_fields__:
            values = ", ".join(str(value) for value in typing.get_args(hints[option]) if value)
            values = values or {"str": "text", "int": "a number", "bool": "True, False"}[hints[option].__name__]
            lines.append(f"| {name}.{option} | {getattr(kind(), option)} | {values} |")
    return "\n".join(lines)


def recipes() -> str:
    """How each target quantises: its recipes, and whether layers can stay in float."""
    lines = ["| target | recipes for int8 | layers |", "|---|---|---|"]
    for name in converters.target_names():
        spec = converters.target(name)
        layers = "all in integers" if spec.integers else "some can stay in float"
        lines.append(f"| {name} | {', '.join(spec.recipes)} | {layers} |")
    return "\n".join(lines)


def toolchains() -> str:
    """The isolated environments."""
    lines = ["| toolchain | what | for | size | needs |", "|---|---|---|---|---|"]
    for toolchain in installation.declared().values():
        python = [f"Python {', '.join(toolchain.pythons)}"] if toolchain.pythons else []
        needs = "; ".join([*python, *toolchain.programs])
        users = ", ".join(installation.users(toolchain.name))
        size = f"{toolchain.megabytes} MB"
        lines.append(f"| {toolchain.name} | {toolchain.summary} | {users} | {size} | {needs} |")
    return "\n".join(lines)


def ablation() -> str:
    """mAP by target with the plan's methods switched off, one table for each model."""
    rows = json.loads(ABLATION.read_text(encoding="utf-8"))
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of = {(row["target"], row["variant"]): row["map"] for row in rows if row["model"] == model}
        variants = list(dict.fromkeys(variant for _, variant in of if variant))
        lines = [f"| {model} | {' | '.join(variants)} |", f"|---|{'---|' * len(variants)}"]
        lines.append(f"| PyTorch | {of['PyTorch', '']:.4f} |{' |' * (len(variants) - 1)}")
        for target in dict.fromkeys(target for target, variant in of if variant):
            cells = [f"{of[target, one]:.4f}" if (target, one) in of else "" for one in variants]
            lines.append(f"| {target} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


TABLES = {
    "README.md": {"targets": targets, "demo": demo},
    "docs/CALIBRATION.md": {"ablation": ablation},
    "docs/TARGETS.md": {"recipes": recipes, "options": options, "toolchains": toolchains},
}


def filled(page: str) -> str:
    """A page with everything between its markers made anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in TABLES[page].items():
        begin, end = f"<!-- begin {name} (docs/tables.py) -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{page} has no place for the table: {begin} ... {end}")
        made = f"{begin}\n{make()}\n{end}"
        text = pattern.sub(lambda _, made=made: made, text)
    return text


def main(check: bool) -> None:
    """Write the pages, or only look whether they are as they would be written."""
    for page in TABLES:
        wanted = filled(page)
        if not check:
            (ROOT / page).write_text(wanted, encoding="utf-8")
        elif (ROOT / page).read_text(encoding="utf-8") != wanted:
            raise SystemExit(f"{page} is out of date: run python docs/tables.py")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
