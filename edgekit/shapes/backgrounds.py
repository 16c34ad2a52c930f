"""Backgrounds of scenes: plain, gradient, textured, photographic, or crops of photographs from a folder."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, UsageError, choices
from edgekit.shapes.types import SceneOptions

Image = npt.NDArray[np.float32]
PHOTOGRAPH_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@functools.lru_cache(maxsize=8)
def pixel_grid(height: int, width: int) -> tuple[Image, Image]:
    """Return x (1, W) and y (H, 1) of the pixel centres, relative to the image's centre."""
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :]
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None]
    return x, y


def _colour(rng: np.random.Generator, low: float = 20.0, high: float = 235.0, muted: float = 0.5) -> Image:
    """A random BGR colour (3,), pulled towards grey by `muted`."""
    colour = rng.uniform(low, high, 3)
    return np.asarray(colour * (1 - muted) + colour.mean() * muted, dtype=np.float32)


def _mix(amount: Image, first: Image, second: Image) -> Image:
    """Blend two colours (3,) by an amount (H, W) in 0..1; channel by channel, which is faster than broadcasting."""
    import cv2

    planes = [amount * (b - a) + a for a, b in zip(first, second, strict=True)]
    return np.asarray(cv2.merge(planes), dtype=np.float32)


def scale_pixels(image: Image, factor: Image) -> Image:
    """Multiply all channels of an image (H, W, 3) by a factor (H, W)."""
    import cv2

    return np.asarray(cv2.multiply(image, cv2.merge([factor, factor, factor])), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, octaves: int, cells: int) -> Image:
    """Multi-octave value noise (H, W) in about -1..1: random grids, enlarged and summed, each half as strong."""
    import cv2

    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        grid = rng.uniform(-1, 1, (max(2, count * height // width), count)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.55**octave)
    return total


def _plain(rng: np.random.Generator, height: int, width: int) -> Image:
    return np.full((height, width, 3), _colour(rng), dtype=np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Image:
    x, y = pixel_grid(height, width)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = x * np.float32(math.cos(angle) / width) + y * np.float32(math.sin(angle) / height)
    return _mix(np.clip(ramp * np.float32(0.9) + np.float32(0.5), 0, 1), _colour(rng), _colour(rng))


def _noise(rng: np.random.Generator, height: int, width: int) -> Image:
    field = smooth_noise(rng, height, width, octaves=5, cells=int(rng.integers(2, 9)))
    return _mix(np.clip(field * np.float32(0.6) + np.float32(0.5), 0, 1), _colour(rng), _colour(rng))


def _waves(rng: np.random.Generator, height: int, width: int, angle: float) -> Image:
    """Soft stripes (H, W) in -1..1 across one direction."""
    x, y = pixel_grid(height, width)
    frequency = 2 * math.pi / rng.uniform(12, 56)
    phase = x * np.float32(math.cos(angle) * frequency) + y * np.float32(math.sin(angle) * frequency)
    sharpness = np.float32(rng.uniform(1.0, 6.0))
    return np.asarray(np.clip(np.sin(phase + np.float32(rng.uniform(0, 6.28))) * sharpness, -1, 1), dtype=np.float32)


def _stripes(rng: np.random.Generator, height: int, width: int) -> Image:
    waves = _waves(rng, height, width, rng.uniform(0, math.pi))
    return _mix(waves * np.float32(0.5) + np.float32(0.5), _colour(rng), _colour(rng))


def _checker(rng: np.random.Generator, height: int, width: int) -> Image:
    angle = rng.uniform(0, math.pi)
    field = _waves(rng, height, width, angle) * _waves(rng, height, width, angle + math.pi / 2)
    return _mix(field * np.float32(0.5) + np.float32(0.5), _colour(rng), _colour(rng))


def _photographic(rng: np.random.Generator, height: int, width: int) -> Image:
    """Looks like an out-of-focus photograph: a lit ground, clutter of blurred blobs, fine grain of surfaces."""
    import cv2

    x, y = pixel_grid(height, width)
    tilt = rng.uniform(-0.3, 0.3)
    horizon = (y - x * np.float32(tilt)) / np.float32(height) + np.float32(rng.uniform(-0.3, 0.3))
    upper, lower = _colour(rng, 60, 245), _colour(rng, 20, 190)
    image = _mix(np.clip(horizon * np.float32(rng.uniform(1.5, 12)) + np.float32(0.5), 0, 1), upper, lower)
    small = cv2.resize(image, (max(1, width // 2), max(1, height // 2)))
    for _ in range(int(rng.integers(4, 14))):
        centre = (int(rng.integers(0, small.shape[1])), int(rng.integers(0, small.shape[0])))
        axes = (int(rng.integers(3, 5 + width // 8)), int(rng.integers(3, 5 + height // 5)))
        colour = [float(value) for value in _colour(rng, 10, 250, 0.35)]
        cv2.ellipse(small, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(1.0, 5.0)))
    image = cv2.resize(small, (width, height)).astype(np.float32, copy=False)
    texture = smooth_noise(rng, height, width, octaves=4, cells=int(rng.integers(4, 17)))
    return scale_pixels(image, np.float32(1) + texture * np.float32(rng.uniform(0.05, 0.25)))


@functools.lru_cache(maxsize=4)
def _photograph_paths(folder: Path) -> tuple[Path, ...]:
    paths = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOGRAPH_SUFFIXES))
    if not paths:
        suffixes = ", ".join(sorted(PHOTOGRAPH_SUFFIXES))
        raise InputError(f"no photographs in {folder}: put images there ({suffixes}) or leave photographs=None")
    return paths


@functools.lru_cache(maxsize=64)
def _photograph(path: Path) -> npt.NDArray[np.uint8]:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} cannot be read as an image: remove it from the folder of photographs")
    return np.asarray(image, dtype=np.uint8)


def _photograph_crop(rng: np.random.Generator, height: int, width: int, folder: Path) -> Image:
    """A random crop of a random photograph, of at least half of what would fit, resized to the scene."""
    import cv2

    paths = _photograph_paths(folder)
    photograph = _photograph(paths[int(rng.integers(len(paths)))])
    scale = min(photograph.shape[0] / height, photograph.shape[1] / width) * rng.uniform(0.5, 1.0)
    crop_height, crop_width = max(1, int(height * scale)), max(1, int(width * scale))
    top = int(rng.integers(0, photograph.shape[0] - crop_height + 1))
    left = int(rng.integers(0, photograph.shape[1] - crop_width + 1))
    crop = photograph[top : top + crop_height, left : left + crop_width]
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


PAINTERS = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "checker": _checker,
    "photographic": _photographic,
}


def background(rng: np.random.Generator, height: int, width: int, options: SceneOptions) -> tuple[Image, str]:
    """Paint one background float32 (H, W, 3) BGR in 0..255 and return it with the name of its kind.

    Raises UsageError for an unknown kind, InputError for a folder of photographs without readable images.
    """
    kinds = options.backgrounds + (("photograph",) if options.photographs is not None else ())
    if not kinds:
        raise UsageError("backgrounds is empty: name at least one kind or give a folder of photographs")
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "photograph" and options.photographs is not None:
        image = _photograph_crop(rng, height, width, options.photographs)
    elif kind in PAINTERS:
        image = PAINTERS[kind](rng, height, width)
    else:
        raise UsageError(f"background {choices(kind, PAINTERS)}")
    np.clip(image, 0, 255, out=image)
    if options.distractors:
        # cv2 draws letters and anti-aliased lines on 8-bit images only.
        drawn = image.astype(np.uint8)
        _distract(rng, drawn, options.distractors)
        image = drawn.astype(np.float32)
    return image, kind


def _blob(rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.int32]:
    """An irregular lump that is none of the classes."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    lobes = 1 + 0.38 * np.sin(2 * t + rng.uniform(0, 6.28)) + 0.22 * np.sin(3 * t + rng.uniform(0, 6.28))
    points = centre + radius * lobes[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    return np.asarray(np.round(points), dtype=np.int32)


def _distract(rng: np.random.Generator, image: npt.NDArray[np.uint8], most: int) -> None:
    """Draw up to `most` things in muted colours that are no objects: lines, lumps, thin bars and letters."""
    import cv2

    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, most + 1))):
        colour = [float(value) for value in _colour(rng, muted=0.75)]
        centre = rng.uniform((0, 0), (width, height))
        kind, size = int(rng.integers(4)), float(rng.uniform(0.04, 0.14)) * min(height, width)
        angle = rng.uniform(0, math.pi)
        reach = size * 2.5 * np.array([math.cos(angle), math.sin(angle)])
        start, end = (centre - reach).astype(int).tolist(), (centre + reach).astype(int).tolist()
        if kind == 0:
            cv2.line(image, start, end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        elif kind == 1:
            cv2.fillPoly(image, [_blob(rng, centre, size)], colour, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(image, start, end, colour, int(rng.integers(6, 14)), cv2.LINE_AA)
        else:
            text = "".join(chr(65 + int(code)) for code in rng.integers(0, 26, 3))
            cv2.putText(image, text, start, cv2.FONT_HERSHEY_SIMPLEX, size / 18, colour, 2, cv2.LINE_AA)
