"""Each errand of a newcomer is one file, from a folder outside the package too: nothing else knows its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from edgekit import registry
from edgekit.errors import UsageError
from edgekit.sources import SourceRequest, every

HERE = Path(__file__).parent
PLUGIN = HERE / "plugin_example"
OWN = ("torchscript", "shapes_heads", "nearest", "shapes_world", "added")


def edgekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, check=False)


def test_a_folder_outside_adds_one_of_each_kind() -> None:
    done = edgekit("--import", "plugin_example", "added")
    assert done.returncode == 0, done.stderr
    targets, engines, decoders, trackers, sources = done.stdout.splitlines()
    assert len(targets.split()) == 15
    assert len(engines.split()) == 15
    assert {"torchscript"} == set(targets.split()) & set(OWN) == set(engines.split()) & set(OWN)
    assert "shapes_heads" in decoders.split()
    assert trackers.split() == ["botsort", "bytetrack", "nearest", "ocsort", "sort"]
    assert sources.startswith("shapes://detector; ")
    assert "[botsort|bytetrack|nearest|ocsort|sort]" in edgekit("--import", "plugin_example", "run", "--help").stdout


@pytest.mark.convert
def test_they_work_together(tmp_path: Path) -> None:
    from edgekit.shapes import write_coco

    data = write_coco(tmp_path / "data", range(100_000, 100_032)).parent
    wanted = ("--target", "torchscript", "--import", "plugin_example", "--data", f"{data}/*.png", "--json")
    done = edgekit("convert", "shapes://detector", *wanted, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (bundle,) = json.loads(done.stdout)["bundles"]
    evidence = bundle["evidence"]
    assert (evidence["word"], evidence["compared"], evidence["passed"]) == ("executed", "detections", True)
    assert evidence["decoded"]["matched"] == 1.0
    manifest = json.loads((Path(bundle["path"]) / "manifest.json").read_text())
    assert (manifest["engine"], manifest["contract"]["decoder"]["name"]) == ("torchscript", "shapes_heads")
    image = data / "00100000.png"
    run = edgekit("run", bundle["path"], image, "--import", "plugin_example", "--track", "nearest", "--json")
    assert json.loads(run.stdout)["detections"][0]["track_id"] == 1
    alone = edgekit("run", bundle["path"], image)
    assert (alone.returncode, "torchscript" in alone.stderr) == (2, True), "without the plugin nobody knows its engine"


def test_nothing_else_names_them() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "edgekit").rglob("*.py")}
    naming = [(path.name, name) for path, text in texts.items() for name in OWN if f"{name}.py" in text]
    assert naming == []
    added = sorted(path.relative_to(PLUGIN).as_posix() for path in PLUGIN.rglob("*.py") if path.parent != PLUGIN)
    assert added == [
        "cli/added.py",
        "converters/torchscript.py",
        "runtimes/engines/torchscript.py",
        "runtimes/tasks/decoders/shapes_heads.py",
        "runtimes/tracking/nearest.py",
        "sources/shapes_world.py",
    ]


# --- refusals


@pytest.fixture
def paths() -> Iterator[None]:
    """The folders that edgekit looks into, put back."""
    import edgekit.runtimes.tracking as tracking

    before = list(tracking.__path__)
    yield
    tracking.__path__[:] = before
    registry.names.cache_clear()


def test_a_folder_that_adds_nothing_is_refused(tmp_path: Path, paths: None) -> None:
    with pytest.raises(UsageError, match="nowhere: no such folder, so it adds nothing to edgekit"):
        registry.add_folder(tmp_path / "nowhere")
    (tmp_path / "wrong" / "trackers").mkdir(parents=True)
    (tmp_path / "wrong" / "trackers" / "mine.py").write_text("")
    with pytest.raises(UsageError, match="trackers: edgekit has no folder edgekit/trackers"):
        registry.add_folder(tmp_path / "wrong")
    (tmp_path / "file" / "errors").mkdir(parents=True)
    (tmp_path / "file" / "errors" / "mine.py").write_text("")
    with pytest.raises(UsageError, match="errors: edgekit has no folder edgekit/errors"):
        registry.add_folder(tmp_path / "file")


def test_a_folder_of_several_files_is_one_thing(tmp_path: Path, paths: None) -> None:
    folder = tmp_path / "runtimes" / "tracking" / "folded"
    folder.mkdir(parents=True)
    (folder / "helper.py").write_text("NAME = 'folded'")
    (folder / "__init__.py").write_text(
        "from edgekit.runtimes.tracking.folded.helper import NAME\nfrom edgekit.runtimes.tracking.sort import Sort\n"
        "class Folded(Sort): pass\nTRACKER = Folded"
    )
    registry.add_folder(tmp_path)
    import edgekit.tracking
    from edgekit.runtimes.tracking import open_tracker

    assert type(open_tracker("folded")).__name__ == "Folded"
    assert isinstance(edgekit.tracking.Folded(), edgekit.tracking.Sort)


def test_a_module_that_cannot_be_imported_is_told() -> None:
    for place in (("--import", "no_such_module", "targets"), ("run", "a", "b", "--import", "no_such_module")):
        done = edgekit(*place)
        assert done.returncode == 2
        assert "--import no_such_module: No module named 'no_such_module'" in done.stderr


# --- the order of sources

SPECS = {
    "a torch.export program": "a/net.pt2",
    "an ONNX file": "a/net.onnx",
    "an ultralytics checkpoint": "a/best.pt",
    "a vision-language model": "blip-2",
    "a transformers folder": "yolos",
    "timm:NAME": "timm:resnet18",
    "torchvision:NAME": "torchvision:resnet18",
    "package.module:factory": "a.b:c",
}
WIDER = {
    "a vision-language model": ["a transformers folder"],
    "timm:NAME": ["package.module:factory"],
    "torchvision:NAME": ["package.module:factory"],
}
"""Sources that would also take what the first takes: they have to be asked after it."""


@pytest.mark.parametrize("kind", SPECS)
def test_no_two_sources_claim_one_model_but_a_narrow_one_before_a_wide_one(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": SPECS[kind]}))
    folder = "/" not in SPECS[kind] and ":" not in SPECS[kind]
    request = SourceRequest(str(tmp_path) if folder else SPECS[kind])
    claiming = [source.kind.split(" (")[0].split(" with")[0] for source in every() if source.matches(request)]
    assert claiming == [kind, *WIDER.get(kind, [])]


def test_sources_are_asked_in_the_order_that_they_declare() -> None:
    assert [source.kind.split(" (")[0].split(" with")[0] for source in every() if source.order] == list(SPECS)
    assert len({source.order for source in every()}) == len(every())
