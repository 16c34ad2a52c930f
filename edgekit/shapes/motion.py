"""Moving scenes of shapes: smooth paths that cross, hide one another, enter and leave, with stable track ids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edgekit.errors import UsageError
from edgekit.shapes.backgrounds import background
from edgekit.shapes.outlines import CLASSES
from edgekit.shapes.render import paint_shape, quantise, sense
from edgekit.shapes.sampling import contrasting_colour, sample_radius, sample_style
from edgekit.shapes.truth import objects
from edgekit.shapes.types import COLOURS, Scene, SceneOptions, ShapePlacement
from edgekit.shapes.world import check_size


@dataclass(frozen=True)
class Path:
    """How one shape moves: through `meeting` at time `when` (s), with a sway, turning and breathing slowly.

    velocity: pixels per second. sway: amplitude x, y in pixels, angular frequency (rad/s) and phase (rad).
    spin: degrees per second. pulse: relative amplitude of the radius and its angular frequency.
    """

    item: ShapePlacement
    when: float
    meeting: tuple[float, float]
    velocity: tuple[float, float]
    sway: tuple[float, float, float, float]
    spin: float
    pulse: tuple[float, float]

    def at(self, time: float) -> ShapePlacement:
        """Return the shape's placement at a time in seconds."""
        passed = time - self.when
        swing = math.sin(self.sway[2] * passed + self.sway[3]) - math.sin(self.sway[3])
        return replace(
            self.item,
            centre=(
                self.meeting[0] + self.velocity[0] * passed + self.sway[0] * swing,
                self.meeting[1] + self.velocity[1] * passed + self.sway[1] * swing,
            ),
            radius=self.item.radius * (1 + self.pulse[0] * math.sin(self.pulse[1] * time)),
            rotation=(self.item.rotation + self.spin * passed) % 360.0,
        )


@dataclass(frozen=True, eq=False)
class MovingScene:
    """A sequence of scenes, painted when asked for: `len(moving)`, `moving[i]`, `for scene in moving`.

    Each frame is a Scene whose objects carry the track id of their path; a shape that cannot be seen in a frame is not
    among its objects. fps: frames per second. camera: offset (frames, 2) in pixels of what the camera looks at.
    """

    seed: int
    frames: int
    fps: float
    size: tuple[int, int]
    paths: tuple[Path, ...]
    background: str
    sensor: bool
    canvas: npt.NDArray[np.float32] = field(repr=False)
    camera: npt.NDArray[np.float64] = field(repr=False)

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, index: int) -> Scene:
        if not -self.frames <= index < self.frames:
            raise IndexError(f"frame {index} of a scene of {self.frames} frames")
        return self._paint(index % self.frames)

    def __iter__(self) -> Iterator[Scene]:
        return (self._paint(index) for index in range(self.frames))

    def _paint(self, frame: int) -> Scene:
        import cv2

        height, width = self.size
        dx, dy = (float(value) for value in self.camera[frame])
        middle = (self.canvas.shape[1] / 2 - 0.5 + dx, self.canvas.shape[0] / 2 - 0.5 + dy)
        image = np.array(cv2.getRectSubPix(self.canvas, (width, height), middle), dtype=np.float32)
        placements = [path.at(frame / self.fps) for path in self.paths]
        placements = [replace(item, centre=(item.centre[0] - dx, item.centre[1] - dy)) for item in placements]
        for item in placements:
            paint_shape(image, item)
        # The light and the blur of a camera stay, only its noise is new in each frame: same seed, other grain.
        pixels = sense(np.random.default_rng([self.seed, 2]), image, frame) if self.sensor else quantise(image)
        found = objects(placements, height, width)
        return Scene(image=pixels, objects=found, seed=self.seed, background=self.background, frame=frame)


def _camera(rng: np.random.Generator, frames: int, fps: float, reach: float) -> npt.NDArray[np.float64]:
    """A smooth wandering (frames, 2) within `reach` pixels, zero at the start."""
    time = np.arange(frames)[:, None] / fps
    frequency, phase = rng.uniform(0.4, 1.2, 2), rng.uniform(0, 2 * math.pi, 2)
    return np.asarray(reach / 2 * (np.sin(frequency * time + phase) - np.sin(phase)), dtype=np.float64)


def _path(
    rng: np.random.Generator, canvas: npt.NDArray[np.float32], size: tuple[int, int], track_id: int,
    when: float, meeting: tuple[float, float], options: SceneOptions, taken: frozenset[str],
) -> Path:  # fmt: skip
    height, width = size
    side = min(height, width)
    colour = contrasting_colour(rng, canvas.mean(axis=(0, 1)), taken)
    item = ShapePlacement(
        class_id=int(rng.integers(len(CLASSES))),
        colour=colour,
        centre=meeting,
        radius=sample_radius(rng, height, width, options),
        rotation=float(rng.uniform(0, 360)),
        style=sample_style(rng, colour),
        track_id=track_id,
    )
    speed, heading = float(rng.uniform(0.10, 0.40)) * side, float(rng.uniform(0, 2 * math.pi))
    sway = rng.uniform((0, 0, 0.5, 0), (0.06 * side, 0.06 * side, 1.8, 2 * math.pi))
    return Path(
        item=item,
        when=when,
        meeting=meeting,
        velocity=(speed * math.cos(heading), speed * math.sin(heading)),
        sway=(float(sway[0]), float(sway[1]), float(sway[2]), float(sway[3])),
        spin=float(rng.uniform(-45, 45)),
        pulse=(float(rng.uniform(0, 0.12)), float(rng.uniform(0.5, 2.0))),
    )


def moving_scene(
    seed: int,
    frames: int = 60,
    fps: float = 15.0,
    size: tuple[int, int] = (256, 256),
    options: SceneOptions | None = None,
    camera: float = 0.0,
) -> MovingScene:
    """Draw the moving scene of a seed; the same arguments give the same frames.

    Shapes come in pairs that meet at one place at one time, so that they cross and hide one another; each passes
    through the picture once, most enter and leave. `size` is (height, width). `camera` is how far, in pixels, the
    camera wanders from its place (0: it stands).

    Raises UsageError for no frames, for fps or camera out of range, and for too small a size.
    """
    check_size(size)
    if frames < 1 or not fps > 0 or camera < 0:
        raise UsageError(f"frames={frames}, fps={fps}, camera={camera}: give frames >= 1, fps > 0 and camera >= 0")
    options = options or SceneOptions(min_objects=4, max_objects=8, max_size=0.32)
    height, width = size
    rng = np.random.default_rng([seed, 1])
    border = 2 * (math.ceil(camera) + 2)
    canvas, kind = background(rng, height + border, width + border, options)
    duration = frames / fps
    paths: list[Path] = []
    count = int(rng.integers(options.min_objects, options.max_objects + 1))
    while len(paths) < count:
        when = float(rng.uniform(0, duration))
        meeting = (float(rng.uniform(0.15, 0.85)) * width, float(rng.uniform(0.15, 0.85)) * height)
        for _ in range(min(2, count - len(paths))):
            taken = frozenset(path.item.colour for path in paths)
            taken = taken if len(taken) < len(COLOURS) - 2 else frozenset({paths[-1].item.colour})
            paths.append(_path(rng, canvas, size, len(paths) + 1, when, meeting, options, taken))
    return MovingScene(
        seed=seed, frames=frames, fps=fps, size=size, paths=tuple(paths), background=kind, sensor=options.sensor,
        canvas=canvas, camera=_camera(rng, frames, fps, camera),
    )  # fmt: skip
