"""Opened models say what they are, and let go of their engine when they are closed."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pytest
from tiny_models import picture
from tiny_onnx import write_tiny_bundle

import edgekit
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.folder import open_bundle

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnx", reason="needs onnx to write a model")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_a_closed_model_has_no_session_and_says_so(bundle: Path) -> None:
    with edgekit.load(bundle) as model:
        session = weakref.ref(model.session)
        assert len(model(picture(3)))
    assert session() is None, "the engine's memory is free"
    for use in (lambda: model(picture(3)), lambda: model.warm_up(), lambda: next(model.stream([picture(3)]))):
        with pytest.raises(UsageError, match=r"this model is closed: open it again with edgekit\.load"):
            use()
    model.close()
    assert repr(model).endswith(", closed>")


def test_a_model_that_runs_is_not_closed(bundle: Path) -> None:
    model = edgekit.load(bundle)
    with model.exclusive:
        said: list[str] = []

        def other() -> None:
            with pytest.raises(UsageError, match="running in another thread"):
                model.close()
            said.append("refused")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said == ["refused"]
    assert len(model(picture(3)))


def test_a_pool_closes_its_models(bundle: Path) -> None:
    with edgekit.load(bundle, workers=2) as pool:
        models = list(pool._idle)
        assert len(pool([picture(1), picture(2)])) == 2
        assert repr(pool) == "<ModelPool of 2: tiny onnx int8, detect, 2 classes, 64x64, proven>"
    assert all(model.exclusive.closed for model in models)


def test_what_is_opened_says_what_it_is(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert repr(edgekit.load(opened)) == "<Model tiny onnx int8, detect, 2 classes, 64x64, proven>"
    assert repr(opened) == f"<Bundle {bundle}: tiny onnx int8, detect, 2 classes, 64x64, proven, 0.01 MB>"
