"""ultralytics checkpoints: what is read, what is cut, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import SourceError
from edgekit.sources import SourceRequest, TrainedModel
from edgekit.sources import ultralytics as source

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

pytestmark = pytest.mark.ultralytics

MODELS = ("yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml")
SIZE = (96, 128)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ultralytics.nn.tasks, imported without touching network or home."""
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_VERBOSE="false")
    os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("ultralytics"))
    return pytest.importorskip("ultralytics.nn.tasks", reason="needs the optional package ultralytics")


@pytest.fixture(scope="session")
def checkpoints(tasks: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as the trainer writes them: half precision in 'ema', training arguments, numpy numbers, a path."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name in MODELS:
        paths[name] = folder / name.replace("yaml", "pt")
        save(seeded(tasks.DetectionModel(name, verbose=False)), paths[name])
    return paths


def seeded(model: Any) -> Any:
    """Random weights and BatchNorm statistics that keep activations, and so all outputs, alive."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


def save(model: Any, path: Path, **extra: Any) -> Path:
    arguments = {"imgsz": 100, "data": Path("coco8.yaml"), "lr0": np.float64(0.01)}
    torch.save(
        {"epoch": -1, "model": None, "ema": model.half(), "optimizer": None, "train_args": arguments, **extra}, path
    )
    return path


def image(size: tuple[int, int] = SIZE) -> Any:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def loaded(checkpoints: dict[str, Path]) -> dict[str, TrainedModel]:
    return {name: source.load(SourceRequest(str(path), size=SIZE)) for name, path in checkpoints.items()}


@pytest.mark.parametrize("name", MODELS)
def test_contract(name: str, loaded: dict[str, TrainedModel]) -> None:
    model = loaded[name]
    contract = model.contract
    assert contract is not None
    assert contract.image.size == SIZE
    assert (contract.image.resize, contract.image.color, contract.image.pad) == ("letterbox", "rgb", 114)
    assert len(contract.classes) == 80
    bins, nms = (1, False) if "26" in name else (16, True)
    assert contract.decoder.name == "anchor_free"
    assert contract.decoder.options == {"strides": [8, 16, 32], "reg_max": bins}
    assert contract.postprocess.nms is nms
    names = [output.name for output in contract.outputs]
    assert names == ["boxes_0", "classes_0", "boxes_1", "classes_1", "boxes_2", "classes_2"]
    assert [(output.role, output.level) for output in contract.outputs[2:4]] == [("boxes", 1), ("classes", 1)]
    assert contract.postprocess.iou == 0.7
    assert model.example.shape == (1, 3, *SIZE)
    assert model.origin.kind == "ultralytics"
    assert len(model.origin.sha256) == 64


@pytest.mark.parametrize("name", MODELS)
def test_raw_heads_decode_to_what_ultralytics_returns(name: str, loaded: dict[str, TrainedModel]) -> None:
    """The independent oracle is the whole model, decoded by ultralytics itself."""
    model = loaded[name]
    with torch.no_grad():
        whole = model.module(image())
        raw = model.heads(image())  # type: ignore[misc]
    boxes, scores = decode(raw, 1 if "26" in name else 16)
    if "26" in name:
        assert whole.shape == (1, boxes.shape[0] if boxes.shape[0] < 300 else 300, 6)
        best, order = scores.flatten().sort(descending=True)
        torch.testing.assert_close(whole[0, :, 4], best[: whole.shape[1]], rtol=0, atol=1e-5)
        anchor = order[:50] // scores.shape[1]
        torch.testing.assert_close(whole[0, :50, 4], scores[anchor, order[:50] % scores.shape[1]], rtol=0, atol=1e-5)
        assert {tuple(row) for row in whole[0, :50, :4].round().int().tolist()} == {
            tuple(row) for row in boxes[anchor].round().int().tolist()
        }
    else:
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        torch.testing.assert_close(whole[0, :4].T, torch.cat((centre, size), 1), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(whole[0, 4:].T, scores, rtol=1e-4, atol=1e-5)
    decoder = model.uncut.decoder  # type: ignore[union-attr]
    assert decoder.options["box_format"] == ("xyxy" if "26" in name else "xywh")


def decode(raw: tuple[Any, ...], bins: int) -> tuple[Any, Any]:
    """Boxes xyxy in pixels and scores of all anchors, written down from the papers, not from either code."""
    boxes, scores = [], []
    for level, stride in enumerate((8, 16, 32)):
        box, logits = raw[2 * level][0], raw[2 * level + 1][0]
        _, height, width = box.shape
        assert (height, width) == (SIZE[0] // stride, SIZE[1] // stride)
        distribution = box.reshape(4, bins, height, width)
        distances = distribution[:, 0]
        if bins > 1:
            distances = (distribution.softmax(1) * torch.arange(bins).reshape(1, bins, 1, 1)).sum(1)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        left, top, right, bottom = distances
        corners = torch.stack((x - left, y - top, x + right, y + bottom), -1) * stride
        boxes.append(corners.reshape(-1, 4))
        scores.append(logits.sigmoid().permute(1, 2, 0).reshape(height * width, -1))
    return torch.cat(boxes), torch.cat(scores)


@pytest.mark.parametrize("name", [*(pytest.param(one, marks=pytest.mark.nightly) for one in MODELS[:-1]), MODELS[-1]])
def test_heads_can_be_exported_and_traced(name: str, loaded: dict[str, TrainedModel]) -> None:
    from edgekit.graph.exchange import flatten

    model = loaded[name]
    assert model.heads is not None
    with torch.no_grad():
        expected = model.heads(image())
        graph = flatten(model.heads, model.example)
        traced = torch.jit.trace(model.heads, model.example, check_trace=False)
        for result in (graph(image()), traced(image())):
            for got, want in zip(result, expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert [tuple(tensor.shape) for tensor in expected[:2]] == [
        (1, 4 if "26" in name else 64, 12, 16),
        (1, 80, 12, 16),
    ]
    assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
    if "11" not in name:  # its head is YOLOv8's
        whole = flatten(model.module, model.example)
        with torch.no_grad():
            torch.testing.assert_close(whole(image()), model.module(image()), rtol=1e-3, atol=1e-2)


def test_size_comes_from_training_rounded_up_to_the_stride(checkpoints: dict[str, Path]) -> None:
    model = source.load(SourceRequest(str(checkpoints["yolov8n.yaml"])))
    assert model.contract is not None
    assert model.contract.image.size == (128, 128)


def test_size_must_fit_the_stride(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(SourceError, match="100x128 must be a multiple of the largest stride, 32"):
        source.load(SourceRequest(str(checkpoints["yolov8n.yaml"]), size=(100, 128)))


def test_other_heads_of_the_same_kind(tasks: Any, tmp_path: Path) -> None:
    """YOLOv10 (one-to-one with DFL) and a fused YOLO26 whose one-to-many branch is gone."""
    ten = source.load(
        SourceRequest(str(save(tasks.DetectionModel("yolov10n.yaml", verbose=False), tmp_path / "10.pt")))
    )
    assert ten.contract is not None
    assert ten.contract.decoder.options == {"strides": [8, 16, 32], "reg_max": 16}
    assert ten.contract.postprocess.nms is False
    fused = tasks.DetectionModel("yolo26n.yaml", verbose=False).eval()
    fused.end2end = True
    model = source.load(SourceRequest(str(save(fused.fuse(verbose=False), tmp_path / "26.pt"))))
    assert model.contract is not None
    assert model.contract.postprocess.nms is False
    with torch.no_grad():
        assert model.heads(model.example)[0].shape == (1, 4, 16, 16)  # type: ignore[misc]


def test_a_model_object_saved_without_its_dictionary(tasks: Any, tmp_path: Path) -> None:
    torch.save(tasks.DetectionModel("yolov8n.yaml", verbose=False), tmp_path / "bare.pt")
    model = source.load(SourceRequest(str(tmp_path / "bare.pt")))
    assert model.contract is not None
    assert model.contract.image.size == (640, 640)


def test_training_leftovers_are_read_as_data(tasks: Any, tmp_path: Path) -> None:
    from ultralytics.utils import IterableSimpleNamespace
    from ultralytics.utils.loss import v8DetectionLoss

    detector = tasks.DetectionModel("yolov8n.yaml", verbose=False)
    detector.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5, imgsz=64)
    detector.criterion = v8DetectionLoss(detector)
    torch.save({"model": detector}, tmp_path / "old.pt")
    model = source.load(SourceRequest(str(tmp_path / "old.pt")))
    assert model.contract is not None
    assert model.contract.image.size == (64, 64)


# --- refusals ---


def test_other_tasks_are_refused(tasks: Any, tmp_path: Path) -> None:
    path = save(tasks.RTDETRDetectionModel("rtdetr-l.yaml", verbose=False), tmp_path / "other.pt")
    for trust in (False, True):
        with pytest.raises(SourceError, match="a model with RT-DETR at its end, where Detect, "):
            source.load(SourceRequest(str(path), trust=trust))


def test_a_model_without_a_known_head_is_refused(tasks: Any, tmp_path: Path) -> None:
    model = tasks.DetectionModel("yolov8n.yaml", verbose=False)
    model.model = model.model[:-1]
    with pytest.raises(SourceError, match="a model with C2f at its end, where Detect, v10Detect, "):
        source.load(SourceRequest(str(save(model, tmp_path / "cut.pt"))))


class Evil:
    """Runs a function of the attacker's choice when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_a_malicious_pickle_does_nothing(tmp_path: Path, tasks: Any) -> None:
    marker = tmp_path / "marker"
    path = save(
        tasks.DetectionModel("yolov8n.yaml", verbose=False), tmp_path / "evil.pt", x=Evil(os.mkdir, str(marker))
    )
    with pytest.raises(SourceError, match=r"asks for posix\.mkdir.*--trust"):
        source.load(SourceRequest(str(path)))
    assert not marker.exists()
    source.load(SourceRequest(str(path), trust=True))  # negative control: it would have worked
    assert marker.exists()


def test_allowed_classes_cannot_be_called(tmp_path: Path, tasks: Any) -> None:
    """DetectionModel(cfg) evaluates the text of ``activation``: building must not call any constructor."""
    marker = tmp_path / "marker"
    recipe = {
        "nc": 1, "activation": f"__import__('os').mkdir({str(marker)!r})", "head": [],
        "backbone": [[-1, 1, "Conv", [8, 3, 2]]],
        "scales": {"n": [1, 1, 64]},
    }  # fmt: skip
    torch.save({"model": Evil(tasks.DetectionModel, recipe, 3)}, tmp_path / "call.pt")
    with pytest.raises(SourceError, match="it calls DetectionModel with arguments of its own"):
        source.load(SourceRequest(str(tmp_path / "call.pt")))
    assert not marker.exists()
    torch.load(tmp_path / "call.pt", weights_only=False)  # negative control: the text was run
    assert marker.exists()


@pytest.mark.parametrize(
    "function", [eval, getattr, os.system, subprocess.check_call, pickle.loads, np.load, torch.hub.load, torch.load]
)
def test_no_function_is_allowed(function: Any, tmp_path: Path, tasks: Any) -> None:
    torch.save({"model": Evil(function, "1")}, tmp_path / "call.pt")
    with pytest.raises(SourceError, match="--trust"):
        source.load(SourceRequest(str(tmp_path / "call.pt")))


def test_classes_outside_the_layers_are_refused(tmp_path: Path, tasks: Any) -> None:
    from ultralytics.engine.model import Model
    from ultralytics.utils.torch_utils import ModelEMA

    for other in (Model, ModelEMA, torch.nn.DataParallel):
        torch.save({"model": other.__new__(other)}, tmp_path / "class.pt")
        with pytest.raises(SourceError, match=f"asks for {other.__module__}.{other.__name__}.*--trust"):
            source.load(SourceRequest(str(tmp_path / "class.pt")))


def test_damaged_files(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    data = checkpoints["yolov8n.yaml"].read_bytes()
    for name, content, message in [
        ("empty", b"", r"the file is empty \(0 bytes\)"),
        ("noise", b"not a checkpoint" * 100, "give the original checkpoint"),
        ("half", data[: len(data) // 2], "truncated or damaged"),
        ("most", data[:-100], "truncated or damaged"),
    ]:
        path = tmp_path / f"{name}.pt"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            source.load(SourceRequest(str(path)))
    with pytest.raises(SourceError, match="no such file"):
        source.load(SourceRequest(str(tmp_path / "none.pt")))


def test_a_damaged_pickle_inside_a_good_archive(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for keep in (1, 10, 1000, 20000):
        copy = io.BytesIO()
        with zipfile.ZipFile(checkpoints["yolov8n.yaml"]) as before, zipfile.ZipFile(copy, "w") as after:
            for entry in before.infolist():
                content = before.read(entry)
                after.writestr(entry, content[:keep] if entry.filename.endswith("data.pkl") else content)
        path = tmp_path / "pickle.pt"
        path.write_bytes(copy.getvalue())
        with pytest.raises(SourceError, match=r"pickle\.pt"):
            source.load(SourceRequest(str(path)))


def test_files_that_are_something_else(tmp_path: Path, tasks: Any) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    with pytest.raises(SourceError, match=r"holds no model object.*--weights"):
        source.load(SourceRequest(str(tmp_path / "state.pt")))
    torch.jit.trace(torch.nn.Conv2d(3, 3, 1), image()).save(tmp_path / "script.pt")
    with pytest.raises(SourceError, match="torchscript checkpoint; give the original checkpoint"):
        source.load(SourceRequest(str(tmp_path / "script.pt")))


def test_inconsistent_checkpoints(tasks: Any, tmp_path: Path) -> None:
    model = tasks.DetectionModel("yolov8n.yaml", verbose=False)
    model.names = {0: "only"}
    with pytest.raises(SourceError, match="1 class names for 80 classes"):
        source.load(SourceRequest(str(save(model, tmp_path / "names.pt"))))
    del model.model[0].conv
    with pytest.raises(SourceError, match="does not run with the installed ultralytics"):
        source.load(SourceRequest(str(save(model, tmp_path / "layer.pt"))))


def test_a_tensor_that_says_one_number_for_ever(tasks: Any, tmp_path: Path) -> None:
    model = tasks.DetectionModel("yolov8n.yaml", verbose=False)
    model.register_buffer("extra", torch.zeros(1).expand(1 << 20, 1 << 20))
    torch.save({"model": model}, tmp_path / "endless.pt")
    with pytest.raises(SourceError, match=r"extra \[1048576, 1048576\] is more than the file holds of it"):
        source.load(SourceRequest(str(tmp_path / "endless.pt")))


def test_matches_by_spelling() -> None:
    assert source.matches(SourceRequest("runs/best.PT"))
    assert not source.matches(SourceRequest("best.pt2"))
    assert not source.matches(SourceRequest("package.module:factory"))


WATCHED = """
import sys
blocked, written = [], []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
        blocked.append((event, str(arguments)))
        raise PermissionError(event)
    if event == "open" and isinstance(arguments[0], str) and set(arguments[1] or "r") & set("wax+"):
        written.append(arguments[0])
    if event == "os.mkdir":
        written.append(str(arguments[0]))
import torch, cv2
sys.addaudithook(watch)
from edgekit.sources import SourceRequest, ultralytics
ultralytics.load(SourceRequest(sys.argv[1]))
sys.stderr.write(repr((blocked, [path for path in written if "edgekit-ultralytics-" not in path
    and "__pycache__" not in path and not path.startswith("/dev/")])))
"""


def test_reading_prints_installs_fetches_and_leaves_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("YOLO_")}
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment.update(HOME=str(home), TMPDIR=str(temporary))
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, str(checkpoints["yolov8n.yaml"])],
        env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == "([], [])"
    assert result.stdout == ""
    assert list(home.rglob("*")) == []
    assert list(temporary.rglob("*")) == []


def test_without_ultralytics_the_message_says_how_to_install(checkpoints: dict[str, Path]) -> None:
    code = (
        "import sys; sys.modules['ultralytics'] = None\n"
        "from edgekit.errors import SourceError\nfrom edgekit.sources import SourceRequest, ultralytics\n"
        "try:\n    ultralytics.load(SourceRequest(sys.argv[1]))\nexcept SourceError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code, str(checkpoints["yolov8n.yaml"])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install --no-deps ultralytics, and torchvision from the index that torch came from" in result.stdout
