"""What users get wrong: messages name their line or value, the cause and the next step; wrong use ends with 2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_conversions import edgekit as command

from edgekit.conversion.jobs import PrepareJob
from edgekit.conversion.reading import read_source
from edgekit.converters._foreign import tool_error
from edgekit.errors import EdgekitError, InputError
from edgekit.graph.exchange import flatten
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
nn = torch.nn

CONTRACT = """\
image: {size: [64, 64]}
classes: [cat, dog]
decoder: {name: anchor_free, strides: [16], reg_max: 1}
"""


class Network(nn.Module):  # type: ignore[misc, name-defined]
    """Heads of two classes at stride 16."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.box, self.kind = nn.Conv2d(3, 4, 16, 16), nn.Conv2d(3, classes, 16, 16)

    def forward(self, x: Any) -> Any:
        return self.box(x), self.kind(x)


class Branch(Network):
    """Another path for bright images."""

    def forward(self, x: Any) -> Any:
        if x.mean() > 0.5:
            return self.box(x), self.kind(x)
        return self.box(-x), self.kind(-x)


class Counted(Network):
    """As many outputs as something was found."""

    def forward(self, x: Any) -> Any:
        found = torch.nonzero(self.kind(x)[0, 0] > 0)
        return self.box(x)[:, :, :1, : found.shape[0]], self.kind(x)


class Reading(Network):
    """A number that is read out of the image."""

    def forward(self, x: Any) -> Any:
        return self.box(x) * float(x.max().item()), self.kind(x)


def network() -> Any:
    return Network()


def with_arguments(classes: int) -> Any:
    return Network(classes)


def raising() -> Any:
    raise RuntimeError("no such backbone")


def no_network() -> Any:
    return {"backbone": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights and contracts with a mistake each."""
    state = Network().state_dict()
    torch.save({name.replace("box", "bax"): value for name, value in state.items()}, tmp_path / "renamed.pt")
    torch.save(Network(5).state_dict(), tmp_path / "five.pt")
    torch.save(Network(), tmp_path / "whole.pt")
    torch.save(state, tmp_path / "checkpoint.pth")
    (tmp_path / "right.yaml").write_text(CONTRACT)
    (tmp_path / "typo.yaml").write_text(CONTRACT.replace("size", "sise"))
    (tmp_path / "three.yaml").write_text(CONTRACT.replace("dog", "dog, cow"))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "weights", "contract", "says"),
    [
        ("test_mistakes:network", "renamed.pt", "right.yaml", r"renamed\.pt does not fit the network.*box.*bax"),
        ("test_mistakes:network", "five.pt", "right.yaml", r"five\.pt does not fit the network.*kind"),
        ("test_mistakes:network", "whole.pt", "right.yaml", r"whole\.pt: holds more than tensors.*state dict.*--trust"),
        ("{}/whole.pt", "", "right.yaml", r"asks for test_mistakes\.Network.*package\.module:factory with --weights"),
        ("{}/checkpoint.pth", "", "right.yaml", r"cannot tell what kind of model this is; give one of: .*factory"),
        ("test_mistakes:network", "", "typo.yaml", r"typo\.yaml:1: image\.sise: unknown key; valid: size"),
        ("test_mistakes:network", "", "three.yaml", r"classes with 3 channels; the last convolutions are"),
        ("test_mistakes:with_arguments", "", "right.yaml", r"with_arguments: calling it without arguments failed"),
        ("test_mistakes:raising", "", "right.yaml", r"raising: calling it .* failed: RuntimeError: no such backbone"),
        ("test_mistakes:no_network", "", "right.yaml", r"returned \{'backbone': 1\}, which is no network"),
        ("test_mistakes:netwerk", "", "right.yaml", r"has no 'netwerk'; near it: network"),
        ("no_such_module:network", "", "right.yaml", r"cannot import 'no_such_module'; is it installed"),
        ("test_mistakes:network", "nowhere.pt", "right.yaml", r"nowhere\.pt: no such file"),
        ("test_mistakes:network", "", "nowhere.yaml", r"nowhere\.yaml: No such file"),
    ],
)
def test_a_wrong_source_is_said_and_ends_with_2(
    folder: Path, source: str, weights: str, contract: str, says: str
) -> None:
    job = PrepareJob(
        folder=str(folder),
        source=source.format(folder),
        weights=str(folder / weights) if weights else "",
        contract=str(folder / contract),
    )
    with pytest.raises(EdgekitError) as refused:
        read_source(job)
    assert refused.value.exit_code == 2
    said = str(refused.value)
    assert re.search(says, said, re.DOTALL), said
    assert "two options" not in said, "torch's advice to its own users"


@pytest.mark.parametrize(
    ("kind", "line"),
    [(Branch, "if x.mean() > 0.5:"), (Counted, "found.shape[0]"), (Reading, "float(x.max().item())")],
)
def test_what_depends_on_the_image_is_named_by_the_users_line(kind: Any, line: str) -> None:
    with pytest.raises(EdgekitError) as refused:
        flatten(kind().eval(), torch.zeros(1, 3, 64, 64))
    assert refused.value.exit_code == 2
    said = str(refused.value)
    assert re.search(
        rf"depends on the values in the image at .*test_mistakes\.py:\d+, in forward: .*{re.escape(line)}", said
    )
    assert said.endswith("or cut the network before it (cut: in the contract)")
    assert "docs.google" not in said
    assert "\n" not in said


def test_a_network_that_depends_on_nothing_is_followed() -> None:
    assert flatten(Network().eval(), torch.zeros(1, 3, 64, 64)) is not None


@pytest.mark.parametrize(
    "words", [["info"], ["run", "x.png"], ["profile"], ["verify", "--against", "x", "--data", "x"]]
)
def test_a_source_in_place_of_a_bundle(tmp_path: Path, words: list[str]) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08\x07")
    done = command(words[0], model, *words[1:])
    assert done.returncode == (1 if words[0] == "profile" else 2)  # of several bundles others could be measured
    said = done.stdout + done.stderr
    assert (
        f"{model}: a file, and a bundle is a folder; if it is a trained model, convert it first: edgekit convert"
        in said
    )


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (
            np.zeros((4, 6, 3), np.float32),
            r"not float32 \(4, 6, 3\); its values look like 0\.\.1: \(image \* 255\)\.round",
        ),
        (
            np.full((4, 6, 3), 200.0),
            r"not float64 .*its values look like 0\.\.255: image\.round\(\)\.astype\(np\.uint8\)",
        ),
        (np.zeros((4, 6, 3), np.uint16), r"not uint16 .*scale its values to 0\.\.255"),
        (np.zeros((4, 6), np.uint8), r"not uint8 \(4, 6\); convert grey or RGBA images first"),
        (np.zeros((0, 6, 3), np.uint8), r"it has no pixels: was the file read, the camera open\?"),
    ],
)
def test_frames_of_another_kind_are_told_what_helps_them(image: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Preprocessor(ImageRule(size=(8, 8)))(image)


def test_a_tools_words_never_stand_alone() -> None:
    error = tool_error("LiteRT int8", ValueError("num_scales must be 1.\n  Tensor 1 is wrong." + "x" * 900))
    said = str(error)
    assert said.startswith("LiteRT int8: ValueError: num_scales must be 1. Tensor 1 is wrong.xxx")
    assert said.endswith("or cut it before that part (cut: in the contract)")
    assert len(said) < 700
    assert error.exit_code == 1
