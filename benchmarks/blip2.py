"""How fast a BLIP-2 of published widths runs: edgekit's bundles, the engines by hand, and Hugging Face in eager mode.

One image, one prompt of 32 image and 8 text tokens, random weights (made once). All are measured in turns, each time
in a new process, so that the machine's mood is shared and memory is each one's own; figures are medians over the
rounds, and ratios medians of the ratios within a round. The limit of decoding is memory: all weights are read for a
token, so it cannot be faster than the bandwidth measured in the same round divided by the bytes of the weights. "at
best" is the same share for the fastest token and the best bandwidth of all rounds.

    python benchmarks/blip2.py --work FOLDER [--rounds 3] [--only edgekit-onnx-int4 hf-fp32] [--json]
    python benchmarks/blip2.py --work FOLDER --json > docs/figures/blip2_speed.json; python docs/tables.py

Needs transformers and torch for the comparison, and 12 GB of disk and 6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from blip2_checkpoint import Depths, write

CHILD = Path(__file__).with_name("blip2_subjects.py")
BASE = "hf-fp32"
TARGETS = {"int8": 0.85, "int4": 0.75}
"""Shares of the limit that the best engine is to reach."""

TIMES_EAGER = 5.0
"""How many times as fast as the base it is to decode."""


def child(name: str, checkpoint: Path, given: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """Run one subject in a process of its own; without tokens it only makes its files."""
    command = [sys.executable, str(CHILD), name, str(checkpoint), str(given.work), str(given.threads), str(tokens)]
    threads = str(given.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise SystemExit(f"{name} failed:\n{run.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1]) if tokens else {}
    return found


def rounds(names: list[str], checkpoint: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything that was measured, by round and name; each round begins with another subject."""
    found = []
    for number in range(given.rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        one: dict[str, Any] = child("bandwidth", checkpoint, given, 1)
        for name in order:
            print(f"round {number + 1}: {name}", file=sys.stderr)
            one[name] = child(name, checkpoint, given, given.tokens)
        for key, again in child("bandwidth", checkpoint, given, 1).items():  # its mood changes as well
            one[key] = max(one[key], again)
        found.append(one)
    return found


def row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One subject's medians."""

    def over(value: Any) -> float:
        return float(median(value(one) for one in found))

    made = {key: over(lambda one, key=key: one[name][key]) for key in ("load", "vision", "prefill", "first", "peak")}
    made["tokens_per_second"] = over(lambda one: 1e3 / one[name]["step"])
    made |= {key: found[0][name][key] for key in ("streamed", "size")}
    made["share_of_limit"] = over(lambda one: one[name]["streamed"] / one["bandwidth"] / (one[name]["step"] / 1e3))
    best = min(one[name]["best_step"] for one in found) / 1e3
    made["best_share_of_limit"] = made["streamed"] / max(one["best_bandwidth"] for one in found) / best
    if BASE in found[0]:
        for key, what in (("step", "decode"), ("prefill", "prefill"), ("vision", "vision"), ("first", "first")):
            made[f"{what}_times_eager"] = over(lambda one, key=key: one[BASE][key] / one[name][key])
        made["cosine"] = cosine(found[0][BASE]["logits"], found[0][name]["logits"])
    return {"name": name, **made}


def cosine(one: list[float], other: list[float]) -> float:
    """Of the logits behind the same tokens: whether it is one model that all of them run."""
    first, second = np.array(one), np.array(other)
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """What of the targets the best engine does not reach."""
    found = []
    for preset, wanted in TARGETS.items():
        ours = [one for one in rows if one["name"].startswith("edgekit") and one["name"].endswith(preset)]
        if not ours:
            continue
        best = max(ours, key=lambda one: one["share_of_limit"])
        if best["share_of_limit"] < wanted:
            found.append(f"{best['name']}: {best['share_of_limit']:.0%} of the limit, wanted {wanted:.0%}")
        if (times := max(one.get("decode_times_eager", TIMES_EAGER) for one in ours)) < TIMES_EAGER:
            found.append(f"{preset}: {times:.1f} x eager, wanted {TIMES_EAGER:.0f}")
    return found


def show(rows: list[dict[str, Any]], bandwidth: float) -> None:
    """Print the table; x is how many times as fast as Hugging Face eager float32."""
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s; x: times as fast as {BASE}")
    titles = (
        "tokens/s",
        "x",
        "of limit",
        "at best",
        "prefill ms",
        "x",
        "vision ms",
        "x",
        "first token ms",
        "x",
        "load ms",
        "GB/token",
        "peak GB",
        "of files",
        "cosine",
    )
    widths = tuple(max(len(title) + 2, 7) for title in titles)
    print(f"{'':<24}" + "".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True)))
    for one in rows:
        cells = [f"{one['tokens_per_second']:.2f}", _ratio(one, "decode"), f"{one['share_of_limit']:.0%}"]
        cells.append(f"{one['best_share_of_limit']:.0%}")
        for what in ("prefill", "vision", "first"):
            cells += [f"{one[what]:.0f}", _ratio(one, what)]
        cells += [f"{one['load']:.0f}", f"{one['streamed'] / 1e9:.2f}", f"{one['peak'] / 1e9:.2f}"]
        cells += [f"{one['peak'] / one['size']:.2f}", f"{one.get('cosine', np.nan):.4f}"]
        print(f"{one['name']:<24}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _ratio(one: dict[str, Any], what: str) -> str:
    found = one.get(f"{what}_times_eager")
    return "" if found is None else f"{found:.1f}"


def arguments() -> argparse.Namespace:
    from blip2_subjects import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the model and its graphs, kept")
    parser.add_argument("--layers", type=int, default=6, help="of the language model")
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--qformer-layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16, help="decoded in each of a process's four runs")
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="subjects")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Make what is missing, measure, print."""
    given = arguments()
    depths = Depths(given.layers, given.vision_layers, given.qformer_layers)
    given.work = given.work / str(depths)
    checkpoint = given.work / "checkpoint"
    if not checkpoint.is_dir():
        write(checkpoint, depths)
    for name in given.only:
        if not name.startswith("hf"):
            print(f"making the graphs of {name}", file=sys.stderr)
            child(name, checkpoint, given, 0)
    found = rounds(given.only, checkpoint, given)
    rows = [row(name, found) for name in given.only]
    bandwidth = median(one["bandwidth"] for one in found)
    missed = misses(rows)
    if given.json:
        made = {"bandwidth": bandwidth, "load": os.getloadavg()[0], "depths": asdict(depths), "missed": missed}
        print(json.dumps({**made, "rows": rows}, indent=1))
        return
    show(rows, bandwidth)
    print("\n".join(f"missed: {one}" for one in missed) or "all targets are reached")


if __name__ == "__main__":
    main()
