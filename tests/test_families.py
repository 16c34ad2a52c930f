"""Every family of docs/FAMILIES.md converts through its gate, in float and INT8, and the page says what was proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'convert'")

from families.measure import FIGURES, TARGETS, measured
from families.rows import ROWS, MissingError, Row

PAGE = Path(__file__).parents[1] / "docs" / "FAMILIES.md"


def test_the_page_has_every_family_and_nothing_that_failed() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert set(figures) <= {row.name for row in ROWS}
    for row in figures.values():
        assert f"| {row['family']} |" in page
    assert "not proven" not in page


@pytest.mark.nightly
@pytest.mark.convert
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_family_is_proven(row: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On all four targets, with the contract that edgekit writes itself where it writes one."""
    folder = tmp_path_factory.getbasetemp() / "families"
    folder.mkdir(exist_ok=True)
    try:
        found = measured(row, folder)
    except MissingError as error:
        pytest.skip(str(error))
    assert found["decoder"] == row.decoder
    failed = {
        (target, precision): one["error"]
        for target in TARGETS
        for precision, one in found["targets"][target].items()
        if not one["proven"]
    }
    assert not failed
