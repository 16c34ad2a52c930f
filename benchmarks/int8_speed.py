"""How fast INT8 is beside float32 here, by target and model: every pair of bundles in turns, in one process.

    python benchmarks/int8_speed.py MODELS.json -o docs/figures/int8_speed.json

MODELS.json is a list of what is converted: name, source, data, and contract and trust where they are needed. Paths are
relative to the file. Bundles of an earlier run in --out are kept, and so are the rows of these models with other
targets and instruction sets in the output. ``python docs/tables.py`` writes the table. The figures of an older
processor come from a new one by

    python benchmarks/older_processor.py python benchmarks/int8_speed.py MODELS.json --out out/int8_speed_avx2
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from edgekit.conversion.convert import convert
from edgekit.conversion.request import Request
from edgekit.conversion.speed import time_ratio
from edgekit.errors import EngineError
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.inputs.media import frames
from edgekit.timing import instructions

TARGETS = ("onnx", "web", "openvino", "litert", "ncnn", "mnn", "executorch")
"""What runs here: time of an emulator says nothing."""


class Subject(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A model of the list."""

    name: str
    source: str
    data: str
    contract: str = ""
    trust: bool = False


def main() -> None:
    """Convert, time, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--processor", default="", help="named beside the instruction set, where that tells too little")
    parser.add_argument("--out", type=Path, default=Path("out/int8_speed"), help="folder of the bundles")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/figures/int8_speed.json"))
    given = parser.parse_args()
    known = json.loads(given.output.read_bytes()) if given.output.is_file() else []
    models = msgspec.json.decode(given.models.read_bytes(), type=list[Subject])
    names = [model.name for model in models]
    for model in models:
        rows = _rows(model, given.models.parent, given)
        new = {_key(row) for row in rows}
        known = [row for row in known if _key(row) not in new] + rows
        known = [row for row in known if row["model"] in names]
        known.sort(key=lambda row: (row["instructions"], names.index(row["model"]), TARGETS.index(row["target"])))
        given.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("model", "target", "threads", "instructions"))


def _rows(model: Subject, folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    data = str(folder / model.data)
    request = Request(
        source=model.source if ":" in model.source else str(folder / model.source),
        contract=str(folder / model.contract) if model.contract else "",
        data=data,
        name=re.sub(r"\W+", "-", model.name),
        targets=tuple(given.targets.split(",")),
        precisions=("fp32", "int8"),
        out=given.out,
        gated=False,
        trust=model.trust,
    )
    done = {(one.target, one.precision): one for one in convert(request)}
    rows: list[dict[str, Any]] = []
    for target, threads in itertools.product(request.targets, map(int, given.threads.split(","))):
        fp32, int8 = done[target, "fp32"].bundle, done[target, "int8"].bundle
        if fp32 is None or int8 is None:
            print(f"{model.name} {target}: {done[target, 'fp32'].error or done[target, 'int8'].error}", flush=True)
            continue
        rule = int8.manifest.contract.image
        images = [Preprocessor(rule)(frame.image)[0] for frame in itertools.islice(frames(data), 4)]
        try:
            ratio = time_ratio(int8, fp32, images, threads=threads)
        except EngineError as error:
            print(f"{model.name} {target}: {error}", flush=True)
            continue
        processor = ", ".join(filter(None, (instructions(), given.processor)))
        row = {"model": model.name, "target": target, "threads": threads, "instructions": processor}
        row |= {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
        row["integers"] = int8.manifest.graphs[0].report.get("convolutions in integers", "")
        row["recipe"] = int8.manifest.evidence.recipe if int8.manifest.evidence else ""
        rows.append(row)
        print(
            f"{model.name} {target}, {threads} threads: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
