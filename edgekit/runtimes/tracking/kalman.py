"""Constant-velocity Kalman filter over all tracks at once, in continuous time.

State: centre x, centre y, width, height and their velocities, with noise in proportion to the size of the object
(DeepSORT, arXiv 1703.07402, for centre and height; width and height each their own as in BoT-SORT, arXiv 2206.14651).
Transition, process, measurement and initial noise are all diagonal per coordinate, so the 8x8 filter falls apart into
four independent filters of (position, velocity), whose steps are elementwise and need no inverse.

The papers count in frames of about 30 per second. Here the same noise is a rate per second (white noise on the
velocity and on the position, integrated exactly), so that predicting 0.2 s once or 0.02 s ten times is the same.
"""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Doubles, Floats

POSITION, VELOCITY, VARIANCE, COVARIANCE, SPREAD, SQUARE = range(6)
"""Planes of a state, float64 (6, 4, n) over (x, y, w, h): value in px, its velocity in px/s, variance of the value,
covariance of both, variance of the velocity, and the square of the size in px that the noise is in proportion to."""

FRAME_RATE = 25.0
"""Frames per second of the papers' per-frame weights: MOT20 is filmed at 25, MOT17 at 14 to 30 (27 on average)."""
MEASUREMENT = 1 / 20
"""Standard deviation of a detection, in sizes; likewise what a position drifts by in one frame (both DeepSORT's)."""
ACCELERATION = 1 / 160
"""The change of velocity in one frame, in sizes per frame (DeepSORT's)."""
FIRST_POSITION, FIRST_VELOCITY = 2 * MEASUREMENT, 10 * ACCELERATION
"""Standard deviations of a new track, in sizes and in sizes per frame (DeepSORT's)."""

STRETCH = 4.0
"""Most that an unseen object is taken to grow or shrink: a size extrapolated over a second would reach zero."""

_START = (FIRST_VELOCITY * FRAME_RATE) ** 2


def _terms() -> Doubles:
    """The factors of a state in the cubic, the square and the linear term of `predict`, (18, 6).

    A state changes at the rate ``rates @ state``, so that it is exp(rates t) @ state after t seconds. Three steps lead
    from any plane to none, so that the series of the exponential ends there.
    """
    rates = np.zeros((6, 6))
    rates[POSITION, VELOCITY] = 1
    rates[VARIANCE, COVARIANCE] = 2
    rates[VARIANCE, SQUARE] = MEASUREMENT**2 * FRAME_RATE
    rates[COVARIANCE, SPREAD] = 1
    rates[SPREAD, SQUARE] = (ACCELERATION * FRAME_RATE) ** 2 * FRAME_RATE
    return np.concatenate([rates @ rates @ rates / 6, rates @ rates / 2, rates])


_TERMS = _terms()


_CENTRED = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [-1, 0, 1, 0], [0, -1, 0, 1]])
_CORNERS = np.linalg.inv(_CENTRED)


def centred(boxes: Floats) -> Doubles:
    """Boxes (n, 4) xyxy as float64 (4, n): centre x, centre y, width, height."""
    measured: Doubles = _CENTRED @ boxes.T
    return measured


def corners(state: Doubles) -> Floats:
    """Boxes float32 (n, 4) xyxy of states (6, 4, n)."""
    corner: Doubles = _CORNERS @ state[POSITION]
    return corner.T.astype(np.float32, order="C")


def begin(measured: Doubles) -> Doubles:
    """States (6, 4, n) of new tracks from what was measured, (4, n) of `centred`."""
    state = np.zeros((6, *measured.shape))
    state[POSITION] = measured
    _measure(state)
    state[VARIANCE] = FIRST_POSITION**2 * state[SQUARE]
    state[SPREAD] = _START * state[SQUARE]
    return state


def predict(state: Doubles, elapsed: Doubles) -> Doubles:
    """States (6, 4, n) after ``elapsed`` seconds (n,), as a new array.

    Sizes go on changing at their velocity, as in SORT and OC-SORT, but not beyond `STRETCH`.
    """
    cubic, square, linear = (_TERMS @ state.reshape(6, -1)).reshape(3, *state.shape)
    new: Doubles = elapsed * cubic
    new += square
    new *= elapsed
    new += linear
    new *= elapsed
    new += state
    size, last = new[POSITION, 2:], np.sqrt(state[SQUARE, 2:])
    np.maximum(size, last * (1 / STRETCH), out=size)
    np.minimum(size, last * STRETCH, out=size)
    return new


def correct(state: Doubles, measured: Doubles) -> Doubles:
    """States (6, 4, n) after measurements (4, n) of `centred`, as a new array."""
    total = state[SQUARE] * MEASUREMENT**2
    total += state[VARIANCE]
    gains = state[VARIANCE:SPREAD] / total  # of the value and of its velocity
    new = state.copy()
    new[POSITION:VARIANCE] += gains * (measured - state[POSITION])
    new[VARIANCE:SPREAD] -= gains * state[VARIANCE]
    new[SPREAD] -= gains[1] * state[COVARIANCE]
    _measure(new)
    return new


def moved(state: Doubles, affine: Doubles) -> Doubles:
    """States (6, 4, n) in the picture after a camera motion, as a new array.

    Args:
        affine: (2, 3), pixels of the earlier picture to those of the later one.

    Centres and velocities turn, shift and scale; an upright box only scales. Variances are exact; the correlation
    between x and y that a turn brings about is dropped, which for the degrees between two frames is below 1e-3 of them.
    """
    linear, shift = affine[:, :2], affine[:, 2:]
    scale = float(np.sqrt(abs(np.linalg.det(linear))))
    new = state.copy()
    new[POSITION, :2] = linear @ state[POSITION, :2] + shift
    new[VELOCITY, :2] = linear @ state[VELOCITY, :2]
    for plane in (VARIANCE, COVARIANCE, SPREAD):
        new[plane, :2] = (linear * linear) @ state[plane, :2]
        new[plane, 2:] *= scale * scale
    new[POSITION, 2:] *= scale
    new[VELOCITY, 2:] *= scale
    new[SQUARE] *= scale * scale
    return new


def _measure(state: Doubles) -> None:
    """Set the squares of the sizes (w, h, w, h), at least a pixel, lest an empty box be a perfect measurement."""
    square = state[SQUARE].reshape(2, 2, -1)
    np.maximum(state[POSITION, 2:], 1.0, out=square)
    square *= square
