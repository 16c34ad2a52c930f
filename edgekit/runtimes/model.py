"""A bundle, opened and ready: image in, result out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast, overload

import msgspec
import numpy as np

from edgekit.arrays import Floats, Image, ImageLike, ImageLikes
from edgekit.errors import BundleError, InputError, UsageError
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.runtimes.bundle.manifest import Contract, Graph, Manifest
from edgekit.runtimes.engines import Isolation, Placement, Session, SessionOptions, open_session
from edgekit.runtimes.exclusive import Exclusive
from edgekit.runtimes.inputs.images import Preprocessor, Transform
from edgekit.runtimes.results import Result, Timings
from edgekit.runtimes.tasks import Task, open_task

if TYPE_CHECKING:
    from edgekit.runtimes.inputs.media import SourceFrame
    from edgekit.runtimes.results import Detections
    from edgekit.runtimes.tracking import Tracker


ResultT = TypeVar("ResultT", bound=Result, covariant=True)

InputSize = int | tuple[int, int] | Literal["nearest"] | None
"""Values of ``load(size=)``."""


class _Way(NamedTuple):
    """How images go through at one input size: the batches that the session takes there, largest first."""

    task: Task
    preprocess: Preprocessor
    batches: tuple[int, ...]


class _Inferred(NamedTuple):
    """An image between inference and postprocessing; times in ms."""

    way: _Way
    mapping: Transform
    outputs: Sequence[Floats]
    pre: float
    inference: float


@dataclasses.dataclass
class ClosedSession:
    """Stands in for the session of a closed model."""

    placement: Placement

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        """Refuse.

        Raises:
            UsageError: always.
        """
        raise UsageError("this model is closed: open it again with edgekit.load(path)")


class Model(Generic[ResultT]):
    """A contract bound to a session. Call it with an image.

    It serves one thread at a time and refuses a second one: open one per thread, or a pool (``workers=`` of
    `edgekit.load`).

    ``Model[Detections]`` is a model that gives `Detections`, and so on. Its engine's memory is freed by `close`, or at
    the end of a ``with`` block, or with the last reference to it.

    Attributes:
        contract: what goes in and what comes out.
        manifest: all the bundle says of itself, its evidence included; None for a source that runs in PyTorch.
        task: the postprocessing.
        session: the engine's side.
        exclusive: held while the model runs.
    """

    def __init__(
        self,
        contract: Contract,
        session: Session,
        manifest: Manifest | None = None,
        batches: Mapping[tuple[int, int], Sequence[int]] | None = None,
    ) -> None:
        self.contract = contract
        self.manifest = manifest
        self.session = session
        self._ways = {
            size: _way(contract, size, each) for size, each in (batches or {contract.image.size: (1,)}).items()
        }
        first = self._ways[contract.image.size]
        self.task, self.preprocess = first.task, first.preprocess
        self.exclusive = Exclusive()

    def __repr__(self) -> str:
        what = f"{self.contract.task}, in PyTorch" if self.manifest is None else self.manifest.summary
        return f"<Model {what}{', closed' if self.exclusive.closed else ''}>"

    def __enter__(self) -> Model[ResultT]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engine and its memory; what is called afterwards raises a UsageError. May be called again.

        Raises:
            UsageError: it is running in another thread.
        """
        if not self.exclusive.closed:
            with self.exclusive:
                self.session = ClosedSession(self.placement)
                self.exclusive.closed = True

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Input sizes (height, width) that it chooses from: one, but for ``load(size="nearest")``."""
        return tuple(self._ways)

    @property
    def placement(self) -> Placement:
        """Where operators ran: their number per compute unit, and the arithmetic."""
        return self.session.placement

    @overload
    def __call__(
        self, source: ImageLikes, *, score: float | None = None, iou: float | None = None
    ) -> list[ResultT]: ...
    @overload
    def __call__(self, source: ImageLike, *, score: float | None = None, iou: float | None = None) -> ResultT: ...

    def __call__(
        self, source: ImageLike | ImageLikes, *, score: float | None = None, iou: float | None = None
    ) -> ResultT | list[ResultT]:
        """The result of one image, or a list of results for several.

        Args:
            source: a path, a uint8 array (h, w, 3) BGR as OpenCV gives it, or a PIL image; a list of these or an array
                (n, h, w, 3) gives a list (type checkers know a list only), and runs in batches where the bundle takes
                them. Folders, videos and cameras go through
                `stream`.
            score: least score, instead of the contract's.
            iou: IoU above which NMS drops a box, instead of the contract's.

        Raises:
            InputError: not an image.
            EngineError: the engine failed, or gave NaN or infinite outputs.
            UsageError: it is running in another thread.
        """
        if isinstance(source, list | tuple) or (isinstance(source, np.ndarray) and source.ndim == 4):
            if any(way.batches[0] > 1 for way in self._ways.values()):
                return self._in_batches(list(source), score, iou)
            return [self.predict(image, score=score, iou=iou) for image in source]
        return self.predict(source, score=score, iou=iou)

    def predict(self, source: ImageLike, *, score: float | None = None, iou: float | None = None) -> ResultT:
        """The result of one image; the arguments are those of a call."""
        image, name = read(source)
        with self.exclusive:
            return self._finished(self._inferred(image), score, iou, name)

    def stream(
        self,
        source: Any,
        *,
        score: float | None = None,
        iou: float | None = None,
        reconnect: float = 0.0,
        silence: float | None = None,
    ) -> Iterator[ResultT]:
        """Results one by one for anything `inputs.media.frames` opens: folders, globs, videos, cameras, stacks.

        Args:
            source: see there.
            score: least score, instead of the contract's.
            iou: IoU above which NMS drops a box, instead of the contract's.
            reconnect: seconds that a camera or stream may be away; it is opened again and again meanwhile. 0: an error
                at once.
            silence: seconds without a frame after which a network stream counts as away; 10 when left out.

        Raises:
            InputError: no such source, a damaged image, or a camera or stream that stopped.
            UsageError: ``reconnect`` or ``silence`` with files.
        """
        for _, result in self.stream_with_images(source, score=score, iou=iou, reconnect=reconnect, silence=silence):
            yield result

    def stream_with_images(
        self,
        source: Any,
        *,
        score: float | None = None,
        iou: float | None = None,
        reconnect: float = 0.0,
        silence: float | None = None,
    ) -> Iterator[tuple[Image, ResultT]]:
        """Like `stream`, with the BGR image beside each result, for drawing.

        Frames are decoded in a thread of their own (`inputs.reader.Reader`). Of a camera or stream the newest frame is
        taken, and its result given before the next; of files the postprocessing of one runs beside the inference of the
        next.
        """
        from edgekit.runtimes.inputs.reader import Reader, overlapped

        with Reader(source, reconnect=reconnect, silence=silence) as reader:
            if reader.live:
                for frame in reader:
                    result = self.predict(frame.image, score=score, iou=iou)
                    yield frame.image, dataclasses.replace(result, source=frame.name, time=frame.time)
                return

            def first(frame: SourceFrame) -> tuple[SourceFrame, _Inferred]:
                with self.exclusive:
                    one = self._inferred(frame.image)
                    # The next inference may write over an engine's outputs.
                    return frame, one._replace(outputs=[np.array(output) for output in one.outputs])

            def second(given: tuple[SourceFrame, _Inferred]) -> tuple[Image, ResultT]:
                frame, one = given
                return frame.image, self._finished(one, score, iou, frame.name, frame.time)

            yield from overlapped(reader, first, second)

    def _inferred(self, image: Image) -> _Inferred:
        start = time.perf_counter()
        way = self._way(image)
        tensor, mapping = way.preprocess(image)
        ready = time.perf_counter()
        outputs = self.session.run([tensor])
        return _Inferred(way, mapping, outputs, 1e3 * (ready - start), 1e3 * (time.perf_counter() - ready))

    def _way(self, image: Image) -> _Way:
        """The smallest size that shows the image in full, else the largest."""
        if len(self._ways) == 1:
            return self._ways[self.contract.image.size]
        fitting = [size for size in self._ways if size[0] >= image.shape[0] and size[1] >= image.shape[1]]
        chosen = min(fitting, key=_area) if fitting else max(self._ways, key=_area)
        return self._ways[chosen]

    def _in_batches(self, sources: Sequence[ImageLike], score: float | None, iou: float | None) -> list[ResultT]:
        """Results of several images: those of one size run together, in the largest batches that there are."""
        images = [read(source) for source in sources]
        of_way: dict[int, list[int]] = {}
        for place, (image, _) in enumerate(images):
            of_way.setdefault(id(self._way(image)), []).append(place)
        results: dict[int, ResultT] = {}
        with self.exclusive:
            for places in of_way.values():
                way = self._way(images[places[0]][0])
                while places:
                    batch = next(one for one in way.batches if one <= len(places))
                    taken, places = places[:batch], places[batch:]
                    inferred = self._batch_inferred(way, [images[place][0] for place in taken])
                    for place, one in zip(taken, inferred, strict=True):
                        results[place] = self._finished(one, score, iou, images[place][1])
        return [results[place] for place in range(len(images))]

    def _batch_inferred(self, way: _Way, images: Sequence[Image]) -> list[_Inferred]:
        start = time.perf_counter()
        height, width = way.preprocess.rule.size
        tensor, mappings = np.empty((len(images), 3, height, width), np.float32), []
        for place, image in enumerate(images):
            tensor[place], mapping = way.preprocess(image)
            mappings.append(mapping)
        ready = time.perf_counter()
        outputs = self.session.run([tensor])
        each = 1e3 / len(images)
        pre, inference = each * (ready - start), each * (time.perf_counter() - ready)
        return [
            _Inferred(way, mapping, [output[place : place + 1] for output in outputs], pre, inference)
            for place, mapping in enumerate(mappings)
        ]

    def _finished(
        self, one: _Inferred, score: float | None, iou: float | None, name: str, seconds: float | None = None
    ) -> ResultT:
        start = time.perf_counter()
        result = cast(ResultT, one.way.task.result(one.outputs, one.mapping, score=score, iou=iou))
        timings = Timings(one.pre, one.inference, 1e3 * (time.perf_counter() - start))
        return dataclasses.replace(result, source=name, time=seconds, timings=timings)

    def track(
        self,
        source: Any,
        tracker: str | Tracker = "bytetrack",
        *,
        every: int = 1,
        fps: float | None = None,
        score: float | None = None,
        iou: float | None = None,
        appearance: Model[Result] | None = None,
        reconnect: float = 0.0,
        silence: float | None = None,
        **options: Any,
    ) -> Iterator[Detections]:
        """Results of one stream with track ids: what `stream` opens, through a tracker.

        Args:
            source: a video, a camera, or images in order.
            tracker: a name (`edgekit.runtimes.tracking.tracker_names`), or one that is open, for this stream alone.
            every: run the model on every n-th frame; the tracker predicts between.
            fps: frames per second of images that carry no time; 30 when left out.
            score: least score of a detection, instead of the tracker's own.
            iou: of NMS, instead of the contract's.
            appearance: an embedding model that tells objects apart by their looks, for ``botsort``.
            reconnect: seconds that a camera or stream may be away, as in `stream`; tracks go on where it comes back.
            silence: as in `stream`.
            options: of the tracker that is named, see docs/TRACKING.md; the bundle may have others than the papers'.

        Raises:
            InputError: as in `stream`.
            UsageError: no such tracker or option, or a model that finds no boxes; as in `stream`.
        """
        given = {"every": every, "fps": fps, "score": score, "iou": iou, "appearance": appearance, **options}
        for _, result in self.track_with_images(source, tracker, reconnect=reconnect, silence=silence, **given):
            yield result

    def track_with_images(
        self,
        source: Any,
        tracker: str | Tracker = "bytetrack",
        *,
        every: int = 1,
        fps: float | None = None,
        score: float | None = None,
        iou: float | None = None,
        appearance: Model[Result] | None = None,
        reconnect: float = 0.0,
        silence: float | None = None,
        **options: Any,
    ) -> Iterator[tuple[Image, Detections]]:
        """Like `track`, with the BGR image beside each result, for drawing."""
        from edgekit.runtimes.inputs.reader import Reader
        from edgekit.runtimes.track import FRAMES_PER_SECOND, follow, tracker_of

        opened = tracker_of(tracker, options, self.contract)
        rate = FRAMES_PER_SECOND if fps is None else fps
        # Here and not in the generator, so that a mistake is told at once.
        reader = Reader(source, reconnect=reconnect, silence=silence)

        def followed() -> Iterator[tuple[Image, Detections]]:
            with reader:
                yield from follow(
                    self, reader, opened, every=every, fps=rate, score=score, iou=iou, appearance=appearance
                )

        return followed()

    def outputs(self, tensor: Floats) -> Sequence[Floats]:
        """Raw outputs, NCHW in the contract's order, for a preprocessed tensor (1, 3, height, width), or more of them
        where the bundle takes a batch. The next run may overwrite them."""
        with self.exclusive:
            return self.session.run([tensor])

    def warm_up(self, runs: int = 1) -> None:
        """Run on an empty image, so that the first real one does not pay for the engine's lazy set-up."""
        tensor = np.zeros((1, 3, *self.contract.image.size), np.float32)
        with self.exclusive:
            for _ in range(runs):
                self.session.run([tensor])


def load(
    path: str | os.PathLike[str] | Bundle,
    *,
    threads: int = 0,
    unit: str = "",
    strict: bool = False,
    warm_up: int = 1,
    isolation: Isolation | None = None,
    size: InputSize = None,
) -> Model[Result]:
    """Open a bundle.

    Args:
        path: the folder that ``edgekit convert`` wrote.
        threads: CPU threads for the engine, 0 for its own choice.
        unit: one of the engine's units, such as ``cpu`` or ``npu``; empty for its first.
        strict: make it an error when an operator leaves that unit.
        warm_up: runs on an empty image before returning.
        isolation: the child process to open the file in.
        size: the input size, as in `edgekit.load`.

    Raises:
        BundleError: damaged, altered or too new.
        EngineError: the engine is missing or refuses the file.
        UsageError: a unit or thread count that the engine does not have, or a vision-language bundle, which
            `edgekit.load` opens.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    manifest = bundle.manifest
    if (language := manifest.contract.language) is not None:
        commands = "match or edgekit search" if language.family == "retrieval" else "caption or edgekit ask"
        raise UsageError(
            f"{bundle.path} is a vision-language model: use edgekit {commands}, or edgekit.load(...) in Python"
        )
    if len(manifest.graphs) != 1:
        raise BundleError(f"{bundle.path}: {len(manifest.graphs)} graphs; a {manifest.contract.task} model has one")
    (graph,) = manifest.graphs
    _check_size(bundle, graph)
    contract, batches = _at_size(bundle, size)
    shape = (1, 3, *contract.image.size) if manifest.variants else ()
    options = SessionOptions(threads, unit, strict, isolation, shape)
    session = open_session(manifest.engine, bundle.path, graph, options)
    model: Model[Result] = Model(contract, session, manifest, batches)
    model.warm_up(warm_up)
    return model


def _way(contract: Contract, size: tuple[int, int], batches: Sequence[int]) -> _Way:
    at_size = msgspec.structs.replace(contract, image=msgspec.structs.replace(contract.image, size=size))
    return _Way(open_task(at_size), Preprocessor(at_size.image), tuple(sorted(batches, reverse=True)))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _at_size(bundle: Bundle, size: InputSize) -> tuple[Contract, Mapping[tuple[int, int], Sequence[int]]]:
    """The contract at an input size, and the batches at each size that the model may choose.

    Raises:
        UsageError: the bundle does not take that size.
    """
    contract, batches = bundle.manifest.contract, bundle.manifest.batches
    if size == "nearest":
        return contract, batches
    wanted = contract.image.size if size is None else (size, size) if isinstance(size, int) else tuple(size)
    if wanted not in batches:
        offered = ", ".join(f"{height}x{width}" for height, width in batches)
        raise UsageError(
            f"{bundle.path} takes {offered}, not size={size!r}; convert it with --size of all that you need"
        )
    image = msgspec.structs.replace(contract.image, size=wanted)
    return msgspec.structs.replace(contract, image=image), {wanted: batches[wanted]}


def _check_size(bundle: Bundle, graph: Graph) -> None:
    """Refuse an image rule that is not for the graph's input, before anything of that size is made.

    Raises:
        BundleError: other than one image of the contract's size.
    """
    height, width = bundle.manifest.contract.image.size
    wanted: list[tuple[int, ...]] = [
        (1, 3, height, width) if one.layout == "nchw" else (1, height, width, 3) for one in graph.inputs
    ]
    found = [tuple(one.shape) for one in graph.inputs]
    if bundle.manifest.variants:  # what is open there is what the variants need
        wanted = [
            tuple(-1 if length == -1 else own for length, own in zip(shape, one, strict=False))
            for shape, one in zip(found, wanted, strict=True)
        ]
    if len(found) != 1 or found != wanted:
        raise BundleError(
            f"{bundle.path}: the contract makes an input of {height}x{width}, the graph takes "
            f"{' and '.join(str(list(shape)) for shape in found)}; convert the model again"
        )


def read(source: Any) -> tuple[Image, str]:
    """The one image that an array, a path or a PIL image holds, and its name.

    Raises:
        InputError: not an image, or several.
    """
    if isinstance(source, np.ndarray):
        return source, ""
    from edgekit.runtimes.inputs.media import frames, read_image
    from edgekit.runtimes.inputs.video import StreamStoppedError

    if isinstance(source, str | os.PathLike) and os.path.isfile(source):  # noqa: PTH113 - str or PathLike alike
        return read_image(source), os.fspath(source)
    every = frames(source)
    first = next(every)
    try:
        second = next(every, None)
    except StreamStoppedError:  # a photograph from a server that does not say how long it is
        second = None
    if second is not None:
        raise InputError(f"{source!r} holds several images; use model.stream(...) for folders, videos and cameras")
    return first.image, first.name
