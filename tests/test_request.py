"""What a conversion is asked for: nothing is ignored, and each refusal says what there is to choose from."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit import converters
from edgekit.calibration.plan import Methods
from edgekit.conversion.convert import check_bounds
from edgekit.conversion.notices import of_selection
from edgekit.conversion.request import Request, gate_of, source_of, validate
from edgekit.conversion.selection import Selection
from edgekit.errors import SourceError, UsageError
from edgekit.evaluation.agreement import GATES
from edgekit.evaluation.texts import GATES as TEXT_GATES
from edgekit.runtimes.bundle.manifest import Contract, Decoder, Gate, ImageRule, Output

NETWORK = "tiny_models:detector"


@pytest.fixture
def blip2(tmp_path: Path) -> str:
    """A folder that says of itself that it is a BLIP-2."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    return str(tmp_path)


def asked(source: str, **given: Any) -> Selection:
    request = Request(source=source, **{"targets": ("onnx",), **given})
    return validate(request, source_of(request))


def refused(source: str, **given: Any) -> str:
    with pytest.raises(UsageError) as error:
        asked(source, **given)
    return str(error.value)


# ---- options that the source has no use for ----

OF_NETWORKS = {
    "--recipe": {"recipe": "plan"},
    "--ranges": {"methods": Methods(ranges="squared")},
    "rounding": {"methods": Methods(rounding="adaptive")},
    "--no-float-fallback": {"methods": Methods(float_fallback=False)},
    "--no-equalization": {"methods": Methods(cross_layer_equalization=False)},
    "--no-bias-correction": {"methods": Methods(bias_correction=False)},
    "--trust": {"trust": True},
    "--contract": {"contract": "x.yaml"},
    "--weights": {"weights": "x.pt"},
    "--plan": {"plan": "plan"},
    "--max-drop": {"max_drop": 0.1},
    "--labels": {"labels": "x.json"},
    "--finetune": {"finetune": 1.0},
    "--choose": {"choose": 8},
    "--fail-if-slower": {"fail_if_slower": True},
    "--size": {"size": (64, 64)},
}


@pytest.mark.parametrize("flag", OF_NETWORKS)
def test_a_vision_language_model_ignores_nothing(flag: str, blip2: str) -> None:
    said = refused(blip2, **OF_NETWORKS[flag])
    assert said.startswith(f"{flag} does not apply to a vision-language model (BLIP-2: ")
    assert "; leave it out. It goes with: " in said
    assert "package.module:factory" in said


def test_the_reason_is_told_where_there_is_one(blip2: str) -> None:
    assert "(its positions are learnt for one size)" in refused(blip2, size=(64, 64))


@pytest.mark.parametrize(
    ("source", "given", "flag", "takers"),
    [
        (NETWORK, {"prompts": "x.txt"}, "--prompts", "a vision-language model (BLIP-2: a folder"),
        ("x.onnx", {"weights": "x.pt"}, "--weights", "timm:NAME with --weights FILE; torchvision:NAME"),
        ("x.pt2", {"weights": "x.pt"}, "--weights", "timm:NAME with --weights FILE; torchvision:NAME"),
        ("x.pt", {"weights": "x.pt"}, "--weights", "timm:NAME with --weights FILE; torchvision:NAME"),
        (
            "x.onnx",
            {"trust": True},
            "--trust",
            "a torch.export program (.pt2); an ultralytics checkpoint (.pt); timm:NAME",
        ),
    ],
)
def test_neither_do_the_others(source: str, given: dict[str, Any], flag: str, takers: str) -> None:
    said = refused(source, **given)
    assert said.startswith(f"{flag} does not apply to ")
    assert f"It goes with: {takers}" in said


def test_what_they_take_is_taken(blip2: str) -> None:
    asked("x.pt2", trust=True, size=(64, 64), contract="x.yaml", imports=("mine",))
    asked(NETWORK, weights="x.pt", trust=True)
    asked(blip2, prompts="x.txt", name="x", seed=3, gated=False, jobs=2, imports=("mine",))


def test_a_source_that_nobody_knows() -> None:
    with pytest.raises(
        SourceError, match="'what is this': edgekit cannot tell what kind of model this is; give one of: "
    ):
        source_of(Request(source="what is this"))


# ---- recipes and what goes with quantising on images ----


def test_an_unknown_recipe() -> None:
    said = refused(NETWORK, precisions=("int8",), data="x", recipe="nncff")
    assert said.startswith("--recipe 'nncff' is not one of: auto, ")
    assert "nncf" in said
    assert "plan" in said


def test_a_recipe_of_another_target() -> None:
    given: dict[str, Any] = {"precisions": ("fp32", "int8"), "data": "x", "recipe": "nncf"}
    assert refused(NETWORK, targets=("onnx", "ncnn"), **given) == "target ncnn: has no recipe nncf; it has: plan"
    found = asked(NETWORK, targets=("all",), **given)
    assert {"onnx", "openvino"} <= set(found.targets)
    assert "has no recipe nncf; it has: plan" in {one.reason for one in found.skipped if one.target == "ncnn"}


@pytest.mark.parametrize("flag", ["--recipe", "--plan", "--ranges", "--max-drop", "--finetune", "--choose"])
def test_quantising_on_images_needs_a_precision_for_it(flag: str) -> None:
    said = refused(NETWORK, targets=("onnx", "coreml"), precisions=("fp32", "fp16"), data="x", **OF_NETWORKS[flag])
    assert said == (
        f"{flag} goes with a precision that is quantised on images; give one with --precision (onnx: int8; coreml: "
        "w8a8)"
    )


def test_slower_than_what(tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": "x", "fail_if_slower": True, "out": tmp_path}
    said = "--fail-if-slower compares INT8 with float: give both, as --precision fp32,int8"
    assert refused(NETWORK, targets=("onnx",), precisions=("fp32",), **given) == said
    said = "--fail-if-slower: nothing to compare onnx int8 with; make a float bundle, too: --precision fp32,int8"
    assert refused(NETWORK, targets=("onnx",), precisions=("int8",), **given) == said
    assert asked(NETWORK, targets=("onnx",), precisions=("fp32", "int8"), **given).bundles
    (tmp_path / "cells-onnx-fp16").mkdir()  # of an earlier run; whether it is of the same source is seen later
    assert asked(NETWORK, targets=("onnx",), precisions=("int8",), **given).bundles


def test_labels_go_with_any_precision() -> None:
    """They measure a budget, and the accuracy of everything."""
    given = Request(source=NETWORK, targets=("onnx",), labels="x.json")
    assert validate(given, source_of(given)).bundles


def test_int8_needs_images(blip2: str) -> None:
    said = "int8 needs calibration images like those the device will see: give --data FOLDER"
    assert refused(NETWORK, precisions=("int8",)) == said
    assert refused(NETWORK, precisions=("fp32", "int8"), targets=("all",)) == said
    assert refused(NETWORK, targets=("coreml",), precisions=("w8a8",)).startswith("w8a8 needs calibration images")
    assert refused(blip2, precisions=("int4",)).startswith("vision in int8 needs calibration images like those")


# ---- gates ----


def test_bounds_are_those_of_the_comparison(blip2: str) -> None:
    for bound in ("iou", "extra"):
        assert refused(blip2, bounds={bound: 0.5}) == f"--gate '{bound}' is not one of: matched, score_drift"
    assert refused(NETWORK, bounds={"speed": 1}) == (
        "--gate 'speed' is not one of: iou, matched, score_drift, extra, small, medium, large"
    )
    assert refused(NETWORK, bounds={"matched": float("nan")}) == "--gate matched=nan: must be 0..1"
    assert refused(NETWORK, gates={"int8": GATES["int8"]}) == "gates: 'int8' is not one of: fp32"


@pytest.mark.parametrize(("task", "refuses"), [("classify", True), ("semantic", True), ("detect", False)])
def test_a_bound_by_size_needs_boxes(task: str, refuses: bool) -> None:
    decoder = {"classify": "classes", "semantic": "semantic", "detect": "anchor_free"}[task]
    options = {"strides": [8]} if task == "detect" else {}
    contract = Contract(
        task=task, image=ImageRule(size=(64, 64)), classes=("a", "b"), decoder=Decoder(name=decoder, options=options),
        outputs=(Output(name="logits", role="logits"),),
    )  # fmt: skip
    prepared: Any = SimpleNamespace(contract=contract, holdout_views=1)
    said = f"--gate small=0.9 is for boxes, and the task '{task}' has none; leave it out"
    with pytest.raises(UsageError) if refuses else nullcontext() as raised:
        check_bounds(Request(bounds={"small": 0.9}), prepared)
    assert not refuses or str(raised.value) == said  # type: ignore[union-attr]


def test_gates_and_bounds_are_both_kept(blip2: str) -> None:
    own = Gate(iou=0.1, matched=0.2, score_drift=0.3)
    request = Request(gates={"int8": own}, bounds={"matched": 0.25})
    assert gate_of(request, False, ("int8",)) == replace_bound(own, matched=0.25)
    lower = {"small": 0.25, "medium": 0.25, "large": 0.25}  # what all may lose, those of one size may
    assert gate_of(request, False, ("fp16",)) == replace_bound(GATES["fp16"], matched=0.25, **lower)
    stated = gate_of(Request(bounds={"matched": 0.25, "small": 0.7}), False, ("int8",))
    assert (stated.small, stated.medium) == (0.7, 0.25)
    assert gate_of(request, True, ("fp16", "int8", "fp16")) == replace_bound(own, matched=0.25)
    assert gate_of(Request(), True, ("int8", "fp16", "int4-g64")) == TEXT_GATES["int4"]
    found = asked(blip2, precisions=("vision=fp16", "language=int4-g64"), gates={"int4": own})
    assert not found.calibrated


def replace_bound(gate: Gate, **changes: float) -> Gate:
    import msgspec

    return msgspec.structs.replace(gate, **changes)


# ---- a target for each part ----

MIXED = ("vision=openvino", "qformer=openvino", "language=onnx")


def test_each_part_has_its_target_and_its_precision(blip2: str) -> None:
    pytest.importorskip("openvino", reason="needs the engines of the extra 'convert'")
    (spec,) = asked(blip2, targets=MIXED, precisions=("vision=fp16", "language=int4-g64")).bundles
    assert (spec.target, spec.precision) == ("openvino+openvino+onnx", "fp16-fp16-int4-g64")
    assert [(part.target, part.precision) for part in spec.parts.values()] == [
        ("openvino", "fp16"), ("openvino", "fp16"), ("onnx", "int4-g64"),
    ]  # fmt: skip
    assert spec.targets == ("openvino", "onnx")
    alike = asked(blip2, targets=("language=onnx", "vision=onnx", "qformer=onnx")).bundles
    assert [one.target for one in alike] == ["onnx"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("onnx", "vision=openvino"), "--target onnx,vision=openvino: give targets, or PART=TARGET for every part"),
        (("sight=onnx",), "--target sight=onnx: 'sight' is not one of: vision, qformer, language"),
        (("vision=onnx",), "--target vision=onnx: no target for qformer, language; name one for every part"),
        ((*MIXED, "vision=onnx"), "vision has two targets; give each part one"),
        (("vision=ethosu", *MIXED[1:]), "target ethosu takes no vision of a vision-language model: its devices have "),
        (("vision=rknn", "qformer=rknn", "language=rknn"), "; for the others give --target vision=rknn,qformer=rknn,"),
        (("vision=tpu", *MIXED[1:]), "target 'tpu' is not one of: "),
    ],
)
def test_targets_by_part_are_refused_with_the_choices(targets: tuple[str, ...], message: str, blip2: str) -> None:
    assert message in refused(blip2, targets=targets)


def test_what_is_known_of_a_precision_is_told_once(blip2: str) -> None:
    for package in ("ncnn", "pnnx"):
        pytest.importorskip(package, reason="needs ncnn")
    told = list(of_selection(asked(blip2, targets=("ncnn",), precisions=("qformer=int4", "language=int4-g64"))))
    (one,) = told
    assert one.startswith("ncnn int4: ncnn multiplies 4 bits slowly, so they are held in 8: ")
    assert not list(of_selection(asked(blip2, targets=("ncnn", "onnx"), precisions=("fp16",))))


def test_one_network_has_no_parts() -> None:
    said = "the source is one network without parts; give "
    assert refused(NETWORK, targets=("vision=onnx",)) == f"vision=onnx: {said}onnx"
    assert refused(NETWORK, precisions=("vision=fp16",)) == f"vision=fp16: {said}fp16"


def test_a_part_whose_engine_is_missing(blip2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the target's packages, and of the engine alone, without which nothing could be validated."""
    genuine = converters.target
    absent = replace(genuine("openvino"), requires=("no_such_package",))
    monkeypatch.setattr(converters, "target", lambda name: absent if name == "openvino" else genuine(name))
    said = "target openvino: missing no_such_package: pip install edgekit[convert]; possible here for vision: "
    for targets in (MIXED, ("openvino",)):
        message = refused(blip2, targets=targets)
        assert message.startswith(said)
        assert "onnx" in message.removeprefix(said).split(", ")
    found = asked(blip2, targets=("all",))
    assert "onnx" in found.targets
    assert "openvino" not in found.targets
    assert "openvino" in [one.target for one in found.skipped]
    monkeypatch.setattr("edgekit.conversion.selection.emulator", lambda name: None)
    elsewhere = replace(genuine("openvino"), engine="tensorrt", requires=())
    monkeypatch.setattr(converters, "target", lambda name: elsewhere if name == "openvino" else genuine(name))
    said = refused(blip2, targets=MIXED)
    assert said.startswith("target openvino: engine tensorrt ")
    assert "onnx" in said.rpartition("; possible here for vision: ")[2].split(", ")
