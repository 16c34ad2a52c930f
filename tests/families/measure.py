"""Convert every family to four targets in float and INT8 and write down what was proven.

    python -m tests.families.measure                     all families
    python -m tests.families.measure yolov5 scrfd        these; the figures of the others stay
    python -m tests.families.measure --folder FOLDER     keep the networks and images there, for the next time

Run from the repository root, with ../shared/data beside it. The figures go to docs/figures/families.json, from which
docs/tables.py makes the table of docs/FAMILIES.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import edgekit
from edgekit.conversion.inspect import inspect
from edgekit.shapes import write_coco
from edgekit.shapes.bars import write_long_scenes

from .people import write_people
from .rows import CROPS, DATA, FACES, PEOPLE, ROWS, Made, MissingError, Row

FIGURES = Path(__file__).parents[2] / "docs" / "figures" / "families.json"
TARGETS = ("onnx", "openvino", "litert", "ncnn")
SCENES = range(7_000_000, 7_000_040)


def _write_crops(folder: Path) -> None:
    from .crops import CROP, SIDE

    write_coco(folder, SCENES, (SIDE, SIDE), CROP)


DRAWN: dict[str, Callable[[Path], object]] = {
    "shapes": lambda folder: write_coco(folder, SCENES),
    "bars": lambda folder: write_long_scenes(folder, SCENES),
    CROPS: _write_crops,
}
"""How images of these kinds are made."""


def images_of(kind: str, folder: Path) -> str:
    """A folder of images.

    Raises:
        MissingError: photographs that are not here.
    """
    if kind in DRAWN:
        place = folder / kind
        if not (place / "annotations.json").is_file():
            DRAWN[kind](place)
        return str(place)
    if not DATA.is_dir():
        raise MissingError(f"{DATA} is not here")
    if kind == PEOPLE:
        place = folder / kind
        return str(place if place.is_dir() else write_people(place, DATA))
    if kind != FACES:
        return str(DATA / "voc50" / "images")
    place = folder / FACES
    if not place.is_dir():
        place.mkdir()
        for source in ("voc50/images", "pose", "calibration"):
            for photo in sorted((DATA / source).glob("*.jpg")):
                (place / photo.name).symlink_to(photo)
    return str(place)


def contract_of(made: Made, row: Row, folder: Path) -> tuple[str, str]:
    """The path of the contract, and the decoder that it names."""
    if not made.inspected:
        return made.contract, row.decoder
    seen = inspect(made.source, size=made.size)
    path = folder / f"{row.name}.yaml"
    path.write_text(seen.contract, encoding="utf-8")
    return str(path), seen.decoder


def measured(row: Row, folder: Path) -> dict[str, Any]:
    """A family's figures: by target and precision, what its proof says."""
    began = time.monotonic()
    made = row.make(folder)
    contract, decoder = contract_of(made, row, folder)
    done = edgekit.convert(
        made.source,
        TARGETS,
        precision=row.precisions,
        contract=contract or None,
        data=images_of(made.data, folder),
        out=folder / f"out-{row.name}",
        size=made.size,
        imports=made.imports,
        weights=made.weights,
        gate=row.loose or None,
    )
    found: dict[str, Any] = {}
    for one in done:
        evidence = one.evidence
        compared = None if evidence is None else evidence.decoded
        found.setdefault(one.target, {})[one.precision] = {
            "proven": one.ok,
            "matched": None if compared is None else round(compared.matched, 4),
            "objects": None if compared is None else compared.detections,
            "compared": "" if evidence is None else evidence.compared,
            "error": str(one.error or "")[:300],
        }
    print(f"{row.name}: {time.monotonic() - began:.0f} s {_short(found)}", flush=True)
    return {"decoder": decoder, "targets": found}


def written(known: dict[str, Any]) -> None:
    """Write the figures of the rows that there are, in their order, with what is said of each."""
    kept = {
        row.name: {
            "family": row.family,
            "sources": row.sources,
            "contract": row.contract,
            "model": row.model,
            "refused": row.refused,
            **{key: known[row.name][key] for key in ("decoder", "targets")},
        }
        for row in ROWS
        if row.name in known
    }
    FIGURES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _short(found: dict[str, Any]) -> str:
    return ", ".join(
        f"{target} {precision} {'' if one['proven'] else 'NOT '}{one['matched']}"
        for target, precisions in found.items()
        for precision, one in precisions.items()
    )


def main(names: Sequence[str], folder: Path) -> None:
    """Measure and write after every family."""
    wanted = [row for row in ROWS if not names or row.name in names]
    unknown = sorted(set(names) - {row.name for row in ROWS})
    if unknown:
        raise SystemExit(f"no such family: {', '.join(unknown)}; there are {', '.join(row.name for row in ROWS)}")
    for row in wanted:
        try:
            figures = measured(row, folder)
        except MissingError as error:
            print(f"{row.name}: left out, {error}", flush=True)
            continue
        known = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}
        written(known | {row.name: figures})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = given.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        main(given.families, place)
