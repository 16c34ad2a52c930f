"""``edgekit amend``: thresholds, names and tracker options change, the network and its evidence stay, the change is
recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sample_bundles import write_bundle
from tiny_conversions import edgekit as command
from tiny_models import picture
from tiny_onnx import write_tiny_bundle

import edgekit
from edgekit.errors import BundleError, UsageError
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Postprocess

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnx", reason="needs onnx to write a model")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


def test_a_bundle_runs_by_what_was_amended(bundle: Path) -> None:
    image = picture(3)
    before = edgekit.load(bundle)(image)
    assert len(before) > 1
    old = open_bundle(bundle).manifest
    least = float(np.sort(before.scores)[-1]) - 1e-4
    edgekit.amend(bundle, score=least, classes={0: "crimson"}, tracker_options={"new_score": 0.5, "high_score": 0.4})
    after = edgekit.load(bundle)(image)
    assert 0 < len(after) < len(before)
    assert after.classes == ("crimson", *before.classes[1:])
    new = open_bundle(bundle).manifest
    assert (new.evidence, new.files, new.graphs, new.proven) == (old.evidence, old.files, old.graphs, old.proven)
    assert new.digest != old.digest
    (amendment,) = new.amendments or ()
    assert [(one.name, one.before, one.after) for one in amendment.changes] == [
        ("score", old.contract.postprocess.score, least),
        ("class 0", before.classes[0], "crimson"),
        ("tracker option new_score", None, 0.5),
        ("tracker option high_score", None, 0.4),
    ]
    edgekit.amend(bundle, max_detections=1)
    assert len(open_bundle(bundle).manifest.amendments or ()) == 2


def test_the_command_tells_and_info_shows_it(bundle: Path) -> None:
    first = open_bundle(bundle).manifest.contract
    given = ("--score", "0.4", "--iou", "0.5", "--class", "1=lorry", "--tracker-option", "new_score=0.45")
    done = command("amend", bundle, *given, "--tracker-option", "high_score=0.4")
    said = f"score 0.25 -> 0.4, iou 0.6 -> 0.5, class 1 '{first.classes[1]}' -> 'lorry', tracker option new_score 0.45"
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
    shown = command("info", bundle).stdout
    assert said in shown
    assert "the evidence was measured before" in shown
    again = json.loads(command("amend", bundle, "--score", "0.5", "--json").stdout)
    assert again["changes"] == [{"name": "score", "before": 0.4, "after": 0.5}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing to change: give a score, an IoU"),
        (("--score", "0.25"), "has these values already"),
        (("--score", "1.5"), "score must be 0..1, not 1.5"),
        (("--score", "nan"), "score must be 0..1, not nan"),
        (("--iou", "-0.1"), "iou must be 0..1, not -0.1"),
        (("--max-detections", "0"), "max_detections must be at least 1, not 0"),
        (("--class", "7=lorry"), "class 7: there are 2 classes, 0 to 1"),
        (("--class", "lorry"), "--class lorry: write it as ID=NAME, for example 3=lorry"),
        (("--class", "0="), "class 0: a class needs a name"),
        (("--class", "0=a", "--class", "0=b"), "--class 0=b: class 0 is given twice"),
        (("--class", "0=a", "--class", "1=a"), "class 0: 'a' is class 1's name already; choose another"),
        (("--tracker-option", "speed=1"), "tracker option 'speed' is not one of: "),
        (("--tracker-option", "new_score"), "--tracker-option new_score: write it as NAME=VALUE"),
        (("--tracker-option", "new_score=high"), "option new_score='high': expected `float`".replace("`", "")),
        (("--tracker-option", "new_score=0.3"), "low_score <= high_score <= new_score must hold"),
    ],
)
def test_wrong_use_changes_nothing_and_ends_with_2(bundle: Path, words: tuple[str, ...], says: str) -> None:
    before = (bundle / "manifest.json").read_bytes()
    done = command("amend", bundle, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert (bundle / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["tiny"], "no lock is left"


RULE = ImageRule(size=(8, 8))
CLASSES = Contract(task="classify", image=RULE, classes=("a",), decoder=Decoder(name="classes"))
FREE = Decoder(name="anchor_free", options={"strides": [8]})


@pytest.mark.parametrize(
    ("contract", "given", "says"),
    [
        (CLASSES, {"iou": 0.5}, "iou: .*'classify'"),
        (CLASSES, {"tracker_options": {"new_score": 0.5}}, "tracker option new_score: .* which has none"),
        (
            Contract(task="embed", image=RULE, decoder=Decoder(name="vector")),
            {"score": 0.5},
            "score: .*'embed', which has none",
        ),
        (
            Contract(image=RULE, classes=("a",), decoder=FREE, postprocess=Postprocess(nms=False)),
            {"iou": 0.5},
            "iou: .* has no NMS",
        ),
    ],
)
def test_what_a_task_does_not_have_is_refused(
    tmp_path: Path, contract: Contract, given: dict[str, float], says: str
) -> None:
    path = write_bundle(tmp_path / "sample", contract=contract).path
    with pytest.raises(UsageError, match=says):
        edgekit.amend(path, **given)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_bundle_that_cannot_be_written_is_said(bundle: Path) -> None:
    bundle.chmod(0o500)
    try:
        with pytest.raises(BundleError, match="cannot be written"):
            edgekit.amend(bundle, score=0.4)
    finally:
        bundle.chmod(0o700)


def test_an_unchanged_bundle_says_nothing_of_amendments_or_trackers(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_bytes())
    assert "amendments" not in document
    assert "tracker_options" not in document["contract"]
    assert msgspec.UNSET is open_bundle(bundle).manifest.amendments
