"""Camera motion between frames: rotation, scale and translation.

Corners of the background are followed by pyramidal Lucas-Kanade, or ORB features are matched anew; RANSAC then finds
the similarity most of them agree on (global motion compensation of BoT-SORT, arXiv 2206.14651, section 3.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Floats, Image
from edgekit.runtimes.inputs import images

CORNERS = 1000
"""Most corners or features looked for, as in BoT-SORT's code."""
ENOUGH = 8
"""Least pairs that must agree; a similarity is fixed by two, and noise finds two that agree."""
AGREEMENT = 0.3
"""Least share of the pairs that must agree: below it there is no single motion (a cut, or objects fill the picture)."""
REPROJECTION = 3.0
"""Pixels of the reduced picture that a pair may be off (OpenCV's default)."""


class CameraMotion:
    """Motion between successive images.

    Args:
        method: "sparse_flow", "orb" or "off".
        downscale: images are reduced this many times first.
    """

    def __init__(self, method: str, downscale: int) -> None:
        self.method = method
        self.downscale = downscale
        self._before: Image | None = None
        self._points: Any = None
        self._features: Any = None

    def since_last(self, image: Image, boxes: Floats) -> Doubles | None:
        """The map (2, 3) from pixels of the last image to those of this one; None where it cannot be told.

        Args:
            boxes: (n, 4) xyxy of objects, which move on their own and are left out.

        Raises:
            InputError: not a uint8 image of (height, width, 3).
        """
        images.check(image)
        if self.method == "off":
            return None
        grey = self._reduced(image)
        background = self._background(grey, boxes)
        return self._by_flow(grey, background) if self.method == "sparse_flow" else self._by_orb(grey, background)

    def _reduced(self, image: Image) -> Image:
        import cv2

        grey: Any = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        height, width = grey.shape
        size = (max(width // self.downscale, 1), max(height // self.downscale, 1))
        return (
            grey if self.downscale == 1 else np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        )

    def _background(self, grey: Image, boxes: Floats) -> Image:
        mask = np.full(grey.shape, 255, np.uint8)
        height, width = grey.shape
        for x1, y1, x2, y2 in (boxes / self.downscale).tolist():
            left, top = min(max(int(x1), 0), width), min(max(int(y1), 0), height)
            mask[top : max(int(y2) + 1, 0), left : max(int(x2) + 1, 0)] = 0
        return mask

    def _by_flow(self, grey: Image, background: Image) -> Doubles | None:
        import cv2

        before, points = self._before, self._points
        self._before = grey
        self._points = cv2.goodFeaturesToTrack(grey, CORNERS, 0.01, 1, mask=background, blockSize=3)
        if before is None or points is None or before.shape != grey.shape:
            return None
        follow: Any = cv2.calcOpticalFlowPyrLK  # its stub knows no None for "no guess"
        now, found, _ = follow(before, grey, points, None)
        kept = found.reshape(-1) == 1
        return self._similarity(points.reshape(-1, 2)[kept], now.reshape(-1, 2)[kept])

    def _by_orb(self, grey: Image, background: Image) -> Doubles | None:
        import cv2

        opencv: Any = cv2  # whose stub lacks what follows
        before = self._features
        points, descriptors = opencv.ORB_create(CORNERS).detectAndCompute(grey, background)
        self._features = None if descriptors is None else (opencv.KeyPoint_convert(points), descriptors)
        if before is None or self._features is None:
            return None
        pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(before[1], descriptors)
        first = np.array([pair.queryIdx for pair in pairs], np.int64)
        second = np.array([pair.trainIdx for pair in pairs], np.int64)
        return self._similarity(before[0][first], self._features[0][second])

    def _similarity(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> Doubles | None:
        import cv2

        if len(first) < ENOUGH:
            return None
        cv2.setRNGSeed(0)  # RANSAC draws: the same video gives the same ids
        affine, agreed = cv2.estimateAffinePartial2D(first, second, ransacReprojThreshold=REPROJECTION)
        if affine is None or agreed.sum() < max(ENOUGH, AGREEMENT * len(first)):
            return None
        found: Doubles = np.array(affine, np.float64)
        found[:, 2] *= self.downscale
        return found
