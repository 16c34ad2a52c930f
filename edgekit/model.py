"""A bundle, opened and ready: image in, result out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, open_bundle
from edgekit.errors import BundleError, InputError
from edgekit.images import Floats, Image, Preprocessor
from edgekit.manifest import Contract, Manifest
from edgekit.results import Result, Timings
from edgekit.runtimes import Placement, Session, SessionOptions, open_session
from edgekit.tasks import Task, open_task


class Model:
    """A contract bound to a session. Call it with an image; not thread-safe, open one per thread.

    Attributes:
        contract: what goes in and what comes out.
        manifest: all the bundle says of itself, its evidence included; None for a source that runs in PyTorch.
        task: the postprocessing.
        session: the engine's side.
    """

    def __init__(self, contract: Contract, session: Session, manifest: Manifest | None = None) -> None:
        self.contract = contract
        self.manifest = manifest
        self.session = session
        self.task: Task = open_task(contract)
        self.preprocess = Preprocessor(contract.image)

    @property
    def placement(self) -> Placement:
        """What ran where: operators per compute unit, and the arithmetic."""
        return self.session.placement

    def __call__(
        self, source: Any, *, score: float | None = None, iou: float | None = None
    ) -> Result | list[Result]:
        """The result of one image, or a list of results for several.

        Args:
            source: a path, a uint8 array (h, w, 3) BGR as OpenCV gives it, or a PIL image; a list of these or an array
                (n, h, w, 3) is a batch. Folders, videos and cameras go through `stream`.
            score: least score, instead of the contract's.
            iou: IoU above which NMS drops a box, instead of the contract's.

        Raises:
            InputError: not an image.
            EngineError: the engine failed, or gave NaN or infinite outputs.
        """
        if isinstance(source, list | tuple) or (isinstance(source, np.ndarray) and source.ndim == 4):
            return [self.predict(image, score=score, iou=iou) for image in source]
        return self.predict(source, score=score, iou=iou)

    def predict(self, source: Any, *, score: float | None = None, iou: float | None = None) -> Result:
        """The result of one image; the arguments are those of a call."""
        name = ""
        if not isinstance(source, np.ndarray):
            source, name = _read(source)
        start = time.perf_counter()
        tensor, mapping = self.preprocess(source)
        ready = time.perf_counter()
        outputs = self.session.run([tensor])
        ran = time.perf_counter()
        result = self.task.result(outputs, mapping, score=score, iou=iou)
        done = time.perf_counter()
        timings = Timings(1e3 * (ready - start), 1e3 * (ran - ready), 1e3 * (done - ran))
        return dataclasses.replace(result, source=name, timings=timings)

    def stream(self, source: Any, *, score: float | None = None, iou: float | None = None) -> Iterator[Result]:
        """Results one by one for anything `edgekit.media.frames` opens: folders, globs, videos, cameras, stacks."""
        for _, result in self.stream_with_images(source, score=score, iou=iou):
            yield result

    def stream_with_images(
        self, source: Any, *, score: float | None = None, iou: float | None = None
    ) -> Iterator[tuple[Image, Result]]:
        """Like `stream`, with the BGR image beside each result, for drawing."""
        from edgekit.media import frames

        for frame in frames(source):
            result = self.predict(frame.image, score=score, iou=iou)
            yield frame.image, dataclasses.replace(result, source=frame.name, time=frame.time)

    def outputs(self, tensor: Floats) -> Sequence[Floats]:
        """Raw outputs, NCHW in the contract's order, for a preprocessed tensor (1, 3, height, width)."""
        return self.session.run([tensor])

    def warm_up(self, runs: int = 1) -> None:
        """Run on an empty image, so that the first real one does not pay for the engine's lazy set-up."""
        tensor = np.zeros((1, 3, *self.contract.image.size), np.float32)
        for _ in range(runs):
            self.session.run([tensor])


def load(
    path: str | os.PathLike[str] | Bundle, *, threads: int = 0, device: str = "", strict: bool = False, warm_up: int = 1
) -> Model:
    """Open a bundle.

    Args:
        path: the folder that ``edgekit convert`` wrote.
        threads: CPU threads for the engine, 0 for its own choice.
        device: one of the engine's devices, empty for its first.
        strict: make it an error when an operator leaves that device.
        warm_up: runs on an empty image before returning.

    Raises:
        BundleError: damaged, altered or too new.
        EngineError: the engine is missing or refuses the file.
        UsageError: a device or thread count that the engine does not have.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    manifest = bundle.manifest
    if len(manifest.graphs) != 1:
        raise BundleError(f"{bundle.path}: {len(manifest.graphs)} graphs; a {manifest.contract.task} model has one")
    (graph,) = manifest.graphs
    session = open_session(manifest.engine, bundle.path, graph, SessionOptions(threads, device, strict))
    model = Model(manifest.contract, session, manifest)
    model.warm_up(warm_up)
    return model


def _read(source: Any) -> tuple[Image, str]:
    """The one image that a path or a PIL image holds, and its name."""
    from edgekit.media import frames, read_image

    if isinstance(source, str | os.PathLike) and os.path.isfile(source):  # noqa: PTH113 - str or PathLike alike
        return read_image(source), os.fspath(source)
    found = list(_at_most_two(frames(source)))
    if len(found) != 1:
        raise InputError(f"{source!r} holds several images; use model.stream(...) for folders, videos and cameras")
    return found[0].image, found[0].name


def _at_most_two(items: Iterator[Any]) -> Iterator[Any]:
    for _, item in zip(range(2), items, strict=False):
        yield item
