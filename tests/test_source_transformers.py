"""Folders of transformers: what is derived from them, decoding against transformers' own, conversion, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

from tiny_transformers import KINDS, SIZE, package, write

from edgekit.errors import ContractError, SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.skeletons import COCO
from edgekit.sources import SourceRequest, TrainedModel, load


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    package()
    return {kind: write(kind, tmp_path_factory.mktemp("transformers") / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, TrainedModel]:
    return {kind: load(SourceRequest(str(folder))) for kind, folder in folders.items()}


def outputs(model: TrainedModel) -> list[Any]:
    assert model.heads is not None
    image = torch.rand(model.example.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [output.numpy() for output in model.heads(image)]


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str, loaded: dict[str, TrainedModel]) -> None:
    contract = loaded[kind].contract
    assert contract is not None
    if kind == "vitpose":
        assert (contract.task, contract.skeleton, contract.classes) == ("pose", COCO, ("person",))
        assert contract.image.size == (64, 48)
        assert contract.image.mean == (0.485, 0.456, 0.406)
        assert contract.decoder.options == {"refine": "dark", "aligned": True}
    else:
        assert contract.image == ImageRule(size=SIZE, resize="stretch", interpolation="bilinear")
        assert contract.classes == tuple(f"LABEL_{number}" for number in range(5))
        assert contract.decoder.options["score"] == ("softmax" if kind in ("detr", "yolos") else "sigmoid")
        assert not contract.postprocess.nms
    assert loaded[kind].origin.kind == "transformers"
    assert loaded[kind].origin.name == kind


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vitpose"])
def test_decoding_is_that_of_transformers(kind: str, loaded: dict[str, TrainedModel]) -> None:
    """The oracle is the image processor's own `post_process_object_detection`."""
    contract = loaded[kind].contract
    assert contract is not None
    raw = outputs(loaded[kind])
    task = open_task(contract)
    ours = task.suppressed(task.candidates(raw, 0.05))
    package()
    if kind in ("detr", "yolos"):
        from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil as Processor
    else:
        from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil as Processor
    given = type("Output", (), {"logits": torch.from_numpy(raw[0]), "pred_boxes": torch.from_numpy(raw[1])})()
    (theirs,) = Processor().post_process_object_detection(given, threshold=0.05, target_sizes=[SIZE])
    order = np.argsort(-theirs["scores"].numpy(), kind="stable")
    # Theirs keeps as many as there are queries; ours all above the threshold, and as many as the contract says.
    count = len(order)
    assert 5 <= count <= len(ours)
    np.testing.assert_allclose(ours.scores[:count], theirs["scores"].numpy()[order], atol=1e-6)
    np.testing.assert_allclose(ours.boxes[:count], theirs["boxes"].numpy()[order], atol=1e-3)
    np.testing.assert_array_equal(ours.class_ids[:count], theirs["labels"].numpy()[order])


def test_processors_without_a_fixed_size(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["detr"] / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 96, "longest_edge": 160}, "image_mean": [0.5, 0.5, 0.5]})
    )
    model = load(SourceRequest(str(tmp_path)))
    assert model.contract is not None
    rule = model.contract.image
    assert (rule.size, rule.resize, rule.mean, rule.pad) == ((96, 96), "letterbox", (0.5, 0.5, 0.5), (128, 128, 128))
    assert (rule.std, rule.interpolation) == ((0.229, 0.224, 0.225), "bilinear")
    assert "border of a letterboxed image" in model.notes[0]
    assert load(SourceRequest(str(tmp_path), size=(64, 128))).contract.image.size == (64, 128)  # type: ignore[union-attr]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 96, "width": 64}, "resample": 3}))
    assert load(SourceRequest(str(tmp_path))).contract.image.interpolation == "bicubic"  # type: ignore[union-attr]


@pytest.mark.convert
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["rt_detr_v2", "d_fine"])
def test_onnx_and_openvino_find_what_pytorch_finds(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    from edgekit.conversion.convert import Conversion, convert

    done = convert(
        Conversion(source=str(folders[kind]), targets=("onnx", "openvino"), precisions=("fp32",), out=tmp_path / "out")
    )
    for outcome in done.outcomes:
        assert outcome.evidence is not None, outcome.error
        assert outcome.evidence.passed, outcome.evidence.failures
        assert outcome.evidence.compared == "detections"
        assert outcome.evidence.decoded is not None
        assert outcome.evidence.decoded.matched_at["0.95"] == 1
        assert outcome.evidence.decoded.detections > 100


def test_folders_that_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((folders["yolos"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"model\.safetensors: no such file; save the model with save_pretrained"):
        load(SourceRequest(str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(SourceError, match="damaged or not a safetensors file "):
        load(SourceRequest(str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(SourceError, match="model_type 'bert' is not one of: rt_detr, rt_detr_v2, d_fine, detr, "):
        load(SourceRequest(str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json: cannot be read: "):
        load(SourceRequest(str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": "perhaps"}')
    (tmp_path / "model.safetensors").write_bytes((folders["yolos"] / "model.safetensors").read_bytes())
    with pytest.raises(SourceError, match=r"preprocessor_config\.json: cannot be read: "):
        load(SourceRequest(str(tmp_path)))


def test_a_pickle_is_not_taken_for_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folders["yolos"] / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"model\.safetensors: no such file"):
        load(SourceRequest(str(tmp_path)))


def test_outputs_that_are_no_queries() -> None:
    task = open_task(
        Contract(
            image=ImageRule(size=SIZE),
            classes=("a", "b"),
            decoder=Decoder(name="queries"),
            outputs=(Output(name="classes", role="classes"), Output(name="boxes", role="boxes")),
            postprocess=Postprocess(nms=False),
        )
    )
    for classes, boxes in (((1, 7, 3), (1, 7, 4)), ((1, 7, 2), (1, 7, 5)), ((1, 7, 2), (1, 6, 4))):
        with pytest.raises(ContractError, match=r"\(1, n, 2\) logits and \(1, n, 4\) boxes are needed"):
            task.candidates([np.zeros(classes, np.float32), np.zeros(boxes, np.float32)], 0.5)
