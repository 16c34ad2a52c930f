"""A real SSH server on this machine, with keys of its own, for tests of devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.profiling.devices.known import Device, described

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class Loopback:
    """A running server: its port, and files of the user and of the server."""

    port: int
    folder: Path

    @property
    def identity(self) -> Path:
        """The private key that is let in."""
        return self.folder / "user"

    @property
    def stranger(self) -> Path:
        """A private key that is not."""
        return self.folder / "stranger"

    @property
    def chatty(self) -> Path:
        """A private key whose shell prints things before it does what it was asked for."""
        return self.folder / "chatty"

    @property
    def host_key(self) -> Path:
        """The server's own public key."""
        return self.folder / "host.pub"

    @property
    def known_hosts(self) -> Path:
        """A file that knows the server."""
        return self.folder / "known_hosts"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ssh://127.0.0.1:{self.port}"


def key(path: Path) -> None:
    """A new pair of keys."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def known(host_key: Path, port: int) -> str:
    """The line of a known_hosts file that trusts a key."""
    return f"[127.0.0.1]:{port} {' '.join(host_key.read_text().split()[:2])}\n"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Loopback]:
    """Run sshd until the block ends; skips where there is none."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH: apt install openssh-server openssh-client")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # sshd of root starts with no folder for privilege separation
    server = Loopback(free_port(), folder)
    for name in ("host", "user", "stranger", "chatty"):
        key(folder / name)
    noise = r'command="echo Welcome; printf half-a-line; eval \"$SSH_ORIGINAL_COMMAND\""'
    lines = [(folder / "user.pub").read_text(), f"{noise} {(folder / 'chatty.pub').read_text()}"]
    (folder / "authorized").write_text("".join(lines))
    server.known_hosts.write_text(known(server.host_key, server.port))
    (folder / "config").write_text(
        f"Port {server.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
    )
    log = (folder / "log").open("wb")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log, start_new_session=True)
    try:
        _wait(server.port, process, folder / "log")
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.close()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text()}")
        time.sleep(0.05)
    pytest.fail(f"sshd does not listen: {log.read_text()}")


def processes_of(marker: str) -> list[int]:
    """Processes of this machine whose command line names something."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A running sshd."""
    with serving(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def device(server: Loopback, tmp_path: Path) -> Device:
    """This machine as a device, with a folder of its own for one test."""
    return described(
        "loop",
        server.url,
        identity=str(server.identity),
        known_hosts=str(server.known_hosts),
        python=sys.executable,
        folder=str(tmp_path / "far"),
    )
