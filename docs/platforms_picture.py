"""Draws docs/figures/platforms.jpg: what Python, Swift, Kotlin and TypeScript find with one bundle in one picture.

    python docs/platforms_picture.py [SOURCE CONTRACT PHOTOGRAPH]

Poses and masks are of the networks that come with edgekit; detections too, unless a detector, its contract and a
photograph are given. The three platforms need what make test-swift, test-kotlin and test-web set up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

import edgekit
from edgekit.arrays import Image
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.results import Detections, Instances, Poses
from edgekit.runtimes.results.masks import Masks

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
from platform_bundles import converted, expected, write_pictures  # noqa: E402 - from the folder of the tests

FIGURE = Path(__file__).with_name("figures") / "platforms.jpg"
COMMANDS = {
    "Swift": ("EDGEKIT_SWIFT_BUNDLES", ["platforms/swift/test.sh", "test", "--filter", "BundleTests"]),
    "Kotlin": ("EDGEKIT_KOTLIN_BUNDLES", ["platforms/kotlin/test.sh", "BundleTest"]),
    "TypeScript": (
        "EDGEKIT_WEB_BUNDLES",
        ["sh", "-c", "cd platforms/web && npx tsc -p tsconfig.test.json && node --test build/test/bundles.test.js"],
    ),
}
WIDTH, TITLE, GAP = 420, 34, 8


def given(folder: Path, source: str, contract: str, photograph: str) -> tuple[Bundle, Path]:
    """A detector's bundle and a folder with one picture."""
    pictures = folder / "photographs"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "0.png"), cv2.imread(photograph))
    (outcome,) = edgekit.convert(
        source, "onnx", precision="fp32", contract=contract, data=pictures, out=folder, gated=False
    )
    if outcome.bundle is None:
        raise SystemExit(str(outcome.error))
    return outcome.bundle, pictures


def result(bundle: Bundle, found: dict[str, Any], image: Image) -> Detections:
    """What a platform wrote, as Python's result."""
    contract, size = bundle.manifest.contract, image.shape[1::-1]
    boxes = np.array(found["boxes"], np.float32).reshape(-1, 4)
    columns = {
        "boxes": boxes,
        "scores": np.array(found["scores"], np.float32),
        "class_ids": np.array(found["class_ids"], np.int64),
        "track_ids": np.array(found["track_ids"], np.int64),
        "size": size,
        "classes": contract.classes,
    }
    if contract.task == "pose" and contract.skeleton is not None:
        points = np.array(found["keypoints"], np.float32).reshape(len(boxes), -1, 3)
        return Poses(**columns, keypoints=points, skeleton=contract.skeleton)
    if contract.task == "segment":
        encoded = [{"size": size[::-1], "counts": counts} for counts in found["masks"]]
        return Instances(**columns, masks=Masks.from_rle(encoded, size))
    return Detections(**columns)


def tracked(bundle: Bundle, entry: dict[str, Any], image: Image) -> Image:
    """What Python finds in the last frame, drawn."""
    kinds = {"pose": Poses, "segment": Instances}
    contract, document = bundle.manifest.contract, entry["frames"][-1]["tracked"]
    found = kinds.get(contract.task, Detections).from_dict(document, classes=contract.classes)
    return found.draw(image)


def column(name: str, drawn: list[Image]) -> Image:
    """The pictures of one platform under its name."""
    title = np.full((TITLE, WIDTH, 3), 255, np.uint8)
    cv2.putText(title, name, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 40, 40), 2, cv2.LINE_AA)
    scaled = [
        cv2.resize(one, (WIDTH, one.shape[0] * WIDTH // one.shape[1]), interpolation=cv2.INTER_AREA) for one in drawn
    ]
    parts = [np.vstack([one, np.full((GAP, WIDTH, 3), 255, np.uint8)]) for one in scaled]
    drawn_column = np.vstack([title, *parts])
    return np.hstack([drawn_column, np.full((len(drawn_column), GAP, 3), 255, np.uint8)])


def main(detector: list[str]) -> None:
    """Convert, run every platform on the same files, and draw them beside one another."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = write_pictures(folder / "pictures")
        tasks = ("pose", "segment") if detector else ("detector", "pose", "segment")
        bundles = [converted(task, "onnx", folder, pictures) for task in tasks]
        entries = [expected(bundle, pictures) for bundle in bundles]
        if detector:
            bundle, photographs = given(folder, *detector)
            bundles, entries = [bundle, *bundles], [expected(bundle, photographs), *entries]
        (folder / "expected.json").write_bytes(msgspec.json.encode(entries))
        images = [cv2.imread(entry["frames"][-1]["image"]) for entry in entries]
        columns = [column("Python", [tracked(*one) for one in zip(bundles, entries, images, strict=True)])]
        for name, (variable, command) in COMMANDS.items():
            subprocess.run(
                command, cwd=ROOT, check=True, env={**os.environ, variable: temporary, "EDGEKIT_PYTHON": sys.executable}
            )
            found = [json.loads(Path(f"{bundle.path}-found.json").read_text()) for bundle in bundles]
            columns.append(
                column(name, [result(*one).draw(one[2]) for one in zip(bundles, found, images, strict=True)])
            )
        cv2.imwrite(str(FIGURE), np.hstack(columns), [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main(sys.argv[1:])
