"""Models and threads: one that is shared is refused and never wrong, and a pool may be called by any number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from tiny_models import picture
from tiny_onnx import write_tiny_bundle

import edgekit
from edgekit.errors import UsageError
from edgekit.runtimes import load as loading
from edgekit.runtimes import pool
from edgekit.runtimes.engines import engine
from edgekit.runtimes.exclusive import Exclusive

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

OLD = ROOT / "tests" / "old_bundles"
REFUSED = r"running in another thread, and serves one at a time: open one model per thread, or .*workers=N"
IMAGES = [picture(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="needs onnx to write a model")
    return write_tiny_bundle(tmp_path_factory.mktemp("threads") / "tiny")


class Slow:
    """A session that tells when it runs, and runs on when it is let."""

    def __init__(self, session: Any) -> None:
        self.session, self.placement = session, session.placement
        self.running, self.go_on = threading.Event(), threading.Event()

    def run(self, given: Any) -> Any:
        self.running.set()
        assert self.go_on.wait(20)
        return self.session.run(given)


def in_threads(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """What the threads raised."""
    raised = list[BaseException]()

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - told to the caller
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model(IMAGES[0]),
        lambda model: model([IMAGES[0]]),
        lambda model: list(model.stream([IMAGES[0]])),
        lambda model: model.warm_up(),
        lambda model: model.outputs(np.zeros((1, 3, *model.contract.image.size), np.float32)),
        lambda model: list(model.track([IMAGES[0]])),
    ],
    ids=["call", "batch", "stream", "warm_up", "outputs", "track"],
)
def test_a_second_thread_is_refused_while_a_model_runs(bundle: Path, use: Callable[[Any], object]) -> None:
    model = edgekit.load(bundle)
    slow = Slow(model.session)
    model.session = slow
    first = threading.Thread(target=model, args=(IMAGES[0],))
    first.start()
    assert slow.running.wait(20)
    with pytest.raises(UsageError, match=REFUSED):
        use(model)
    slow.go_on.set()
    first.join(20)
    use(model)  # one after the other is fine, from whichever thread


def test_a_model_that_was_shared_gives_no_wrong_result(bundle: Path) -> None:
    model = edgekit.load(bundle)
    expected = [model(image) for image in IMAGES]
    served = list[int]()

    def work(number: int) -> None:
        for turn in range(60):
            which = (number + turn) % len(IMAGES)
            try:
                found = model(IMAGES[which])
            except UsageError:
                continue
            np.testing.assert_array_equal(found.boxes, expected[which].boxes)
            np.testing.assert_array_equal(found.scores, expected[which].scores)
            served.append(which)

    assert in_threads(4, work) == []
    assert served


def test_streams_still_overlap_and_a_model_may_be_called_between_their_results(bundle: Path) -> None:
    model = edgekit.load(bundle)
    expected = [model(image) for image in IMAGES]
    for found, wanted in zip(model.stream(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(found.boxes, wanted.boxes)
        np.testing.assert_array_equal(model(IMAGES[0]).boxes, expected[0].boxes)


def test_the_same_thread_may_enter_again_and_an_error_lets_go() -> None:
    exclusive = Exclusive()
    with pytest.raises(KeyError), exclusive, exclusive:
        raise KeyError
    assert in_threads(1, lambda _: exclusive.__enter__()) == []


# ---- vision-language models ----


@pytest.fixture(scope="module")
def blip2() -> edgekit.VisionLanguage:
    pytest.importorskip("tokenizers", reason="needs the extra 'language'")
    return edgekit.load(OLD / "opt-onnx-int8", edgekit.VisionLanguage)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.caption(IMAGES[1]),
        lambda model: model.ask(IMAGES[1], "what?"),
        lambda model: model.embed(IMAGES[1]),
        lambda model: list(model.stream(IMAGES[1])),
        lambda model: model.warm_up(),
    ],
    ids=["caption", "ask", "embed", "stream", "warm_up"],
)
def test_a_vision_language_model_refuses_a_second_thread(
    blip2: edgekit.VisionLanguage, use: Callable[[Any], object]
) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with blip2.exclusive:
            inside.set()
            assert leave.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    assert inside.wait(20)
    with pytest.raises(UsageError, match=REFUSED):
        use(blip2)
    leave.set()
    holding.join(20)
    use(blip2)


def test_a_streamed_text_is_refused_between_its_pieces_too(blip2: edgekit.VisionLanguage) -> None:
    pieces = blip2.stream(IMAGES[1])
    raised = list[BaseException]()
    with blip2.exclusive:
        raised += in_threads(1, lambda _: next(pieces, None))
    assert [type(error) for error in raised] == [UsageError]


# ---- pools ----


@pytest.fixture(scope="module")
def pooled(bundle: Path) -> Iterator[edgekit.ModelPool[edgekit.Detections]]:
    with edgekit.load(bundle, workers=3) as opened:
        yield opened


def test_a_pool_gives_what_a_model_gives_from_any_thread(
    bundle: Path, pooled: edgekit.ModelPool[edgekit.Detections]
) -> None:
    model = edgekit.load(bundle)
    expected = [model(image) for image in IMAGES]

    def work(number: int) -> None:
        for turn in range(20):
            which = (number + turn) % len(IMAGES)
            found = pooled(IMAGES[which])
            np.testing.assert_array_equal(found.boxes, expected[which].boxes)
            np.testing.assert_array_equal(found.scores, expected[which].scores)

    assert in_threads(8, work) == []
    batch = pooled(IMAGES)
    assert [len(one) for one in batch] == [len(one) for one in expected]
    for one, wanted in zip(batch, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, wanted.boxes)
    assert pooled.contract == model.contract
    assert pooled.workers == 3


def test_a_pool_that_failed_once_goes_on(pooled: edgekit.ModelPool[edgekit.Detections]) -> None:
    for _ in range(pooled.workers + 1):
        with pytest.raises(edgekit.EdgekitError):
            pooled(np.zeros((3, 3), np.uint8))
    assert len(pooled([IMAGES[0]] * 5)) == 5


def test_calls_wait_for_an_idle_model_and_a_closed_pool_says_so(bundle: Path) -> None:
    model = edgekit.load(bundle)
    slow = Slow(model.session)
    model.session = slow
    opened = pool.ModelPool([model])
    results, raised = list[object](), list[BaseException]()

    def call() -> None:
        try:
            results.append(opened(IMAGES[0]))
        except UsageError as error:
            raised.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert slow.running.wait(20)
    opened.close()  # two wait, and get an error; the one that runs is finished
    slow.go_on.set()
    for thread in threads:
        thread.join(20)
    assert (len(results), len(raised)) == (1, 2)
    with pytest.raises(UsageError, match=r"this pool is closed: open another with edgekit.load\(path, workers=N\)"):
        opened(IMAGES)
    with pytest.raises(UsageError, match="this pool is closed"):
        opened(IMAGES[0])


def test_workers_share_the_cores_unless_threads_are_given(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [pool.threads_each(count) for count in (1, 3, 8, 20)] == [8, 2, 1, 1]
    given = list[int]()

    class OpenedError(Exception):
        pass

    def opened(*_: object, threads: int, **__: object) -> None:
        given.append(threads)
        raise OpenedError

    monkeypatch.setattr(loading.model, "load", opened)
    for threads, workers in ((0, 2), (3, 2), (0, None)):
        with pytest.raises(OpenedError):
            loading.load(bundle, workers=workers, threads=threads)  # type: ignore[call-overload]
    assert given == [4, 3, 0]
    assert not engine("executorch").own_threads


@pytest.mark.parametrize("workers", [0, -3])
def test_a_pool_of_nobody_is_refused(bundle: Path, workers: int) -> None:
    with pytest.raises(UsageError, match=rf"workers must be 1 or more, not {workers}"):
        edgekit.load(bundle, workers=workers)


def test_a_vision_language_model_has_no_pool() -> None:
    with pytest.raises(UsageError, match=r"which has no pool of workers=2: open one in each thread"):
        edgekit.load(OLD / "opt-onnx-int8", workers=2)
