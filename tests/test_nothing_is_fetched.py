"""No conversion fetches anything or changes an installed package; and the watch that says so sees those that do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from audit import Watched, differences, packages, watch
from real_conversions import Converted
from tiny_conversions import without_network
from tiny_onnx import write_tiny_bundle

from edgekit import converters

NOWHERE = "192.0.2.1"
"""An address that stands for nothing (RFC 5737)."""

IMPORTS = "import os, socket, subprocess, sys, urllib.request"


def run(code: str, folder: Path, **environment: str) -> Watched:
    """A line of Python under watch, where nothing that it tries can come to pass."""
    return watch([sys.executable, "-c", code], folder, timeout=60, EDGEKIT_AUDIT_BLOCK="1", **environment)


# --- conversions -----------------------------------------------------------------------------------------------------


@pytest.mark.convert
def test_nothing_is_fetched_by_any_conversion(target_bundles: Converted) -> None:
    """The one conversion of all targets and precisions that other tests look at runs under watch."""
    watched = target_bundles.watched
    assert watched["attempts"] == []
    assert watched["changes"] == []
    made = {bundle["target"] for bundle in target_bundles.report["bundles"]}
    here = {name for name in converters.target_names() if not converters.target(name).toolchains}
    assert {name for name in here if not converters.target(name).missing} <= made
    # The command itself, and the server that its stages are forked from, with its hook; tools come on top.
    assert watched["pythons"] >= 2


@pytest.mark.convert
def test_no_packet_leaves_any_conversion(target_bundles: Converted) -> None:
    """This sees native code too, and the tools that are not Python."""
    if target_bundles.watched["unroutable"] is None:
        pytest.skip("a network namespace of one's own is not allowed here (unshare -n)")
    assert target_bundles.watched["unroutable"] == 0


@pytest.mark.convert
def test_no_conversion_leaves_a_temporary_file(target_bundles: Converted) -> None:
    """coremltools, for one, leaves copies of the model, readable for everybody."""
    assert target_bundles.watched["left"] == []


# --- engines ---------------------------------------------------------------------------------------------------------

LONG_ENOUGH = 25
"""Seconds after which ONNX Runtime has tried to reach its maker several times, where it may."""

OPEN = """
import sys, time
import edgekit
from edgekit.emulators import proof_device
from edgekit.runtimes.bundle.folder import open_bundle
models = []
for path in sys.argv[2:]:
    bundle = open_bundle(path)
    models.append(edgekit.load(bundle, unit=proof_device(bundle.manifest.engine)))
time.sleep(float(sys.argv[1]))
"""


def opened(bundles: list[Path], seconds: float, folder: Path, **environment: str) -> Watched:
    """Bundles, all opened in one process that then waits."""
    return watch([sys.executable, "-c", OPEN, str(seconds), *map(str, bundles)], folder, timeout=300, **environment)


def test_onnx_runtime_is_told_to_keep_its_telemetry_off(tmp_path: Path) -> None:
    """It is native code: begun, it leaves a file where temporary files go, and ten seconds later looks its maker up."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install edgekit[onnx]")
    bundle = write_tiny_bundle(tmp_path / "bundle")
    off = opened([bundle], 0, tmp_path / "off")
    assert (off.code, off.left) == (0, []), off.stderr
    on = opened([bundle], 0, tmp_path / "on", ORT_DISABLE_TELEMETRY="0")
    assert (on.code, on.left) == (0, [".ses"]), on.stderr


@pytest.mark.nightly
@pytest.mark.convert
def test_no_engine_calls_home(target_bundles: Converted, tmp_path: Path) -> None:
    bundles = [Path(entry["path"]) for entry in target_bundles.report["bundles"] if entry["precision"] == "int8"]
    watched = opened(bundles, LONG_ENOUGH, tmp_path)
    assert watched.code == 0, watched.stderr
    assert watched.attempts == []
    assert set(watched.left) <= {"torchinductor_root"}  # torch's, which ExecuTorch's Python module imports
    if watched.unroutable is None:
        pytest.skip("a network namespace of one's own is not allowed here (unshare -n)")
    assert watched.unroutable == 0


@pytest.mark.nightly
def test_an_engine_that_calls_home_would_be_seen(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install edgekit[onnx]")
    watched = opened([write_tiny_bundle(tmp_path / "bundle")], LONG_ENOUGH, tmp_path, ORT_DISABLE_TELEMETRY="0")
    if watched.unroutable is None:
        pytest.skip("a network namespace of one's own is not allowed here (unshare -n)")
    assert watched.unroutable > 0


# --- the watch itself ------------------------------------------------------------------------------------------------


def test_the_hook_sees_every_process_and_no_harm_in_ordinary_ones(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'], check=True)"
    watched = run(code, tmp_path)
    assert (watched.code, watched.stdout) == (0, "1\n")
    assert len(watched.pythons) == 2
    assert watched.attempts == []
    assert watched.changes == []


def test_the_hook_is_inherited_by_forked_processes(tmp_path: Path) -> None:
    """Stages of a conversion are forked."""
    code = "import os, socket\nif not os.fork(): socket.getaddrinfo('nowhere.invalid', 80)\nelse: os.wait()"
    watched = run(code, tmp_path)
    assert len(watched.pythons) == 1
    assert any("nowhere.invalid" in one for one in watched.attempts)


def test_processes_of_one_machine_may_talk(tmp_path: Path) -> None:
    code = "import socket; one, other = socket.socketpair(); one.sendmsg([b'x']); print(other.recv(1))"
    watched = run(code, tmp_path)
    assert watched.stdout == "b'x'\n"
    assert watched.attempts == []


def test_a_connection_at_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "chatty.py").write_text(
        f"import socket\ntry: socket.create_connection(({NOWHERE!r}, 80), 0.1)\nexcept Exception: pass\n"
    )
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import chatty'], check=True)"
    watched = run(code, tmp_path / "log", PYTHONPATH=str(tmp_path / "modules"))
    assert watched.code == 0
    assert any(one.startswith("socket.") and NOWHERE in one for one in watched.attempts)


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run([sys.executable, '-m', 'pip', 'install', 'nothing'])",
        "subprocess.run('pip install nothing', shell=True)",
        "os.system('pip install -U nothing')",
        "os.system('/usr/bin/curl http://nowhere.invalid')",
        "subprocess.run(['npm', 'install'])",
        "os.execvp('git', ['git', 'clone', 'nothing'])",
        "__import__('pip._internal.cli.main')",
        "urllib.request.urlopen('http://nowhere.invalid')",
        "socket.getaddrinfo('nowhere.invalid', 80)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_every_way_to_fetch_is_seen(code: str, tmp_path: Path) -> None:
    script = tmp_path / "fetching.py"
    script.write_text(f"{IMPORTS}\ntry: {code}\nexcept RuntimeError as error: print(error)")
    outer = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, {str(script)!r}]).returncode)"
    watched = run(outer, tmp_path)
    assert "blocked by the test" in watched.stdout
    assert len(watched.attempts) >= 1


def test_mnns_own_tools_would_be_seen(tmp_path: Path) -> None:
    """They install a package when they are imported, and contact a server. Both are blocked here before they happen."""
    pytest.importorskip("_tools", reason="needs MNN: pip install edgekit[convert]")
    nowhere = {"PATH": "/nowhere"}  # a second lock on the same door
    # PATH is that of the watched command alone; the shell and unshare are found by the parent.
    installing = run(f"import os; os.environ.update({nowhere!r}); import MNN.tools.utils.log", tmp_path / "installing")
    assert any(one.startswith("os.system") and "pip install" in one for one in installing.attempts)
    assert installing.changes == []
    fake = tmp_path / "modules" / "aliyun" / "log"  # as if it had been installed
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("LogClient = PutLogsRequest = None\n")
    (fake / "logitem.py").write_text("LogItem = None\n")
    code = f"import os; os.environ.update({nowhere!r}); from MNN.tools.utils.log import MNNLogger; MNNLogger()"
    calling = run(code, tmp_path / "calling", PYTHONPATH=str(tmp_path / "modules"))
    assert any(one.startswith(("urllib.Request", "socket.")) for one in calling.attempts)


def test_native_code_that_sends_is_seen_by_the_kernel(tmp_path: Path) -> None:
    """The C library's own ``connect``, of which Python's audit hook knows nothing."""
    if not without_network():
        pytest.skip("a network namespace of one's own is not allowed here (unshare -n)")
    code = (
        "import ctypes, socket, struct; c = ctypes.CDLL(None); s = c.socket(2, 1, 0)\n"
        f"address = struct.pack('<H', 2) + struct.pack('>H', 80) + socket.inet_aton({NOWHERE!r}) + bytes(8)\n"
        "print(c.connect(s, address, len(address)))"
    )
    watched = run(code, tmp_path)
    assert watched.stdout == "-1\n"
    assert watched.attempts == []
    assert watched.unroutable is not None
    assert watched.unroutable > 0


def test_a_change_of_packages_is_seen() -> None:
    now = packages()
    assert len(now) > 20
    assert any(not value.endswith(" of 0") for value in now.values())
    assert differences(now, now) == []
    name = next(iter(now))
    assert differences(now, {**now, name: "9 of 9", "new": "1 of 1"}) == [
        f"{name}: {now[name]} -> 9 of 9",
        "new: None -> 1 of 1",
    ]
