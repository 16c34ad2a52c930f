"""Several batches and input sizes in one bundle: one graph for all, each proven, and the runtime picks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_conversions import edgekit as command
from tiny_conversions import write_pictures
from tiny_models import CONTRACT, picture

import edgekit
from edgekit.errors import ConversionError, UsageError
from edgekit.runtimes.bundle.manifest import Variant

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'convert'")

SOURCE = "tiny_models:detector"
TARGETS = {
    "onnx": ["model.onnx"],
    "openvino": ["model.bin", "model.xml"],
    "litert": ["model.tflite"],
    "tensorrt": ["build.json", "model.onnx"],
}
"""Targets whose bundles take several, with their files."""


def converted(folder: Path, *targets: str, precision: str = "fp32") -> dict[str, Path]:
    """The tiny detector for 1 and 3 images, at 64x64 and 96x128."""
    photos = write_pictures(folder / "photos", 4 if precision == "fp32" else 20)
    given = ("--batch", "1,3", "--size", "64,96x128", "--target", ",".join(targets), "--data", photos)
    done = command("convert", SOURCE, *given, "--precision", precision, "-o", folder / "out", "--json")
    assert done.returncode == 0, done.stderr
    return {one["target"]: Path(one["path"]) for one in json.loads(done.stdout)["bundles"]}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return converted(tmp_path_factory.mktemp("variants"), "onnx", "openvino", "tensorrt")


@pytest.fixture(scope="module")
def litert(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return converted(tmp_path_factory.mktemp("litert"), "litert")


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return converted(tmp_path_factory.mktemp("integers"), *TARGETS, precision="int8")


@pytest.mark.convert
@pytest.mark.parametrize(
    ("target", "made"),
    [
        *((target, "bundles") for target in TARGETS if target != "litert"),
        pytest.param("litert", "litert", marks=pytest.mark.nightly),
        *(pytest.param(target, "integers", marks=pytest.mark.nightly) for target in TARGETS),
    ],
)
def test_every_variant_is_proven_and_gives_the_same(target: str, made: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(made)[target]
    model = edgekit.load(path, unit="reference" if target == "tensorrt" else "")
    manifest = model.manifest
    assert manifest is not None
    assert manifest.proven
    assert manifest.batches == {(64, 64): (1, 3), (96, 128): (1, 3)}
    for variant in manifest.variants or ():
        assert variant.evidence is not None
        assert variant.evidence.passed
        assert variant.evidence.compared == "detections"
    assert manifest.graphs[0].inputs[0].shape == (-1, 3, -1, -1)
    files = [file.path for file in manifest.files if not file.path.startswith("golden/")]
    assert files == TARGETS[target], "the weights are there once"

    images = [picture(seed) for seed in range(5)]  # a batch of three and two more
    several, single = model(images), [model(image) for image in images]
    assert [len(one) for one in several] == [len(one) for one in single]
    assert sum(map(len, single)) > 10
    for one, other in zip(several, single, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-4)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


@pytest.mark.convert
def test_the_size_is_chosen_or_the_nearest(bundles: dict[str, Path]) -> None:
    path = bundles["onnx"]
    small, large = edgekit.load(path), edgekit.load(path, size=(96, 128))
    assert (small.contract.image.size, large.contract.image.size) == ((64, 64), (96, 128))
    image = np.repeat(np.repeat(picture(0), 2, 0), 2, 1)[:96]  # 96x128: cells of 32 pixels
    near = edgekit.load(path, size="nearest")
    assert near.sizes == ((64, 64), (96, 128))
    np.testing.assert_array_equal(near(image).boxes, large(image).boxes)
    np.testing.assert_array_equal(near(picture(1)).boxes, small(picture(1)).boxes)
    mixed = near([image, picture(1), image])
    np.testing.assert_allclose(mixed[1].boxes, small(picture(1)).boxes, atol=1e-4)
    np.testing.assert_allclose(mixed[2].boxes, large(image).boxes, atol=1e-4)
    with pytest.raises(UsageError, match=r"takes 64x64, 96x128, not size=80; convert it with --size"):
        edgekit.load(path, size=80)


@pytest.mark.nightly
@pytest.mark.convert
def test_verify_measures_every_variant(bundles: dict[str, Path], tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 4)
    given = ("--against", SOURCE, "--data", photos)
    done = command("verify", bundles["onnx"], *given, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    sizes = [(one["batch"], one["size"]) for one in data["variants"]]
    assert sizes == [(3, [64, 64]), (1, [96, 128]), (3, [96, 128])]
    assert all(one["evidence"]["passed"] and one["evidence"]["views"] for one in data["variants"])

    done = command("verify", bundles["onnx"], *given)
    assert "batch 3 at 96x128:\n  executed by onnxruntime on 4 images" in done.stdout


@pytest.mark.convert
def test_run_takes_a_size_and_says_which_it_took(bundles: dict[str, Path], tmp_path: Path) -> None:
    (photo, *_) = sorted(write_pictures(tmp_path / "photos", 1).iterdir())
    done = command("run", bundles["onnx"], photo)
    assert "edgekit: runs at 64x64, the first of 64x64, 96x128 (--size)" in done.stderr
    for size in ("96x128", "nearest"):
        done = command("run", bundles["onnx"], photo, "--size", size, "--json")
        assert (done.returncode, done.stderr) == (0, "")
    refused = command("run", bundles["onnx"], photo, "--size", "80")
    assert refused.returncode == 2
    assert "takes 64x64, 96x128, not size=(80, 80); convert it with --size" in refused.stderr


@pytest.mark.nightly
@pytest.mark.convert
def test_a_profile_takes_a_size_and_says_which_it_took(bundles: dict[str, Path]) -> None:
    from edgekit.profiling.protocol import Profiled, SessionJob, SkippedBundle
    from edgekit.profiling.record import Settings
    from edgekit.profiling.session import run_session

    path = str(bundles["onnx"])
    quick = Settings(rounds=1, seconds=0.05, operators=False)
    each = [
        msgspec.structs.replace(quick, **one) for one in ({}, {"size": (96, 128), "batch": (3,)}, {"size": (80, 80)})
    ]
    events: list[Any] = []
    run_session(SessionJob(bundles=(path,) * 3, settings=quick, each=tuple(each)), events.append)
    first, chosen = [one.profile for one in events if isinstance(one, Profiled)]
    assert (first.subject.size, chosen.subject.size) == ((64, 64), (96, 128))
    assert "measured at 64x64, the first of 64x64, 96x128 (--size)" in first.notes
    assert "measured with one image in a call (it takes 3 too: --batch 3)" in first.notes
    assert not any(note.startswith("measured") for note in chosen.notes)
    assert [one.count for one in chosen.throughput] == [3]
    (refused,) = [one for one in events if isinstance(one, SkippedBundle)]
    assert "takes 64x64, 96x128, not size=(80, 80)" in refused.reason


@pytest.mark.convert
def test_a_network_that_mixes_its_batch_is_found_out(tmp_path: Path) -> None:
    """One image alone is proven; three at once are not what the source says of each."""
    photos = write_pictures(tmp_path / "photos", 4)
    given = ("--batch", "1,3", "--target", "onnx", "--data", photos, "-o", tmp_path / "out", "--json")
    done = command("convert", "tiny_models:mixing", *given)
    assert done.returncode == 1
    (failed,) = json.loads(done.stdout)["failed"]
    assert failed["error"].startswith("batch 3 at 64x64 is outside its gate, not written: matched ")
    assert not (tmp_path / "out" / "detector-onnx-fp32").exists()


def test_targets_with_one_shape_say_what_to_do(tmp_path: Path) -> None:
    for target in ("ncnn", "mnn", "executorch"):
        for given in ({"batch": [1, 4]}, {"size": [64, 96]}):
            with pytest.raises(
                UsageError,
                match=r"one batch and one input size; .*several in one bundle: litert, onnx, openvino, tensorrt",
            ):
                edgekit.convert(SOURCE, target, out=tmp_path, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--batch does not apply to"):
        edgekit.convert(str(Path(__file__).parents[1] / "examples" / "blip2" / "opt"), "onnx", batch=4, out=tmp_path)


def test_a_variant_has_bounds() -> None:
    with pytest.raises(ValueError, match="must have at most"):
        Variant(batch=1000, size=(4096, 4096))
    assert str(Variant(batch=4, size=(480, 640))) == "batch 4 at 480x640"


# ---- the graph ----


def opened(module: Any, folder: Path, *, batch: bool = False, size: bool = False) -> Any:
    """An ONNX Runtime session of a module that was exported for one image of 8x8, opened."""
    import onnx
    import onnxruntime
    import torch

    from edgekit.graph.exchange import write_exchange
    from edgekit.graph.open_shapes import open_shapes

    folder.mkdir(exist_ok=True)
    exchange = write_exchange(module.eval(), torch.zeros(1, 3, 8, 8), ("y",), folder)
    model = open_shapes(onnx.load(exchange.onnx), batch=batch, size=size)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_constants_of_the_shape_are_written_anew(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Reshaping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x: Any) -> Any:
            x = self.conv(torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 3)[:, :3])
            x = nn.functional.interpolate(x, scale_factor=2)
            x = x.flatten(2).transpose(1, 2)
            return self.linear(x)

    module = Reshaping().eval()
    for shape, given in (((3, 3, 8, 8), {"batch": True}), ((1, 3, 16, 24), {"size": True})):
        session = opened(module, tmp_path, **given)
        x = torch.rand(shape)
        with torch.no_grad():
            wanted = module(x).numpy()
        np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], wanted, atol=1e-5)
    with pytest.raises(ConversionError, match="has batch and size in one dimension"):
        opened(module, tmp_path, batch=True, size=True)


def test_a_shape_that_holds_the_batch_elsewhere_is_refused(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Windows(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(4, 3, 4, 4) * torch.arange(4.0).reshape(4, 1, 1, 1)

    with pytest.raises(
        ConversionError, match=r"several batches or sizes: Reshape .* mixes the batch .*; give one --batch"
    ):
        opened(Windows(), tmp_path, batch=True)


def test_manifests_without_variants_are_as_before() -> None:
    from edgekit.runtimes.bundle.folder import open_bundle

    manifest = open_bundle(Path(__file__).parent / "old_bundles" / "detector-onnx-int8").manifest
    assert b"variants" not in msgspec.json.encode(manifest)
    assert list(manifest.batches.values()) == [(1,)]
    assert CONTRACT.image.size == (64, 64)
