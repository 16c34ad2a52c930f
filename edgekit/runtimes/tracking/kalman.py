"""Constant-velocity Kalman filter over all tracks at once, in continuous time.

State: centre x, centre y, width, height and their velocities, with noise in proportion to the size of the object
(DeepSORT, arXiv 1703.07402, for centre and height; width and height each their own as in BoT-SORT, arXiv 2206.14651).
Transition, process, measurement and initial noise are all diagonal per coordinate, so the 8x8 filter falls apart into
four independent filters of (position, velocity): every step is elementwise, without a matrix product or an inverse.

The papers count in frames of about 30 per second. Here the same noise is a rate per second (white noise on the
velocity and on the position, integrated exactly), so that predicting 0.2 s once or 0.02 s ten times is the same.
"""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Doubles, Floats

POSITION, VELOCITY, VARIANCE, COVARIANCE, SPREAD, SIZE = range(6)
"""Planes of a state, float64 (6, n, 4) over (x, y, w, h): value in px, its velocity in px/s, variance of the value,
covariance of both, variance of the velocity, and the size in px that the noise is in proportion to."""

FRAME_RATE = 25.0
"""Frames per second of the papers' per-frame weights: MOT20 is filmed at 25, MOT17 at 14 to 30 (27 on average)."""
MEASUREMENT = 1 / 20
"""Standard deviation of a detection, in sizes; likewise what a position drifts by in one frame (both DeepSORT's)."""
ACCELERATION = 1 / 160
"""What the velocity changes by in one frame, in sizes per frame (DeepSORT's)."""
FIRST_POSITION, FIRST_VELOCITY = 2 * MEASUREMENT, 10 * ACCELERATION
"""Standard deviations of a new track, in sizes and in sizes per frame (DeepSORT's)."""

STRETCH = 4.0
"""Most that an unseen object is taken to grow or shrink: a size extrapolated over a second would reach zero."""

_DRIFT = MEASUREMENT**2 * FRAME_RATE
_PUSH = (ACCELERATION * FRAME_RATE) ** 2 * FRAME_RATE
_START = (FIRST_VELOCITY * FRAME_RATE) ** 2


def centred(boxes: Floats) -> Doubles:
    """Boxes (n, 4) xyxy as float64 (n, 4) centre x, centre y, width, height."""
    wide = np.asarray(boxes, np.float64)
    out = np.empty_like(wide)
    np.add(wide[:, :2], wide[:, 2:], out=out[:, :2])
    out[:, :2] *= 0.5
    np.subtract(wide[:, 2:], wide[:, :2], out=out[:, 2:])
    return out


def corners(state: Doubles) -> Floats:
    """Boxes float32 (n, 4) xyxy of states (6, n, 4)."""
    position = state[POSITION]
    half = position[:, 2:] * 0.5
    out = np.empty(position.shape, np.float32)
    np.subtract(position[:, :2], half, out=out[:, :2], casting="same_kind")
    np.add(position[:, :2], half, out=out[:, 2:], casting="same_kind")
    return out


def begin(measured: Doubles) -> Doubles:
    """States (6, n, 4) of new tracks from what was measured, (n, 4) of `centred`."""
    state = np.zeros((6, *measured.shape))
    size = _size(measured)
    square = size * size
    state[POSITION] = measured
    state[VARIANCE] = FIRST_POSITION**2 * square
    state[SPREAD] = _START * square
    state[SIZE] = size
    return state


def predict(state: Doubles, elapsed: Doubles) -> Doubles:
    """States (6, n, 4) after ``elapsed`` seconds (n,), as a new array.

    Sizes go on changing at their velocity, as in SORT and OC-SORT, but not beyond `STRETCH`.
    """
    time = elapsed[:, None]
    square = state[SIZE] * state[SIZE]
    push = square * _PUSH
    push *= time
    new = state.copy()
    new[POSITION] += state[VELOCITY] * time
    size = state[SIZE, :, 2:]
    np.clip(new[POSITION, :, 2:], size / STRETCH, size * STRETCH, out=new[POSITION, :, 2:])
    grown = time * state[SPREAD]
    new[VARIANCE] += time * (2 * state[COVARIANCE] + grown + square * _DRIFT + push * time * (1 / 3))
    new[COVARIANCE] += grown + push * time * 0.5
    new[SPREAD] += push
    return new


def correct(state: Doubles, measured: Doubles) -> Doubles:
    """States (6, n, 4) after measurements (n, 4) of `centred`, as a new array."""
    variance, covariance, size = state[VARIANCE], state[COVARIANCE], state[SIZE]
    noise = MEASUREMENT * size
    total = variance + noise * noise
    gain, pull = variance / total, covariance / total
    error = measured - state[POSITION]
    new = np.empty_like(state)
    kept = 1 - gain
    new[POSITION] = state[POSITION] + gain * error
    new[VELOCITY] = state[VELOCITY] + pull * error
    new[VARIANCE] = kept * variance
    new[COVARIANCE] = kept * covariance
    new[SPREAD] = state[SPREAD] - pull * covariance
    new[SIZE] = _size(new[POSITION])
    return new


def moved(state: Doubles, affine: Doubles) -> Doubles:
    """States (6, n, 4) in the picture after a camera motion, as a new array.

    Args:
        affine: (2, 3), pixels of the earlier picture to those of the later one.

    Centres and velocities turn, shift and scale; an upright box only scales. Variances are exact; the correlation
    between x and y that a turn brings about is dropped, which for the degrees between two frames is below 1e-3 of them.
    """
    linear, shift = affine[:, :2], affine[:, 2]
    scale = float(np.sqrt(abs(np.linalg.det(linear))))
    new = state.copy()
    new[POSITION, :, :2] = state[POSITION, :, :2] @ linear.T + shift
    new[VELOCITY, :, :2] = state[VELOCITY, :, :2] @ linear.T
    for plane in (VARIANCE, COVARIANCE, SPREAD):
        new[plane, :, :2] = state[plane, :, :2] @ (linear * linear).T
        new[plane, :, 2:] *= scale * scale
    new[POSITION, :, 2:] *= scale
    new[VELOCITY, :, 2:] *= scale
    new[SIZE] *= scale
    return new


def _size(position: Doubles) -> Doubles:
    """(w, h, w, h) of (n, 4) positions, at least a pixel, lest an empty box be taken for a perfect measurement."""
    return np.maximum(position[:, (2, 3, 2, 3)], 1.0)
