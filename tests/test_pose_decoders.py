"""Networks that see one person: MoveNet against its own graph, heatmaps against transformers, and the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.arrays import Floats
from edgekit.errors import ContractError, EngineError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Skeleton
from edgekit.runtimes.inputs.images import Preprocessor, transform
from edgekit.runtimes.inputs.media import read_image
from edgekit.runtimes.results import Poses
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.decoders import at_anchors
from edgekit.runtimes.tasks.pose import Pose
from edgekit.runtimes.tasks.skeletons import COCO

quick = settings(deadline=None)
SIZE = (256, 192)
FIVE = Skeleton(names=("a", "b", "c", "d", "e"), edges=((0, 1),))


def task(name: str, options: dict[str, Any], roles: Sequence[str], skeleton: Skeleton = FIVE) -> Pose:
    """A pose task on an input of 256 x 192 pixels (height x width)."""
    opened = open_task(
        Contract(
            task="pose",
            image=ImageRule(size=SIZE),
            classes=("person",),
            decoder=Decoder(name=name, options=options),
            outputs=tuple(Output(name=role, role=role) for role in roles),
            skeleton=skeleton,
        )
    )
    assert isinstance(opened, Pose)
    return opened


def gaussians(places: Floats, sigma: float = 2.0) -> Floats:
    """Heatmaps (1, k, 64, 48) with a peak at each place x, y in cells."""
    y, x = np.mgrid[0:64, 0:48].astype(np.float64)
    away = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    return np.exp(-away / (2 * sigma**2))[None].astype(np.float32)


def keypoints(opened: Pose, outputs: list[Floats]) -> Floats:
    found = opened.comparable(outputs, opened.candidates(outputs, -1.0))
    assert found.attached is not None
    assert found.attached.shape[0] == 1
    points: Floats = found.attached[0]
    return points


def test_movenet_is_what_its_own_graph_decodes(shared_data: Path) -> None:
    """The oracle is the program as it was given, which does the same with its own argmax and gather."""
    torch = pytest.importorskip("torch", reason="the program runs in torch (extra 'convert')")
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source, uncut_task

    torch.set_num_threads(1)
    contract = Path(__file__).parents[1] / "examples" / "movenet.yaml"
    source = str(shared_data / "models" / "movenet_lightning.pt2")
    read = read_source(PrepareJob(folder="", source=source, contract=str(contract)))
    ours, whole = open_task(read.contract), uncut_task(read.model, read.contract)
    assert whole is not None
    prepare = Preprocessor(read.contract.image)
    for path in sorted((shared_data / "pose").glob("*.jpg")):
        tensor = torch.from_numpy(prepare(read_image(path))[0].copy())
        with torch.no_grad():
            raw = [output.numpy() for output in read.heads(tensor)]
            given_ = [read.model.module(tensor).numpy()]
        one, other = ours.candidates(raw, -1.0), whole.candidates(given_, -1.0)
        np.testing.assert_allclose(one.attached[..., :2], other.attached[..., :2], atol=0.05)  # type: ignore[index]
        np.testing.assert_allclose(one.attached[..., 2], other.attached[..., 2], atol=1e-5)  # type: ignore[index]
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert ours.similarity(one, other)[0, 0] > 0.999


@quick
@given(st.integers(0, 10_000))
def test_dark_finds_the_peak_of_a_gaussian(seed: int) -> None:
    places = np.random.default_rng(seed).uniform((6, 6), (41, 57), (5, 2))
    opened = task("heatmaps", {"refine": "dark", "kernel": 3}, ["heatmaps"])
    found = keypoints(opened, [gaussians(places)])
    np.testing.assert_allclose(found[:, :2], places * 4 + 0.5, atol=0.2)
    coarse = keypoints(task("heatmaps", {"refine": "none"}, ["heatmaps"]), [gaussians(places)])
    np.testing.assert_array_equal(coarse[:, :2], np.round(places) * 4 + 0.5)  # negative control: off by up to 2 pixels


@quick
@given(st.integers(0, 10_000))
def test_a_quarter_towards_the_higher_neighbour(seed: int) -> None:
    places = np.random.default_rng(seed).uniform((4, 4), (43, 59), (5, 2))
    found = keypoints(task("heatmaps", {"refine": "quarter"}, ["heatmaps"]), [gaussians(places)])
    cells = np.round(places)
    np.testing.assert_allclose((found[:, :2] - 0.5) / 4, cells + 0.25 * np.sign(places - cells), atol=1e-5)
    assert (np.abs((found[:, :2] - 0.5) / 4 - places) <= 0.2501).all()


def test_dark_and_aligned_coordinates_are_those_of_vitpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is the image processor of transformers, which implements DARK with UDP."""
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' ViTPose processor")
    torch = pytest.importorskip("torch", reason="the processor takes torch tensors")
    places = np.random.default_rng(3).uniform((6, 6), (41, 57), (17, 2))
    heat = gaussians(places) * np.linspace(0.3, 1, 17, dtype=np.float32)[None, :, None, None]
    heat += np.random.default_rng(4).normal(0, 0.002, heat.shape).astype(np.float32)
    opened = task("heatmaps", {"refine": "dark", "aligned": True}, ["heatmaps"], COCO)
    ours = keypoints(opened, [heat])
    # torchvision is there for its metadata alone; transformers would import it for what this processor does not need.
    from transformers.utils import import_utils

    for name in ("is_torchvision_available", "is_torchvision_v2_available"):
        monkeypatch.setattr(import_utils, name, lambda: False)
        monkeypatch.setattr(transformers.utils, name, lambda: False, raising=False)
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil as Processor

    output = type("Output", (), {"heatmaps": torch.from_numpy(heat)})()
    # The box is the whole input; ViTPose pads boxes by a quarter, which it takes back when it maps the points.
    width, height = SIZE[1] / 1.25, SIZE[0] / 1.25
    box = [SIZE[1] / 2 - width / 2, SIZE[0] / 2 - height / 2, width, height]
    (found,) = Processor().post_process_pose_estimation(output, boxes=[[box]])[0]
    np.testing.assert_allclose(ours[:, 2], found["scores"].numpy(), atol=1e-5)
    # It counts pixels from centres where edgekit counts from corners: half a pixel at the edges, nothing in the middle.
    from_middle = ours[:, :2] / (SIZE[1], SIZE[0]) - 0.5
    np.testing.assert_allclose(ours[:, :2] + from_middle, found["keypoints"].numpy(), atol=0.06)


@quick
@given(st.integers(0, 10_000), st.sampled_from([1.0, 2.0, 3.0]))
def test_simcc_takes_the_best_bins(seed: int, split: float) -> None:
    random = np.random.default_rng(seed)
    x, y = random.uniform(0, 1, (1, 5, int(192 * split))), random.uniform(0, 1, (1, 5, int(256 * split)))
    best = np.stack([random.integers(0, x.shape[2], 5), random.integers(0, y.shape[2], 5)], 1)
    for row, (column, line) in enumerate(best):
        x[0, row, column], y[0, row, line] = 1.5, 1.25
    found = keypoints(task("simcc", {"split": split}, ["x", "y"]), [x.astype(np.float32), y.astype(np.float32)])
    np.testing.assert_allclose(found[:, :2], best / split + 0.5, rtol=1e-6)
    assert (found[:, 2] == 1).all()  # the lower of both, in 0..1


def test_a_table_of_keypoints_in_both_orders() -> None:
    table = np.random.default_rng(1).random((1, 1, 5, 3)).astype(np.float32)
    plain = keypoints(task("keypoints", {}, ["predictions"]), [table])
    np.testing.assert_allclose(plain, table[0, 0] * (192, 256, 1), rtol=1e-6)
    turned = keypoints(task("keypoints", {"order": "yxs", "normalized": False}, ["predictions"]), [table])
    np.testing.assert_array_equal(turned, table[0, 0][:, [1, 0, 2]])


def test_the_box_is_round_the_keypoints_that_are_sure() -> None:
    points = np.array([[0.1, 0.2, 0.9], [0.5, 0.6, 0.8], [0.9, 0.9, 0.1], [0.3, 0.3, 0.5], [0.0, 0.0, 0.05]])
    opened = task("keypoints", {}, ["predictions"])
    outputs = [points[None].astype(np.float32)]
    found = opened.candidates(outputs, -1.0)
    np.testing.assert_allclose(found.boxes, [[0.1 * 192, 0.2 * 256, 0.5 * 192, 0.6 * 256]], rtol=1e-5)
    assert found.scores[0] == pytest.approx(points[:, 2].mean())
    assert len(opened.candidates(outputs, 0.99)) == 0
    result = opened.result(outputs, transform(opened.contract.image, 384, 512), score=0.99)
    assert isinstance(result, Poses)
    assert result.keypoints.shape == (0, 5, 3)
    unsure = points.copy()
    unsure[:, 2] = 0.1
    assert opened.candidates([unsure[None].astype(np.float32)], -1.0).boxes[0].tolist() == pytest.approx(
        [0, 0, 0.9 * 192, 0.9 * 256]
    )


def test_keypoints_may_lie_outside_the_image() -> None:
    mapping = transform(ImageRule(size=SIZE), 192, 100)
    table = np.array([[[0.5, -0.1, 1], [1.2, 0.5, 1], [0.5, 0.5, 1], [0.5, 0.5, 1], [0.5, 0.5, 1]]], np.float32)
    result = task("keypoints", {}, ["predictions"]).result([table], mapping)
    assert isinstance(result, Poses)
    assert result.keypoints[0, 0, 1] < 0
    assert result.keypoints[0, 1, 0] > 192
    assert result.boxes.min() >= 0


@pytest.mark.parametrize(
    ("name", "options", "roles", "shapes", "words"),
    [
        ("keypoints", {}, ["predictions"], [(1, 4, 3)], "4 keypoints, but the skeleton names 5"),
        ("keypoints", {}, ["predictions"], [(1, 5, 2)], "2 values for each keypoint, but 3 are needed"),
        ("heatmaps", {}, ["heatmaps"], [(5, 64, 48)], r"\(5, 64, 48\) where \(1, keypoints, rows, columns\)"),
        ("heatmaps", {"refine": "dark", "kernel": 4}, ["heatmaps"], [(1, 5, 64, 48)], "kernel must be odd, not 4"),
        ("simcc", {}, ["x", "y"], [(1, 5, 384), (1, 5, 500)], "500 bins where 512 are needed for split 2"),
        ("simcc", {}, ["x"], [(1, 5, 384)], "no output has the role 'y'"),
        ("movenet", {}, ["heatmaps"], [(1, 17, 48, 48)], "no output has the role 'centers'"),
    ],
)
def test_outputs_that_do_not_fit(name: str, options: Any, roles: Any, shapes: Any, words: str) -> None:
    opened = task(name, options, roles)
    with pytest.raises(ContractError, match=words):
        opened.candidates([np.zeros(shape, np.float32) for shape in shapes], 0.5)


def test_nan_is_refused() -> None:
    table = np.full((1, 5, 3), np.nan, np.float32)
    with pytest.raises(EngineError, match="NaN or infinite"):
        task("keypoints", {}, ["predictions"]).candidates([table], 0.5)


def test_a_pose_needs_keypoints_and_a_decoder_of_them() -> None:
    contract = task("keypoints", {}, ["predictions"]).contract
    with pytest.raises(ContractError, match="a pose contract names its keypoints: skeleton: coco"):
        open_task(msgspec.structs.replace(contract, skeleton=None))
    plain = Decoder(name="anchors", options={"strides": [8], "anchors": [[[1.0, 1.0]]]})
    free = Decoder(name="anchor_free", options={"strides": [8]})
    for name, decoder, words in (
        ("pose", plain, "decoder 'anchors' is not one for the task 'pose'; valid: anchor_free, centernet, decoded, "),
        ("detect", Decoder(name="movenet"), "decoder 'movenet' is not one for the task 'detect'; valid: anchor_free, "),
        ("classify", free, "decoder 'anchor_free' is not one for the task 'classify'; valid: classes"),
    ):
        with pytest.raises(ContractError, match=words):
            open_task(msgspec.structs.replace(contract, task=name, decoder=decoder))


def test_values_at_anchors_over_all_levels() -> None:
    heads = [np.arange(2 * size * size, dtype=np.float32).reshape(1, 2, size, size) for size in (4, 2, 1)]
    anchors = np.array([20, 0, 16, 5, 19, 15])
    values, levels = at_anchors(heads, anchors)
    assert levels.tolist() == [2, 0, 1, 0, 1, 0]
    flat = np.concatenate([head.reshape(2, -1) for head in heads], 1)
    np.testing.assert_array_equal(values, flat[:, anchors].T)
    assert at_anchors(heads, anchors[:0])[0].shape == (0, 2)


def test_an_image_without_anybody_has_no_poses() -> None:
    """Heads of 8 x 8 cells in which no score passes: no row is left to decode keypoints of."""
    outputs = (
        Output(name="boxes", role="boxes"),
        Output(name="classes", role="classes"),
        Output(name="keypoints", role="keypoints"),
    )
    contract = Contract(
        task="pose",
        image=ImageRule(size=(64, 64)),
        classes=("person",),
        decoder=Decoder(name="anchor_free", options={"strides": [8]}),
        outputs=outputs,
        skeleton=COCO,
    )
    raw = [
        np.zeros((1, 64, 8, 8), np.float32),
        np.full((1, 1, 8, 8), -9, np.float32),
        np.ones((1, 51, 8, 8), np.float32),
    ]
    found = open_task(contract).result(raw, transform(contract.image, 64, 64))
    assert isinstance(found, Poses)
    assert (len(found), found.keypoints.shape) == (0, (0, 17, 3))
    raw[1][0, 0, 3, 4] = 9
    assert len(open_task(contract).result(raw, transform(contract.image, 64, 64))) == 1  # type: ignore[arg-type]
