"""Draws docs/figures/tasks.jpg: what the networks of the shapes world find, task by task, and tracks of moving shapes.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edgekit.arrays import Image
from edgekit.runtimes.drawing import draw_trails
from edgekit.runtimes.inputs.media import SourceFrame
from edgekit.runtimes.model import Model
from edgekit.runtimes.track import follow
from edgekit.runtimes.tracking import open_tracker
from edgekit.shapes import SceneOptions, scene
from edgekit.shapes.motion import moving_scene
from edgekit.shapes.trained import classify, detector, pose, segment
from edgekit.sources.session import TorchSession

FIGURE = Path(__file__).with_name("figures") / "tasks.jpg"
SEED, FILM, FRAMES, FPS = 500_021, 10, 40, 15.0
SCALE = 2
"""Scenes are small: they are drawn on, enlarged."""


def opened(network: object) -> Model:
    """A network of the shapes world, run by PyTorch."""
    return Model(network.contract, TorchSession(network))  # type: ignore[attr-defined,arg-type]


def enlarged(image: Image) -> Image:
    """The image at `SCALE` times its size."""
    return np.asarray(cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC), np.uint8)


def still(build: object) -> Image:
    """What one task finds in the scene."""
    image = enlarged(scene(SEED, options=SceneOptions(min_objects=5, max_objects=6)).image)
    return opened(build()).predict(image, score=0.5).draw(image)  # type: ignore[operator]


def tracks() -> Image:
    """The last frame of a moving scene, with the ways of what moved there."""
    scenes = list(moving_scene(FILM, FRAMES, FPS))
    frames = [
        SourceFrame(enlarged(one.image), f"film#{number}", number, number / FPS) for number, one in enumerate(scenes)
    ]
    tracker = open_tracker("bytetrack")
    image, result = list(follow(opened(detector()), frames, tracker))[-1]
    drawn = result.draw(image, color_by="track")
    ways = [tracker.trajectory(track_id)[1] for track_id in result.track_ids.tolist()]
    points = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in ways]
    return draw_trails(drawn, points, result.track_ids.tolist())


if __name__ == "__main__":
    parts = [still(build) for build in (pose, segment, classify)] + [tracks()]
    height = min(part.shape[0] for part in parts)
    parts = [cv2.resize(part, (round(part.shape[1] * height / part.shape[0]), height)) for part in parts]
    cv2.imwrite(str(FIGURE), np.hstack(parts), [cv2.IMWRITE_JPEG_QUALITY, 85])
