"""Class names that models share: how many, and where well-known ones stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import ContractError
from edgekit.sources.class_names import NAMED, names_for
from edgekit.sources.contract_file import read_contract

CHECKED = {
    "ade20k": (150, {0: "wall", 12: "person", 20: "car", 127: "bicycle", 149: "flag"}),
    "cityscapes": (19, {0: "road", 10: "sky", 11: "person", 13: "car", 18: "bicycle"}),
    "coco": (80, {0: "person", 15: "cat", 16: "dog", 62: "tv", 79: "toothbrush"}),
    "coco90": (90, {0: "person", 11: "N/A", 12: "stop sign", 16: "cat", 17: "dog", 71: "tv", 89: "toothbrush"}),
    "coco91": (91, {0: "background", 1: "person", 12: "N/A", 17: "cat", 18: "dog", 90: "toothbrush"}),
    "imagenet": (1000, {0: "tench", 207: "golden retriever", 281: "tabby", 817: "sports car", 999: "toilet tissue"}),
    "objects365": (365, {0: "Person", 5: "Car", 46: "Bicycle", 92: "Dog", 139: "Cat", 364: "Table Tennis"}),
    "voc": (20, {0: "aeroplane", 7: "cat", 11: "dog", 14: "person", 19: "tvmonitor"}),
    "voc21": (21, {0: "background", 8: "cat", 12: "dog", 15: "person", 20: "tvmonitor"}),
}


@pytest.mark.parametrize("name", CHECKED)
def test_counts_and_well_known_places(name: str) -> None:
    count, places = CHECKED[name]
    assert len(NAMED[name]) == count
    assert {place: NAMED[name][place] for place in places} == places


def test_every_set_is_checked_and_clean() -> None:
    assert set(NAMED) == set(CHECKED)
    for name, names in NAMED.items():
        assert all(one and one == one.strip() for one in names), name
        repeated = {one for one in names if names.count(one) > 1}
        assert repeated == ({"N/A"} if name.startswith("coco9") else set()), name


def test_the_ninety_are_the_eighty_with_gaps() -> None:
    assert tuple(name for name in NAMED["coco90"] if name != "N/A") == NAMED["coco"]
    assert NAMED["coco91"][1:] == NAMED["coco90"]
    assert NAMED["voc21"][1:] == NAMED["voc"]


def test_names_by_number_of_classes() -> None:
    assert names_for(1000, "imagenet") is NAMED["imagenet"]
    assert names_for(3, "imagenet") == ("class_0", "class_1", "class_2")


def test_a_contract_names_a_set(tmp_path: Path) -> None:
    text = "image: {size: [32, 32]}\ntask: classify\nclasses: imagenet\ndecoder: {name: classes}\n"
    file = tmp_path / "contract.yaml"
    file.write_text(text, encoding="utf-8")
    assert read_contract(file).classes == NAMED["imagenet"]
    file.write_text(text.replace("imagenet", "imagenette"), encoding="utf-8")
    with pytest.raises(
        ContractError, match=r"'imagenette' is no file and no known set; .*: ade20k, cityscapes, coco, "
    ):
        read_contract(file)
