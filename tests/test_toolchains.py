"""Isolated environments: made by real pip and venv from a wheel built here, interrupted, repeated, removed."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_onnx import write_tiny_bundle

from edgekit import converters
from edgekit.cli import edgekit as edgekit_command
from edgekit.conversion import installation, jobs
from edgekit.conversion.runner import run
from edgekit.emulators import Emulator
from edgekit.emulators.served import ServedSession
from edgekit.errors import ConversionError, EngineError, ToolchainError, UsageError
from edgekit.runtimes.bundle.folder import locked, open_bundle
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions, engine
from edgekit.worker import toolchains
from edgekit.worker.interpreters import foreign_command
from edgekit.worker.toolchains import Toolchain

TINY = Toolchain(
    name="tiny",
    summary="a wheel built by the tests",
    megabytes=1,
    requirements=("tiny-tool==1.0",),
    imports=("tiny_tool",),
)


def write_wheel(folder: Path, version: str = "1.0", body: str = "ANSWER = 42\n") -> None:
    """A wheel of one module."""
    info = f"tiny_tool-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny_tool-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_tool.py", body)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-tool\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip may take packages from, and a folder for toolchains."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder)
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "toolchains"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def borrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment of its own interpreter that sees this one's packages but no edgekit beside them."""
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    folder = tmp_path / "borrowed"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / toolchains.RECORD).write_text(json.dumps({"fingerprint": "", "versions": {}}))
    return "borrowed"


def test_install_check_remove(index: Path) -> None:
    said: list[str] = []
    assert TINY.state == "missing"
    assert not toolchains.installed("tiny")
    installation.install(TINY, said.append)
    assert TINY.state == "installed"
    assert toolchains.installed("tiny")
    assert installation.check(TINY)["tiny-tool"] == "1.0"
    done = subprocess.run(
        [str(toolchains.python("tiny")), "-c", "import tiny_tool; print(tiny_tool.ANSWER)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "42\n"
    assert any("fetching" in line for line in said)
    installation.install(TINY, said.append)
    assert said[-1] == "tiny is installed already"


@pytest.mark.nightly
def test_what_was_interrupted_is_completed_without_the_index(index: Path) -> None:
    installation.install(TINY, lambda line: None)
    (toolchains.root() / "tiny" / toolchains.RECORD).unlink()
    for wheel in index.iterdir():
        wheel.unlink()
    assert TINY.state == "unfinished"
    installation.install(TINY, lambda line: None)
    assert TINY.state == "installed"


@pytest.mark.nightly
def test_it_is_made_again_from_its_wheels_after_removal(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "declared", lambda: {"tiny": TINY})
    installation.install(TINY, lambda line: None)
    assert installation.remove("tiny") > 100_000
    assert TINY.state == "missing"
    for wheel in index.iterdir():
        wheel.unlink()
    installation.install(TINY, lambda line: None)
    assert TINY.state == "installed"


@pytest.mark.nightly
def test_new_pins_make_it_outdated_and_are_installed(index: Path) -> None:
    installation.install(TINY, lambda line: None)
    write_wheel(index, "2.0", "ANSWER = 43\n")
    newer = Toolchain(**{**vars(TINY), "requirements": ("tiny-tool==2.0",)})
    assert newer.state == "outdated"
    installation.install(newer, lambda line: None)
    assert newer.state == "installed"
    assert TINY.state == "outdated"


def test_a_package_that_cannot_be_had(index: Path) -> None:
    absent = Toolchain(name="absent", summary="", megabytes=1, requirements=("no-such-tool==3.1",))
    with pytest.raises(ToolchainError, match=r"failed \(exit code 1\): .*no-such-tool==3.1"):
        installation.install(absent, lambda line: None)
    assert absent.state == "unfinished"


@pytest.mark.nightly
def test_a_package_that_cannot_be_imported(index: Path) -> None:
    broken = Toolchain(**{**vars(TINY), "imports": ("tiny_tool.gone",)})
    with pytest.raises(ToolchainError, match="tiny_tool"):
        installation.install(broken, lambda line: None)
    assert broken.state == "unfinished"


@pytest.mark.nightly
def test_check_sees_another_version_and_a_missing_environment(index: Path) -> None:
    with pytest.raises(ToolchainError, match="is missing; edgekit toolchain remove tiny"):
        installation.check(TINY)
    installation.install(TINY, lambda line: None)
    other = Toolchain(**{**vars(TINY), "requirements": ("tiny-tool==9.9",)})
    with pytest.raises(ToolchainError, match=r"tiny-tool is 1\.0, not 9\.9"):
        installation.check(other)
    npm = Toolchain(name="tiny", summary="", megabytes=1, npm=("gone@1.0.0",))
    with pytest.raises(ToolchainError, match="npm package gone is missing"):
        installation.check(npm)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"programs": ("no-such-program",)}, "needs no-such-program on PATH"),
        ({"megabytes": 10**9}, "free space or set EDGEKIT_TOOLCHAINS"),
        ({"pythons": ("2.2",)}, "needs Python 2.2 on PATH"),
    ],
)
def test_what_has_to_be_there_before(changes: dict[str, object], words: str, index: Path) -> None:
    with pytest.raises(ToolchainError, match=words):
        installation.install(Toolchain(**{**vars(TINY), **changes}), lambda line: None)
    assert not (toolchains.root() / "tiny").exists()


def _hold(lock: Path, ready: object, go: object) -> None:
    with locked(lock):
        ready.set()  # type: ignore[attr-defined]
        go.wait(60)  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_two_at_once(index: Path) -> None:
    toolchains.root().mkdir()
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(toolchains.root() / "tiny.lock", ready, go))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ToolchainError, match="another process uses toolchain tiny"):
        installation.install(TINY, lambda line: None)
    go.set()
    other.join()
    installation.install(TINY, lambda line: None)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "file"))
    with pytest.raises(ToolchainError, match="set EDGEKIT_TOOLCHAINS to another folder"):
        installation.install(TINY, lambda line: None)


def test_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEKIT_TOOLCHAINS", raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert toolchains.root() == tmp_path / "edgekit" / "toolchains"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert toolchains.root() == Path.home() / ".local" / "share" / "edgekit" / "toolchains"
    (tmp_path / "venv" / "toolchains").mkdir(parents=True)  # as make installs them
    assert toolchains.root() == tmp_path / "venv" / "toolchains"
    assert toolchains.environment()["EDGEKIT_TOOLCHAINS"] == str(tmp_path / "venv" / "toolchains")


def test_every_pin_is_exact() -> None:
    found = installation.declared()
    for toolchain in found.values():
        for pin in (*toolchain.requirements, *toolchain.without_dependencies):
            assert pin.count("==") == 1, pin
        for pin in toolchain.npm:
            assert pin.rpartition("@")[2][0].isdigit(), pin
        assert toolchain.megabytes > 0
        assert installation.users(toolchain.name)
    with pytest.raises(UsageError, match="toolchain 'gone' is not one of"):
        installation.find("gone")


def test_the_command_line(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "declared", lambda: {"tiny": TINY})
    said = CliRunner().invoke(edgekit_command, ["toolchain", "check"])
    assert "no toolchain is installed" in said.output
    said = CliRunner().invoke(edgekit_command, ["toolchain", "install", "tiny"])
    assert said.exit_code == 0, said.output
    assert said.output.startswith("tiny: a wheel built by the tests; 1 MB in ")
    (row,) = json.loads(CliRunner().invoke(edgekit_command, ["toolchain", "list", "--json"]).output)
    assert (row["toolchain"], row["state"], row["megabytes"]) == ("tiny", "installed", 1)
    assert "tiny" in CliRunner().invoke(edgekit_command, ["toolchain", "list"]).output
    said = CliRunner().invoke(edgekit_command, ["toolchain", "check"])
    assert (said.exit_code, said.output) == (0, "tiny: works\n")
    (toolchains.root() / "tiny" / toolchains.RECORD).unlink()
    said = CliRunner().invoke(edgekit_command, ["toolchain", "check", "--json"])
    assert (said.exit_code, json.loads(said.output)) == (1, {"tiny": "unfinished"})
    said = CliRunner().invoke(edgekit_command, ["toolchain", "remove", "tiny"])
    assert "freed" in said.output


def test_a_session_in_another_environment(borrowed: str, tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny"))
    (graph,) = bundle.manifest.graphs
    here = engine("onnxruntime").open_session(bundle.path, graph, SessionOptions(threads=1))
    there = ServedSession(borrowed, "onnxruntime", bundle.path, graph, SessionOptions(threads=1, device="cpu"))
    assert there.placement == here.placement
    for seed in range(2):
        tensor = np.random.default_rng(seed).random(graph.inputs[0].shape, np.float32)
        for ours, theirs in zip(here.run([tensor]), there.run([tensor]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(EngineError, match="takes float32"):
        there.run([tensor[:, :1]])
    there._process.kill()
    with pytest.raises(EngineError, match="onnxruntime in toolchain borrowed: the child process was killed by SIGKILL"):
        there.run([tensor])


def test_what_the_other_environment_refuses_is_told(borrowed: str, tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny"))
    (graph,) = bundle.manifest.graphs
    (tmp_path / graph.files[0]).write_bytes(b"nothing")
    with pytest.raises(EngineError, match="ONNX Runtime cannot open it"):
        ServedSession(borrowed, "onnxruntime", tmp_path, graph, SessionOptions(device="cpu"))
    with pytest.raises(EngineError, match="the simulator is not installed: edgekit toolchain install absent"):
        ServedSession("absent", "onnxruntime", tmp_path, graph, SessionOptions(device="simulator"))


def test_another_interpreter_has_this_edgekit_and_none_of_its_neighbours(borrowed: str) -> None:
    """The environment gets edgekit by its path alone: PYTHONPATH would bring everything beside it as well."""
    site = next(Path(toolchains.root()).glob("borrowed/env/lib/*/site-packages"))
    (site / "borrowed.pth").unlink()
    probe = "import sys, importlib.util as u; print(u.find_spec('numpy'), sys.modules['edgekit'].__file__)"
    code = foreign_command(toolchains.python(borrowed), "edgekit.errors")
    code[2] = code[2].rpartition("del sys")[0] + probe
    done = subprocess.run(code, env=toolchains.environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", str(Path(toolchains.__file__).parents[1] / "__init__.py")]


def test_a_toolchain_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    job = jobs.BuildJob(folder="", part="detector", target="onnx", precision="fp32", out="")
    with pytest.raises(ConversionError, match="toolchain missing: edgekit toolchain install absent"):
        run(job, Graph, lambda text, share: None, toolchain="absent")


def test_a_job_in_another_environment_ends_with_its_own_errors(borrowed: str, tmp_path: Path) -> None:
    job = jobs.BuildJob(folder=str(tmp_path), part="detector", target="onnx", precision="fp32", out=str(tmp_path))
    with pytest.raises(ConversionError, match="build: FileNotFoundError"):
        run(job, Graph, lambda text, share: None, toolchain=borrowed)


def test_an_emulator_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def needing(toolchain: str = "", packages: tuple[str, ...] = ()) -> str:
        return Emulator(
            engine="web", device="there", word="emulated", by="a tool", of="it", toolchain=toolchain, packages=packages
        ).missing

    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    assert needing("tiny") == "edgekit toolchain install tiny"
    lacking = needing(packages=("numpy", "no_such_package"))
    assert lacking == "pip install edgekit[convert] (missing: no_such_package)"
    assert needing(packages=("numpy",)) == ""


def test_targets_tell_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    spec = converters.target("onnx")
    assert replace(spec, toolchains=(TINY,)).missing == "toolchain missing: edgekit toolchain install tiny (1 MB)"
    assert replace(spec, requires=("no_such_package",)).missing == (
        "missing no_such_package: pip install edgekit[convert]"
    )
    assert replace(spec, hosts=("plan9",)).missing.startswith("not possible on this host: needs plan9, this is ")
    assert spec.missing == ""
