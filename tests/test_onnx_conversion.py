"""An ONNX file as the source of a whole conversion: cut automatically, and cut where the contract says."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from real_conversions import convert_once

from edgekit.runtimes.bundle.folder import open_bundle

ROOT = Path(__file__).parents[1]
CONTRACT = (ROOT / "examples" / "fastestdet.yaml").read_text(encoding="utf-8")

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def fused(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FastestDet as ONNX, with its sigmoid, softmax and concat in the graph."""
    program = torch.export.load(shared_data / "models" / "fastestdet_coco.pt2")
    path = tmp_path_factory.mktemp("fused") / "fastestdet.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False).save(str(path))  # type: ignore[union-attr]
    return path


def heads(path: Path) -> dict[str, str]:
    """The tensors behind the last concat's sigmoid and softmax, found by looking at the file."""
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    obj, boxes, classes = makers[graph.output[0].name].input
    return {"objectness": makers[obj].input[0], "boxes": boxes, "classes": makers[classes].input[0]}


@pytest.mark.nightly
@pytest.mark.parametrize("named", [False, True])
def test_fastestdet_from_onnx(named: bool, fused: Path, shared_folder: Path, shared_data: Path) -> None:
    tensors = heads(fused)
    contract = fused.with_name(f"contract-{named}.yaml")
    cut = "".join(f"  - {{tensor: '{tensor}', role: {role}}}\n" for role, tensor in tensors.items())
    contract.write_text(CONTRACT + (f"cut:\n{cut}" if named else ""))

    def arguments(folder: Path) -> list[str]:
        given = ["--contract", str(contract), "--data", str(shared_data / "calibration")]
        return [str(fused), "--target", "onnx,ncnn", "--precision", "fp32", *given]

    done = convert_once(shared_folder, f"fastestdet-onnx-{named}", arguments)
    assert done.code == 0, done.messages
    for target in ("onnx", "ncnn"):
        entry = done.bundle(target, "fp32")
        assert entry["evidence"]["decoded"]["matched"] == 1.0
        manifest = open_bundle(entry["path"]).manifest
        assert [output.role for output in manifest.contract.outputs] == ["objectness", "boxes", "classes"]
        assert manifest.origin.kind == "onnx"
        if named:
            assert manifest.origin.cut == tuple(tensors.values())


def test_a_wrong_tensor_name_lists_the_near_ones(fused: Path, shared_folder: Path) -> None:
    contract = fused.with_name("contract-wrong.yaml")
    contract.write_text(CONTRACT + "cut: [{tensor: sigmoit, role: objectness}, {tensor: b, role: boxes}]\n")

    def arguments(folder: Path) -> list[str]:
        return [str(fused), "--target", "onnx", "--contract", str(contract)]

    done = convert_once(shared_folder, "fastestdet-onnx-wrong", arguments)
    assert done.code == 2
    assert "sigmoit" in done.messages
    assert "Traceback" not in done.messages
