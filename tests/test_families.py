"""Every family of docs/FAMILIES.md converts through its gate, in float and INT8, and the page says what was proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'convert'")

from families.crops import KINDS
from families.measure import FIGURES, TARGETS, measured
from families.rows import CROPS, ROWS, MissingError, Row

PAGE = Path(__file__).parents[1] / "docs" / "FAMILIES.md"


def test_the_page_has_every_family_and_nothing_that_failed() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert set(figures) <= {row.name for row in ROWS}
    for row in figures.values():
        assert f"| {row['family']} |" in page
    assert "not proven" not in page


@pytest.mark.nightly
@pytest.mark.convert
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_family_is_proven(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On all four targets, with the contract that edgekit writes itself where it writes one."""
    folder = tmp_path_factory.getbasetemp() / "families"
    folder.mkdir(exist_ok=True)
    try:
        found = measured(row, folder)
    except MissingError as error:
        pytest.skip(str(error))
    assert found["decoder"] == row.decoder
    failed = {
        (target, precision): one["error"]
        for target in TARGETS
        for precision, one in found["targets"][target].items()
        if not one["proven"]
    }
    assert {target for target, _ in failed} == set(row.refused), failed
    for (target, _), error in failed.items():
        assert f"{target} cannot take {row.refused[target]}" in error
    if row.name in KINDS:
        assert keypoints_off(folder / f"out-{row.name}" / f"{row.name}-onnx-int8", folder / CROPS) < 2.5


def keypoints_off(bundle: Path, crops: Path) -> float:
    """How far the keypoints of a bundle are off those that were drawn, in the mean, pixels."""
    import numpy as np

    import edgekit

    network, truth = edgekit.load(str(bundle), threads=1), json.loads((crops / "annotations.json").read_text())
    away = []
    for image, one in zip(truth["images"], truth["annotations"], strict=True):
        (found,) = network(str(crops / image["file_name"])).keypoints
        away.append(np.linalg.norm(found[:, :2] - np.reshape(one["keypoints"], (-1, 3))[:, :2], axis=1))
    return float(np.mean(away))


@pytest.mark.nightly
def test_a_file_that_ends_in_suppression_is_cut_in_front_of_it(tmp_path: Path) -> None:
    """An SSD as published files with NMS are: the boxes and scores that the suppression reads tell the priors, the
    contract names the heads, and the same objects are found as without the suppression."""
    import numpy as np
    import onnx
    import torch
    from families.networks import FAMILIES, INPUT_SIZE, Features, Ssd, Whole
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.conversion.inspect import inspect
    from edgekit.errors import SourceError
    from edgekit.sources import SourceRequest, load

    torch.manual_seed(0)
    plain, whole = tmp_path / "plain.onnx", tmp_path / "whole.onnx"
    network = Whole(Features(Ssd.strides), FAMILIES["ssd"]()).eval()
    torch.onnx.export(network, (torch.rand(1, 3, INPUT_SIZE, INPUT_SIZE),), plain, dynamo=False, opset_version=17)
    model = onnx.load(plain)
    boxes, scores = (output.name for output in model.graph.output)
    numbers = {"most": np.int64(20), "iou": np.float32(0.5), "least": np.float32(0.1), "from": np.array([1]),
               "to": np.array([99]), "axis": np.array([2])}  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(np.atleast_1d(one), name) for name, one in numbers.items())
    model.graph.node.extend([
        helper.make_node("Slice", [scores, "from", "to", "axis"], ["foreground"]),
        helper.make_node("Transpose", ["foreground"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", [boxes, "turned", "most", "iou", "least"], ["chosen"]),
    ])  # fmt: skip
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.INT64, [None, 3]))
    onnx.save(model, whole)
    with pytest.raises(SourceError, match=r"operator NonMaxSuppression .* name the raw heads under cut: of a contract"):
        load(SourceRequest(str(whole)))
    ours, theirs = inspect(str(whole)), inspect(str(plain))
    assert ours.decoder == "ssd"
    assert f"what follows {boxes} and {scores} is left out: the file ends in NonMaxSuppression" in " ".join(ours.why)

    def stated(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("#")]

    assert stated(ours.contract) == stated(theirs.contract)
    assert "cut:" in ours.contract
