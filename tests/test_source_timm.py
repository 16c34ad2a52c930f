"""timm's models by name, held against timm's own results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import SourceError
from edgekit.sources import SourceRequest, TrainedModel, find
from edgekit.sources import load as load_any
from edgekit.sources._torchvision import import_torchvision

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        import_torchvision("tests")
    except SourceError as error:
        pytest.skip(str(error))
    return pytest.importorskip("timm", reason="needs the optional package timm (tests/requirements-named.txt)")


def load(name: str, **options: Any) -> TrainedModel:
    model = load_any(SourceRequest(f"timm:{name}", **options))
    assert isinstance(model, TrainedModel)
    return model


def saved(timm: Any, path: Path, name: str, **options: Any) -> Any:
    """A network of timm with random weights that its file has too."""
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, **options).eval()
    torch.save(module.state_dict(), path)
    return module


def noise(*size: int) -> Any:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


def test_a_classifier_with_classes_of_its_own(timm: Any, tmp_path: Path) -> None:
    module = saved(timm, tmp_path / "w.pth", "mobilenetv3_small_050", num_classes=5)
    model = load("mobilenetv3_small_050", weights=tmp_path / "w.pth")
    assert model.contract is not None
    rule, described = model.contract.image, module.pretrained_cfg
    assert (rule.size, rule.resize, rule.crop) == ((224, 224), "crop", described["crop_pct"])
    assert (rule.mean, rule.std, rule.interpolation) == (described["mean"], described["std"], "bicubic")
    assert (model.contract.task, len(model.contract.classes)) == ("classify", 5)
    assert model.doubts == ()
    image = noise(224, 224)
    torch.testing.assert_close(model.module(image), module(image))


def test_weights_without_a_classifier_are_an_embedding(timm: Any, tmp_path: Path) -> None:
    module = saved(timm, tmp_path / "w.pth", "mobilenetv3_small_050", num_classes=0)
    model = load("mobilenetv3_small_050", weights=tmp_path / "w.pth")
    assert model.contract is not None
    assert (model.contract.task, model.contract.decoder.name, model.contract.classes) == ("embed", "vector", ())
    image = noise(224, 224)
    torch.testing.assert_close(model.module(image), module(image))


def test_the_tag_of_the_weights_decides_the_image_rule(timm: Any) -> None:
    crops = {name: load(name).contract.image.crop for name in ("resnet18.a1_in1k", "resnet18.tv_in1k")}  # type: ignore[union-attr]
    assert crops == {"resnet18.a1_in1k": 0.95, "resnet18.tv_in1k": 0.875}


def test_without_weights_a_user_is_warned(timm: Any) -> None:
    (doubt,) = load("mobilenetv3_small_050").doubts
    assert doubt == (
        "the weights are random: nothing is downloaded; give those of timm:mobilenetv3_small_050 with --weights FILE"
    )


def test_transformers_for_another_size(timm: Any) -> None:
    model = load("vit_tiny_patch16_224", size=(96, 64))
    assert model.contract is not None
    assert model.contract.image.size == (96, 64)
    assert model.module(noise(96, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mobilenet3_small", "has no model 'mobilenet3_small'; near it: mobilenetv3_small_100, "),
        ("resnet18.none", "timm knows no weights 'none' of it; it knows: .*a1_in1k"),
    ],
)
def test_names_that_are_not_known(name: str, words: str, timm: Any) -> None:
    with pytest.raises(SourceError, match=words):
        load(name)


def test_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision.version", exc_type=(ImportError, RuntimeError))
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(SourceError, match="timm:resnet18: needs the optional package timm; pip install --no-deps timm"):
        load("resnet18")


def test_it_is_not_taken_for_a_module() -> None:
    for spec in ("timm:resnet18", "timm:resnet18.a1_in1k", "torchvision:resnet18"):
        assert find(SourceRequest(spec)).kind.startswith(spec.partition(":")[0])
    assert find(SourceRequest("torchvision.models:resnet18")).kind.startswith("package.module:factory")
