"""With labels the accuracy of the source and of the bundle is part of the evidence."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch", reason="needs the extra 'convert'")

from sample_bundles import EVIDENCE
from stages import stay

from edgekit.cli._reports import evidence_lines, outcome_row
from edgekit.conversion.bundle_builder import Outcome
from edgekit.conversion.convert import convert
from edgekit.conversion.request import Request
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Accuracy, Evidence
from edgekit.shapes.dataset import write_coco
from edgekit.shapes.trained import SOURCE


def test_without_labels_nothing_is_written_of_them() -> None:
    """So that an edgekit that does not know the field reads the bundle."""
    assert b"accuracy" not in msgspec.json.encode(EVIDENCE)
    measured = msgspec.structs.replace(EVIDENCE, accuracy=Accuracy(measure="mAP", source=0.4852, bundle=0.4667))
    assert msgspec.json.decode(msgspec.json.encode(measured), type=Evidence) == measured
    assert "on the labels: mAP 0.4667 (source 0.4852)" in evidence_lines(measured)
    assert outcome_row(Outcome("onnx", "int8", Path(), evidence=measured))[-1].endswith(", mAP 0.4667 (source 0.4852)")


@pytest.mark.nightly
@pytest.mark.convert
def test_source_and_bundle_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stay(monkeypatch)
    scenes = tmp_path / "scenes"
    write_coco(scenes, range(900, 912))
    request = Request(
        source=SOURCE, targets=("onnx",), data=str(scenes), labels=str(scenes), threads=1,
        out=tmp_path / "out", contact_sheet=True,
    )  # fmt: skip
    (outcome,) = convert(request)
    assert outcome.ok
    evidence = open_bundle(outcome.path).manifest.evidence
    assert evidence is not None
    assert isinstance(evidence.accuracy, Accuracy)
    assert evidence.accuracy.measure == "mAP"
    assert evidence.accuracy.source > 0.5
    assert evidence.accuracy.bundle == pytest.approx(evidence.accuracy.source, abs=0.005)
    assert outcome.sheet is not None
    assert outcome.sheet.read_bytes().startswith(b"\xff\xd8")
