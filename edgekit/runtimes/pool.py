"""Several sessions of one bundle behind one callable, for any number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar, overload

import numpy as np

from edgekit.arrays import ImageLike, ImageLikes
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import Contract, Manifest
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Result

ResultT = TypeVar("ResultT", bound=Result, covariant=True)


class ModelPool(Generic[ResultT]):
    """Models of one bundle that any thread may call: a call takes one that is idle, or waits for it.

    Results are those of a single `edgekit.Model`. A list of images runs on all models at once. Close it, or use it as a
    context manager::

        with edgekit.load("out/detector-onnx-int8", workers=4) as pool:
            found = pool(image)  # from any thread

    Each model has its own session, with its own copy of the weights in memory.

    Args:
        models: of one bundle, used by nobody else.

    Attributes:
        contract: what goes in and what comes out.
        manifest: all the bundle says of itself.
        workers: how many models there are.
    """

    def __init__(self, models: Sequence[Model[ResultT]]) -> None:
        self.contract: Contract = models[0].contract
        self.manifest: Manifest | None = models[0].manifest
        self.placement: Placement = models[0].placement
        self.workers = len(models)
        self._idle, self._closed = list(models), False
        self._changed = threading.Condition()
        self._threads = ThreadPoolExecutor(self.workers, "edgekit-pool")

    def __repr__(self) -> str:
        what = self.contract.task if self.manifest is None else self.manifest.summary
        return f"<ModelPool of {self.workers}: {what}{', closed' if self._closed else ''}>"

    def __enter__(self) -> ModelPool[ResultT]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @overload
    def __call__(
        self, source: ImageLikes, *, score: float | None = None, iou: float | None = None
    ) -> list[ResultT]: ...
    @overload
    def __call__(self, source: ImageLike, *, score: float | None = None, iou: float | None = None) -> ResultT: ...

    def __call__(
        self, source: ImageLike | ImageLikes, *, score: float | None = None, iou: float | None = None
    ) -> ResultT | list[ResultT]:
        """The result of one image, or a list of results for several, which run side by side; see `Model.__call__`.

        Raises:
            InputError: not an image.
            EngineError: the engine failed, or gave NaN or infinite outputs.
            UsageError: the pool is closed.
        """
        if isinstance(source, list | tuple) or (isinstance(source, np.ndarray) and source.ndim == 4):
            self._refuse_closed()
            begun = [self._threads.submit(self.predict, image, score=score, iou=iou) for image in source]
            return [one.result() for one in begun]
        return self.predict(source, score=score, iou=iou)

    def predict(self, source: ImageLike, *, score: float | None = None, iou: float | None = None) -> ResultT:
        """The result of one image; arguments and errors are those of a call."""
        with self._borrowed() as model:
            return model.predict(source, score=score, iou=iou)

    def close(self) -> None:
        """Release the sessions after the running calls have ended. A thread that waits for a model gets an error."""
        with self._changed:
            self._closed = True
            for model in self._idle:
                model.close()
            self._idle.clear()
            self._changed.notify_all()
        self._threads.shutdown()

    @contextmanager
    def _borrowed(self) -> Iterator[Model[ResultT]]:
        """A model that nobody else has; the one that ran last comes first, its memory is in the caches."""
        with self._changed:
            while not self._idle and not self._closed:
                self._changed.wait()
            self._refuse_closed()
            model = self._idle.pop()
        try:
            yield model
        finally:
            with self._changed:
                if self._closed:
                    model.close()
                else:
                    self._idle.append(model)
                    self._changed.notify()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UsageError("this pool is closed: open another with edgekit.load(path, workers=N)")


def threads_each(workers: int) -> int:
    """CPU threads for each of so many sessions, which share the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
