"""Tracking on top of a model: the frames of one stream in, results with track ids out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.results import Detections, Embedding, Result
from edgekit.runtimes.tracking import Tracker, Tracks, open_tracker, trackers
from edgekit.runtimes.tracking.fitting import ENOUGH, fitted, known_to

if TYPE_CHECKING:
    from edgekit.runtimes.inputs.media import SourceFrame

FRAMES_PER_SECOND = 30.0
"""Of frames that carry no time: images of a folder, and videos whose file does not say."""


class Predicting(Protocol):
    """The interface of a model that can be tracked: `edgekit.Model`, or a `TopDown`."""

    @property
    def contract(self) -> Contract:
        """The contract of the model."""
        ...

    def predict(self, source: Image, /, *, score: float | None = None, iou: float | None = None) -> Result:
        """The result of one image."""
        ...


def tracker_of(tracker: str | Tracker, options: Mapping[str, Any], contract: Contract) -> Tracker:
    """The given tracker, or a new one by name, with the contract's options where no others are given.

    Raises:
        UsageError: no tracker of that name, or a wrong option.
    """
    if isinstance(tracker, str):
        fitting = known_to(trackers()[tracker].Options, contract.trackers) if tracker in trackers() else {}
        return open_tracker(tracker, **{**fitting, **options})
    if options:
        raise UsageError(
            f"{', '.join(options)}: options go with the name of a tracker, and this tracker is open already"
        )
    return tracker


def discarded(tracker: Tracker, name: str, score: float) -> tuple[str, dict[str, float]]:
    """A notice if a tracker's threshold discarded most detections, with options that would keep them.

    Args:
        tracker: after the stream.
        name: what it is called.
        score: from which on a detection counts as found.

    Returns:
        A sentence, empty where there is nothing to say; and the options, of those that the tracker has.
    """
    scores, begin = tracker.tally.scores(score), tracker.begin_option
    found, tracked = len(scores), tracker.tally.tracked
    if not begin or found < ENOUGH or 2 * tracked > found:
        return "", {}
    least = float(getattr(tracker.options, begin))
    under = int((scores < least).sum())
    if 2 * under < found - tracked:
        return "", {}
    frames = tracker.tally.frames
    text = (
        f"{found / frames:.1f} found per frame, {tracked / frames:.1f} tracked: {under} of {found} detections scored "
        f"under {name}'s {begin}, {least:g}"
    )
    usual = tracker.Options()
    fitting = fitted(scores, score) or {
        name: getattr(usual, name) for name in ("high_score", begin) if hasattr(usual, name)
    }
    return text, {option: value for option, value in fitting.items() if hasattr(usual, option)}


def follow(
    model: Predicting,
    frames: Iterable[SourceFrame],
    tracker: Tracker,
    *,
    every: int = 1,
    fps: float = FRAMES_PER_SECOND,
    score: float | None = None,
    iou: float | None = None,
    appearance: Predicting | None = None,
) -> Iterator[tuple[Image, Detections]]:
    """Results of the confirmed tracks that are in sight, frame by frame, each with the image it belongs to.

    Only every n-th frame is run; between them the tracker predicts, and the results are plain boxes.

    Args:
        model: with a task whose results have boxes.
        frames: of one stream, in order.
        tracker: not used for another stream.
        every: run the model on every n-th frame.
        fps: frames per second, where the frames carry no time.
        score: least score of a detection; by default the tracker's own, which is below a detector's usual one because
            weak detections keep known tracks alive.
        iou: of NMS, instead of the contract's.
        appearance: an embedding model, run on what is in each box, for trackers that compare looks.

    Raises:
        UsageError: ``every`` below 1, ``fps`` not positive, a model whose results have no boxes, or an appearance that
            the tracker does not look at or that is no embedding.
    """
    if every < 1:
        raise UsageError(f"every must be at least 1, not {every}")
    if fps <= 0:
        raise UsageError(f"fps must be positive, not {fps:g}")
    _check_appearance(tracker, appearance)
    least = tracker.least_score if score is None else score
    for number, frame in enumerate(frames):
        time = number / fps if frame.time is None else frame.time
        if number % every:
            tracks = tracker.predict(time, image=frame.image).visible
            result = _expected(model, tracks, frame.image)
        else:
            found = model.predict(frame.image, score=least, iou=iou)
            if not isinstance(found, Detections):
                raise UsageError(f"a {model.contract.task} model finds no boxes, so there is nothing to track")
            tracks = tracker.update(
                found.boxes,
                found.scores,
                found.class_ids,
                time=time,
                image=frame.image,
                embeddings=None if appearance is None else appearance_embeddings(appearance, frame.image, found),
            ).visible
            result = _tracked(found, tracks, frame.image)
        yield frame.image, dataclasses.replace(result, source=frame.name, time=time)


def appearance_embeddings(appearance: Predicting, image: Image, found: Detections) -> Floats | None:
    """Embeddings (n, d) of the crop of each box, None without boxes; zeros for an empty box."""
    vectors: list[Floats | None] = []
    for crop in found.crop(image):
        result = appearance.predict(crop) if crop.size else None
        vectors.append(result.vector if isinstance(result, Embedding) else None)
    known = [vector for vector in vectors if vector is not None]
    if not known:
        return None
    nothing = np.zeros_like(known[0])
    return np.stack([nothing if vector is None else vector for vector in vectors])


def _check_appearance(tracker: Tracker, appearance: Predicting | None) -> None:
    if appearance is None:
        return
    if appearance.contract.task != "embed":
        raise UsageError(f"appearance must be an embedding model, not one of the task {appearance.contract.task!r}")
    if not tracker.uses_embeddings:
        raise UsageError(
            f"{type(tracker).__name__} does not compare appearance; track with botsort, or without appearance"
        )


def _tracked(found: Detections, tracks: Tracks, image: Image) -> Detections:
    """The detections of the tracks. Plain boxes are the tracks'; those around masks and keypoints stay as found."""
    seen = dataclasses.replace(found[tracks.detections], track_ids=tracks.track_ids)
    return dataclasses.replace(seen, boxes=_inside(tracks.boxes, image)) if type(found) is Detections else seen


def _expected(model: Predicting, tracks: Tracks, image: Image) -> Detections:
    """Predicted positions of tracks, as detections inside the image."""
    height, width = image.shape[:2]
    return Detections(
        boxes=_inside(tracks.boxes, image),
        scores=tracks.scores,
        class_ids=tracks.class_ids,
        track_ids=tracks.track_ids,
        classes=model.contract.classes,
        size=(width, height),
    )


def _inside(boxes: Floats, image: Image) -> Floats:
    height, width = image.shape[:2]
    inside: Floats = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return inside
