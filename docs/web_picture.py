"""Draws docs/figures/web_app.jpg from the screenshots that test_the_app_in_chromium leaves in its folder ``made``.

python docs/web_picture.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

OUT = Path(__file__).parent / "figures" / "web_app.jpg"
PICTURES = ("detector-desk-camera", "segment-phone-dark", "pose-phone-light")
HEIGHT = 760
GAP = 16


def main(folder: Path) -> None:
    """Screens beside one another, each from its top, at one height."""
    shown = []
    for name in PICTURES:
        screen = cv2.imread(str(folder / f"{name}.png"))
        high = screen.shape[1] * 1000 // (1280 if "desk" in name else 470)  # what a desk or a phone shows at once
        screen = screen[: min(high, len(screen))]
        width = screen.shape[1] * HEIGHT // len(screen)
        shown += [
            cv2.resize(screen, (width, HEIGHT), interpolation=cv2.INTER_AREA),
            np.full((HEIGHT, GAP, 3), 255, np.uint8),
        ]
    cv2.imwrite(str(OUT), np.hstack(shown[:-1]), [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
