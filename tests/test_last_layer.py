"""A classifier's last layer: in INT8 where that costs nothing, in float where it does, and ``--max-size``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'convert'")

from test_recipes import measured
from tiny_conversions import edgekit, write_pictures

from edgekit.calibration.plan import LastLayer
from edgekit.conversion.last_layer import HARMLESS, decide
from edgekit.conversion.recipes import Trial
from edgekit.runtimes.bundle.manifest import Graph, Tensor

LAST = LastLayer(name="logits", share=0.4, lost=0.0, images=20)
GOOD, WORSE, FAILED = (1.0, 0.0, 1.0), (0.95, 0.01, 0.93), (0.5, 0.2, 0.4)


def trial(folder: Path, size: int, figures: Any) -> Trial:
    folder.mkdir()
    (folder / "model").write_bytes(bytes(size))
    tensor = Tensor(name="x", shape=(1,))
    return Trial(folder, (Graph(files=("model",), inputs=(tensor,), outputs=(tensor,)),), measured(*figures))


@pytest.mark.parametrize(
    ("bytes_int8", "floats", "integers", "most", "int8", "why"),
    [
        (700, GOOD, GOOD, math.inf, True, "in int8 (40% of the weights): it loses 0.0000 on 18 hold-out views"),
        (700, GOOD, WORSE, math.inf, False, "kept in float (40% of the weights): int8 there would lose 0.0"),
        (700, GOOD, FAILED, math.inf, False, "kept in float (40% of the weights): int8 there would lose 0."),
        (700, GOOD, WORSE, 800, True, "in int8 for --max-size (40% of the weights): it loses 0.0"),
        (700, GOOD, WORSE, 2000, False, "kept in float (40%"),
        (700, GOOD, FAILED, 800, False, "kept in float (40%"),
        (700, FAILED, GOOD, math.inf, True, "in int8 (40%"),
        (990, GOOD, GOOD, math.inf, False, "kept in float by the target (40% of the weights)"),
    ],
)
def test_it_is_decided_by_what_was_measured(
    bytes_int8: int, floats: Any, integers: Any, most: float, int8: bool, why: str, tmp_path: Path
) -> None:
    one, other = trial(tmp_path / "float", 1000, floats), trial(tmp_path / "int8", bytes_int8, integers)
    assert HARMLESS == 0.01
    decision = decide(LAST, one, other, 18, most)
    assert decision.int8 == int8
    assert decision.why.startswith(why)


@pytest.mark.convert
def test_a_bundle_above_the_size_is_not_written(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 4)
    given = ("--target", "onnx", "--data", photos, "-o", tmp_path / "out", "--max-size", "1kB", "--json")
    done = edgekit("convert", "tiny_models:detector", *given)
    assert done.returncode == 1
    (failed,) = json.loads(done.stdout)["failed"]
    assert failed["error"].endswith(
        "more than --max-size 0.001MB allows, not written; --precision int8 has about a quarter of fp32"
    )
    assert not (tmp_path / "out" / "detector-onnx-fp32").exists()
