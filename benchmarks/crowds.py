"""Generated crowds: walkers who hide one another, and what a detector finds of them; the same with each seed.

Walkers cross a ground plane that is filmed at a slant: the nearer, the larger and the lower in the picture. Each has a
heading that drifts and a pace of its own, and pauses at times. Who stands nearer hides who is behind: the more of a
walker is hidden, the less often is he found, the lower is the score and the less exact the box.
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
MEMORY = 0.9
"""Correlation of the lasting error of a box from one frame to the next."""


@dataclass(frozen=True)
class CrowdFrame:
    """One frame: who is there, ids (n,) and boxes (n, 4) xyxy, and what is found, boxes (m, 4) and scores (m,)."""

    track_ids: np.ndarray
    truth: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Detector:
    """How well walkers are found.

    Args:
        jitter: standard deviation of a box's upper and lower edge, in heights; of the others, in half heights. Twice
            that for a walker of whom half is hidden.
        lasting: the share of its variance that lasts over frames, as detectors err alike on alike pictures.
        false: false positives per walker and frame.
    """

    jitter: float = 0.03
    lasting: float = 0.5
    false: float = 0.02


def crowd(
    count: int,
    frames: int,
    seed: int,
    height: tuple[float, float] = (70.0, 230.0),
    detector: Detector = Detector(),
) -> list[CrowdFrame]:
    """A crowd of ``count`` walkers, filmed at `RATE`; the farthest and the nearest are as many pixels high."""
    rng = np.random.default_rng([seed, count])
    place = rng.uniform(0, 1, (count, 2))  # left to right, far to near
    heading, pace = rng.uniform(0, 2 * np.pi, count), PACE * rng.lognormal(0, 0.25, count)
    body, phase, pause = rng.normal(1, 0.06, count), rng.uniform(0, 2 * np.pi, count), np.zeros(count)
    lasting = rng.normal(0, 1, (count, 4))
    made = []
    for number in range(frames):
        heading += rng.normal(0, 0.6, count) / np.sqrt(RATE)
        pause = np.where(rng.random(count) < 0.1 / RATE, rng.uniform(0.5, 3, count), pause - 1 / RATE)
        tall = (height[0] + (height[1] - height[0]) * place[:, 1]) * body
        way = np.stack([np.cos(heading), 0.4 * np.sin(heading)], 1)  # depth is foreshortened
        place += np.where(pause > 0, 0, pace * tall / RATE)[:, None] * way / (WIDTH, HEIGHT - height[0])
        outside = (place < 0) | (place > 1)
        heading = np.where(outside[:, 0], np.pi - heading, np.where(outside[:, 1], -heading, heading))
        place = place.clip(0, 1)
        boxes = _boxes(place, tall, 1 + 0.12 * np.sin(2 * np.pi * 1.8 * number / RATE + phase))
        lasting = MEMORY * lasting + np.sqrt(1 - MEMORY**2) * rng.normal(0, 1, lasting.shape)
        made.append(_found(rng, detector, boxes, lasting))
    return made


def visibility(boxes: np.ndarray) -> np.ndarray:
    """The share (n,) of each box (n, 4) that no nearer one covers, by 8 x 8 points; the nearer stand lower."""
    steps = (np.arange(8) + 0.5) / 8
    x = boxes[:, 0, None] + (boxes[:, 2] - boxes[:, 0])[:, None] * steps
    y = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * steps
    across = (x[:, None] > boxes[:, 0, None]) & (x[:, None] < boxes[:, 2, None])
    down = (y[:, None] > boxes[:, 1, None]) & (y[:, None] < boxes[:, 3, None])
    across &= (boxes[:, 3] > boxes[:, None, 3])[:, :, None]
    return 1 - (across[:, :, :, None] & down[:, :, None, :]).any(1).mean((1, 2))


def _boxes(place: np.ndarray, tall: np.ndarray, stride: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) of walkers at places 0..1 on the ground; their width changes with their ``stride``."""
    foot = place[:, 1] * (HEIGHT - tall.min()) + tall.min()
    middle, half = place[:, 0] * WIDTH, tall * SLENDER * stride / 2
    return np.stack([middle - half, foot - tall, middle + half, foot], 1)


def _found(rng: np.random.Generator, detector: Detector, boxes: np.ndarray, lasting: np.ndarray) -> CrowdFrame:
    """What is found of walkers in these boxes (n, 4); ``lasting`` (n, 4) is the part of the error that lasts."""
    count, visible = len(boxes), visibility(boxes)
    fresh = rng.normal(0, 1, boxes.shape)
    error = np.sqrt(detector.lasting) * lasting + np.sqrt(1 - detector.lasting) * fresh
    blur = detector.jitter * (boxes[:, 3] - boxes[:, 1]) * (2 - (2 * visible - 1).clip(0, 1))
    found = boxes + error * blur[:, None] * (0.5, 1, 0.5, 1)
    seen = rng.random(count) < 0.98 / (1 + np.exp(-12 * (visible - 0.35)))
    scores = (0.9 - 0.6 * (1 - visible) ** 1.5 + rng.normal(0, 0.07, count)).clip(0.05, 0.99)
    false = rng.integers(0, count, rng.poisson(detector.false * count))
    ghosts = boxes[false] + rng.uniform(-400, 400, (len(false), 2))[:, [0, 1, 0, 1]]
    return CrowdFrame(
        track_ids=np.arange(1, count + 1),
        truth=boxes.astype(np.float32),
        boxes=np.concatenate([found[seen], ghosts]).astype(np.float32),
        scores=np.concatenate([scores[seen], rng.beta(2, 4, len(false))]).astype(np.float32),
    )
