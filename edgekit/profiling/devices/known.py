"""HOST: the devices of this user: a JSON file of names and how to reach each by SSH.

It is ``$EDGEKIT_DEVICES``, else ``edgekit/devices.json`` in ``$XDG_CONFIG_HOME`` or ``~/.config``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgekit.errors import DeviceError, UsageError, choices
from edgekit.runtimes.bundle.manifest import Record
from edgekit.structures import from_json

FOLDER = "~/.edgekit"
"""Where edgekit's files lie on a device, when nothing else is asked for."""


class Device(Record, frozen=True, kw_only=True):
    """How to reach a device. What is empty (or port 0) is left to the user's own SSH configuration.

    ``python`` is a name on the device's PATH or an absolute path there, ``folder`` is where edgekit's files go.
    """

    name: str
    host: str
    user: str = ""
    port: int = 0
    identity: str = ""
    known_hosts: str = ""
    python: str = "python3"
    folder: str = FOLDER

    @property
    def url(self) -> str:
        """As it was given: ``ssh://pi@10.0.0.7:2222``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


class _List(Record, frozen=True, kw_only=True):
    devices: tuple[Device, ...] = ()


def described(
    name: str, url: str, *, identity: str = "", known_hosts: str = "", python: str = "python3", folder: str = FOLDER
) -> Device:
    """A device from what a user gives; ``identity`` and ``known_hosts`` are files here.

    Raises:
        UsageError: an unusable name, URL, file or folder; a password in the URL.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"{name!r} cannot name a device: use letters, digits, '.', '_' and '-' (at most 64)")
    user, host, port = _parts(url)
    for option, file in (("--identity", identity), ("--known-hosts", known_hosts)):
        if file and not Path(file).expanduser().is_file():
            raise UsageError(f"{option} {file}: no such file")
    if not python or python.startswith(("-", "~")) or not python.isprintable():
        raise UsageError(f"--python {python}: give a name on the device's PATH, or an absolute path there")
    if not folder.startswith(("/", "~/")) or not folder.isprintable():
        raise UsageError(f"--folder {folder}: give an absolute path on the device, or one that begins with ~/")
    return Device(
        name=name,
        host=host,
        user=user,
        port=port,
        identity=_absolute(identity),
        known_hosts=_absolute(known_hosts),
        python=python,
        folder=folder,
    )


def _parts(url: str) -> tuple[str, str, int]:
    """User, host and port of a URL. Not by urllib, which makes hosts lower-case: aliases in ~/.ssh/config are not."""
    found = re.fullmatch(r"ssh://(?:(?P<user>[^@/]*)@)?(?P<host>\[[^]]*\]|[^:/@]*)(?::(?P<port>[^/]*))?/?", url)
    if "@" in url and ":" in url.removeprefix("ssh://").rpartition("@")[0]:
        raise UsageError(
            "a password does not belong in a URL, where every process can read it: use a key (ssh-keygen, then "
            "ssh-copy-id) and ssh-agent, or --identity FILE"
        )
    if found is None:
        raise UsageError(f"{url!r} is not ssh://[user@]host[:port]")
    user, host, port = found["user"] or "", found["host"].strip("[]"), found["port"]
    # Both become arguments of ssh, where a leading '-' would be an option.
    if not re.fullmatch(r"[A-Za-z0-9_:.%][A-Za-z0-9_:.%-]*", host):
        raise UsageError(f"{url!r}: {host!r} is not a host; write ssh://[user@]host[:port]")
    if found["user"] is not None and not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.$-]*", user):
        raise UsageError(f"{url!r}: {user!r} is not a user; write ssh://[user@]host[:port]")
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"{url!r}: the port must be 1 to 65535, not {port!r}")
    return user, host, int(port or 0)


def _absolute(file: str) -> str:
    return str(Path(file).expanduser().absolute()) if file else ""


def path() -> Path:
    """The file that the list is in, there or not."""
    given = os.environ.get("EDGEKIT_DEVICES")
    if given:
        return Path(given)
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "edgekit" / "devices.json"


def devices() -> dict[str, Device]:
    """All devices by name, in the order that they were added.

    Raises:
        DeviceError: the file is damaged or cannot be read.
    """
    try:
        data = path().read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DeviceError(f"{path()}: cannot be read: {error.strerror}") from error
    try:
        known = from_json(data, _List).devices
    except msgspec.DecodeError as error:
        raise DeviceError(
            f"{path()}: not a list of devices ({error}); repair it, or move it away and add them again"
        ) from error
    return {one.name: one for one in known}


def device(name: str) -> Device:
    """One device.

    Raises:
        UsageError: no such device; the known ones are listed.
    """
    known = devices()
    if name in known:
        return known[name]
    if not known:
        raise UsageError(f"no device {name!r}, there are none yet: edgekit device add {name} ssh://user@host")
    raise UsageError(f"device {choices(name, known)}; add it with edgekit device add {name} ssh://user@host")


def add(new: Device) -> None:
    """Add a device to the list.

    Raises:
        UsageError: there is one of that name.
        DeviceError: the file cannot be written.
    """
    with _locked():
        known = devices()
        if new.name in known:
            raise UsageError(
                f"there is a device {new.name!r} already ({known[new.name].url}): "
                f"edgekit device remove {new.name}, or choose another name"
            )
        _write({**known, new.name: new})


def remove(name: str) -> Device:
    """Take a device off the list.

    Raises:
        UsageError: no such device.
        DeviceError: the file cannot be written.
    """
    with _locked():
        removed = device(name)
        _write({key: value for key, value in devices().items() if key != name})
    return removed


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """The right to change the list, which lasts no longer than this process."""
    lock = path().with_name(f".{path().name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = lock.open("ab")
    except OSError as error:
        raise DeviceError(f"{path()}: cannot be written: {error.strerror or error}") from error
    with held:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(held.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _write(known: dict[str, Device]) -> None:
    file = path()
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.format(msgspec.json.encode(_List(devices=tuple(known.values()))), indent=2)
        partial.write_bytes(content + b"\n")
        partial.replace(file)
    except OSError as error:
        raise DeviceError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
