"""Scales, means and standard deviations that cannot belong together are refused when a contract file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.sources.contract_file import read_contract
from edgekit.sources.normalisation import contradiction

UNIT, WHOLE = 1 / 255, 1.0
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
SYMMETRIC = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NOTHING = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CAFFE = ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0))


def image(scale: float, norm: Any) -> ImageRule:
    return ImageRule(size=(8, 8), scale=scale, mean=norm[0], std=norm[1])


@pytest.mark.parametrize(
    ("scale", "norm"),
    [
        (UNIT, NOTHING), (WHOLE, NOTHING), (UNIT, IMAGENET), (WHOLE, PIXELS), (UNIT, SYMMETRIC), (WHOLE, CAFFE),
        (WHOLE, ((127.5,) * 3, (128.0,) * 3)), (WHOLE, ((0.0,) * 3, (255.0,) * 3)),
        (1 / 256, NOTHING), (1 / 127.5, ((1.0,) * 3, (1.0,) * 3)), (0.017, ((1.76, 1.98, 2.1), (1.0,) * 3)),
        (WHOLE, ((123.675, 116.28, 103.53), (1.0, 1.0, 1.0))),
    ],
)  # fmt: skip
def test_what_networks_are_trained_with_is_taken(scale: float, norm: Any) -> None:
    assert contradiction(image(scale, norm)) == ("", "")


@pytest.mark.parametrize(
    ("scale", "norm", "key", "said"),
    [
        (UNIT, PIXELS, "mean", r"black would become -2.118 and white -1.787\. .*probably scale: 1.0 is meant$"),
        (UNIT, CAFFE, "mean", r"white -103\. .*is meant, or mean: \[0.4078, 0.4588, 0.4824\] \(times scale\)$"),
        (1 / 127.5, ((127.5,) * 3, (1.0,) * 3), "mean", r"is above all pixels, which scale 0.007843 brings to 0..2"),
        (UNIT, ((0.0,) * 3, (57.0,) * 3), "std", r"white 0.01754\. .*probably scale: 1.0 is meant$"),
        (UNIT, ((0.0,) * 3, (255.0,) * 3), "std", "divides pixels again that scale 0.003922 brings to 0..1"),
        (WHOLE, IMAGENET, "scale", r"scale 1 leaves pixels at 0..255.*probably scale: 0.003922 \(1/255\) is meant"),
        (WHOLE, SYMMETRIC, "scale", "white 509"),
        (WHOLE, (IMAGENET[0], (1.0,) * 3), "scale", "are for another range"),
        (WHOLE, ((0.0,) * 3, IMAGENET[1]), "scale", "white 1138"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused_with_its_line(
    tmp_path: Path, scale: float, norm: Any, key: str, said: str
) -> None:
    path = tmp_path / "contract.yaml"
    path.write_text(
        "task: detect\nimage:\n  size: [320, 320]\n"
        f"  mean: {list(norm[0])}\n  std: {list(norm[1])}\n  scale: {scale!r}\n"
        "classes: coco\ndecoder: {name: grid, strides: [8]}\n"
    )
    line = {"mean": 4, "std": 5, "scale": 6}[key]
    with pytest.raises(ContractError, match=rf"contract.yaml:{line}: image.{key}: .*{said}"):
        read_contract(path)


def test_a_scale_that_was_left_out_is_named_where_the_image_is(tmp_path: Path) -> None:
    """The most common mistake: mean and std in 0..255, and scale forgotten."""
    path = tmp_path / "contract.yaml"
    path.write_text(
        "task: detect\nimage:\n  size: [320, 320]\n  mean: [103.53, 116.28, 123.675]\n  std: [57.375, 57.12, 58.395]\n"
        "classes: coco\ndecoder: {name: grid, strides: [8]}\n"
    )
    with pytest.raises(ContractError, match=r"contract.yaml:4: image.mean: mean \[103.53, 116.28, 123.675\] is above"):
        read_contract(path)
