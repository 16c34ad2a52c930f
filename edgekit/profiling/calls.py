"""DEVICE: one call of a model as a user makes it, with the times of its stages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError
from edgekit.profiling.record import Settings, StageName
from edgekit.runtimes.engines import Placement, Session
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections, Result, Text

Stages = dict[StageName, float]
Call = Callable[[Image], Stages]

TEXT = "a photograph of a street"
"""The text that images are matched with, for a retrieval model."""

FRAMES_PER_SECOND = 30.0
"""Of the frames a tracker is shown."""


class SlowedSession:
    """A session that takes longer by a known share, waiting as an engine would: busy. It is how a comparison is tested.

    Args:
        session: the real one.
        percent: of each inference's time, added to it.
    """

    def __init__(self, session: Session, percent: float) -> None:
        self._session, self._share = session, percent / 100
        self.placement: Placement = session.placement

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        """As the session, and then some."""
        begun = time.perf_counter()
        outputs = self._session.run(inputs)
        end = time.perf_counter() + self._share * (time.perf_counter() - begun)
        while time.perf_counter() < end:
            pass
        return outputs


def call_of(model: Any, settings: Settings) -> Call:
    """The call to measure for this model.

    Raises:
        UsageError: a tracker for a model that finds no boxes, or a delay for one of several graphs.
    """
    if isinstance(model, Model):
        if settings.delay:
            model.session = SlowedSession(model.session, settings.delay)
        return _tracked(model, settings.tracker) if settings.tracker else _single(model)
    if settings.tracker:
        raise UsageError(f"tracker {settings.tracker!r}: a vision-language model finds no boxes; leave --track out")
    if settings.delay:
        raise UsageError("a delay is added to the inference of models with one graph, this one has several")
    return _retrieval(model, settings) if model.kind == "retrieval" else _generation(model, settings)


def _single(model: Model[Result]) -> Call:
    def call(image: Image) -> Stages:
        timings = model.predict(image).timings
        return {} if timings is None else _stages(timings)

    return call


def _tracked(model: Model[Result], name: str) -> Call:
    from edgekit.runtimes.track import tracker_of

    tracker, frames = tracker_of(name, {}, model.contract), itertools.count()

    def call(image: Image) -> Stages:
        found = model.predict(image, score=tracker.least_score)
        if not isinstance(found, Detections):
            raise UsageError(f"a {model.contract.task} model finds no boxes, so there is nothing to track")
        begun = time.perf_counter()
        when = next(frames) / FRAMES_PER_SECOND
        tracker.update(found.boxes, found.scores, found.class_ids, time=when, image=image)
        spent = 1e3 * (time.perf_counter() - begun)
        return {**({} if found.timings is None else _stages(found.timings)), "track": spent}

    return call


def _stages(timings: Any) -> Stages:
    return {"pre": timings.pre, "inference": timings.inference, "post": timings.post}


def _generation(model: Any, settings: Settings) -> Call:
    options = {"max_new_tokens": settings.tokens, "min_new_tokens": settings.tokens}

    def call(image: Image) -> Stages:
        text: Text = model.caption(image, settings.prompt or None, **options)
        spent = text.timings
        return {} if spent is None else {"vision": spent.vision, "prefill": spent.prefill, "decode": spent.decode}

    return call


def _retrieval(model: Any, settings: Settings) -> Call:
    def call(image: Image) -> Stages:
        begun = time.perf_counter()
        model.embed(image)
        seen = time.perf_counter()
        model.match(image, settings.prompt or TEXT)
        return {"vision": 1e3 * (seen - begun), "inference": 1e3 * (time.perf_counter() - seen)}

    return call


def images(settings: Settings) -> list[Image]:
    """The images that are shown in turns, uint8 (h, w, 3) BGR: those of ``settings.data``, or a generated one.

    Raises:
        InputError: the data cannot be read, or holds no image.
    """
    if not settings.data:
        return [photograph(settings.seed)]
    from edgekit.errors import InputError
    from edgekit.runtimes.inputs.media import frames

    found = [frame.image for frame in itertools.islice(frames(settings.data), MOST_IMAGES)]
    if not found:
        raise InputError(f"{settings.data}: holds no image to measure with")
    return found


MOST_IMAGES = 64
"""Images that are kept in memory; of more, the first."""


def photograph(seed: int, size: tuple[int, int] = (720, 1280)) -> Image:
    """A picture with edges, gradients and noise as a camera's, of (height, width), the same for the same seed."""
    draw = np.random.default_rng(seed)
    height, width = size
    ramp = np.linspace(40, 200, width, dtype=np.float32)[None, :, None] * np.linspace(0.6, 1.0, height)[:, None, None]
    picture = np.broadcast_to(ramp, (height, width, 3)).copy()
    for _ in range(40):
        top, left = int(draw.integers(height)), int(draw.integers(width))
        tall, wide = (int(value) for value in draw.integers(20, 220, 2))
        picture[top : top + tall, left : left + wide] = draw.integers(0, 256, 3)
    picture += draw.normal(0, 4, picture.shape)
    shown: Image = np.clip(picture, 0, 255).astype(np.uint8)
    return shown


def endless(shown: Sequence[Image]) -> Iterator[Image]:
    """The images over and over, each time with another pixel in its corner, so that nothing known of one is used."""
    own = [image.copy() for image in shown]
    for number in itertools.count():
        image = own[number % len(own)]
        image[0, 0] = number % 256, number // 256 % 256, number // 65536 % 256
        yield image
