"""Draws docs/figures/profile.jpg: parts of the page of a matrix of profiles, light and dark, as a browser shows them.

    edgekit profile out/demo/* --labels out/demo/scenes/annotations.json --html report.html
    python docs/profile_picture.py report.html

Needs chromium.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from edgekit.arrays import Image

FIGURE = Path(__file__).with_name("figures") / "profile.jpg"
SECTIONS = ("latency", "stages", "accuracy")
SHARE = 0.75
"""Of a page's size that the picture has."""
WIDTH, HEIGHT = 1000, 5200


def shown(page: str, *, dark: bool) -> Image:
    """The whole page as chromium draws it."""
    with tempfile.TemporaryDirectory() as folder:
        path, picture = Path(folder) / "page.html", Path(folder) / "page.png"
        path.write_text(page, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", f"--window-size={WIDTH},{HEIGHT}"]
        if dark:
            flags.append("--blink-settings=preferredColorScheme=0")
        subprocess.run(["chromium", *flags, f"--screenshot={picture}", path.as_uri()], capture_output=True, check=True)
        found = cv2.imread(str(picture))
    if found is None:
        raise SystemExit("chromium drew nothing")
    return np.asarray(found, np.uint8)


def only(page: str, keep: tuple[str, ...]) -> str:
    """The page with nothing but some of its sections."""
    hidden = [key for key in re.findall(r'<(?:section|details) id="([\w-]+)"', page) if key not in keep]
    rules = ",".join(f"#{key}" for key in hidden)
    style = f"<style>{rules},header,footer,.filters{{display:none!important}}</style></head>"
    return page.replace("</head>", style, 1)


def trimmed(image: Image) -> Image:
    """Without the empty part at its end."""
    rows = np.flatnonzero((image != image[-1]).any(axis=(1, 2)))
    return image[: rows[-1] + 24]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    report = Path(sys.argv[1]).read_text(encoding="utf-8")
    left = trimmed(shown(only(report, SECTIONS[:1]), dark=False))
    right = trimmed(shown(only(report, SECTIONS[1:]), dark=True))
    height = max(len(left), len(right))
    parts = [
        cv2.copyMakeBorder(one, 0, height - len(one), 0, 0, cv2.BORDER_CONSTANT, value=one[-1, 0].tolist())
        for one in (left, right)
    ]
    small = cv2.resize(np.hstack(parts), None, fx=SHARE, fy=SHARE, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(FIGURE), small, [cv2.IMWRITE_JPEG_QUALITY, 88])
