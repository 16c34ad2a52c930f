"""torchvision's models by name, held against torchvision's own results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mobilenet
import numpy as np
import pytest

from edgekit.errors import SourceError
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.tasks import open_task
from edgekit.sources import SourceRequest, TrainedModel
from edgekit.sources import load as load_any
from edgekit.sources._torchvision import import_torchvision
from edgekit.sources.class_names import NAMED

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")


@pytest.fixture(scope="module")
def library() -> Any:
    try:
        return import_torchvision("tests")
    except SourceError as error:
        pytest.skip(str(error))


def load(name: str, **options: Any) -> TrainedModel:
    model = load_any(SourceRequest(f"torchvision:{name}", **options))
    assert isinstance(model, TrainedModel)
    return model


def saved(library: Any, path: Path, name: str, **options: Any) -> Any:
    """A network of torchvision with random weights that its file has too."""
    torch.manual_seed(0)
    module = library.models.get_model(name, weights=None, **options).eval()
    torch.save(module.state_dict(), path)
    return module


def noise(*size: int) -> Any:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


def test_a_classifier_with_classes_of_its_own(library: Any, tmp_path: Path) -> None:
    module = saved(library, tmp_path / "w.pth", "mobilenet_v3_small", num_classes=5)
    model = load("mobilenet_v3_small", weights=tmp_path / "w.pth")
    assert model.contract is not None
    assert model.contract.classes == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert (model.contract.task, model.contract.decoder.name) == ("classify", "classes")
    assert model.doubts == ()
    image = noise(224, 224)
    torch.testing.assert_close(model.module(image), module(image))


@pytest.mark.nightly
def test_auxiliary_classifiers_are_read_off_the_weights(library: Any, tmp_path: Path) -> None:
    for given in (True, False):
        path = tmp_path / f"{given}.pth"
        module = saved(library, path, "googlenet", num_classes=3, aux_logits=given, init_weights=False)
        model = load("googlenet", weights=path)
        image = noise(224, 224)
        torch.testing.assert_close(model.module(image), module(image))


def test_the_weights_that_torchvision_published(library: Any) -> None:
    """Recognised by their hash; the oracle of the image rule is torchvision's own transform of the same photograph."""
    from PIL import Image

    path = mobilenet.weights()
    model = load("mobilenet_v2", weights=path)
    assert model.contract is not None
    assert model.contract.classes == NAMED["imagenet"]
    assert model.notes[0] == "the image rule is that of torchvision's MobileNet_V2_Weights.IMAGENET1K_V1"
    coarse = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    photograph = np.asarray(Image.fromarray(coarse).resize((600, 480), Image.Resampling.BICUBIC))
    rule = library.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    theirs = rule(Image.fromarray(photograph))[None].numpy()
    ours, _ = Preprocessor(model.contract.image)(np.ascontiguousarray(photograph[..., ::-1]))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_without_weights_a_user_is_warned(library: Any) -> None:
    model = load("mobilenet_v3_small")
    (doubt,) = model.doubts
    assert doubt.startswith("the weights are random: nothing is downloaded; give those of torchvision:mobilenet_v3_sm")
    assert "whose file this is not" in model.notes[0]


@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", pytest.param("ssd300_vgg16", marks=pytest.mark.nightly)]
)
def test_boxes_of_ssd_are_torchvisions(name: str, library: Any, tmp_path: Path) -> None:
    """The oracle are torchvision's own default boxes and its decoding of them, of every prior."""
    from torchvision.models.detection.image_list import ImageList

    module = saved(library, tmp_path / "w.pth", name, num_classes=3, weights_backbone=None)
    model = load(name, weights=tmp_path / "w.pth")
    assert model.contract is not None
    side = model.contract.image.size[0]
    assert model.contract.classes == ("class_0", "class_1")
    image = noise(side, side)
    with torch.no_grad():
        levels = list(module.backbone(image).values())
        given = module.head(levels)
        (priors,) = module.anchor_generator(ImageList(image, [(side, side)]), levels)
        boxes = module.box_coder.decode_single(given["bbox_regression"][0], priors).numpy()
        scores = torch.softmax(given["cls_logits"][0], -1)[:, 1:].max(-1).values.numpy()
        raw = [output.numpy() for output in model.module(image)]
    ours = open_task(model.contract).candidates(raw, 0.0)
    order = np.argsort(ours.anchors)
    np.testing.assert_allclose(ours.scores[order], scores, atol=1e-6)
    np.testing.assert_allclose(ours.boxes[order], boxes, atol=1e-2)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"])
def test_boxes_on_a_pyramid_are_torchvisions(name: str, library: Any, tmp_path: Path) -> None:
    """The oracle are torchvision's own anchors and its decoding of them, of every anchor."""
    from torchvision.models.detection.image_list import ImageList

    module = saved(library, tmp_path / "w.pth", name, num_classes=3, weights_backbone=None)
    model = load(name, weights=tmp_path / "w.pth", size=(128, 256))
    assert model.contract is not None
    rule = model.contract.image
    assert (rule.align, rule.pad, rule.size) == ("corner", (124, 116, 104), (128, 256))
    assert model.contract.classes == ("class_0", "class_1", "class_2")
    image = noise(128, 256)
    with torch.no_grad():
        levels = list(module.backbone(image).values())
        given = module.head(levels)
        (anchors,) = module.anchor_generator(ImageList(image, [(128, 256)]), levels)
        fcos = "bbox_ctrness" in given
        decode = module.box_coder.decode if fcos else module.box_coder.decode_single
        boxes = decode(given["bbox_regression"][0], anchors).numpy()
        scores = given["cls_logits"][0].sigmoid().max(-1).values
        if fcos:
            scores = (scores * given["bbox_ctrness"][0, :, 0].sigmoid()).sqrt()
        raw = [output.numpy() for output in model.module(image)]
    ours = open_task(model.contract).candidates(raw, 0.0)
    order = np.argsort(ours.anchors)
    np.testing.assert_allclose(ours.scores[order], scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.boxes[order], boxes, atol=1e-2)


def test_sizes_that_a_pyramid_cannot_have_are_refused(library: Any) -> None:
    from edgekit.sources.torchvision.kinds import KINDS

    with pytest.raises(SourceError, match="--size 300x256: must be a multiple of the largest stride, 128"):
        KINDS["detection.fcos"].image(None, None, (300, 256))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fasterrcnn_resnet50_fpn", "two stages, .* Take a detector of one stage: torchvision:ssdlite320_"),
        ("maskrcnn_resnet50_fpn", "two stages, .*; for masks a YOLO of the task segment"),
        ("keypointrcnn_resnet50_fpn", "two stages, .*; for keypoints a YOLO of the task pose"),
        ("quantized_resnet18", "quantised already; give the float network"),
        ("raft_small", "compares two images"),
        ("r3d_18", "takes many frames at once"),
    ],
)
def test_networks_that_are_refused(name: str, why: str, library: Any) -> None:
    with pytest.raises(SourceError, match=f"torchvision:{name}: cannot be converted: .*{why}"):
        load(name)


def test_names_that_are_not_known(library: Any) -> None:
    with pytest.raises(SourceError, match="has no model 'mobilenetv2'; near it: mobilenet_v2, "):
        load("mobilenetv2")


def test_weights_of_another_network(library: Any, tmp_path: Path) -> None:
    saved(library, tmp_path / "w.pth", "shufflenet_v2_x0_5")
    with pytest.raises(SourceError, match=r"--weights .*w\.pth does not fit the network: tensors \d+ missing"):
        load("mobilenet_v3_small", weights=tmp_path / "w.pth")


def test_a_size_that_the_network_cannot_take(library: Any) -> None:
    with pytest.raises(SourceError, match=r"torchvision:squeezenet1_1: takes no image of 8x8: .*too small"):
        load("squeezenet1_1", size=(8, 8))


def test_torchvision_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SourceError, match="needs the optional package torchvision, of the build that fits torch"):
        import_torchvision("torchvision:resnet18")


FAILING = """
import torch
try:
    torch.ops.torchvision.nms
except AttributeError:
    raise RuntimeError("operator torchvision::nms does not exist")
"""

LOADING = """
from edgekit.sources import SourceRequest, load
from edgekit.sources._torchvision import declare_operators
model = load(SourceRequest("torchvision.models:network", size=(8, 8)))
declare_operators()
print(model.notes)
"""


@pytest.mark.nightly
def test_operators_that_do_not_load(tmp_path: Path) -> None:
    """A package that fails as PyPI's torchvision does beside a torch for the CPU: declared operators are enough."""
    models = tmp_path / "torchvision" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text(FAILING, encoding="utf-8")
    network = "from torch import nn\ndef network(): return nn.Conv2d(3, 1, 1)\n"
    (models / "__init__.py").write_text(network, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", LOADING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "compiled operators do not load beside this torch (pip install torch torchvision" in done.stdout, done.stderr
