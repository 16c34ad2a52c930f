"""Bilinear and bicubic resizing: Pillow's, to the grey level."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.arrays import Image
from edgekit.runtimes.inputs.resampling import ONE, REACH, Kernel, resample, weights

Picture = pytest.importorskip("PIL.Image", reason="Pillow is the oracle")

side = st.integers(1, 90)


def picture(width: int, height: int, seed: int, smooth: bool) -> Image:
    generator = np.random.default_rng(seed)
    if not smooth:
        return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def by_pillow(image: Image, size: tuple[int, int], kernel: Kernel = "bicubic") -> Image:
    """Across and then down, as Pillow did in one call up to version 12: from 13 on the order depends on the sizes."""
    method = Picture.Resampling[kernel.upper()]
    narrow = Picture.fromarray(image).resize((size[0], image.shape[0]), method)
    return np.asarray(narrow.resize(size, method))


@settings(deadline=None)
@given(side, side, side, side, st.integers(0, 99), st.booleans(), st.sampled_from(sorted(REACH)))
@example(90, 80, 90, 80, 0, False, "bicubic")
@example(1, 1, 60, 1, 0, False, "bicubic")
@example(1, 1, 60, 1, 0, False, "bilinear")
def test_it_is_pillows(
    width: int, height: int, new_width: int, new_height: int, seed: int, smooth: bool, kernel: Kernel
) -> None:
    image, size = picture(width, height, seed, smooth), (new_width, new_height)
    found, wanted = resample(image, size, kernel), by_pillow(image, size, kernel)
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kernel", sorted(REACH))
@pytest.mark.parametrize("size", [(224, 224), (640, 480), (31, 900)])
def test_a_photograph_of_usual_size(size: tuple[int, int], kernel: Kernel) -> None:
    image = picture(810, 1080, 3, smooth=True)
    image = np.clip(image.astype(int) + picture(810, 1080, 4, smooth=False) // 4, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(resample(image, size, kernel), by_pillow(image, size, kernel))


def test_opencvs_bicubic_is_another() -> None:
    """Negative control: the oracle tells one from the other."""
    image = picture(300, 300, 5, smooth=False)
    other = np.asarray(cv2.resize(image, (90, 90), interpolation=cv2.INTER_CUBIC), int)
    assert np.abs(other - by_pillow(image, (90, 90))).mean() > 5


def test_opencvs_linear_passes_pixels_over() -> None:
    image = picture(300, 300, 5, smooth=False)
    other = np.asarray(cv2.resize(image, (90, 90), interpolation=cv2.INTER_LINEAR), int)
    assert np.abs(other - by_pillow(image, (90, 90), "bilinear")).mean() > 5


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(sorted(REACH)))
def test_weights_leave_brightness_as_it_is(old: int, new: int, kernel: Kernel) -> None:
    shares = weights(old, new, kernel)
    assert shares.shape == (new, old)
    np.testing.assert_allclose(shares.sum(1) / ONE, 1, atol=1e-4)
    flat = np.full((old, old, 3), 77, np.uint8)
    assert (resample(flat, (new, 3), kernel) == 77).all()
