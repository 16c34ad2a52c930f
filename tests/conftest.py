"""Fixtures shared by all tests, and what tells the short suite (``make test``) from everything (``make test-all``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from loopback import device as device
from loopback import server as server
from real_conversions import Converted, convert_once
from target_lists import EVERYTHING, PRECISIONS, WITH_TOOLCHAINS, here

ROOT = Path(__file__).parents[1]

# The short suite tries the same few examples each time, so that it fails for a reason and not by chance.
settings.register_profile("short", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("everything", max_examples=200, deadline=None)
settings.load_profile("everything" if EVERYTHING else "short")


TARGETS = ("targets", "documentation", "imx500", "nothing_is_fetched", "toolchains", "clean_install")
TINY = ("conversion", "conversion_interrupted", "cli")
TOGETHER = {
    f"tests/test_{name}.py": group for group, names in {"targets": TARGETS, "tiny": TINY}.items() for name in names
}
"""Files that look at one conversion: the same worker makes it and looks, and the other does not wait at its lock."""

LONGEST = (
    "targets",
    "task_conversions",
    "vision_language_conversion",
    "ultralytics_conversion",
    "static",
    "cli",
    "demo",
)
FIRST = ("tests/attack/test_kills.py", *(f"tests/test_{name}.py" for name in LONGEST))
"""What takes longest begins, so that no worker is left with it at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for ``make test-all``, unless that was asked for or the tests were named one by one."""
    if not EVERYTHING and not any("::" in argument for argument in config.args):
        nightly = [item for item in items if "nightly" in item.keywords]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if "nightly" not in item.keywords]
    order = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files go to a worker, and the files that share a conversion to the same one."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return TOGETHER.get(file, file)

    return Files(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models and photographs that are not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared models and photographs at {folder}")
    return folder


@pytest.fixture(scope="session")
def converted(shared_folder: Path) -> Any:
    """A small detector converted by the command line to onnx and openvino in every precision (`tiny_conversions`)."""
    for package in ("torch", "onnx", "nncf", "openvino", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'convert'")
    from tiny_conversions import convert_all_once

    return convert_all_once(shared_folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def target_bundles(shared_folder: Path) -> Converted:
    """The detector of `matrix` by every target that this run makes, in their `target_lists.made`."""
    import matrix

    def arguments(folder: Path) -> list[str]:
        data = matrix.write_calibration(folder.with_name("targets-data"))
        recipe = [] if EVERYTHING or WITH_TOOLCHAINS else ["--recipe", "plan"]
        given = ["--precision", PRECISIONS, "--data", f"{data}/*.png", *recipe, "-j", "2"]
        return [matrix.SOURCE, "--target", ",".join(here()), *given]

    return convert_once(shared_folder, "targets", arguments)


@pytest.fixture(scope="session")
def fastestdet_bundles(shared_folder: Path, shared_data: Path) -> Converted:
    """The real FastestDet, calibrated on 20 photographs: every target and precision, or onnx in fp32 and int8."""

    def arguments(folder: Path) -> list[str]:
        given = ["--contract", str(ROOT / "examples" / "fastestdet.yaml"), "--data", str(shared_data / "calibration")]
        source = str(shared_data / "models" / "fastestdet_coco.pt2")
        wanted = ["--target", ",".join(here()), "--precision", PRECISIONS]
        if not EVERYTHING:
            wanted = ["--target", "onnx", "--precision", "fp32,int8", "--recipe", "plan"]
        return [source, *wanted, *given, "-j", "2"]

    return convert_once(shared_folder, "fastestdet", arguments)
