"""The negative control: damaged results fail in every family of heads; a comparison that cannot fail is an error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from sample_bundles import sample_manifest
from test_decoders import FAMILIES

from edgekit.arrays import Floats
from edgekit.cli._reports import evidence_lines
from edgekit.conversion import network
from edgekit.conversion.control import BLINDED, NEGATED, blinded, negated
from edgekit.conversion.jobs import Prepared, Reference
from edgekit.conversion.reference import detections, save_detections
from edgekit.conversion.workspace import Workspace
from edgekit.errors import ConversionError
from edgekit.evaluation.agreement import GATES, SCORE_FLOOR, Tally, judge
from edgekit.runtimes.bundle.manifest import Contract, Decoder, Evidence, Gate, ImageRule, Origin, Output
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.tasks import Task, open_task

IMAGES, CELLS = 6, 8


def told(text: str, share: float) -> None: ...


def network_of(task: str, decoder: str, *outputs: Output, classes: int = 3, **options: Any) -> Task:
    return open_task(
        Contract(
            task=task,
            image=ImageRule(size=(64, 64)),
            classes=tuple("abcdefgh"[:classes]),
            decoder=Decoder(name=decoder, options=options),
            outputs=outputs,
        )
    )


def detector() -> Task:
    outputs = (Output(name="boxes", role="boxes"), Output(name="classes", role="classes"))
    return network_of("detect", "anchor_free", *outputs, strides=[8], reg_max=1)


def found_by(seed: int) -> list[Floats]:
    """Three objects in an image."""
    random = np.random.default_rng(seed)
    boxes = random.uniform(0.8, 1.6, (1, 4, CELLS, CELLS)).astype(np.float32)
    classes = random.uniform(-7, -5, (1, 3, CELLS, CELLS)).astype(np.float32)
    classes[0, random.integers(0, 3, 3), [1, 4, 7], random.integers(0, CELLS, 3)] = 2.0
    return [boxes, classes]


def whole(seed: int) -> list[Floats]:
    """One vector of an image."""
    return [np.random.default_rng(seed).normal(0, 3, (1, 3)).astype(np.float32)]


def regions(seed: int) -> list[Floats]:
    """Logits of a map."""
    return [np.random.default_rng(seed).normal(0, 3, (1, 3, 4, 4)).astype(np.float32).repeat(3, 2).repeat(3, 3)]


VECTOR, LOGITS = Output(name="vector", role="vector"), Output(name="logits", role="logits")
TASKS: dict[str, tuple[Task, Any, str]] = {
    "detect": (detector(), found_by, BLINDED),
    "classify": (network_of("classify", "classes", LOGITS), whole, NEGATED),
    "labels": (network_of("classify", "classes", LOGITS, activation="sigmoid"), whole, NEGATED),
    "embed": (network_of("embed", "vector", VECTOR), whole, NEGATED),
    "semantic": (network_of("semantic", "semantic", LOGITS), regions, NEGATED),
}


def compared(
    folder: Path, task: Task, images: list[list[Floats]], gate: Gate, *, bundle: Any = None, precision: str = "fp32"
) -> Evidence:
    """A source of these raw outputs, and a bundle that gives them too, or what ``bundle`` makes of them."""
    contract, workspace = task.contract, Workspace(folder)
    for output, arrays in zip(contract.outputs, zip(*images, strict=True), strict=True):
        np.save(workspace.reference(output.name), np.stack(arrays))
    save_detections(workspace.detections, [detections(task, raw) for raw in images])
    np.save(workspace.proof, np.zeros((len(images), 64, 64, 3), np.uint8))
    prepared = Prepared(
        name="x", parts=(), contract=contract, origin=Origin(kind="x", name="x", sha256=""), shapes={}, operators={},
        calibration=None, proof_sha256="", proof_views=len(images), photographs=len(images), versions={},
        reference=Reference(how="by hand"),
    )  # fmt: skip
    given = iter(images)
    model: Any = SimpleNamespace(
        manifest=SimpleNamespace(precision=precision, engines=("onnxruntime",)), contract=contract, task=task,
        placement=Placement("cpu"),
        outputs=lambda _: next(given) if bundle is None else [bundle(one) for one in next(given)],
    )  # fmt: skip
    return network.compare_network(model, prepared, workspace, gate, told)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", TASKS)
def test_a_good_bundle_passes_and_its_control_fails(name: str, precision: str, tmp_path: Path) -> None:
    task, images, damage = TASKS[name]
    raws = [images(seed) for seed in range(12)]
    near = (lambda one: one * np.float32(1.0001)) if precision == "int8" else None
    evidence = compared(tmp_path, task, raws, GATES[precision], bundle=near, precision=precision)
    assert evidence.passed
    assert evidence.compared == "detections"
    assert evidence.control
    assert evidence.control.damage == damage
    assert evidence.control.failures[0].startswith("matched 0.")
    (said,) = [line for line in evidence_lines(evidence) if line.startswith("negative control")]
    assert said == f"negative control ({damage}): failed as it must, {evidence.control.failures[0]}"
    assert bool((evidence.decoded and evidence.decoded.by_size) or False) == bool(evidence.gate.by_size)
    assert bool(evidence.gate.by_size) == (name == "detect")


def test_a_bundle_that_loses_only_small_objects_fails_by_their_size_alone(tmp_path: Path) -> None:
    """Ten medium objects and a small one in each image: 91 % of all are found without the small ones."""

    def image(seed: int) -> list[Floats]:
        boxes = np.full((1, 4, CELLS, CELLS), 3.0, np.float32)  # 48 x 48 pixels
        classes = np.full((1, 3, CELLS, CELLS), -7.0, np.float32)
        for place in range(10):
            classes[0, place % 2, place // 4 * 3, place % 4 * 2] = 2.0
        boxes[0, :, 7, seed % CELLS] = 1.0
        classes[0, 2, 7, seed % CELLS] = 3.0
        return [boxes, classes]

    images = [image(seed) for seed in range(12)]
    task = detector()
    counts = [len(detections(task, raw)) for raw in images]
    assert counts == [11] * 12

    def without_small(one: Floats) -> Floats:
        return np.where(one == 3.0, -7.0, one * 1.001).astype(np.float32) if one.shape[1] == 3 else one

    lost = compared(tmp_path, task, images, GATES["int8"], bundle=without_small, precision="int8")
    assert lost.decoded
    assert lost.decoded.by_size
    assert {name: (one.found, one.detections) for name, one in lost.decoded.by_size.items()} == {
        "small": (0, 12),
        "medium": (120, 120),
    }
    assert lost.decoded.matched > GATES["int8"].matched
    assert lost.failures == (
        "matched 0.000 of the small ones (0 of 12) at IoU 0.5, at least 0.569 (small 0.8 less 2 standard errors)",
    )
    assert "by size: small 0.0% (0 of 12), medium 100.0% (120 of 120)" in evidence_lines(lost)


def test_anchors_have_a_control_too(tmp_path: Path) -> None:
    raws = [[boxes, classes - 6] for boxes, classes in map(found_by, range(3))]
    evidence = compared(tmp_path, detector(), raws, GATES["fp32"])
    assert (evidence.compared, evidence.passed) == ("candidates", True)
    assert evidence.control
    assert "cosine -1.00000" in evidence.control.failures[-1]


def test_a_comparison_of_the_source_with_itself_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared does not depend on the bundle's outputs any more."""
    raws = [found_by(seed) for seed in range(IMAGES)]
    found = [detections(detector(), raw) for raw in raws]
    monkeypatch.setattr(Tally, "add_detections", lambda self, source, target: None)
    with pytest.raises(ConversionError, match=r"damaged results \(each channel .* pass the gate \(matched 0.99, "):
        compared(tmp_path, detector(), raws, GATES["fp32"])
    monkeypatch.undo()
    monkeypatch.setattr(network, "detections", lambda task, outputs: found[0])
    same = [raws[0]] * IMAGES
    with pytest.raises(ConversionError, match=r"negative control: .*so passing it proves nothing; give bounds"):
        compared(tmp_path, detector(), same, GATES["fp32"])


def test_a_gate_that_nothing_can_fail_is_an_error(tmp_path: Path) -> None:
    task, images, _ = TASKS["classify"]
    loose = Gate(iou=0, matched=0, score_drift=1, extra=1)
    with pytest.raises(ConversionError, match=r"pass the gate \(matched 0, score_drift 1, extra 1\) too"):
        compared(tmp_path, task, [images(seed) for seed in range(12)], loose)


def test_integers_that_equal_the_floats_in_every_bit_are_an_error(tmp_path: Path) -> None:
    raws = [found_by(seed) for seed in range(IMAGES)]
    with pytest.raises(ConversionError, match="outputs of this int8 bundle equal the source's in every bit"):
        compared(tmp_path, detector(), raws, GATES["int8"], precision="int8")


@pytest.mark.parametrize("family", FAMILIES)
def test_blinded_heads_of_every_family_fail_every_gate(family: str) -> None:
    task, outputs, _ = FAMILIES[family](11)
    source, blind = detections(task, outputs), detections(task, blinded(outputs))
    assert (source.scores > SCORE_FLOOR).any()
    for gate in GATES.values():
        tally = Tally.of(task, gate.iou)
        tally.add_detections(source, blind)
        assert any(one.startswith("matched 0.0") for one in judge(tally.agreement(), (), gate))


def test_damage_by_hand() -> None:
    rows = np.array([[[1, 5], [2, 4], [0, 9]]], np.float32)  # three anchors of two values
    assert blinded([rows])[0].tolist() == [[[0, 4], [0, 4], [0, 4]]]
    grid = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    assert blinded([grid])[0].tolist() == [[[[0, 0], [0, 0]], [[4, 4], [4, 4]]]]
    assert blinded([np.array([3, 1], np.float32)])[0].tolist() == [1, 1]
    assert negated([rows])[0].tolist() == (-rows).tolist()
    assert rows[0, 0, 0] == 1


def test_bundles_of_older_edgekits_have_neither_control_nor_sizes() -> None:
    manifest = sample_manifest()
    assert manifest.evidence
    assert manifest.evidence.decoded
    assert manifest.evidence.control is manifest.evidence.decoded.by_size is msgspec.UNSET
    said = "\n".join(evidence_lines(manifest.evidence))
    assert "negative control" not in said
    assert "by size" not in said
