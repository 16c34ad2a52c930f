"""Contract files: every mistake is named by its line, its path and the valid choices, and nothing else ever escapes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import ContractError
from edgekit.graph.heads import CutPoint
from edgekit.sources.class_names import NAMED
from edgekit.sources.contract_file import StatedContract, read_contract

yaml = pytest.importorskip("yaml", reason="needs the extra 'convert'")

EXAMPLES = Path(__file__).parents[1] / "examples"
GOOD = """\
task: detect
image:
  size: [320, 416]
  resize: crop
  color: bgr
  mean: [0.5, 0.5, 0.5]
classes: [cat, dog]
decoder:
  name: anchor_free
  strides: [8, 16, 32]
  reg_max: 8
postprocess:
  score_threshold: 0.1
cut:
  - {tensor: conv2d_1, role: boxes}
  - tensor: conv2d_2
    role: classes
    level: 0
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reader(text: str | bytes, name: str = "contract.yaml") -> StatedContract:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_contract(path)

    return reader


def refusal(read: Any, text: str | bytes) -> str:
    """The message, without the folder."""
    with pytest.raises(ContractError) as caught:
        read(text)
    message = str(caught.value)
    assert "contract.yaml" in message
    return message[message.index("contract.yaml") :]


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_a_good_file(read: Any) -> None:
    stated = read(GOOD)
    assert stated.image.size == (320, 416)
    assert (stated.image.resize, stated.image.color, stated.image.pad) == ("crop", "bgr", 114)
    assert stated.classes == ("cat", "dog")
    assert stated.decoder.options == {"strides": [8, 16, 32], "reg_max": 8}
    assert stated.postprocess.score == 0.1
    assert stated.cut == (CutPoint("conv2d_1", "boxes", 0), CutPoint("conv2d_2", "classes", 0))
    contract = stated.complete(())
    assert (contract.task, contract.image, contract.decoder) == (stated.task, stated.image, stated.decoder)


def test_what_may_be_left_out(read: Any) -> None:
    stated = read("image: {size: [32, 32]}\nclasses: coco\ndecoder: {name: fastestdet}\n")
    assert (stated.task, stated.classes, stated.cut) == ("detect", NAMED["coco"], ())
    assert len(NAMED["coco"]) == 80
    assert (NAMED["coco"][0], NAMED["coco"][79]) == ("person", "toothbrush")


@pytest.mark.parametrize(
    ("names", "found"), [("score: 0.3, iou: 0.6", (0.3, 0.6)), ("iou_threshold: 0.6", (0.25, 0.6))]
)
def test_thresholds_by_both_names(names: str, found: tuple[float, float], read: Any) -> None:
    stated = read(GOOD.replace("  score_threshold: 0.1", f"  {names.replace(', ', chr(10) + '  ')}"))
    assert (stated.postprocess.score, stated.postprocess.iou) == found


@pytest.mark.parametrize(
    ("image", "decoder", "align"),
    [
        ("", "name: grid, strides: [8]", "corner"),
        (", align: center", "name: grid, strides: [8]", "center"),
        (", resize: stretch", "name: grid, strides: [8]", "center"),
        ("", "name: anchor_free, strides: [8]", "center"),
        (", align: corner", "name: anchor_free, strides: [8]", "corner"),
    ],
)
def test_a_letterbox_is_aligned_as_the_family_trains_unless_stated(
    image: str, decoder: str, align: str, read: Any
) -> None:
    stated = read(f"image: {{size: [32, 32]{image}}}\nclasses: coco\ndecoder: {{{decoder}}}\n")
    assert stated.image.align == align


def test_a_network_that_ends_in_its_heads_names_them(read: Any) -> None:
    whole = GOOD.partition("cut:")[0]
    stated = read(whole + "outputs: [{name: b8, role: boxes}, {name: c8, role: classes, level: 1}]\n")
    assert [(one.name, one.role, one.level) for one in stated.outputs] == [("b8", "boxes", 0), ("c8", "classes", 1)]
    message = refusal(read, whole + "outputs: [{name: b8, role: boxs}]\n")
    assert "outputs.0.role: 'boxs' is not one of: boxes, classes" in message


def test_the_example_is_valid() -> None:
    stated = read_contract(EXAMPLES / "fastestdet.yaml")
    assert stated.image.size == (352, 352)
    assert (stated.decoder.name, len(stated.classes)) == ("fastestdet", 80)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    assert read_contract(path).classes


IMAGE_KEYS = "size, resize, color, scale, mean, std, pad, crop, interpolation, align"
MISTAKES = {
    "no share": (
        ("resize: crop", "resize: crop\n  crop: 1.5"),
        "5: image.crop: must be above 0 and at most 1, not 1.5",
    ),
    "crop of a stretch": (
        ("resize: crop", "resize: stretch\n  crop: 0.9"),
        "5: image.crop: must be 1 with resize: stretch, not 0.9",
    ),
    "wrong key": (("resize: crop", "colour: bgr"), "4: image.colour: unknown key; valid: " + IMAGE_KEYS),
    "wrong key at the top": (("task: detect", "tasks: detect"), "1: tasks: unknown key; valid: task, image, classes"),
    "key with a space": (("color: bgr", "col or: bgr"), "5: image.col or: unknown key; valid: " + IMAGE_KEYS),
    "wrong choice": (
        ("resize: crop", "resize: cropped"),
        "4: image.resize: Invalid enum value 'cropped'; valid: crop, letterbox, stretch",
    ),
    "wrong type": (("[320, 416]", "[320, wide]"), "3: image.size.1: Expected `int`, got `str`, not 'wide'"),
    "fraction": (("[320, 416]", "[320.5, 416]"), "3: image.size.0: Expected `int`, got `float`, not 320.5"),
    "too long": (
        ("[320, 416]", "[1, 320, 416]"),
        "3: image.size: Expected `array` of length 2, got 3, not [1, 320, 416]",
    ),
    "wrong size": (
        ("[320, 416]", "[0, 416]"),
        "3: image.size: must be two positive numbers (height, width), not [0, 416]",
    ),
    "wrong deviation": (("mean: [0.5", "std: [0"), "6: image.std: must be positive, not [0.0, 0.5, 0.5]"),
    "wrong scale": (("color: bgr", "scale: 0"), "5: image.scale: must be positive, not 0.0"),
    "not a number": (("color: bgr", "scale: .nan"), "5: image.scale: nan is not a finite number"),
    "infinite": (("[0.5, 0.5, 0.5]", "[0, .inf, 0]"), "6: image.mean.1: inf is not a finite number"),
    "missing key": (("  size: [320, 416]\n", ""), "2: image: missing key 'size'; valid: " + IMAGE_KEYS),
    "missing at the top": (
        ("classes: [cat, dog]\n", ""),
        "1: the contract: missing key 'classes'; valid: task, image,",
    ),
    "empty section": (("postprocess:\n  score_threshold: 0.1", "postprocess:"), "12: postprocess: Expected `object`"),
    "out of range": (
        ("score_threshold: 0.1", "score_threshold: 1.5"),
        "13: postprocess.score_threshold: must be 0..1, not 1.5",
    ),
    "new name out of range": (("score_threshold: 0.1", "iou: -1"), "13: postprocess.iou: must be 0..1, not -1.0"),
    "both names": (
        ("score_threshold: 0.1", "score_threshold: 0.1\n  score: 0.2"),
        "13: postprocess.score_threshold: must be left out beside score, its newer name",
    ),
    "align without padding": (
        ("resize: crop", "resize: stretch\n  align: corner"),
        "5: image.align: must be left out with resize: stretch, not corner: only a letterbox has padding (center, ",
    ),
    "align without padding, the default": (
        ("resize: crop", "resize: crop\n  align: center"),
        "5: image.align: must be left out with resize: crop, not center: only a letterbox has padding (center, corner)",
    ),
    "unknown align": (
        ("resize: crop", "align: left"),
        "4: image.align: Invalid enum value 'left'; valid: center, corner",
    ),
    "none left": (
        ("score_threshold: 0.1", "max_detections: 0"),
        "13: postprocess.max_detections: must be at least 1, not 0",
    ),
    "wrong postprocess key": (
        ("score_threshold: 0.1", "conf: 0.1"),
        "13: postprocess.conf: unknown key; valid: score, iou, max_detections, class_agnostic, nms, score_threshold",
    ),
    "unknown task": (
        ("task: detect", "task: poses"),
        "1: task: 'poses' is not one of: classify, detect, embed, obb, pose, segment",
    ),
    "unknown decoder": (
        ("name: anchor_free", "name: yolo"),
        "9: decoder.name: decoder 'yolo' is not one of: anchor_free, anchors, centernet, classes, decoded, distances, ",
    ),
    "no decoder name": (
        ("  name: anchor_free\n", ""),
        "8: decoder.name: missing; name the decoder of this network; valid: ",
    ),
    "decoder name of another type": (("name: anchor_free", "name: 26"), "9: decoder.name: 26 is not a name; "),
    "unknown option": (
        ("reg_max: 8", "regmax: 8"),
        "11: decoder.regmax: unknown key; valid: strides, reg_max, keypoint_scale, keypoint_offset, cell_offset, angle",
    ),
    "wrong option": (("reg_max: 8", "reg_max: many"), "11: decoder.reg_max: Expected `int`, got `str`, not 'many'"),
    "option out of range": (("[8, 16, 32]", "[8, 0, 32]"), "10: decoder.strides.1: Expected `int` >= 1, not 0"),
    "missing option": (("  strides: [8, 16, 32]\n", ""), "8: decoder: missing key 'strides'; valid: strides, reg_max"),
    "option that is no text": (("reg_max: 8", "8: 8"), "8: decoder: a key that is not text"),
    "key that is no text": (
        ("task: detect", "1: detect"),
        "1: the contract: a key that is not text; valid: task, image",
    ),
    "cut key": (("    role: classes", "    rolle: classes"), "17: cut.1.rolle: unknown key; valid: tensor,"),
    "cut without a role": (("    role: classes\n", ""), "16: cut.1: missing key 'role'; valid: tensor, role, level"),
    "skeleton of another task": (
        ("task: detect", "task: detect\nskeleton: coco"),
        "2: skeleton: the task 'detect' has no keypoints; leave it out",
    ),
    "pose without keypoints": (
        ("task: detect", "task: pose"),
        "1: skeleton: missing; a pose has keypoints: coco, or names, edges and sigmas",
    ),
    "unknown skeleton": (
        ("task: detect", "task: pose\nskeleton: dog"),
        "2: skeleton: 'dog' is not one of: coco, face5, or write out names, edges and sigmas",
    ),
    "edge to nowhere": (
        ("task: detect", "task: pose\nskeleton: {names: [head, tail], edges: [[0, 2]]}"),
        "2: skeleton.edges: must be pairs of keypoints 0..1, not [0, 2]",
    ),
    "sigmas of other keypoints": (
        ("task: detect", "task: pose\nskeleton: {names: [head, tail], sigmas: [0.1]}"),
        "2: skeleton.sigmas: must be 2 positive numbers, not [0.1]",
    ),
    "cut with a wrong role": (("role: boxes", "role: boxs"), "15: cut.0.role: 'boxs' is not one of: boxes, classes"),
    "outputs beside cut": (
        ("classes: [cat, dog]", "classes: [cat, dog]\noutputs: [{name: a, role: boxes}]"),
        "8: outputs: a network that is cut has none of its own; give cut or outputs",
    ),
    "output without a role": (
        ("classes: [cat, dog]", "classes: [cat, dog]\noutputs: [{name: a}]"),
        "8: outputs.0: missing key 'role'; valid: name, role, level",
    ),
    "cut with a wrong level": (("level: 0", "level: fine"), "18: cut.1.level: Expected `int`, got `str`, not 'fine'"),
    "class that YAML takes for a truth": (
        ("[cat, dog]", "[cat, no]"),
        "7: classes.1: Expected `str`, got `bool`, not False",
    ),
    "no classes": (("[cat, dog]", "[]"), "7: classes: empty; give the class names in the order of the model's outputs"),
    "unknown class set": (
        ("[cat, dog]", "cocoo"),
        "7: classes: 'cocoo' is no file and no known set; give a list, a file or: ade20k, cityscapes, coco, ",
    ),
    "classes of another type": (("[cat, dog]", "2"), "7: classes: Expected `str | array`, got `int`, not 2"),
    "very long class set": (("[cat, dog]", "c" * 5000), "7: classes: 'cccc"),
    "given twice": (("  color: bgr", "  resize: stretch"), "5: resize: given twice"),
    "a lone surrogate": (
        ("[320, 416]", '"\\ud83d\\ude42"'),
        "3: '\\ud83d\\ude42' has a lone surrogate; write the character itself",
    ),
    "bad YAML": (("[320, 416]", "[320, 416"), "4: not valid YAML: expected ',' or ']'"),
    "tab": (("  color", "\tcolor"), "5: not valid YAML: found character '\\t' that cannot start any token"),
    "unknown tag": (
        ("[320, 416]", "!!python/tuple [320, 416]"),
        "3: not valid YAML: could not determine a constructor",
    ),
    "wrongly tagged": (("[320, 416]", "!!int x"), "1: not valid YAML: "),
    "wrongly tagged truth": (("[320, 416]", "!!bool x"), "1: not valid YAML: "),
    "impossible date": (("[320, 416]", "2020-13-45"), "1: not valid YAML: month must be in 1..12"),
    "alias": (("reg_max: 8", "a: &x [1]\n  b: *x"), "11: aliases (*name) are not supported; write the value out"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_named_by_line_and_path(mistake: str, read: Any) -> None:
    (old, new), expected = MISTAKES[mistake]
    message = refusal(read, changed(old, new))
    assert message.startswith("contract.yaml:" + expected)


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "just text", "- a\n- list\n", "3", "~"])
def test_not_a_mapping(text: str, read: Any) -> None:
    keys = "task, image, classes, decoder, postprocess, skeleton, outputs, cut"
    assert refusal(read, text) == f"contract.yaml:1: a contract file has keys: {keys}"


def test_not_utf8(read: Any) -> None:
    assert refusal(read, GOOD.encode("utf-16")).startswith("contract.yaml: not a UTF-8 text file (")
    assert refusal(read, b"image: \xff\xfe").startswith("contract.yaml: not a UTF-8 text file (")
    assert "special characters are not allowed" in refusal(read, "image: \x00")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"--contract .*none\.yaml: No such file or directory"):
        read_contract(tmp_path / "none.yaml")
    with pytest.raises(ContractError, match=r"--contract .*: Is a directory"):
        read_contract(tmp_path)


def test_several_documents(read: Any) -> None:
    assert "not valid YAML: " in refusal(read, GOOD + "---\n" + GOOD)


def test_what_would_grow_without_bound(read: Any) -> None:
    """Ten lines of aliases are a billion values, and an alias of itself has no end."""
    laughs = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    assert "aliases (*name) are not supported" in refusal(read, laughs)
    assert "aliases (*name) are not supported" in refusal(read, "decoder: &a [*a]")
    assert "not valid YAML: " in refusal(read, "decoder: " + "[" * 5000)


def test_classes_from_a_file(read: Any, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("chat\n\n  chien d'eau \nâne\n", encoding="utf-8")
    assert read(changed("[cat, dog]", "names.txt")).classes == ("chat", "chien d'eau", "âne")
    assert read(changed("[cat, dog]", str(tmp_path / "names.txt"))).classes[0] == "chat"
    (tmp_path / "names.txt").write_text("\n\n")
    assert refusal(read, changed("[cat, dog]", "names.txt")).startswith("contract.yaml:7: classes: empty")
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe")
    assert "classes: names.txt is not a UTF-8 text file" in refusal(read, changed("[cat, dog]", "names.txt"))


def test_roles_of_ssd_with_uneven_priors_are_not_checked(read: Any) -> None:
    """No automatic cut exists for it, so that naming the tensors is the way and must not be refused."""
    text = (
        "image: {size: [64, 64]}\nclasses: [a]\n"
        "decoder: {name: ssd, strides: [8, 16], priors: [[[1, 2]], [[3, 4], [5, 6]]]}\n"
        "cut: [{tensor: a, role: boxes}]\n"
    )
    assert read(text).cut == (CutPoint("a", "boxes", 0),)


def test_roles_of_fused_heads(read: Any) -> None:
    text = "image: {size: [64, 64]}\nclasses: [a]\ndecoder: {name: fastestdet, activated: true}\n"
    assert read(text + "cut: [{tensor: a, role: predictions}]\n").cut[0].role == "predictions"
    text = "image: {size: [64, 64]}\nclasses: [a]\ndecoder: {name: decoded, layout: separate}\n"
    assert len(read(text + "cut: [{tensor: a, role: boxes}, {tensor: b, role: classes}]\n").cut) == 2


# --- fuzzing ---

KEYS = sorted(set(re.findall(r"\w+(?=:)", GOOD)) | {"nms", "pad", "std", "priors", "layout", "name", "x"})
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.dates() | st.binary(max_size=3)
    | st.text(max_size=8) | st.sampled_from(["anchor_free", "ssd", "coco", "crop", "bgr", "detect", "boxes", "rows"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=5),
    max_leaves=20,
)
fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))


def only_contract_errors(folder: Path, data: bytes) -> None:
    path = folder / "fuzzed.yaml"
    path.write_bytes(data)
    with contextlib.suppress(ContractError):
        assert read_contract(path).classes


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz
@given(data=VALUES)
def test_any_yaml(data: Any, folder: Path) -> None:
    only_contract_errors(folder, yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))


@fuzz
@given(keys=st.dictionaries(st.sampled_from(["task", "image", "classes", "decoder", "postprocess", "cut"]), VALUES))
def test_any_values_in_the_right_places(keys: dict[str, Any], folder: Path) -> None:
    good = yaml.safe_load(GOOD)
    only_contract_errors(folder, yaml.safe_dump({**good, **keys}, allow_unicode=True).encode("utf-8", "surrogatepass"))


@fuzz
@given(path=st.integers(0, 100), value=VALUES)
def test_any_one_value_inside(path: int, value: Any, folder: Path) -> None:
    """Some value of a good file, at any depth, is replaced by something else."""
    good = yaml.safe_load(GOOD)
    places: list[tuple[Any, Any]] = []
    left: list[Any] = [good]
    while left:
        node = left.pop()
        if isinstance(node, dict | list):
            steps = list(node) if isinstance(node, dict) else list(range(len(node)))
            places += [(node, step) for step in steps]
            left += [node[step] for step in steps]
    node, step = places[path % len(places)]
    node[step] = value
    only_contract_errors(folder, yaml.safe_dump(good, allow_unicode=True).encode("utf-8", "surrogatepass"))


@fuzz
@given(text=st.text() | st.text(alphabet="[]{}:,-&*!|>%@`'\"#?\n\t ax0.~=<"))
def test_any_text(text: str, folder: Path) -> None:
    only_contract_errors(folder, text.encode("utf-8", "surrogatepass"))


@fuzz
@given(position=st.integers(0, len(GOOD) - 1), noise=st.binary(min_size=1, max_size=3))
def test_any_damage(position: int, noise: bytes, folder: Path) -> None:
    data = GOOD.encode()
    only_contract_errors(folder, data[:position] + noise + data[position + len(noise) :])
    only_contract_errors(folder, data[:position])
