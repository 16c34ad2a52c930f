"""Embeddings: vectors of images, their comparison, their conversion, and objects told apart by their looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import edgekit
from edgekit.arrays import Floats
from edgekit.errors import ContractError, EngineError, InputError, UsageError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.inputs.media import SourceFrame
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Embedding
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.track import follow
from edgekit.runtimes.tracking import open_tracker

CONTRACT = Contract(
    task="embed",
    image=ImageRule(size=(16, 16), resize="stretch"),
    classes=(),
    decoder=Decoder(name="vector"),
    outputs=(Output(name="vector", role="vector"),),
)
NETWORK = """
import torch
from torch import nn

def colours():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 12)).eval()
"""
RULE = """\
task: embed
image: {size: [64, 48], resize: stretch}
classes: []
decoder: {name: vector}
"""

vectors = arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(-5, 5, width=32))


class Told:
    """A session that gives what it was told."""

    placement = Placement("cpu")

    def __init__(self, *outputs: Any) -> None:
        self.outputs = [np.array(output, np.float32) for output in outputs]

    def run(self, inputs: Any) -> list[Floats]:
        return self.outputs


class MeanColour:
    """The simplest embedding there is."""

    placement = Placement("cpu")

    def run(self, inputs: Any) -> list[Floats]:
        return [inputs[0].mean((2, 3))]


@settings(deadline=None)
@given(vectors)
def test_a_vector_has_the_length_one_and_survives_json(values: Floats) -> None:
    result = Model(CONTRACT, Told(values[None])).predict(np.zeros((20, 30, 3), np.uint8))
    assert isinstance(result, Embedding)
    length = float(np.linalg.norm(values.astype(np.float64)))
    assert np.linalg.norm(result.vector) == pytest.approx(float(length > 0), abs=1e-3)
    assert Embedding.from_json(result.to_json()) == result
    assert result.size == (30, 20)


def test_similarity_is_the_cosine() -> None:
    east, north = (Embedding(vector=np.array(v, np.float32), classes=(), size=(1, 1)) for v in ([1, 0], [0, 1]))
    assert (east.similarity(east), east.similarity(north)) == (1.0, 0.0)
    with pytest.raises(UsageError, match="vectors of 2 and of 3 numbers are not of the same model"):
        east.similarity(Embedding(vector=np.ones(3, np.float32), classes=(), size=(1, 1)))
    with pytest.raises(UsageError, match=r"vector must have the shape \(d,\), not \(1, 2\)"):
        Embedding(vector=np.ones((1, 2), np.float32), classes=(), size=(1, 1))
    with pytest.raises(InputError, match="not a result that edgekit wrote"):
        Embedding.from_dict({"width": 1, "height": 1, "classes": [], "vector": "no"})


def test_what_no_vector_is() -> None:
    task = open_task(CONTRACT)
    mapping = transform(CONTRACT.image, 8, 8)
    with pytest.raises(
        ContractError, match=r"cannot read the outputs vector \(1, 2, 3\): \(1, 2, 3\) is not one vector"
    ):
        task.result([np.ones((1, 2, 3), np.float32)], mapping)
    with pytest.raises(EngineError, match="NaN or infinite"):
        task.result([np.array([[1, np.nan]], np.float32)], mapping)


def test_the_contract_names_its_decoder(tmp_path: Path) -> None:
    from edgekit.sources.contract_file import read_contract

    path = tmp_path / "reid.yaml"
    path.write_text(RULE)
    stated = read_contract(path)
    assert (stated.task, stated.classes) == ("embed", ())
    with pytest.raises(ContractError, match="decoder 'anchor_free' is not one for the task 'embed'; valid: vector"):
        edgekit.runtimes.tasks.open_task(
            Contract(
                task="embed",
                image=ImageRule(size=(16, 16)),
                classes=(),
                decoder=Decoder(name="anchor_free", options={"strides": [8]}),
                outputs=(),
            )
        )
    path.write_text(RULE.replace("embed", "detect").replace("vector", "queries"))
    with pytest.raises(ContractError, match="classes: empty; give the class names"):
        read_contract(path)


@pytest.mark.convert
def test_a_conversion_is_proven_by_the_angle_of_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra 'convert'")
    import cv2

    from edgekit.conversion.convert import Conversion, convert

    (tmp_path / "embedding_network.py").write_text(NETWORK)
    (tmp_path / "reid.yaml").write_text(RULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        coarse = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(photographs / f"{number}.png"), cv2.resize(coarse, (96, 128), interpolation=cv2.INTER_CUBIC))
    done = convert(
        Conversion(
            source="embedding_network:colours",
            targets=("onnx",),
            precisions=("fp32", "fp16"),
            out=tmp_path / "out",
            data=str(photographs),
            contract=str(tmp_path / "reid.yaml"),
        )
    )
    for outcome in done.outcomes:
        assert outcome.error is None
        assert outcome.evidence is not None
        assert outcome.evidence.decoded is not None
        assert outcome.evidence.decoded.measure == "cosine^8"
        assert outcome.evidence.passed
    first, second = (edgekit.load(outcome.path) for outcome in done.outcomes)
    image = cv2.imread(str(photographs / "3.png"))
    assert first.predict(image).similarity(second.predict(image)) > 0.98  # type: ignore[attr-defined]


LEFT, RIGHT = (100, 50, 140, 130), (110, 50, 150, 130)
RED, BLUE = (0, 0, 255), (255, 0, 0)


def film() -> list[SourceFrame]:
    """Two that overlap, one red and one blue in front of it, which change places between two frames."""
    frames = []
    for number in range(8):
        image = np.zeros((200, 300, 3), np.uint8)
        places = (LEFT, RIGHT) if number < 4 else (RIGHT, LEFT)
        for (left, top, right, bottom), colour in zip(places, (RED, BLUE), strict=True):
            image[top:bottom, left:right] = colour
        frames.append(SourceFrame(image, f"film#{number}", number, number / 10))
    return frames


def colour_by_id(appearance: Model | None) -> list[dict[int, str]]:
    """What is at the place that each id is given, frame by frame: the pure colour at the outer edge of its box."""
    boxes = Contract(
        image=ImageRule(size=(200, 300)),
        classes=("box",),
        decoder=Decoder(name="decoded", options={"layout": "detections", "box_format": "xyxy"}),
        outputs=(Output(name="predictions", role="predictions"),),
    )
    detector = Model(boxes, Told([[[*LEFT, 0.9, 0], [*RIGHT, 0.9, 0]]]))
    seen = []
    tracker = open_tracker("botsort", camera_motion="off")
    for image, result in follow(detector, film(), tracker, iou=0.9, appearance=appearance):
        assert result.track_ids is not None
        edges = [101 if box[0] < 105 else 148 for box in result.boxes]
        names = ["red" if image[90, x, 2] else "blue" for x in edges]
        seen.append(dict(zip(result.track_ids.tolist(), names, strict=True)))
    return seen


def test_looks_keep_ids_apart_where_places_do_not() -> None:
    seen = colour_by_id(Model(CONTRACT, MeanColour()))
    assert seen[0].keys() == {1, 2}
    assert all(one == seen[0] for one in seen)
    without = colour_by_id(None)  # negative control
    assert without[0] == seen[0]
    assert without[-1] != without[0]


def test_appearances_that_do_not_go_with_a_tracker() -> None:
    vector = Model(CONTRACT, MeanColour())
    images = np.zeros((2, 32, 32, 3), np.uint8)
    detector = Model(CONTRACT, MeanColour())
    with pytest.raises(
        UsageError, match="ByteTrack does not compare appearance; track with botsort, or without appearance"
    ):
        list(detector.track(images, "bytetrack", appearance=vector))
    other = Model(
        Contract(
            task="classify",
            image=ImageRule(size=(8, 8)),
            classes=("one",),
            decoder=Decoder(name="classes"),
            outputs=(Output(name="logits", role="logits"),),
        ),
        Told([[1.0]]),
    )
    with pytest.raises(UsageError, match="appearance must be an embedding model, not one of the task 'classify'"):
        list(detector.track(images, "botsort", appearance=other))
