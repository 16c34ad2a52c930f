"""What the documentation says, tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_conversions import Converted

from edgekit.runtimes.tasks.decoders import every_decoder
from edgekit.shapes import write_coco
from edgekit.sources.contract_file import read_contract

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_generated_tables_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "tables.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_example(shell: str, python: str, folder: Path) -> tuple[str, str]:
    """Run a block of shell and one of Python as they stand in README; what both printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = []
    for command in (["bash", "-euo", "pipefail", "-c", shell], [sys.executable, "-c", python]):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return printed[0], printed[1]


def example(text: str, language: str, word: str) -> str:
    """The first block with a word in it."""
    return next(block for block in blocks(text, language) if word in block)


@pytest.mark.convert
def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    """In an empty folder: pictures and model come with the package."""
    shell, python = run_example(blocks(README, "bash")[0], blocks(README, "python")[0], tmp_path)
    assert len(list((tmp_path / "drawn").iterdir())) == 40
    assert "proven" in shell
    assert "detection" in python.splitlines()[0]


@pytest.mark.nightly
@pytest.mark.convert
def test_the_conversion_of_the_python_page_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
    write_coco(tmp_path / "photos", range(330_000, 330_016))
    done = subprocess.run(
        [sys.executable, "-c", example(page, "python", "dry_run=True")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    planned, other, notes, made = (done.stdout.splitlines()[at] for at in (0, 1, 2, -1))
    assert planned.startswith("onnx int8 ('plan', 'inputs', 'nncf') in about")
    assert other.startswith("ncnn int8 ")
    assert notes.startswith("source: ")
    assert made.startswith("out/detector-onnx-fp32 {'build': ")
    assert (tmp_path / "out" / "detector-onnx-fp32" / "manifest.json").is_file()


@pytest.mark.nightly
@pytest.mark.convert
def test_the_second_example_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shell, python = run_example(
        example(README, "bash", "blip2/opt"), example(README, "python", "blip2.caption"), tmp_path
    )
    assert "proven" in shell
    caption, *answers = python.splitlines()
    assert {"circle", "square", "triangle", "star", "cross", "heart", "arrow"} & set(
        re.findall(r"[a-z]+?(?=s?\b)", caption)
    )
    assert [answer.partition(" Answer: ")[0] for answer in answers] == [
        "Question: What color is the star?",
        "Question: Is there a red circle?",
    ]


def test_every_example_of_python_is_python() -> None:
    """The others are of models that are not here; tests/test_tracked.py and test_top_down.py run the same calls."""
    for number, block in enumerate(blocks(README, "python")):
        compile(block, f"README.md, block {number}", "exec")


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_contract_page_shows_a_valid_contract(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "CONTRACT.md").read_text(encoding="utf-8")
    (example,) = blocks(page, "yaml")
    (tmp_path / "contract.yaml").write_text(example)
    assert len(read_contract(tmp_path / "contract.yaml").classes) == 80


def test_the_contract_page_lists_every_decoder_and_option() -> None:
    page = (ROOT / "docs" / "CONTRACT.md").read_text(encoding="utf-8")
    known = every_decoder()
    own = [name for name, one in known.items() if one.run.__module__.startswith("edgekit.")]
    assert len(own) >= 10
    for name in own:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
        hidden = {"activated"}  # of the model before its cut; nobody writes it
        for option in set(known[name].options.__struct_fields__) - hidden:
            assert f"`{option}`" in row, f"{name}: {option} is not in {row}"


def test_the_evidence_page_has_the_gates_that_are_used() -> None:
    from edgekit.evaluation.agreement import GATES

    page = (ROOT / "docs" / "EVIDENCE.md").read_text(encoding="utf-8")
    for precision, gate in GATES.items():
        cells = [f">= {gate.matched:.0%}", f"{gate.iou:g}", f"<= {gate.score_drift:g}", f"<= {gate.extra:.0%}"]
        row = " | ".join(cells).replace("%", " %")
        assert f"| {precision} | {row} |" in page


def test_the_architecture_page_names_every_part() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "edgekit").iterdir()):
        if path.name.startswith(("_", ".")) or path.name in {"py.typed", "errors.py", "registry.py"}:
            continue
        assert f"`{path.name}/`" in page if path.is_dir() else f"`{path.name}`" in page, path.name


def test_no_file_names_this_workplace(target_bundles: Converted) -> None:
    """Bundles travel: no path of the machine that made them may be inside."""
    for entry in target_bundles.report["bundles"]:
        manifest = (Path(entry["path"]) / "manifest.json").read_text(encoding="utf-8")
        assert str(ROOT) not in manifest
        assert str(Path(entry["path"]).parent) not in manifest
