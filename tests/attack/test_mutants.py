"""Damaged and hostile bundles, images, contracts, models and answers of devices: none crashes, hangs or deceives.

What is found is kept: a file below ``corpus/KIND`` is opened first, ever after.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from attacking import Became, Mutant, Outcome, attack
from effort import ISOLATED, LONG, SEED, SHORT, TIMES
from kinds import KINDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see what a process takes")
CORPUS = Path(__file__).parent / "corpus"
NEEDS = {
    "bundle-onnx": ("onnxruntime", "onnx"),
    "bundle-litert": ("ai_edge_litert",),
    "bundle-ncnn": ("ncnn",),
    "bundle-openvino": ("openvino",),
    "bundle-mnn": ("MNN",),
    "bundle-blip2": ("onnxruntime", "onnx", "tokenizers"),
    "image": ("PIL",),
    "media": ("PIL",),
    "contract": ("yaml",),
    "source-ultralytics": ("torch", "ultralytics"),
    "source-transformers": ("torch", "transformers"),
    "source-blip2": ("torch", "transformers"),
    "planted": ("onnxruntime", "onnx"),
}


def needs(kind: str) -> None:
    """Skip what cannot be opened here."""
    for package in NEEDS.get(kind, ("torch", "onnx") if kind.startswith("source") else ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def kept(kind: str) -> list[str]:
    """Files of the corpus."""
    return sorted(f"{kind}/{path.name}" for path in (CORPUS / kind).glob("*"))


def seeded(kind: str, number: int, first: int) -> list[Mutant]:
    """So many mutants, after those of the corpus."""
    often = kind.startswith("bundle")
    corpus = [
        Mutant(kind, kept=name, isolated=one) for name in kept(kind) for one in ((False, True) if often else (False,))
    ]
    return corpus + [
        Mutant(kind, seed, isolated=often and seed % ISOLATED == 1) for seed in range(first, first + number)
    ]


def said(outcomes: list[Outcome]) -> str:
    """For a message."""
    return "\n".join(str(one) for one in outcomes[:20])


@pytest.mark.parametrize("kind", SHORT)
def test_mutants(kind: str, tmp_path: Path) -> None:
    needs(kind)
    report = attack(kind, seeded(kind, SHORT[kind], 0), tmp_path / "mutants")
    assert not report.bad, said(report.bad)
    assert report.count(Became.REFUSED) > SHORT[kind] / 10, report
    assert report.count(Became.REFUSED) < len(report.outcomes), report


@pytest.mark.nightly
@pytest.mark.parametrize("kind", LONG)
def test_many_mutants(kind: str, tmp_path: Path) -> None:
    needs(kind)
    number = LONG[kind] * TIMES
    report = attack(kind, seeded(kind, number, 1000 + SEED * 1_000_000), tmp_path / "mutants")
    print(f"\n{kind} {report}")
    assert len(report.outcomes) >= number
    assert not report.bad, said(report.bad)


def test_the_long_run_opens_ten_thousand() -> None:
    assert sum(LONG.values()) >= 10_000
    assert set(SHORT) <= set(LONG) == set(KINDS) - {"planted"}


# ---- negative control ----


def test_planted_misbehaviour_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that raises what is none of edgekit's errors, ends its process, never ends, takes memory, or lies."""
    needs("planted")
    monkeypatch.setattr("attacking.SECONDS", 4.0)
    monkeypatch.setattr("attacking.MOST_BYTES", 300_000_000)
    acts = ("refused", "same", "another", "wrong", "foreign", "crash", "hang", "memory", "same")
    report = attack("planted", [Mutant("planted", kept=act) for act in acts], tmp_path / "mutants")
    expected = [Became.REFUSED, Became.SAME, Became.OTHER, Became.WRONG, Became.FOREIGN, Became.CRASH, Became.HANG]
    assert [one.became for one in report.outcomes] == [*expected, Became.MEMORY, Became.SAME]
    assert len(report.bad) == 5
    assert "KeyError: 'planted'" in report.outcomes[4].words
