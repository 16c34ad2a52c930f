"""Devices over SSH: the list of them, connections to a real sshd, and what is brought there."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, free_port, known
from sample_bundles import FILES, write_bundle

from edgekit.cli import edgekit
from edgekit.errors import DeviceError, InputError, UsageError
from edgekit.profiling.devices import agent, environment
from edgekit.profiling.devices import known as book
from edgekit.profiling.devices.connection import Connection
from edgekit.profiling.devices.delivery import Content, Tree, bundle_tree, code_tree, data_tree, deliver, wheels_tree


@pytest.fixture(autouse=True)
def devices_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of devices for one test."""
    monkeypatch.setenv("EDGEKIT_DEVICES", str(tmp_path / "lists" / "devices.json"))
    return tmp_path / "lists" / "devices.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(edgekit, ["device", *arguments])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# The list


def test_devices_are_added_listed_and_removed(devices_file: Path, tmp_path: Path) -> None:
    assert "no devices yet" in run("list").output
    (tmp_path / "key").touch()
    assert run("add", "pi5", "ssh://pi@10.0.0.7:2222", "--identity", str(tmp_path / "key")).exit_code == 0
    assert run("add", "Jetson.2", "ssh://Orin-Alias").exit_code == 0
    pi, jetson = json.loads(run("list", "--json").output)
    assert (pi["name"], pi["host"], pi["user"], pi["port"]) == ("pi5", "10.0.0.7", "pi", 2222)
    assert (jetson["host"], jetson["user"], jetson["port"], jetson["folder"]) == ("Orin-Alias", "", 0, "~/.edgekit")
    assert "ssh://pi@10.0.0.7:2222" in run("list").output
    assert names(devices_file.parent) == [".devices.json.lock", "devices.json"]
    assert run("remove", "pi5").exit_code == 0
    assert list(book.devices()) == ["Jetson.2"]


def test_devices_that_are_added_at_once_are_all_there(devices_file: Path) -> None:
    """Eight processes, which each read the list and write it."""
    code = (
        "import sys; from edgekit.profiling.devices import known; sys.stdin.read(1); "
        "known.add(known.described(sys.argv[1], 'ssh://host'))"
    )
    adding = [
        subprocess.Popen([sys.executable, "-c", code, f"d{number}"], stdin=subprocess.PIPE) for number in range(8)
    ]
    for process in adding:
        process.communicate(b"!")
    assert [process.returncode for process in adding] == [0] * 8
    assert sorted(book.devices()) == [f"d{number}" for number in range(8)]
    assert names(devices_file.parent) == [".devices.json.lock", "devices.json"]


def test_the_list_is_in_the_configuration_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEKIT_DEVICES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    book.add(book.described("a", "ssh://b"))
    assert book.path() == tmp_path / "edgekit" / "devices.json"
    assert book.path().is_file()


@pytest.mark.parametrize(
    ("name", "url", "options", "message"),
    [
        ("a b", "ssh://h", {}, "'a b' cannot name a device"),
        ("-x", "ssh://h", {}, "cannot name a device"),
        ("a", "ssh://pi:secret@h", {}, "a password does not belong in a URL.*ssh-copy-id"),
        ("a", "ssh://pi:se@cr:et@h", {}, "a password does not belong"),
        ("a", "http://h", {}, r"is not ssh://\[user@\]host\[:port\]"),
        ("a", "h", {}, "is not ssh://"),
        ("a", "ssh://h/path", {}, "is not ssh://"),
        ("a", "ssh://-oProxyCommand=x", {}, "is not a host"),
        ("a", "ssh://", {}, "'' is not a host"),
        ("a", "ssh://-l@h", {}, "'-l' is not a user"),
        ("a", "ssh://@h", {}, "'' is not a user"),
        ("a", "ssh://h:0", {}, "the port must be 1 to 65535, not '0'"),
        ("a", "ssh://h:x", {}, "not 'x'"),
        ("a", "ssh://h:70000", {}, "not '70000'"),
        ("a", "ssh://h", {"identity": "/no/such"}, "--identity /no/such: no such file"),
        ("a", "ssh://h", {"known_hosts": "/no/such"}, "--known-hosts /no/such: no such file"),
        ("a", "ssh://h", {"python": "~/python"}, "an absolute path there"),
        ("a", "ssh://h", {"python": "-c"}, "an absolute path there"),
        ("a", "ssh://h", {"folder": "relative"}, "--folder relative: give an absolute path on the device"),
    ],
)
def test_what_is_unusable_is_refused(name: str, url: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        book.described(name, url, **options)


HOST_NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True) | st.just("fe80::1%eth0")


@given(host=HOST_NAME, user=st.from_regex(r"[a-z][a-z0-9_-]{0,8}|", fullmatch=True), port=st.integers(0, 65535))
def test_a_url_survives_being_read(host: str, user: str, port: int) -> None:
    first = book.Device(name="a", host=host, user=user, port=port)
    assert book.described("a", first.url) == first


def test_unknown_names_are_answered_with_the_known(devices_file: Path) -> None:
    with pytest.raises(UsageError, match="there are none yet: edgekit device add pi ssh://"):
        book.device("pi")
    book.add(book.described("pi5", "ssh://h"))
    with pytest.raises(UsageError, match="'pi' is not one of: pi5"):
        book.device("pi")
    with pytest.raises(UsageError, match="there is a device 'pi5' already"):
        book.add(book.described("pi5", "ssh://other"))
    devices_file.write_text("{")
    with pytest.raises(DeviceError, match=r"not a list of devices.*move it away"):
        book.devices()


def test_a_list_that_cannot_be_written_says_so(devices_file: Path) -> None:
    devices_file.parent.write_text("a file where a folder should be")
    with pytest.raises(DeviceError, match="cannot be"):
        book.add(book.described("a", "ssh://h"))


# Connections


def refusal(device: book.Device, **changes: Any) -> str:
    with pytest.raises(DeviceError) as raised, Connection(msgspec.structs.replace(device, **changes)):
        pass
    return str(raised.value)


def fingerprint(public: Path) -> str:
    listed = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True)
    return listed.stdout.split()[1]


def test_a_device_says_what_it_is(device: book.Device, server: Loopback) -> None:
    for identity in (server.identity, server.chatty):
        with Connection(msgspec.structs.replace(device, identity=str(identity))) as connection:
            assert connection.facts.python == ".".join(str(part) for part in sys.version_info[:3])
            assert connection.facts.folder == device.folder
            assert connection.facts.free > 0
            assert not connection.facts.environment
    assert not Path(device.folder).exists()  # looking changes nothing


def test_paths_may_have_spaces_and_begin_at_home(device: book.Device, server: Loopback, tmp_path: Path) -> None:
    spaced = tmp_path / "it's a path"
    spaced.mkdir()
    identity, known_hosts = shutil.copy(server.identity, spaced), shutil.copy(server.known_hosts, spaced)
    python = script(spaced / "my python", f'HOME="$(dirname "$0")" exec {sys.executable} "$@"')
    changes = {"identity": identity, "known_hosts": known_hosts, "python": python, "folder": "~/far away"}
    with Connection(msgspec.structs.replace(device, **changes)) as connection:
        assert connection.ask("missing", list[bool], trees=[["data", "a" * 64]]) == [True]
    assert (spaced / "far away" / agent.MARKER).is_file()


def test_an_unknown_host_key_is_refused_with_its_fingerprint(
    device: book.Device, server: Loopback, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    message = refusal(device, known_hosts=str(tmp_path / "empty"))
    assert f"its host key is not known yet: ssh-ed25519 {fingerprint(server.host_key)}" in message
    assert f"ssh -p {server.port}" in message
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_changed_host_key_is_refused(device: book.Device, server: Loopback, tmp_path: Path) -> None:
    other = tmp_path / "known"
    other.write_text(known(server.stranger.with_suffix(".pub"), server.port))
    message = refusal(device, known_hosts=str(other))
    assert "its host key is not the one that is known" in message
    assert fingerprint(server.host_key) in message
    assert f"line 1 of {other}" in message


def test_a_wrong_key_is_refused(device: book.Device, server: Loopback, tmp_path: Path) -> None:
    assert f"does not let the key {server.stranger} in" in refusal(device, identity=str(server.stranger))
    exposed = tmp_path / "exposed"
    shutil.copy(server.identity, exposed)
    exposed.chmod(0o644)
    message = refusal(device, identity=str(exposed))
    assert f"the key {exposed} cannot be used" in message
    assert "chmod 600" in message
    exposed.write_text("not a key")
    exposed.chmod(0o600)
    assert f"the key {exposed} cannot be used" in refusal(device, identity=str(exposed))


def test_what_does_not_answer_is_named(device: book.Device) -> None:
    port = free_port()
    assert f"ssh://127.0.0.1:{port} does not answer" in refusal(device, port=port)
    assert "there is no host 'nowhere.invalid'" in refusal(device, host="nowhere.invalid")


def test_a_missing_or_old_python_is_named(device: book.Device, tmp_path: Path) -> None:
    assert "there is no python4 on the device" in refusal(device, python="python4")
    lie = "import sys; sys.version_info = (3, 8, 10); exec(sys.argv.pop(1))"
    old = script(tmp_path / "python3.8", f"shift; exec {sys.executable} -c '{lie}' \"$@\"")
    assert f"its {old} is Python 3.8.10: install Python 3.10 or newer" in refusal(device, python=old)
    broken = script(tmp_path / "broken", "echo no such library >&2; exit 5")
    assert f"{broken} on the device ended with code 5 (no such library)" in refusal(device, python=broken)


def test_what_is_not_edgekits_agent_is_found_out(device: book.Device, tmp_path: Path) -> None:
    other = script(tmp_path / "other", "printf '\\nedgekit-agent 3.11.0\\nwhat?\\n'; exec cat > /dev/null")
    assert "the device sent an unexpected message: 'what?'" in refusal(device, python=other)


def test_an_endless_greeting_is_not_waited_for(device: book.Device, tmp_path: Path) -> None:
    assert "prints without end" in refusal(device, python=script(tmp_path / "yes", "exec yes"))


def test_no_ssh_here_is_said(device: book.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no ssh on this machine" in refusal(device)


# Delivery


def far(device: book.Device, *parts: str) -> Path:
    return Path(device.folder).joinpath(*parts)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def one_file(path: Path, content: bytes) -> Tree:
    """A tree of a file that has a content now."""
    path.write_bytes(content)
    return Tree("data", {path.name: Content(path, hashlib.sha256(content).hexdigest(), len(content))})


def partials(device: book.Device) -> list[Path]:
    return list(far(device).glob("*/*.partial"))


def test_a_bundle_is_brought_once(device: book.Device, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "cells")
    (bundle.path / "notes.txt").write_text("not of the bundle")
    tree = bundle_tree(bundle)
    told = list[tuple[int, int]]()
    with Connection(device) as connection:
        first = deliver(connection, [tree], lambda *sent: told.append(sent))
        again = deliver(connection, [tree])
    with Connection(device) as connection:
        later = deliver(connection, [tree, tree])
    assert first.bytes == tree.bytes
    assert told[-1] == (tree.bytes, tree.bytes)
    assert (again.bytes, again.paths) == (0, first.paths)
    assert (later.bytes, later.paths) == (0, first.paths * 2)
    there = Path(first.paths[0], "cells")
    assert names(there) == ["manifest.json", "model.bin", "parts"]
    assert (there / "parts" / "weights.bin").read_bytes() == FILES["parts/weights.bin"]
    assert names(far(device)) == [agent.MARKER, "bundles"]
    assert partials(device) == []


def test_only_what_differs_is_sent(device: book.Device, tmp_path: Path) -> None:
    first = bundle_tree(write_bundle(tmp_path / "a" / "cells"))
    changed = bundle_tree(write_bundle(tmp_path / "b" / "cells", {**FILES, "parts/weights.bin": b"others"}))
    told = list[tuple[int, int]]()
    with Connection(device) as connection:
        deliver(connection, [first])
        sent = deliver(connection, [first, changed, one_file(tmp_path / "x", b"12345")], lambda *now: told.append(now))
    assert sent.bytes == changed.bytes + 5
    assert told == sorted(told)
    assert told[-1] == (sent.bytes, sent.bytes)
    assert len(names(far(device, "bundles"))) == 2


@pytest.mark.parametrize("how", ["altered", "missing", "added"])
def test_what_was_damaged_there_is_sent_again(device: book.Device, tmp_path: Path, how: str) -> None:
    tree = bundle_tree(write_bundle(tmp_path / "cells"))
    with Connection(device) as connection:
        (path,) = deliver(connection, [tree]).paths
        file = Path(path, "cells", "model.bin")
        if how == "missing":
            file.unlink()
        else:
            (file if how == "altered" else file.with_name("more")).write_bytes(b"x")
        assert deliver(connection, [tree]).bytes == tree.bytes
        assert deliver(connection, [tree]).bytes == 0
    assert file.read_bytes() == FILES["model.bin"]
    assert not file.with_name("more").exists()


@pytest.mark.parametrize("length", [0, 2000, 3000, 9000])
def test_a_file_that_changes_while_it_is_sent_is_named(device: book.Device, tmp_path: Path, length: int) -> None:
    tree = one_file(tmp_path / "model", os.urandom(3000))
    (tmp_path / "model").write_bytes(bytes(length))
    with Connection(device) as connection:
        with pytest.raises(DeviceError, match=f"{tmp_path / 'model'} changed while it was sent: is something writing"):
            deliver(connection, [tree])
        assert names(far(device, "data")) == []


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 10240, (1 << 20) - 1, (1 << 20) + 1])
def test_archives_of_every_size_arrive_whole(device: book.Device, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    with Connection(device) as connection:
        (path,) = deliver(connection, [one_file(tmp_path / f"{'long name ' * 20}é", content)]).paths
        assert connection.ask("purge", int, places=["venv"]) == 0  # the next request is understood
    (file,) = Path(path).iterdir()
    assert file.read_bytes() == content


def test_an_interrupted_delivery_leaves_nothing(device: book.Device, tmp_path: Path) -> None:
    tree = bundle_tree(
        write_bundle(tmp_path / "cells", {"model.bin": os.urandom(20_000_000), "parts/weights.bin": b""})
    )
    with Connection(device) as connection:
        pid = connection.pid

        def cut(sent: int, every: int) -> None:
            if sent > every / 2:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(DeviceError, match="the connection was lost"):
            deliver(connection, [tree], cut)
    wait_for(lambda: names(far(device, "bundles")) == [])
    with Connection(device) as connection:
        assert (Path(deliver(connection, [tree]).paths[0]) / "cells" / "manifest.json").is_file()


def test_what_a_killed_agent_left_is_swept(device: book.Device, tmp_path: Path) -> None:
    left = far(device, "data", f"{'0' * 64}.partial")
    with Connection(device) as connection:
        connection.ask("missing", list[bool], trees=[])
        left.mkdir(parents=True)
        (left / "half").touch()
        deliver(connection, [one_file(tmp_path / "x", b"1")])
    assert not left.exists()


def test_two_deliveries_at_once_do_not_mix(device: book.Device, tmp_path: Path) -> None:
    tree = one_file(tmp_path / "model", os.urandom(3_000_000))
    refused = list[str]()

    def second(sent: int, every: int) -> None:
        wait_for(lambda: partials(device) != [])
        with Connection(device) as connection, pytest.raises(DeviceError) as raised:
            deliver(connection, [tree])
        refused.append(str(raised.value))

    with Connection(device) as connection:
        deliver(connection, [tree], second)
    assert refused
    assert "something is being measured or sent there already; wait until that is done" in refused[0]
    assert hashlib.sha256(Path(far(device, "data", tree.digest, "model")).read_bytes()).hexdigest() == (
        tree.files["model"].sha256
    )


def test_edgekit_itself_is_brought_as_it_stands(device: book.Device) -> None:
    tree = code_tree()
    assert {"edgekit/profiling/session.py", "edgekit/emulators/web/session.mjs"} <= set(tree.files)
    assert not [name for name in tree.files if name.endswith((".safetensors", ".pyc"))]
    assert not [name for name in tree.files if name.startswith(("edgekit/conversion", "edgekit/profiling/devices"))]
    with Connection(device) as connection:
        first, again = deliver(connection, [tree]), deliver(connection, [tree])
    code = Path(first.paths[0])
    assert again.bytes == 0
    assert list((code / "edgekit" / "__pycache__").glob("errors.*.pyc"))
    command = [sys.executable, "-P", "-c", "import edgekit.runtimes.bundle.folder; print(edgekit.__file__)"]
    if sys.version_info < (3, 11):
        command.remove("-P")
    done = subprocess.run(command, env={"PYTHONPATH": str(code)}, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str(code / "edgekit" / "__init__.py")


def test_modules_of_ones_own_go_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_single.py").write_text("")
    for name in ("__init__.py", "sub/__init__.py", "sub/heads.py", "notes.txt"):
        (tmp_path / "own_package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own_package" / name).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    files = set(code_tree(("own_single", "own_package.sub.heads")).files) - set(code_tree().files)
    package = {f"own_package/{name}" for name in ("__init__.py", "sub/__init__.py", "sub/heads.py")}
    assert files == {"own_single.py", *package}
    with pytest.raises(UsageError, match="--import sys: only modules and packages in Python files can be sent"):
        code_tree(("sys",))


def test_what_a_device_gets_needs_nothing_else_of_edgekit() -> None:
    files = code_tree().files
    there = {Path(name).parts[1].removesuffix(".py") for name in files} | {"__version__"}
    wanted = set[str]()
    for name in set(files) - {"edgekit/__init__.py"}:  # whose names are only resolved when they are used
        for node in ast.walk(ast.parse(files[name].path.read_bytes()) if name.endswith(".py") else ast.Module([], [])):
            if isinstance(node, ast.ImportFrom) and node.module == "edgekit":
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgekit."):
                wanted.add(str(node.module).split(".")[1])
    assert {"runtimes", "worker"} < wanted <= there


def test_images_by_every_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.txt"):
        (tmp_path / name).write_bytes(name.encode())
    folder, none = data_tree(str(tmp_path), 64)
    assert (sorted(folder.files), none) == (["0000-a.jpg", "0001-b.png"], "")
    assert list(data_tree(str(tmp_path), 1)[0].files) == ["0000-a.jpg"]
    assert list(data_tree(f"{tmp_path}/*.png", 64)[0].files) == ["0000-b.png"]
    single, name = data_tree(str(tmp_path / "b.png"), 64)
    assert (list(single.files), name) == (["b.png"], "b.png")
    with pytest.raises(InputError):
        data_tree(str(tmp_path / "nothing"), 64)
    with pytest.raises(UsageError, match="no wheels"):
        wheels_tree(tmp_path)


def test_no_room_is_said_before_anything_is_sent(device: book.Device, tmp_path: Path) -> None:
    huge = Tree("data", {"huge": Content(tmp_path / "huge", "a" * 64, 1 << 60)})
    wanted = r"1152921504606\.8 MB have to go to .* MB are free: free some space"
    with Connection(device) as connection, pytest.raises(DeviceError, match=wanted):
        deliver(connection, [huge], lambda sent, every: pytest.fail("it was sent"))


def test_a_full_disk_is_named(device: book.Device, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs a small disk: unshare -rm is not allowed here")
    far(device).mkdir()
    mount = f'mount -t tmpfs -o size=200k tmpfs {device.folder} && exec {sys.executable} "$@"'
    small = script(tmp_path / "small", f"exec unshare -rm sh -c '{mount}' sh \"$@\"")
    tree = one_file(tmp_path / "model", os.urandom(400_000))
    with Connection(msgspec.structs.replace(device, python=small)) as connection:
        assert connection.facts.free < 250_000
        connection.facts = msgspec.structs.replace(connection.facts, free=1 << 60)  # it was free when it was asked
        with pytest.raises(DeviceError, match="its disk is full"):
            deliver(connection, [tree])


def test_a_folder_of_the_users_own_is_left_alone(device: book.Device) -> None:
    far(device, "code").mkdir(parents=True)
    far(device, "code", "mine.c").touch()
    for request in ({"do": "missing", "trees": []}, {"do": "purge", "places": []}):
        with Connection(device) as connection, pytest.raises(DeviceError, match=r"is not edgekit's; add .* --folder"):
            connection.ask(answer=Any, **request)
    assert far(device, "code", "mine.c").exists()


def test_a_folder_that_may_not_be_written_is_named(device: book.Device) -> None:
    closed = msgspec.structs.replace(device, folder="/proc/edgekit")
    with Connection(closed) as connection, pytest.raises(DeviceError, match="/proc/edgekit"):
        connection.ask("missing", list[bool], trees=[])


def tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """An archive with one entry."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


@pytest.mark.parametrize(
    "archive",
    [tar("../out"), tar("a/../../out"), tar("/out"), tar("link", tarfile.SYMTYPE), tar("link", tarfile.LNKTYPE)],
)
def test_an_archive_keeps_to_its_folder(device: book.Device, archive: bytes) -> None:
    with Connection(device) as connection, pytest.raises(DeviceError, match=r"leaves its folder"):
        connection.ask("unpack", type(None), [archive], place="data", digest="a" * 64)
    wait_for(lambda: names(far(device, "data")) == [])
    assert not far(device, "out").exists()


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "unpack", "place": "data", "digest": "a" * 64, "archive": [tar("x")]},
        {"do": "unpack", "place": "venv", "digest": "a" * 64, "archive": []},
        {"do": "unpack", "place": "data", "digest": "../..", "archive": []},
        {"do": "missing", "trees": [["data", "../../etc/passwd"]]},
        {"do": "become", "arguments": ["/no/such/python"], "environment": {}},
    ],
)
def test_the_agent_keeps_to_its_folder(device: book.Device, request_: dict[str, Any]) -> None:
    with (
        Connection(device) as connection,
        pytest.raises(DeviceError, match=r"other content|no such place|not there"),
    ):
        connection.ask(answer=Any, **request_)
    wait_for(lambda: names(far(device, "data")) == [])


def test_what_runs_there_ends_with_the_connection(device: book.Device, tmp_path: Path) -> None:
    lines = list[str]()
    code = "import os, time; print(os.getpid()); print('half', end='', flush=True); time.sleep({})"
    with Connection(device) as connection:
        command = [sys.executable, "-c", code.format(0)]
        assert connection.ask("run", int, heard=lines.append, arguments=command, environment={}) == 0
        assert lines[1] == "half"

        def cut(line: str) -> None:
            lines.append(line)
            os.kill(connection.pid, signal.SIGKILL)

        command = [sys.executable, "-c", code.format(1000)]
        with pytest.raises(DeviceError, match="the connection was lost"):
            connection.ask("run", int, heard=cut, arguments=command, environment={})
    pid = lines[2]
    wait_for(lambda: not Path("/proc", pid).exists())


def test_the_agent_needs_only_the_standard_library() -> None:
    source = Path(agent.__file__).read_text()
    imports = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert imports <= {*sys.stdlib_module_names}


# The environment there, as far as it goes without one


def test_requirements_come_from_the_packages_own_extras() -> None:
    found = environment.requirements(["onnxruntime"])
    assert {text.partition(">")[0] for text in found} == {
        "click", "msgspec", "numpy", "opencv-python-headless", "rich", "onnxruntime",
    }  # fmt: skip
    assert any(text.startswith("coremltools") and "darwin" in text for text in environment.requirements(["coreml"]))
    with pytest.raises(UsageError, match=r"'tflite' is not one of: .*litert"):
        environment.requirements(["tflite"])
    with pytest.raises(UsageError, match=r"tensorrt is not installed by pip .*--system-site-packages"):
        environment.requirements(["tensorrt"])
    assert set(environment.requirements(["tensorrt"], system_packages=True)) < set(found)


def test_extras_that_an_old_installation_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy>=1", "onnxruntime>=1; extra == 'onnx'"])
    assert environment.requirements(["onnxruntime"]) == ("numpy>=1", "onnxruntime>=1")
    with pytest.raises(UsageError, match="does not list its extra language: install edgekit again"):
        environment.requirements(["onnxruntime", "language"])


def test_a_python_without_venv_is_named(device: book.Device, tmp_path: Path) -> None:
    words = "The virtual environment was not created because ensurepip is not available."
    bare = script(tmp_path / "bare", f"echo '{words}'; exit 1")
    lie = f'import sys; sys.executable = "{bare}"; exec(sys.argv.pop(1))'
    python = script(tmp_path / "python3", f"shift; exec {sys.executable} -c '{lie}' \"$@\"")
    book.add(msgspec.structs.replace(device, python=python))
    done = run("setup", "loop", "--engine", "onnxruntime")
    assert "its Python cannot make an environment" in str(done.exception)
    assert "sudo apt install python3-venv" in str(done.exception)


def test_check_of_a_device_that_is_not_set_up(device: book.Device) -> None:
    book.add(device)
    checked = run("check", "loop")
    assert checked.exit_code == 1
    assert "engines that run there: none; edgekit device setup loop" in checked.output


@pytest.mark.clean
@pytest.mark.nightly
def test_wheels_that_do_not_fit_leave_no_environment(device: book.Device, tmp_path: Path) -> None:
    book.add(device)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "numpy-2.0.0-cp27-cp27m-win32.whl").write_bytes(b"not a wheel")
    done = run("setup", "loop", "--engine", "onnxruntime", "--wheels", str(tmp_path / "wheels"))
    assert isinstance(done.exception, DeviceError)
    assert "pip could not install (ERROR: No matching distribution" in str(done.exception)
    assert not far(device, "venv").exists()
    assert run("remove", "loop", "--purge").exit_code == 0
    assert not far(device).exists()
