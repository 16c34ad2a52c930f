"""From a picture to the input tensor: every resize rule on awkward sizes, orientation, mirroring, normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.structures import from_builtins
from golden.cases import Case, Picture, Planned, Recurrence, Tree
from golden.closeness import apart

SIZE = (16, 24)
"""Height and width of most inputs: every tensor is kept."""

LINEAR = {"levels": 1, "share": 0.2}
"""OpenCV's builds differ by one level in some pixels; so does bilinear interpolation in floating point."""

PILLOW = {"levels": 1, "share": 0.001}
"""Whole numbers, but for weights that lie on the border of two."""


def picture(width: int, height: int, noisy: bool = True) -> Picture:
    """Ramps along x and y, and noise in the third channel: each pixel tells where it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = np.arange(width) * 255 // max(width - 1, 1)
    pixels[..., 1] = (np.arange(height) * 255 // max(height - 1, 1))[:, None]
    noise = Recurrence((height, width), 7, 0, 256).array().astype(np.uint8)
    pixels[..., 0] = noise if noisy else 255 - pixels[..., 1]
    return Picture("image.png", pixels)


SIZES = ((1, 1), (1, 7), (5, 1), (37, 53), (53, 37), (24, 16), (48, 32), (65, 47), (9, 200), (300, 7), (640, 11))
"""(width, height): a single pixel, lines, odd, as large as the input, exactly twice that, tall, wide."""

RULES: dict[str, dict[str, Any]] = {
    "letterbox": {},
    "corner": {"align": "corner", "pad": 114},
    "stretch": {"resize": "stretch"},
    "crop": {"resize": "crop"},
    "crop-875": {"resize": "crop", "crop": 0.875},
}


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    for name, changes in RULES.items():
        for width, height in SIZES:
            if changes.get("resize") == "crop" and max(width, height) > 150 and min(width, height) < 12:
                continue  # sampled directly: below, with pictures that are smooth
            yield _case(f"{name}-{width}x{height}", f"{name} of {width} x {height} pixels", (width, height), changes)
    yield from _normalised()
    yield from _resampled()
    yield from _strips()
    yield from _turned()
    yield from _controls()


def _normalised() -> Iterator[Planned]:
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    rules: dict[str, dict[str, Any]] = {
        "bgr": {"color": "bgr"},
        "imagenet": imagenet,
        "levels-bgr": {"scale": 1.0, "mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395), "color": "bgr"},
        "symmetric": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        "pad-rgb": {"pad": (10, 20, 30)},
        "pad-bgr": {"pad": (10, 20, 30), "color": "bgr", **imagenet},
    }
    for name, changes in rules.items():
        yield _case(f"normalise-{name}", f"normalisation: {name}", (20, 30), changes)


def _resampled() -> Iterator[Planned]:
    for kernel in ("bilinear", "bicubic"):
        for resize in ("letterbox", "stretch", "crop"):
            for width, height in ((37, 53), (90, 111), (5, 1)):
                yield _case(
                    f"{kernel}-{resize}-{width}x{height}",
                    f"Pillow's {kernel} kernel, {resize} of {width} x {height} pixels",
                    (width, height),
                    {"interpolation": kernel, "resize": resize},
                    PILLOW,
                )


def _strips() -> Iterator[Planned]:
    """Crops of pictures so long that they are sampled, not resized."""
    sizes = {"tall": (3, 5000), "wide": (5000, 4), "thin": (1, 3000), "large": (1200, 40)}
    for name, (width, height) in sizes.items():
        plan = _case(
            f"strip-{name}", f"crop of {width} x {height} pixels, a strip", (width, height), {"resize": "crop"}
        )
        smooth = {**plan.given, "image": picture(width, height, noisy=False)}
        yield dataclasses.replace(plan, given=smooth, tolerance={"levels": 1, "share": 0.3})


def _turned() -> Iterator[Planned]:
    for orientation in range(1, 9):
        yield _case(
            f"orientation-{orientation}", f"EXIF orientation {orientation}", (29, 17), {}, orientation=orientation
        )
    yield _case("mirrored", "the picture of a front camera", (29, 17), {}, mirrored=True)
    yield _case("mirrored-6", "turned first, then mirrored", (29, 17), {}, orientation=6, mirrored=True)


def _controls() -> Iterator[Planned]:
    def swapped(expected: Tree) -> None:
        expected["tensor"] = expected["tensor"][:, ::-1].copy()

    def shifted(expected: Tree) -> None:
        expected["tensor"] = np.roll(expected["tensor"], 1, 3)

    def off(expected: Tree) -> None:
        expected["transform"]["offset_x"] += 0.5

    controls = {"colour-order": swapped, "one-pixel": shifted, "half-pixel-offset": off}
    for name, spoil in controls.items():
        yield dataclasses.replace(_case(f"must-fail-{name}", f"planted: {name}", (53, 37), {}), spoil=spoil)


def _case(
    name: str,
    about: str,
    size: tuple[int, int],
    changes: dict[str, Any],
    tolerance: Tree = LINEAR,
    orientation: int = 1,
    mirrored: bool = False,
) -> Planned:
    rule = msgspec.to_builtins(ImageRule(**{"size": SIZE, **changes}))
    given = {"image": picture(*size), "rule": rule, "orientation": orientation, "mirrored": mirrored}
    return Planned(name, about, given, dict(tolerance))


def upright(image: NDArray[np.uint8], orientation: int, mirrored: bool) -> NDArray[np.uint8]:
    """A picture as it is to be seen: turned as EXIF says (TIFF 6.0, tag 274), then mirrored left to right."""
    if orientation >= 5:  # the first row is a side
        image = image.transpose(1, 0, 2)
    left, up = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    image = image[:: -1 if up else 1, :: -1 if left else 1]
    return np.ascontiguousarray(image[:, ::-1] if mirrored else image)


def answer(given: Tree, folder: Path) -> Tree:
    """The tensor and the transform."""
    prepare = Preprocessor(from_builtins(given["rule"], ImageRule))
    tensor, mapping = prepare(upright(given["image"].pixels, given["orientation"], given["mirrored"]))
    return {"tensor": tensor.copy(), "transform": {**vars(mapping), "resized": list(mapping.resized)}}


def differences(case: Case, answered: Tree) -> list[str]:
    """Grey levels that the tensors are apart, and the transform, whose numbers agree to 12 digits."""
    found = apart(case.expected["transform"], answered["transform"], dict.fromkeys(SCALES, 1e-12))
    expected, tensor = case.expected["tensor"], answered["tensor"]
    if expected.shape != tensor.shape:
        return [*found, f"tensor: shape {tensor.shape}, not {expected.shape}"]
    step = case.given["rule"]["scale"] / np.array(case.given["rule"]["std"])[:, None, None]
    levels = np.abs(expected.astype(np.float64) - tensor) / step
    most, share = float(levels.max()), float((levels > ROUNDING).mean())
    if most > case.tolerance["levels"] + ROUNDING:
        found.append(f"tensor: {most:.2f} levels apart, {case.tolerance['levels']} allowed")
    if share > case.tolerance["share"]:
        found.append(f"tensor: {share:.4f} of the values differ, {case.tolerance['share']} may")
    return found


SCALES = ("scale_x", "scale_y")

ROUNDING = 0.01
"""Levels that two values of the same level may be apart, from normalising in float32."""
