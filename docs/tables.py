"""Writes the generated tables: the targets from their specs, their proof and the figures from a full run of the demo.

    python docs/tables.py            write
    python docs/tables.py --check    exit 1 when a page is not what would be written

The figures come from docs/figures/demo.json, which ``edgekit demo --json`` gives, and from docs/figures/ablation.json,
docs/figures/blip2.json, docs/figures/blip2_methods.json, docs/figures/blip2_matrix.json, docs/figures/families.json and
docs/figures/int8_speed.json, which docs/ablation.py, docs/blip2_table.py, docs/blip2_methods.py, docs/blip2_matrix.py,
tests/families/measure.py and benchmarks/int8_speed.py write.
"""

from __future__ import annotations

import json
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit import converters
from edgekit.conversion import installation
from edgekit.runtimes.engines import engine

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "docs" / "figures" / "demo.json"
ABLATION = ROOT / "docs" / "figures" / "ablation.json"
BLIP2 = ROOT / "docs" / "figures" / "blip2.json"
METHODS = ROOT / "docs" / "figures" / "blip2_methods.json"
MATRIX = ROOT / "docs" / "figures" / "blip2_matrix.json"
BLIP2_SPEED = ROOT / "docs" / "figures" / "blip2_speed.json"
BLIP2_REAL_SPEED = ROOT / "docs" / "figures" / "blip2_real_speed.json"
FAMILIES = ROOT / "docs" / "figures" / "families.json"
SPEED = ROOT / "docs" / "figures" / "int8_speed.json"


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
        mixed = f", except with {', '.join(spec.mixed_recipes)}" if spec.mixed_recipes else ""
        layers = f"all in integers{mixed}" if spec.integer_only else "some can stay in float"
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


BLIP2_MEASURES = {
    "opt": ("VQA accuracy", "CIDEr", "BLEU-4", "METEOR", "exact"),
    "t5": ("VQA accuracy", "CIDEr", "BLEU-4", "METEOR", "exact"),
    "retrieval": ("R@1", "TR@1", "IR@1", "ITM"),
}
"""Columns of the table of each model; the first two also show the difference to the source."""


def blip2() -> str:
    """Figures of each model with one part, then with all parts, in another precision; a table for each model."""
    if not BLIP2.is_file():
        return "Not measured yet: `make blip2-table`."
    rows = json.loads(BLIP2.read_text(encoding="utf-8"))
    parts = []
    for model, names in BLIP2_MEASURES.items():
        mine = [row for row in rows if row["model"] == model]
        if not mine:
            continue
        source = next(row for row in mine if not row["target"])
        names = tuple(name for name in names if name in source["figures"])
        lines = [
            f"| {model}, {source['images']} scenes | {' | '.join(names)} | MB |",
            f"|---|{'---|' * len(names)}---|",
        ]
        for row in mine:
            cells = [_changed(row, source, name, told=name in names[:2]) for name in names]
            lines.append(f"| {_variant(row)} | {' | '.join(cells)} | {row['bytes'] / 1e6:.2f} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def methods() -> str:
    """What each way of rounding a part of a BLIP-2 costs."""
    if not METHODS.is_file():
        return "Not measured yet: `python docs/blip2_methods.py`."
    return methods_of(json.loads(METHODS.read_text(encoding="utf-8")))


def methods_of(rows: list[dict[str, Any]]) -> str:
    """Two tables for each model: its parts on onnx, with its main figures, and its language part on every target."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        on_onnx = [row for row in mine if row["target"] == "onnx"]
        if on_onnx:
            parts.append(_methods_by_part(model, on_onnx))
        if len(on_onnx) < len(mine):
            parts.append(_methods_by_target(model, [row for row in mine if row["part"] == "language"]))
    return "\n\n".join(parts)


def _methods_by_part(model: str, mine: list[dict[str, Any]]) -> str:
    """Tokens or decisions matched, score drift, the model's main figures and size."""
    named = list(dict.fromkeys(row["part"] for row in mine))
    scenes = min(row["images"] for row in mine)
    main = ("R@1",) if model == "retrieval" else ("VQA accuracy", "CIDEr")
    main = main if scenes else ()
    shown = ", ".join(("matched", "drift", *main, "MB"))
    heads = [f"{'Q-Former' if part == 'qformer' else part}: {shown}" for part in named]
    lines = [f"| {model}, onnx{f', {scenes} scenes' if scenes else ''} | {' | '.join(heads)} |"]
    lines.append(f"|---|{'---|' * len(named)}")
    of = {(row["part"], row["precision"]): row for row in mine}
    for precision in dict.fromkeys(row["precision"] for row in mine):
        cells = [_method(of[part, precision], main) if (part, precision) in of else "" for part in named]
        lines.append(f"| {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _methods_by_target(model: str, mine: list[dict[str, Any]]) -> str:
    """Tokens matched and score drift of the precisions that other targets than onnx were measured in."""
    targets = list(dict.fromkeys(row["target"] for row in mine))
    lines = [f"| {model}, language: matched, drift | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}"]
    of = {(row["target"], row["precision"]): f"{row['matched']:.1%}, {row['drift']:.3f}" for row in mine}
    elsewhere = {row["precision"] for row in mine if row["target"] != "onnx"}
    for precision in dict.fromkeys(row["precision"] for row in mine if row["precision"] in elsewhere):
        lines.append(f"| {precision} | {' | '.join(of.get((target, precision), '') for target in targets)} |")
    return "\n".join(lines)


def blip2_opt() -> str:
    """The matrix of the OPT model: every target and preset with the word of its proof."""
    return _matrix("opt")


def blip2_matrix() -> str:
    """The matrix of each model."""
    return "\n\n".join(_matrix(model) for model in BLIP2_MEASURES)


def _matrix(model: str) -> str:
    """A row for each target: the word of the proof, and the share of tokens or decisions that are the source's."""
    rows = [row for row in json.loads(MATRIX.read_text(encoding="utf-8")) if row["model"] == model]
    names = ("fp32", "fp16", "int8", "int4")
    lines = [f"| {model} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    of = {(row["target"], row["precision"]): row for row in rows}
    for target in dict.fromkeys(row["target"] for row in rows):
        language = next((row["language"] for row in rows if row["target"] == target and "language" in row), "")
        cells = [_proven(of.get((target, name))) for name in names]
        lines.append(f"| {target}{f', language on {language}' if language else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def blip2_speed(figures: Path = BLIP2_SPEED) -> str:
    """How fast each engine decodes a model of published widths, and what share of the memory limit that is."""
    if not figures.is_file():
        return "Not measured yet: `python benchmarks/blip2.py`."
    found = json.loads(figures.read_text(encoding="utf-8"))
    base = found["rows"][0]
    times = f"times {base['name']}"
    columns = ("tokens a second", "of the limit", times, "prompt, ms", "vision, ms", "load, s", "memory, GB")
    lines = [
        f"Memory bandwidth: {found['bandwidth'] / 1e9:.1f} GB/s; {found['depths']['language']} layers of language, "
        f"{found['depths']['vision']} of vision, {found['depths']['qformer']} of the Q-Former.\n",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in found["rows"]:
        cells = [f"{row['tokens_per_second']:.1f}", f"{row['share_of_limit']:.0%}"]
        cells.append(f"{row['tokens_per_second'] / base['tokens_per_second']:.1f}")
        cells += [f"{row[phase]:.0f}" for phase in ("prefill", "vision")]
        cells += [f"{row['load'] / 1e3:.1f}", f"{row['peak'] / 1e9:.2f}"]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def blip2_real_speed() -> str:
    """The same of the real size."""
    return blip2_speed(BLIP2_REAL_SPEED)


def _proven(row: dict[str, Any] | None) -> str:
    return f"{row['word']} {row['matched']:.1%}{'' if row.get('passed', True) else ' *'}" if row else ""


def _method(row: dict[str, Any], main: Sequence[str]) -> str:
    figures = [f"{row['figures'][name]:.3f}" for name in main]
    return ", ".join([f"{row['matched']:.1%}", f"{row['drift']:.3f}", *figures, f"{row['bytes'] / 1e6:.2f}"])


def _variant(row: dict[str, Any]) -> str:
    if not row["target"]:
        return "source in PyTorch"
    what = f"{'Q-Former' if row['part'] == 'qformer' else row['part']} {row['precision']}".strip()
    return f"{row['target']}, {what}{'' if row.get('passed', True) else ' *'}"


def _changed(row: dict[str, Any], source: dict[str, Any], name: str, told: bool) -> str:
    value = row["figures"][name]
    return f"{value:.3f} ({value - source['figures'][name]:+.3f})" if told and row["target"] else f"{value:.3f}"


def families() -> str:
    """Every family of heads: where its contract comes from, and what it was proven on."""
    rows = json.loads(FAMILIES.read_text(encoding="utf-8")).values()
    targets = list(dict.fromkeys(target for row in rows for target in row["targets"]))
    heads = ("family", "comes as", "decoder", "contract", "proven on", *targets)
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        told = [row["family"], row["sources"], f"`{row['decoder']}`", row["contract"], row["model"]]
        cells = [_refused(row, target) or _matched(row["targets"].get(target, {})) for target in targets]
        lines.append(f"| {' | '.join([*told, *cells])} |")
    return "\n".join(lines)


def _refused(row: dict[str, Any], target: str) -> str:
    """The operator for which a target refuses such networks; empty where it takes them."""
    operator = row["refused"].get(target)
    return f"refused ({operator})" if operator else ""


def _matched(precisions: dict[str, Any]) -> str:
    """Precisions of a target with the share of the source's objects that was matched; what did not pass is said."""
    return ", ".join(
        f"{name} {one['matched']:.1%}" if one["proven"] and one["matched"] is not None else f"{name} not proven"
        for name, one in precisions.items()
    )


def speed() -> str:
    """The time of INT8 over that of float32, by target and model, with one thread and with two."""
    if not SPEED.is_file():
        return "Not measured yet: `python benchmarks/int8_speed.py`."
    rows = json.loads(SPEED.read_text(encoding="utf-8"))
    models = list(dict.fromkeys(row["model"] for row in rows))
    parts = [
        "Time of INT8 divided by that of fp32: with one thread, with the interval of the median; then with two "
        "threads; then how many convolutions are in integers. The table avx2 is of the same machine, with its newer "
        "instructions hidden (`benchmarks/older_processor.py`)."
    ]
    for instructions in sorted({row["instructions"] for row in rows}):
        mine = [row for row in rows if row["instructions"] == instructions]
        of = {(row["target"], row["model"], row["threads"]): row for row in mine}
        lines = [f"| {instructions} | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
        for target in dict.fromkeys(row["target"] for row in mine):
            lines.append(f"| {target} | {' | '.join(_ratios(of, target, model) for model in models)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _ratios(of: dict[tuple[str, str, int], Any], target: str, model: str) -> str:
    one, two = of.get((target, model, 1)), of.get((target, model, 2))
    if one is None:
        return "-"
    second = f"; {two['ratio']:.2f}" if two else ""
    integers = f"; {one['integers']} convolutions" if one["integers"] else ""
    return f"{one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f}){second}{integers}"


TABLES = {
    "README.md": {"targets": targets, "demo": demo, "blip2_opt": blip2_opt},
    "docs/BLIP2.md": {
        "blip2": blip2,
        "methods": methods,
        "blip2_matrix": blip2_matrix,
        "blip2_real_speed": blip2_real_speed,
        "blip2_speed": blip2_speed,
    },
    "docs/CALIBRATION.md": {"ablation": ablation},
    "docs/FAMILIES.md": {"families": families},
    "docs/TARGETS.md": {"recipes": recipes, "speed": speed, "options": options, "toolchains": toolchains},
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
