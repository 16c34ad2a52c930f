"""Generated crowds: walkers who hide one another, and what a detector finds of them. The same seed gives the same crowd.

Walkers cross a ground plane seen from above at a slant: the nearer, the larger and the lower in the picture. Each keeps
a heading that drifts, a pace that changes, and pauses at times. Who stands nearer hides who is behind: a hidden walker
is found less often, with a lower score and a less exact box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT, RATE = 1920, 1080, 30
"""Pixels, and frames per second."""
PACE = 0.8
"""Mean pace in body heights per second: 1.4 m/s of a body of 1.75 m."""
SLENDER = 0.38
"""Width of a walker's box over its height."""


@dataclass(frozen=True)
class CrowdFrame:
    """One frame: the walkers that are in the picture, (n,) and (n, 4) xyxy, and what is found: (m, 4) and (m,)."""

    track_ids: np.ndarray
    truth: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def crowd(
    count: int,
    frames: int,
    seed: int,
    *,
    jitter: float = 0.03,
    lasting: float = 0.5,
    height: tuple[float, float] = (70.0, 230.0),
) -> list[CrowdFrame]:
    """A crowd of ``count`` walkers, filmed at `RATE`.

    Args:
        jitter: standard deviation of a box's edges in heights; twice that for a walker who is half hidden.
        lasting: the share of its variance that lasts over several frames, as detectors err alike on alike pictures.
        height: of the farthest and of the nearest walker, in pixels.
    """
    rng = np.random.default_rng([seed, count])
    place = rng.uniform(0, 1, (count, 2))
    heading, pace = rng.uniform(0, 2 * np.pi, count), PACE * rng.lognormal(0, 0.25, count)
    body, phase, resting = rng.normal(1, 0.06, count), rng.uniform(0, 2 * np.pi, count), np.zeros(count)
    error = rng.normal(0, 1, (count, 4))
    made = []
    for number in range(frames):
        heading += rng.normal(0, 0.6, count) / np.sqrt(RATE)
        resting = np.where(rng.random(count) < 0.1 / RATE, rng.uniform(0.5, 3, count), resting - 1 / RATE)
        tall = (height[0] + (height[1] - height[0]) * place[:, 1]) * body
        step = np.where(resting > 0, 0, pace * tall / RATE)[:, None] * np.stack(
            [np.cos(heading), 0.4 * np.sin(heading)], 1
        )
        place = place + step / (WIDTH, HEIGHT - height[0])
        outside = (place < 0) | (place > 1)
        heading = np.where(outside[:, 0], np.pi - heading, np.where(outside[:, 1], -heading, heading))
        place = np.clip(place, 0, 1)
        boxes = _boxes(place, tall, 1 + 0.12 * np.sin(2 * np.pi * 1.8 * number / RATE + phase))
        visible = visibility(boxes)
        error = 0.9 * error + np.sqrt(1 - 0.9**2) * rng.normal(0, 1, error.shape)
        made.append(_seen(rng, boxes, visible, np.sqrt(lasting) * error, jitter, np.sqrt(1 - lasting)))
    return made


def visibility(boxes: np.ndarray) -> np.ndarray:
    """The share (n,) of each box (n, 4) that no nearer one covers; the nearer stand lower in the picture."""
    steps = (np.arange(8) + 0.5) / 8
    x = boxes[:, 0, None] + (boxes[:, 2] - boxes[:, 0])[:, None] * steps
    y = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * steps
    across = (x[:, None] > boxes[:, 0, None]) & (x[:, None] < boxes[:, 2, None])
    down = (y[:, None] > boxes[:, 1, None]) & (y[:, None] < boxes[:, 3, None])
    nearer = boxes[:, 3] > boxes[:, None, 3]
    covered = ((across & nearer[:, :, None])[:, :, :, None] & down[:, :, None, :]).any(1)
    return 1 - covered.mean((1, 2))


def _boxes(place: np.ndarray, tall: np.ndarray, stride: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) of walkers at places 0..1 on the ground; their width changes with their ``stride``."""
    foot = place[:, 1] * (HEIGHT - tall.min()) + tall.min()
    middle, half = place[:, 0] * WIDTH, tall * SLENDER * stride / 2
    return np.stack([middle - half, foot - tall, middle + half, foot], 1)


def _seen(rng, boxes, visible, lasting, jitter, fresh) -> CrowdFrame:
    count = len(boxes)
    tall = boxes[:, 3] - boxes[:, 1]
    error = lasting + fresh * rng.normal(0, 1, boxes.shape)
    found = boxes + error * (jitter * tall * (2 - np.minimum(1, 2 * visible - 1).clip(0)))[:, None] * (0.5, 1, 0.5, 1)
    seen = rng.random(count) < 0.98 / (1 + np.exp(-12 * (visible - 0.35)))
    scores = (0.9 - 0.6 * (1 - visible) ** 1.5 + rng.normal(0, 0.07, count)).clip(0.05, 0.99)
    false = rng.integers(0, count, rng.poisson(0.02 * count))
    ghosts = boxes[false] + rng.uniform(-400, 400, (len(false), 2))[:, [0, 1, 0, 1]]
    return CrowdFrame(
        np.arange(1, count + 1),
        boxes.astype(np.float32),
        np.concatenate([found[seen], ghosts]).astype(np.float32),
        np.concatenate([scores[seen], rng.beta(2, 4, len(false))]).astype(np.float32),
    )
