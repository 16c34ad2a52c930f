"""Draws docs/figures/blip2.jpg: what a bundle of examples/blip2/opt says of the first held-out scenes, right or wrong.

python docs/blip2_picture.py out/opt-onnx-int4
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np

import edgekit
from edgekit.arrays import Image
from edgekit.shapes.talk import FIRST_EVALUATION_SEED, balanced, talked

FIGURE = Path(__file__).with_name("figures") / "blip2.jpg"
SCENES, SCALE, LINE, COLUMNS = 6, 3, 20, 38


def plate(lines: list[str], width: int) -> Image:
    """Lines of text on white."""
    drawn = np.full((LINE * 5, width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        place = (6, LINE * (number + 1) - 4)
        cv2.putText(drawn, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return drawn


def told(model: edgekit.VisionLanguage, seed: int) -> Image:
    """A scene, its caption, and two questions with the answers that were given."""
    given = talked(seed)
    image = given.scene.image
    lines = textwrap.wrap(str(model.caption(image)), COLUMNS)
    for question in balanced(given)[:2]:
        lines += textwrap.wrap(f"{question.text} {model.ask(image, question.text)}", COLUMNS)
    large = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    return np.vstack([np.asarray(large, np.uint8), plate(lines, large.shape[1])])


if __name__ == "__main__":
    bundle = edgekit.load(sys.argv[1])
    scenes = [told(bundle, FIRST_EVALUATION_SEED + number) for number in range(SCENES)]
    rows = [np.hstack(scenes[start : start + SCENES // 2]) for start in (0, SCENES // 2)]
    cv2.imwrite(str(FIGURE), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85])
