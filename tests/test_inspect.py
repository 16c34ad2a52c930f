"""``edgekit inspect``: the family of a network from its heads, a contract that convert takes, and what it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("onnxslim", reason="needs the extra 'convert'")

from click.testing import CliRunner
from onnx_graphs import node, weights, write
from test_heads import STRIDES, FastestDet, Ssd, Tailed, Yolov8, Yolox

from edgekit.cli import inspect as inspect_command
from edgekit.cli.inspect import command
from edgekit.conversion.families import Family, believed
from edgekit.conversion.inspect import Inspected, inspect, work
from edgekit.conversion.jobs import InspectJob, PrepareJob
from edgekit.conversion.reading import read_source, uncut_task
from edgekit.errors import ContractError, InputError, UsageError
from edgekit.graph.exchange import flatten
from edgekit.graph.heads import results_of
from edgekit.graph.tails import ending_of, with_shapes
from edgekit.sources.contract_file import read_contract

SIZE = 64


def guessed(network: Any, size: int = SIZE) -> Family | None:
    """The family of a torch network."""
    example = torch.zeros(1, 3, size, size)
    flat = with_shapes(flatten(network, example), example)
    return believed(ending_of(flat, {}, [node.name for node in results_of(flat)]), (size, size))


def looked(path: Path, folder: Path, **given: Any) -> Inspected:
    """What the worker says of a source, in this process."""
    return work(InspectJob(folder=str(folder), source=str(path), **given), lambda text, share: None)


@pytest.mark.parametrize(
    ("network", "name", "options", "classes"),
    [
        (Yolov8(80), "anchor_free", {"strides": list(STRIDES), "reg_max": 16}, 80),
        (Yolov8(64), "anchor_free", {"strides": list(STRIDES), "reg_max": 16}, 64),
        (Yolov8(6, reg_max=7), "anchor_free", {"strides": list(STRIDES), "reg_max": 7}, 6),
        (Tailed({"boxes": 32, "classes": 80}), "anchor_free", {"strides": list(STRIDES), "reg_max": 8}, 80),
        (Yolox(80), "grid", {"strides": list(STRIDES)}, 80),
        (Yolox(1), "grid", {"strides": list(STRIDES)}, 1),
        (FastestDet(80), "fastestdet", {}, 80),
        (FastestDet(3), "fastestdet", {}, 3),
    ],
)
def test_the_family_is_told_from_the_heads(network: Any, name: str, options: dict[str, Any], classes: int) -> None:
    family = guessed(network)
    assert family is not None
    assert (family.decoder.name, family.decoder.options, family.classes) == (name, options, classes)


def test_heads_are_given_their_roles() -> None:
    """The roles are those that the network's own modules have: a cut gives the very heads."""
    network = Yolox(5)
    family = guessed(network)
    assert family is not None
    from edgekit.graph.heads import cut_at

    x = torch.rand(1, 3, SIZE, SIZE)
    cut = cut_at(flatten(network, x), family.cut)
    with torch.no_grad():
        wanted = {
            f"{role}_{level}": head
            for level, heads in enumerate(network.raw(x))
            for role, head in zip(("boxes", "objectness", "classes"), heads, strict=True)
        }
        for output, got in zip(cut.outputs, cut.graph(x), strict=True):
            torch.testing.assert_close(got, wanted[output.name])


@pytest.mark.parametrize("network", [Ssd(4), Tailed({"heat": 3, "sizes": 2, "angles": 1}, (4,))])
def test_what_no_decoder_reads_is_no_family(network: Any) -> None:
    assert guessed(network) is None


def test_masks_are_coefficients_and_prototypes() -> None:
    class Masks(Tailed):
        def __init__(self) -> None:
            super().__init__({"boxes": 64, "classes": 80, "coefficients": 32})
            self.prototypes = torch.nn.Conv2d(3, 32, 4, 4)

        def raw(self, x: Any) -> list[list[Any]]:
            features = [torch.nn.functional.silu(body(x)) for body in self.body]
            return [[self.boxes[i](f), self.classes[i](f), self.coefficients[i](f)] for i, f in enumerate(features)]

        def forward(self, x: Any) -> Any:
            rows = torch.cat([torch.cat(level, 1).flatten(2) for level in self.raw(x)], 2)
            return rows, torch.nn.functional.silu(self.prototypes(x))

    family = guessed(Masks().eval())
    assert family is not None
    assert (family.task, family.decoder.name, family.classes) == ("segment", "anchor_free", 80)
    assert [point.role for point in family.cut].count("coefficients") == 3
    assert family.cut[-1].role == "prototypes"


def test_keypoints_beside_boxes_are_a_pose() -> None:
    family = guessed(Tailed({"boxes": 64, "classes": 1, "keypoints": 51}))
    assert family is not None
    assert (family.task, family.skeleton, {point.role for point in family.cut}) == (
        "pose",
        "coco",
        {"boxes", "classes", "keypoints"},
    )


@pytest.mark.parametrize("classes", [1, 15])
def test_one_channel_that_turns_boxes_is_an_angle(classes: int) -> None:
    """Not the scores of one class beside 5 keypoints, as which the 15 classes of DOTA could be read."""

    class Turned(Tailed):
        def forward(self, x: Any) -> Any:
            levels = self.raw(x)
            rows = torch.cat([torch.cat(heads[:2], 1).flatten(2) for heads in levels], 2)
            angles = torch.cat([heads[2].flatten(2) for heads in levels], 2)
            return rows * angles.cos() + angles.sin()

    family = guessed(Turned({"boxes": 64, "classes": classes, "turns": 1}))
    assert family is not None
    assert (family.task, family.decoder.name, family.classes) == ("obb", "anchor_free", classes)
    assert [point.role for point in family.cut].count("angles") == 3


# --- ONNX files ---


def split_heads(path: Path) -> Path:
    """As NanoDet: one convolution of 12 + 32 channels that is taken apart, boxes first, by names of ONNX tensors."""
    nodes = [
        node("Conv", "x", "w", name="feature", strides=[8, 8], kernel_shape=[8, 8]),
        node("Conv", "feature", "v", name="both"),
        node("Split", "both", "sizes", name="part", count=2, axis=1),
        node("Sigmoid", "part:0", name="scores"),
    ]
    constants = {"w": weights(8, 3, 8, 8), "v": weights(44, 8, 1, 1), "sizes": np.int64([12, 32])}
    return write(path, nodes, constants, shape=(1, 3, 64, 64), outputs=["scores", "part:1"])


def faces(path: Path, size: Any = ("height", "width"), opset: int = 18) -> Path:
    """As YuNet: classes and objectness have one channel each, told apart by the names of the outputs."""
    nodes = [node("Conv", "x", "w", name="feature", strides=[8, 8], kernel_shape=[8, 8])]
    constants: dict[str, Any] = {"w": weights(8, 3, 8, 8)}
    for number, (name, channels) in enumerate({"obj_8": 1, "cls_8": 1, "bbox_8": 4, "kps_8": 10}.items()):
        constants[f"v{number}"] = weights(channels, 8, 1, 1, seed=number) * 1e-4
        nodes.append(node("Conv", "feature", f"v{number}", name=f"raw_{number}"))
        last = (
            node("Sigmoid", f"raw_{number}", name=name) if channels == 1 else node("Relu", f"raw_{number}", name=name)
        )
        nodes.append(last)
    outputs = ["obj_8", "cls_8", "bbox_8", "kps_8"]
    return write(path, nodes, constants, shape=("batch", 3, *size), outputs=outputs, opset=opset, infer=False)


def test_onnx_names_of_parts_of_a_convolution(tmp_path: Path) -> None:
    seen = looked(split_heads(tmp_path / "nano.onnx"), tmp_path)
    assert [(head.tensor, head.shape, head.role) for head in seen.heads] == [
        ("part:0", (1, 12, 8, 8), "classes"),
        ("part:1", (1, 32, 8, 8), "boxes"),
    ]
    assert "mean" in seen.contract  # NanoDet's own image rule


def test_the_contract_is_one_that_convert_takes(tmp_path: Path) -> None:
    """Dynamic input, roles by names of outputs; the file's tensors are cut at as the contract says."""
    path = faces(tmp_path / "faces.onnx")
    seen = looked(path, tmp_path, size=(64, 96))
    assert (seen.decoder, seen.size) == ("grid", (64, 96))
    assert seen.inputs[0].shape == ("batch", 3, "height", "width")
    assert [(head.tensor, head.role) for head in seen.heads] == [
        ("raw_0", "objectness"),
        ("raw_1", "classes"),
        ("raw_2", "boxes"),
        ("raw_3", "keypoints"),
    ]
    contract = tmp_path / "faces.yaml"
    contract.write_text(seen.contract, encoding="utf-8")
    assert read_contract(contract).classes == ("face",)
    read = read_source(PrepareJob(folder="", source=str(path), contract=str(contract)))
    assert [output.role for output in read.contract.outputs] == ["boxes", "objectness", "classes", "keypoints"]
    assert [head.shape[1] for head in read.heads(torch.zeros(1, 3, 64, 96))] == [4, 1, 1, 10]


def test_a_cut_that_is_found_by_itself_is_left_out(tmp_path: Path) -> None:
    """So that a conversion compares it with what the file gives uncut: an ONNX file that is cut by name ends there."""
    network, x = Yolov8(6), torch.rand(1, 3, SIZE, SIZE)
    path = tmp_path / "fused.onnx"
    torch.onnx.export(network, (x,), path, dynamo=False, opset_version=17)
    seen = looked(path, tmp_path)
    assert [head.role for head in seen.heads] == ["boxes", "classes"] * 3
    contract = tmp_path / "fused.yaml"
    contract.write_text(seen.contract, encoding="utf-8")
    stated = read_contract(contract)
    assert not stated.cut
    read = read_source(PrepareJob(folder="", source=str(path), contract=str(contract)))
    assert uncut_task(read.model, read.contract) is not None
    with torch.no_grad():
        for got, wanted in zip(read.heads(x), (head for level in network.raw(x) for head in level), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_old_opset_keeps_its_names(tmp_path: Path) -> None:
    seen = looked(faces(tmp_path / "old.onnx", (64, 64), opset=9), tmp_path)
    assert [head.tensor for head in seen.heads] == ["raw_0", "raw_1", "raw_2", "raw_3"]


def test_an_open_size_is_looked_at_with_640(tmp_path: Path) -> None:
    assert looked(faces(tmp_path / "open.onnx"), tmp_path).size == (640, 640)


def test_a_classifier(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x", "w", name="feature"),
        node("GlobalAveragePool", "feature", name="mean"),
        node("Flatten", "mean", name="logits", axis=1),
        node("Softmax", "logits", name="scores"),
    ]
    path = write(tmp_path / "c.onnx", nodes, {"w": weights(5, 3, 3, 3)}, shape=(1, 3, 64, 64))
    seen = looked(path, tmp_path)
    assert seen.decoder == "classes"
    (tmp_path / "c.yaml").write_text(seen.contract, encoding="utf-8")
    stated = read_contract(tmp_path / "c.yaml")
    assert (stated.task, len(stated.classes), stated.decoder.options) == ("classify", 5, {"activated": True})


def test_what_was_rebuilt_is_compared_on_a_proof_image_too(tmp_path: Path) -> None:
    """What noise does not show, an image may: here only a tampered copy differs."""
    from edgekit.calibration.split import store
    from edgekit.conversion.decoded import DecodedSource
    from edgekit.conversion.workspace import Workspace
    from edgekit.errors import SourceError
    from edgekit.runtimes.inputs.media import references

    path = faces(tmp_path / "f.onnx", (64, 96))
    (tmp_path / "f.yaml").write_text(looked(path, tmp_path).contract, encoding="utf-8")
    source = DecodedSource(PrepareJob(folder=str(tmp_path), source=str(path), contract=str(tmp_path / "f.yaml")))
    pictures = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), np.uint8)
    samples = store(references(pictures), source.contract.image, tmp_path / "proof.npy")
    source.run(samples, Workspace(tmp_path), lambda text, share: None)
    with torch.no_grad():
        next(iter(source._read.model.module.buffers())).mul_(1.01)
    with pytest.raises(SourceError, match="off ONNX Runtime"):
        source.run(samples, Workspace(tmp_path), lambda text, share: None)


@pytest.mark.parametrize("channels", [1, 19])
def test_semantic_segmentation(channels: int, tmp_path: Path) -> None:
    """The last convolution's logits, scaled up: one class a channel, or one channel beside a background."""
    nodes = [
        node("Conv", "x", "w", name="logits", strides=[8, 8]),
        node("Resize", "logits", "", "scales", name="whole", mode="linear"),
    ]
    constants = {"w": weights(channels, 3, 8, 8), "scales": np.array([1, 1, 8, 8], np.float32)}
    seen = looked(write(tmp_path / "s.onnx", nodes, constants, shape=(1, 3, 64, 96), outputs=["whole"]), tmp_path)
    assert (seen.decoder, seen.heads[0].tensor, seen.heads[0].role) == ("semantic", "logits", "logits")
    (tmp_path / "s.yaml").write_text(seen.contract, encoding="utf-8")
    stated = read_contract(tmp_path / "s.yaml")
    assert (stated.task, len(stated.classes)) == ("semantic", max(channels, 2))
    assert stated.decoder.options == ({"score": "sigmoid"} if channels == 1 else {})


# --- the command ---


@pytest.fixture(name="photo")
def _photo(tmp_path: Path) -> Path:
    import cv2

    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    return path


def test_a_photograph_is_drawn_and_other_image_rules_are_tried(tmp_path: Path, photo: Path) -> None:
    from PIL import Image

    drawn = tmp_path / "drawn.jpg"
    seen = looked(faces(tmp_path / "f.onnx"), tmp_path, size=(64, 96), image=str(photo), drawn=str(drawn))
    assert Image.open(drawn).size == (128, 96)
    assert {"the contract's own", "color: rgb", "resize: stretch"} < {trial.rule for trial in seen.trials}
    with pytest.raises(InputError, match=r"--out .*photo.png: would overwrite the photograph"):
        looked(faces(tmp_path / "f.onnx"), tmp_path, size=(64, 96), image=str(photo), drawn=str(photo))
    with pytest.raises(InputError, match=r"must end in .jpg or .png"):
        looked(faces(tmp_path / "f.onnx"), tmp_path, size=(64, 96), image=str(photo), drawn=str(tmp_path / "a.gif"))


def test_the_contract_gets_a_rule_that_finds_something(tmp_path: Path, photo: Path) -> None:
    """A network of the family that takes 0..255 by custom, but has learnt 0..1: it is sure of what is dark."""
    nodes = [node("Conv", "x", "mean", name="feature", strides=[8, 8], kernel_shape=[8, 8])]
    constants: dict[str, Any] = {"mean": np.full((1, 3, 8, 8), 1 / 192, np.float32)}
    for name, channels in {"obj": 1, "cls": 1, "bbox": 4}.items():
        constants |= {f"w_{name}": np.full((channels, 1, 1, 1), -10 * (channels == 1), np.float32)}
        constants |= {f"b_{name}": np.full(channels, 10 * (channels == 1), np.float32)}
        nodes.append(node("Conv", "feature", f"w_{name}", f"b_{name}", name=name))
    path = write(tmp_path / "dark.onnx", nodes, constants, shape=(1, 3, 64, 96), outputs=["obj", "cls", "bbox"])
    assert "scale: 1.0" in looked(path, tmp_path).contract
    seen = looked(path, tmp_path, image=str(photo))
    assert "1/255" in seen.trials[0].rule
    assert seen.trials[0].found > 0
    assert any("the usual image rule finds nothing" in doubt for doubt in seen.doubts)
    (tmp_path / "dark.yaml").write_text(seen.contract, encoding="utf-8")
    assert read_contract(tmp_path / "dark.yaml").image.scale == pytest.approx(1 / 255)


def test_the_command_writes_the_contract(tmp_path: Path) -> None:
    """In a child process, as it is used."""
    path, contract = faces(tmp_path / "faces.onnx", (64, 64)), tmp_path / "contract.yaml"
    done = CliRunner().invoke(command, [str(path), "--contract-out", str(contract)], catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("raw_2", "1x4x8x8", "family: decoder grid", "because: ", f"--contract {contract}"):
        assert words in done.output
    assert read_contract(contract).decoder.name == "grid"


def test_unknown_heads_are_shown_and_refused_only_where_a_contract_is_wanted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "odd.onnx",
        [node("Conv", "x", "w", name="odd", strides=[2, 2])],
        {"w": weights(7, 3, 1, 1)},
        shape=(1, 3, 64, 64),
    )
    done = CliRunner().invoke(command, [str(path), "--json"], catch_exceptions=False)
    seen = json.loads(done.output)
    assert (seen["decoder"], seen["heads"][0]["tensor"]) == ("", "odd")
    assert "no decoder has heads with these channels (level 0: 7)" in seen["doubts"][0]
    with pytest.raises(ContractError, match="--contract-out: nothing was written; no decoder has heads"):
        CliRunner().invoke(command, [str(path), "--contract-out", str(tmp_path / "no.yaml")], catch_exceptions=False)
    assert not (tmp_path / "no.yaml").exists()


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw on; give a photograph with --image"):
        inspect(str(tmp_path / "a.onnx"), drawn="b.jpg")
    with pytest.raises(UsageError, match="--weights does not apply to an ONNX file"):
        inspect(str(tmp_path / "a.onnx"), weights="w.pt")


def test_published_detectors(shared_data: Path, tmp_path: Path) -> None:
    """YuNet: a face detector with open size, whose objectness on noise is under the rounding of float32."""
    seen = looked(shared_data / "models" / "yunet_n_dynamic.onnx", tmp_path, size=(320, 320))
    assert (seen.decoder, [head.tensor for head in seen.heads][:4]) == ("grid", ["297", "309", "303", "315"])
    assert [head.role for head in seen.heads][:4] == ["classes", "objectness", "boxes", "keypoints"]


def test_what_reading_the_source_left_open_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As convert says it; a source with its weights says nothing (negative control)."""
    monkeypatch.syspath_prepend(tmp_path)
    text = "import torch\n\ndef network():\n    {}return torch.nn.Conv2d(3, 8, 3).eval()\n"
    for name, seed, words in (
        ("randomly_made", "", "the weights are random: calling"),
        ("made", "torch.manual_seed(0); ", ""),
    ):
        (tmp_path / f"{name}.py").write_text(text.format(seed))
        said = work(InspectJob(folder=str(tmp_path), source=f"{name}:network", size=(32, 32)), lambda text, share: None)
        assert [warning[: len(words)] for warning in said.warnings] == ([words] if words else [])
        shown: list[str] = []
        monkeypatch.setattr(inspect_command, "say", lambda line="", shown=shown: shown.append(line))
        inspect_command._print(said)
        assert [line for line in shown if line.startswith("warning: ")] == [f"warning: {one}" for one in said.warnings]
