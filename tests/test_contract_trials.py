"""A wrong image rule is noticed on the source, without labels, and a right one is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.arrays import Floats
from edgekit.conversion.contract_trials import LEAST, _found_twice, alternatives, suggestion, unusual
from edgekit.errors import ContractError, SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.runtimes.inputs.media import references
from edgekit.runtimes.tasks.decoders import Candidates

CELL, CELLS = 8, 8
RULE = ImageRule(size=(64, 64), resize="stretch", color="bgr")
CONTRACT = Contract(
    task="detect", image=RULE, classes=("blue",), decoder=Decoder(name="fastestdet", options={"activated": True}),
    outputs=(Output(name="all", role="predictions"),), postprocess=Postprocess(),
)  # fmt: skip


def network(tensor: Floats) -> list[Floats]:
    """A detector by hand: a cell whose first channel is 1 all over and whose third is 0 holds a blue object."""
    cells = tensor[0].reshape(3, CELLS, CELL, CELLS, CELL).mean((2, 4))
    objectness = np.exp(-(((cells[0] - 1) / 0.4) ** 2) - ((cells[2] / 0.4) ** 2))
    size = np.full_like(objectness, np.log((1 / CELLS) / (1 - 1 / CELLS)))
    middle = np.full_like(objectness, np.arctanh(0.5))
    return [np.stack([objectness, middle, middle, size, size, np.ones_like(objectness)])[None].astype(np.float32)]


def photographs(count: int, factor: int = 2) -> Any:
    """Pictures ``factor`` times as wide as high, with five blue objects of a cell each."""
    images = np.zeros((count, 64, 64 * factor, 3), np.uint8)
    for seed, image in enumerate(images):
        for place in np.random.default_rng(seed).choice(CELLS * CELLS, 5, replace=False):
            row, column = divmod(int(place), CELLS)
            image[row * CELL : (row + 1) * CELL, column * CELL * factor : (column + 1) * CELL * factor, 0] = 255
    return list(references(images))


def with_rule(**changes: Any) -> Contract:
    return msgspec.structs.replace(CONTRACT, image=msgspec.structs.replace(RULE, **changes))


def test_a_right_contract_is_left_alone() -> None:
    assert suggestion(network, CONTRACT, photographs(20)) == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"color": "rgb"}, "with color: bgr than with the contract's color: rgb"),
        ({"scale": 1.0}, r"with scale: 0.003922 \(1/255\) without mean and std than with the contract's scale: 1,"),
        ({"mean": (0.4, 0.4, 0.4), "std": (0.2, 0.2, 0.2)}, r"without mean and std than .*mean \[0.4, 0.4, 0.4\]"),
        ({"resize": "letterbox"}, "with resize: stretch than with the contract's resize: letterbox"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_noticed_and_the_right_one_named(wrong: dict[str, Any], said: str) -> None:
    import re

    found = suggestion(network, with_rule(**wrong), photographs(20))
    assert re.search(said, found), found
    assert found.startswith("the source finds clearly more with ")
    assert found.endswith("check the contract; nothing was changed")


def test_what_gives_the_same_is_no_better() -> None:
    """Square pictures are stretched as they are letterboxed, wherever the padding is."""
    assert suggestion(network, with_rule(resize="letterbox"), photographs(20, factor=1)) == ""
    assert suggestion(network, with_rule(resize="letterbox", align="corner"), photographs(20, factor=1)) == ""


def test_too_few_images_tell_nothing() -> None:
    wrong = with_rule(color="rgb")
    assert suggestion(network, wrong, photographs(LEAST - 1)) == ""
    assert suggestion(network, wrong, []) == ""


def test_a_source_of_noise_gives_no_reason_to_change_the_contract() -> None:
    """An untrained network finds as much in one rule as in another."""
    random = np.random.default_rng(0)

    def untrained(tensor: Floats) -> list[Floats]:
        return [random.random((1, 6, CELLS, CELLS), np.float32)]

    assert suggestion(untrained, CONTRACT, photographs(20)) == ""


@pytest.mark.nightly
@pytest.mark.parametrize("task", ["detector", "pose", "obb"])
def test_a_network_that_shouts_at_a_wrong_scale_gives_no_reason_to_take_it(task: str) -> None:
    """With pixels 255 times too large the networks of the shapes world find many times as much, with scores of 1."""
    torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
    from edgekit.runtimes.inputs.images import Preprocessor
    from edgekit.runtimes.tasks import open_task
    from edgekit.shapes import scene, trained
    from edgekit.shapes.bars import long_scene

    model = getattr(trained, task)()
    images = [long_scene(seed).image if task == "obb" else scene(seed).image for seed in range(300_000, 300_008)]

    def run(tensor: Floats) -> list[Floats]:
        with torch.no_grad():
            return [output.numpy() for output in model(torch.from_numpy(tensor))]

    def found(contract: Contract) -> int:
        post = open_task(contract)
        return sum(
            len(post.suppressed(post.candidates(run(Preprocessor(contract.image)(image)[0]), 0.5))) for image in images
        )

    wrong = msgspec.structs.replace(model.contract, image=msgspec.structs.replace(model.contract.image, scale=1.0))
    assert found(wrong) > 1.5 * found(model.contract)
    torch.set_num_threads(1)
    assert suggestion(run, model.contract, list(references(np.stack(images)))) == ""
    assert "1/255" in suggestion(run, wrong, list(references(np.stack(images))))


def test_much_that_is_not_found_again_counts_for_little() -> None:
    def found(boxes: list[list[float]], score: float) -> Candidates:
        count = len(boxes)
        table, numbers = np.array(boxes, np.float32), np.arange(count)
        return Candidates(table, np.full(count, score, np.float32), np.zeros(count, np.int64), numbers)

    same = [[10.0, 10, 30, 30], [70, 40, 90, 80]]
    mirrored = [[70.0, 10, 90, 30], [10, 40, 30, 80]]
    elsewhere = [[float(x), 100, float(x) + 8, 110] for x in range(0, 80, 10)]
    one = _found_twice(found(same, 0.8), found(mirrored, 0.8), 100)
    assert one == pytest.approx((2 * 0.64, 2 * 0.64))
    shouting = _found_twice(found(same + elsewhere, 1.0), found(mirrored, 1.0), 100)
    assert shouting == pytest.approx((2, 2 * 4 / 12))
    loose = [[72.0, 10, 94, 30], [6, 40, 28, 80]]
    assert _found_twice(found(same, 0.8), found(loose, 0.8), 100).steady < 0.75 * one.steady


def test_infinite_outputs_count_as_nothing_found() -> None:
    def overflowing(tensor: Floats) -> list[Floats]:
        return [output / np.float32(0 if tensor.max() > 10 else 1) for output in network(tensor)]

    with np.errstate(all="ignore"):
        assert suggestion(overflowing, CONTRACT, photographs(20)) == ""
        assert "1/255" in suggestion(overflowing, with_rule(scale=1.0), photographs(20))


def test_a_classification_is_tried_in_its_colours_alone() -> None:
    rule = ImageRule(size=(8, 8), resize="crop", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    classes = Contract(
        task="classify", image=rule, classes=("a", "b"), decoder=Decoder(name="classes"),
        outputs=(Output(name="logits", role="logits"),),
    )  # fmt: skip
    texts = [other.text for other in alternatives(classes)]
    assert texts == ["color: bgr", "color: bgr (mean and std as they are)"]
    first, second = (other.rule for other in alternatives(classes))
    assert first.mean == (0.406, 0.456, 0.485)
    assert second.mean == rule.mean


def test_label_maps_are_tried_in_their_colours_alone() -> None:
    maps = Contract(
        task="semantic", image=ImageRule(size=(8, 8)), classes=("a", "b"), decoder=Decoder(name="semantic"),
        outputs=(Output(name="logits", role="logits"),),
    )  # fmt: skip
    assert [other.text for other in alternatives(maps)] == ["color: bgr"]


@pytest.mark.parametrize(
    ("decoder", "rule", "said"),
    [
        (
            "grid",
            {"align": "center"},
            "says align: center, .* 'grid' are usually trained with align: corner: check",
        ),
        ("grid", {"resize": "stretch"}, "says resize: stretch, .* with resize: letterbox"),
        ("fastestdet", {"align": "corner"}, "says resize: letterbox, .* with resize: stretch"),
        ("anchors", {"align": "corner"}, "says align: corner, .* with align: center"),
        ("grid", {"align": "corner"}, "^$"),
        ("fastestdet", {"resize": "stretch"}, "^$"),
        ("ssd", {"resize": "stretch"}, "^$"),
        ("anchor_free 16 3", {"resize": "stretch"}, "says resize: stretch, .* 'anchor_free' .* with resize: letterbox"),
        ("anchor_free 8 3", {"align": "corner"}, "says align: corner, .* with align: center"),
        ("anchor_free 8 4", {"align": "center"}, "says resize: letterbox, .* with resize: stretch"),
        ("anchor_free 8 4", {"resize": "stretch"}, "^$"),
        ("anchor_free 17 5", {"align": "corner"}, "^$"),
    ],
)
def test_what_the_family_does_not_do_is_said(decoder: str, rule: dict[str, Any], said: str) -> None:
    import re

    name, *numbers = decoder.split()
    options = {"reg_max": int(numbers[0]), "strides": [8] * int(numbers[1])} if numbers else {}
    stated = Decoder(name=name, options=options)
    contract = msgspec.structs.replace(CONTRACT, image=ImageRule(size=(64, 64), **rule), decoder=stated)
    assert re.search(said, unusual(contract)), unusual(contract)


DATA = Path(__file__).parents[2] / "shared/data"


def real(model: str, contract: str) -> tuple[Any, Contract, list[Any]]:
    """A trained detector as a function, its right contract, and photographs."""
    if not DATA.is_dir():
        pytest.skip(f"needs {DATA}")
    torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import arrays_of, read_source

    path = Path(__file__).parents[1] / "examples" / contract
    read = read_source(PrepareJob(folder="", source=str(DATA / "models" / model), contract=str(path)))

    def run(tensor: Floats) -> list[Floats]:
        with torch.no_grad():
            return arrays_of(read.heads(torch.from_numpy(tensor)))

    return run, read.contract, list(references(str(DATA / "voc50/images/*.jpg")))[:40]


@pytest.mark.nightly
@pytest.mark.convert
@pytest.mark.parametrize(
    ("model", "contract", "wrong"),
    [
        ("fastestdet_coco.pt2", "fastestdet.yaml", ({"color": "rgb"}, {"scale": 1.0}, {"resize": "letterbox"})),
        ("yolox_nano_coco.onnx", "yolox_nano.yaml", ({"color": "rgb"}, {"scale": 1 / 255})),
    ],
)
def test_trained_detectors(model: str, contract: str, wrong: tuple[dict[str, Any], ...]) -> None:
    run, right, images = real(model, contract)
    assert suggestion(run, right, images) == ""
    for change in wrong:
        mistaken = msgspec.structs.replace(right, image=msgspec.structs.replace(right.image, **change))
        ((key, _),) = change.items()
        assert f"with {key}: " in suggestion(run, mistaken, images), change


CENTRE = {"resize": "stretch", "align": "center"}
MISTAKES: dict[str, tuple[str, str, tuple[dict[str, Any], ...]]] = {
    "YOLOX": (
        "yolox_nano_coco.onnx", "yolox_nano.yaml",
        ({"color": "rgb"}, {"scale": 1 / 255}, {"align": "center"}, CENTRE,
         {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}),
    ),
    "FastestDet": (
        "fastestdet_coco.pt2", "fastestdet.yaml",
        ({"color": "rgb"}, {"scale": 1.0}, {"resize": "letterbox"}, {"resize": "letterbox", "align": "corner"},
         {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
    ),
}  # fmt: skip
"""Image rules that are wrong, by model."""


@pytest.mark.nightly
@pytest.mark.convert
@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_noticed(name: str, tmp_path: Path) -> None:
    """Colour, scale, mean and std, resizing, alignment: n of n; then size and number of classes, which are refused."""
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source

    model, contract, wrong = MISTAKES[name]
    run, right, images = real(model, contract)
    assert unusual(right) == ""
    missed = []
    for change in wrong:
        mistaken = msgspec.structs.replace(right, image=msgspec.structs.replace(right.image, **change))
        if not (suggestion(run, mistaken, images) or unusual(mistaken)):
            missed.append(change)
    assert not missed
    text = (Path(__file__).parents[1] / "examples" / contract).read_text()
    height = right.image.size[0]
    for old, new, words in (
        ("classes: coco", f"classes: {[f'c{number}' for number in range(79)]}", "classes with 79 channels"),
        (f"[{height}, {height}]", f"[{height - 32}, {height - 32}]", "size|fixed to"),
    ):
        assert old in text
        (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
        with pytest.raises((ContractError, SourceError), match=words):
            read_source(
                PrepareJob(folder="", source=str(DATA / "models" / model), contract=str(tmp_path / "wrong.yaml"))
            )


@pytest.mark.nightly
@pytest.mark.convert
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scale: 1.0", "scale: 0.003921568627", "mean"),
        ("[256, 256]", "[224, 224]", "fixed to 256x256, not 224x224"),
        ("reg_max: 8", "reg_max: 7", r"reg_max: 7 needs 28 channels of boxes, but there are 32: reg_max: 8 \(GFL and"),
        ("class_6", "class_6, more", r"is needed"),
    ],
)
def test_mistakes_about_a_nanodet_are_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    """A network with NanoDet's heads, from what `edgekit inspect` writes. Colour and alignment are in
    `test_every_mistake_about_a_nanodet_is_noticed`: the features of this one, of the shapes world, mind neither."""
    torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
    from families.networks import Features, NanoDet, Whole

    from edgekit.conversion.inspect import work
    from edgekit.conversion.jobs import InspectJob, PrepareJob
    from edgekit.conversion.reading import read_source
    from edgekit.runtimes.tasks import open_task

    path, contract = tmp_path / "nanodet.onnx", tmp_path / "c.yaml"
    network = Whole(Features(NanoDet.strides), NanoDet()).eval()
    torch.onnx.export(network, (torch.rand(1, 3, 256, 256),), path, dynamo=False, opset_version=17)
    text = work(InspectJob(folder=str(tmp_path), source=str(path)), lambda text, share: None).contract
    assert text.count(old) == 1
    contract.write_text(text.replace(old, new))

    def prepared() -> None:
        read = read_source(PrepareJob(folder="", source=str(path), contract=str(contract)))
        zeros = [np.zeros(tuple(head.shape), np.float32) for head in read.heads(torch.zeros(1, 3, 256, 256))]
        open_task(read.contract).candidates(zeros, 0.99)

    with pytest.raises((ContractError, SourceError), match=words):
        prepared()


def as_nanodet(run: Any, right: Contract) -> tuple[Any, Contract]:
    """YOLOX with the heads of a NanoDet: the same boxes as distributions over 8 bins a side, the same scores as logits.

    No published NanoDet can be had here, and the networks of the shapes world do not mind the order of colours.
    """
    strides = right.decoder.options["strides"]
    outputs = tuple(
        Output(name=f"{role}_{level}", role=role, level=level)
        for level in range(len(strides))
        for role in ("boxes", "classes")
    )
    decoder = Decoder(name="anchor_free", options={"strides": strides, "reg_max": 8})

    def nanodet(tensor: Floats) -> list[Floats]:
        heads = {output.name: array for output, array in zip(right.outputs, run(tensor), strict=True)}
        found = []
        for level in range(len(strides)):
            levels = {output.role: output.name for output in right.outputs if output.level == level}
            boxes, classes = heads[levels["boxes"]][0], heads[levels["classes"]]
            half = np.exp(np.clip(boxes[2:], -8, 4)) / 2
            shift = np.array([0.5 - boxes[0], 0.5 - boxes[1], boxes[0] - 0.5, boxes[1] - 0.5])
            sides = np.clip(shift + np.concatenate([half, half]), 0, 7)
            bins = -2 * (sides[:, None] - np.arange(8)[None, :, None, None]) ** 2
            score = 1 / (1 + np.exp(-np.clip(classes, -30, 30))) / (1 + np.exp(-heads[levels["objectness"]]))
            score = np.clip(score, 1e-9, 1 - 1e-6)
            found += [bins.reshape(1, 32, *sides.shape[1:]).astype(np.float32), np.log(score / (1 - score))]
        return found

    image = msgspec.structs.replace(right.image, align="center")  # as NanoDet is trained
    return nanodet, msgspec.structs.replace(right, image=image, decoder=decoder, outputs=outputs)


@pytest.mark.nightly
@pytest.mark.convert
def test_every_mistake_about_a_nanodet_is_noticed() -> None:
    """Colour, scale, mean and std by photographs; resizing and alignment, which those do not tell, by the family."""
    run, right, images = real("yolox_nano_coco.onnx", "yolox_nano.yaml")
    run, right = as_nanodet(run, right)
    assert suggestion(run, right, images) == ""
    assert unusual(right) == ""
    missed = []
    for change in (
        {"color": "rgb"}, {"scale": 1 / 255}, {"resize": "stretch"}, {"align": "corner"},
        {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
    ):  # fmt: skip
        mistaken = msgspec.structs.replace(right, image=msgspec.structs.replace(right.image, **change))
        if not (unusual(mistaken) or suggestion(run, mistaken, images)):
            missed.append(change)
    assert not missed
