"""kill -9 at every step of writing a bundle, and at random moments of commands: nothing half, lost or left running."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from effort import KILLS, SEED
from killing import Command, kill
from loopback import Loopback, serving
from sample_bundles import FILES, write_bundle
from tiny_conversions import SOURCE, write_pictures
from tiny_onnx import write_tiny_bundle

from edgekit.calibration.plan import read_plan
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import MANIFEST

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see which processes live")

# ---- every step of writing a bundle ----

WRITE = """
import os, signal, sys
from pathlib import Path
from sample_bundles import write_bundle
from edgekit.runtimes.bundle import folder

path, step, steps = Path(sys.argv[1]), 0, []

def hook(event, arguments):
    global step
    if event.startswith(("open", "os.", "shutil.", "fcntl.")) and armed:
        step += 1
        if step == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

armed = False
sys.addaudithook(hook)
deadly = 0
while True:
    deadly += 1
    child = os.fork()
    if not child:
        armed = True
        write_bundle(path, {"model.bin": bytes(3000), "parts/weights.bin": b"new"}, name=f"new {deadly}")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    there = path if path.exists() else path.with_name(".cells.replaced")
    print(deadly, os.waitstatus_to_exitcode(status), folder.open_bundle(there).manifest.name, sep=",", flush=True)
    if not status:
        break
"""


def test_a_kill_at_every_step_of_writing_a_bundle(tmp_path: Path) -> None:
    """Between any two calls of the operating system the old bundle or the new one is there; another can be written."""
    write_bundle(tmp_path / "cells", FILES, name="old")
    command = [sys.executable, "-c", WRITE, str(tmp_path / "cells")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert len(rows) > 30, "steps"
    assert [code for _, code, _ in rows] == ["-9"] * (len(rows) - 1) + ["0"]
    names = [name for _, _, name in rows]  # one of them is there at every moment
    assert names[0] == "old"
    assert "new" in {name.split()[0] for name in names[:-1]}, "some died after their bundle was there"
    assert names[-1] == f"new {len(rows)}"
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


# ---- commands ----

MAIN = "from edgekit.cli import main; main()"
INSTALL = """
import sys
from edgekit.errors import EdgekitError
from edgekit.conversion import installation
from edgekit.worker.toolchains import Toolchain
tiny = Toolchain(name="tiny", summary="", megabytes=1, requirements=("tiny-tool==1.0",), imports=("tiny_tool",))
try:
    installation.install(tiny, print)
except EdgekitError as error:
    sys.exit(f"error: {error}")
"""
DELIVER = """
import sys
from edgekit.errors import EdgekitError
from edgekit.profiling.devices import known
from edgekit.profiling.devices.connection import Connection
from edgekit.profiling.devices.delivery import bundle_tree, deliver
from edgekit.calibration.plan import read_plan
from edgekit.runtimes.bundle.folder import open_bundle
url, identity, hosts, folder, bundle = sys.argv[1:]
device = known.described("loop", url, identity=identity, known_hosts=hosts, python=sys.executable, folder=folder)
try:
    with Connection(device) as connection:
        print(deliver(connection, [bundle_tree(open_bundle(bundle))]))
except EdgekitError as error:
    sys.exit(f"error: {error}")
"""


def visible(folder: Path) -> list[str]:
    """Names that a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def converting(root: Path, photos: Path) -> Command:
    """A conversion into a folder that holds an older bundle, and whose temporary files go to one of their own."""
    out, temporary, name = root / "out", root / "tmp", "detector-onnx-int8"
    temporary.mkdir()

    def whole() -> None:
        found = [path for path in (out / name, out / f".{name}.replaced") if path.exists()]
        assert found or not (root / "once").exists(), "the old bundle is lost"
        assert not found or open_bundle(found[0]).manifest.proven
        assert not out.exists() or set(visible(out)) <= {name}

    def done() -> None:
        (root / "once").touch()
        assert [path.name for path in out.iterdir()] == [name]
        assert open_bundle(out / name).manifest.proven
        assert not list(temporary.iterdir()), "temporary files"

    given = ("convert", SOURCE, "--target", "onnx", "--precision", "int8", "--recipe", "plan", "--no-contact-sheet")
    more = ("-j", "1", "--data", str(photos), "-o", str(out))
    return Command("convert", MAIN, (*given, *more), whole, done, {"TMPDIR": str(temporary)})


def calibrating(root: Path, photos: Path) -> Command:
    """A plan, in place of an older one."""
    out, temporary = root / "plan", root / "tmp"
    temporary.mkdir()

    def whole() -> None:
        there = out if out.exists() else out.with_name(".plan.replaced")
        assert there.exists() or not (root / "tmp" / "once").exists(), "the old plan is lost"
        if there.exists():
            read_plan(there)
        assert set(visible(root)) <= {"plan", "tmp"}

    def done() -> None:
        whole()
        assert (out / "plan.json").exists()
        assert sorted(path.name for path in root.iterdir()) == ["plan", "tmp"]
        (temporary / "once").touch()
        assert [path.name for path in temporary.iterdir()] == ["once"], "temporary files"

    given = ("calibrate", SOURCE, "--data", str(photos), "-o", str(out))
    return Command("calibrate", MAIN, given, whole, done, {"TMPDIR": str(temporary)})


def installing(root: Path, photos: Path) -> Command:
    """A toolchain of one small wheel, fetched from a folder by pip."""
    from test_toolchains import write_wheel

    from edgekit.worker import toolchains

    (root / "index").mkdir()
    write_wheel(root / "index")
    place = root / "toolchains"

    def whole() -> None:
        if (place / "tiny" / toolchains.RECORD).exists():
            assert list((place / "tiny").rglob("tiny_tool.py")), "it counts as installed, and is not"

    def done() -> None:
        whole()
        assert (place / "tiny" / toolchains.RECORD).exists()
        assert not list(place.rglob("*.lock"))
        shutil.rmtree(place / "tiny")  # to be made again

    given = {"EDGEKIT_TOOLCHAINS": str(place), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(root / "index")}
    return Command("toolchain install", INSTALL, (), whole, done, given)


def profiling(root: Path, photos: Path) -> Command:
    """A profile of a small bundle, kept in a store."""
    bundle, store = write_tiny_bundle(root / "tiny"), root / "store.jsonl"

    def whole() -> None:
        from edgekit.profiling.records.store import read_records

        if store.exists():
            read_records(store)  # raises where a record is half

    def done() -> None:
        whole()
        assert store.exists()
        open_bundle(bundle)

    given = ("profile", str(bundle), "--rounds", "2", "--seconds", "0.1", "--store", str(store))
    return Command("profile", MAIN, given, whole, done, {})


def delivering(root: Path, server: Loopback) -> Command:
    """A bundle that is brought to a device, whose agent is one of the processes that are killed."""
    far = root / "far"
    bundle = write_bundle(root / "cells", {**FILES, "weights.bin": os.urandom(30_000_000)}).path

    def whole() -> None:
        for manifest in far.glob(f"bundles/*/*/{MANIFEST}"):
            if not manifest.parts[-3].endswith(".partial"):  # what is being unpacked, and is renamed when it is whole
                open_bundle(manifest)

    def done() -> None:
        whole()
        assert len(list(far.glob(f"bundles/*/*/{MANIFEST}"))) == 1
        shutil.rmtree(far / "bundles")

    given = (server.url, str(server.identity), str(server.known_hosts), str(far), str(bundle))
    return Command("deliver", DELIVER, given, whole, done, {})


COMMANDS: dict[str, tuple[Callable[[Path, Path], Command], float]] = {
    "convert": (converting, 0.25),
    "calibrate": (calibrating, 0.15),
    "toolchain": (installing, 0.2),
    "profile": (profiling, 0.25),
}
TOGETHER = 10
"""Kills one after another before a run is left in peace, which has to clean up after them and succeed."""


def killed(command: Command, number: int, seed: int) -> list[str]:
    """Kill a command so many times, with a whole run after every few."""
    random, told = Random(f"{command.name} {seed}"), list[str]()
    seconds = command.finish()
    for turn in range(number):
        told.append(kill(command, random, seconds))
        if turn % TOGETHER == TOGETHER - 1 or turn == number - 1:
            command.finish()
    return told


@pytest.mark.nightly
@pytest.mark.parametrize("name", COMMANDS)
def test_kills_of_commands(name: str, tmp_path: Path) -> None:
    made, share = COMMANDS[name]
    photos = write_pictures(tmp_path / "photos", 16)
    (tmp_path / "place").mkdir()
    told = killed(made(tmp_path / "place", photos), round(KILLS * share), SEED)
    print("", *told, sep="\n")


@pytest.mark.nightly
def test_kills_of_a_delivery(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with serving(tmp_path / "sshd") as server:
        told = killed(delivering(tmp_path, server), round(KILLS * 0.15), SEED)
    print("", *told, sep="\n")
