"""HOST: the system's ssh: its command line, and what its complaints mean.

The user's own configuration, agent and hardware keys hold. A host key is never accepted or stored here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from edgekit.errors import DeviceError
from edgekit.profiling.devices.known import Device

_KEY = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"

CONNECT_SECONDS = 10
"""How long a device may take to answer at all."""

_OPTIONS = {
    "BatchMode": "yes",  # never asks; a question would wait for ever behind a progress bar
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",  # OpenSSH would else add the device's other keys to known_hosts
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": "5",  # a dead line is noticed after three of these
    "ServerAliveCountMax": "3",
    # A connection of our own: when its ssh ends, everything that it carried is known to have ended.
    "ControlMaster": "no",
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "EscapeChar": "none",
    "PermitLocalCommand": "no",
    "LogLevel": "ERROR",
}


def command(device: Device, remote: str, *, verbose: bool = False) -> list[str]:
    """The arguments of ssh that run a shell command on a device.

    Raises:
        DeviceError: there is no ssh on this machine.
    """
    if shutil.which("ssh") is None:
        raise DeviceError("there is no ssh on this machine: install OpenSSH's client (apt install openssh-client)")
    options = {**_OPTIONS, **({"LogLevel": "DEBUG1"} if verbose else {})}
    given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    return ["ssh", *given, *_own(device), device.host, remote]


def _own(device: Device) -> list[str]:
    """The options that are the device's own."""
    given = ["-p", str(device.port)] if device.port else []
    given += ["-l", device.user] if device.user else []
    given += ["-i", device.identity, "-o", "IdentitiesOnly=yes"] if device.identity else []
    return given + (["-o", f'UserKnownHostsFile="{device.known_hosts}"'] if device.known_hosts else [])


def by_hand(device: Device) -> str:
    """The same connection for a user to type, where ssh may ask."""
    return shlex.join(["ssh", *_own(device), device.host])


def explained(device: Device, code: int, stderr: Sequence[str]) -> DeviceError:
    """The error for a connection that ended before the agent spoke, with what to do.

    Args:
        device: which one.
        code: the exit code of ssh: its own is 255, others are of the command on the device.
        stderr: the lines that it wrote.
    """
    text = "\n".join(stderr)
    name, last = device.name, stderr[-1].strip() if stderr else "it said nothing"
    if code != 255:
        return _of_the_device(device, code, last)
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
        found, known = re.search(r"SHA256:[\w+/=]+", text), re.search(r"Offending .*? key in (.+):(\d+)", text)
        where = f" (line {known[2]} of {known[1].strip()})" if known else ""
        return DeviceError(
            f"{name}: its host key is not the one that is known{where}: either the device was set up anew, or "
            f"something else answers in its place. It shows {found[0] if found else 'another key'}. If '{_KEY}' says "
            f"that on the device itself, remove that line and connect once by hand: {by_hand(device)}"
        )
    if "Host key verification failed" in text:
        return DeviceError(
            f"{name}: its host key is not known yet: {_fingerprint(device)}. Compare it with what '{_KEY}' "
            f"(or the key of that type) says on the device itself, then connect once by hand and answer ssh's question "
            f"with that fingerprint: {by_hand(device)}"
        )
    unusable = [line for line in stderr if "Load key" in line and device.identity and device.identity in line]
    if unusable:
        advice = (
            "a private key that others can read is ignored: chmod 600"
            if "permissions" in unusable[0]
            else "make a new one"
        )
        return DeviceError(f"{name}: the key {device.identity} cannot be used ({unusable[0].strip()}): {advice}")
    if "Permission denied" in text:
        with_key = f"the key {device.identity}" if device.identity else "your keys (~/.ssh, ssh-agent)"
        return DeviceError(
            f"{name}: {device.url} does not let {with_key} in ({last}): put the public key there with ssh-copy-id, "
            f"load a key that has a passphrase with ssh-add, or give another one with --identity"
        )
    if "Could not resolve" in text:
        return DeviceError(f"{name}: there is no host {device.host!r} ({last}): check its name and your network")
    if re.search(r"refused|timed out|No route|unreachable|closed by|reset by|kex_exchange", text):
        return DeviceError(
            f"{name}: {device.url} does not answer ({last}): is it switched on and in this network, and does its "
            f"SSH server run?"
        )
    return DeviceError(f"{name}: ssh to {device.url} failed ({last}); try it by hand: {by_hand(device)}")


def _of_the_device(device: Device, code: int, last: str) -> DeviceError:
    """Why the command there said nothing."""
    if code in (126, 127):
        return DeviceError(
            f"{device.name}: there is no {device.python} on the device ({last}): install Python 3.10 or newer "
            f"there, or say where it is: edgekit device add ... --python /path/to/python3"
        )
    return DeviceError(f"{device.name}: {device.python} on the device ended with code {code} ({last})")


def _fingerprint(device: Device) -> str:
    """Type and fingerprint of the key that the device shows, as a connection like this sees it (through jump hosts)."""
    unknown = "its fingerprint could not be asked for"
    try:
        done = subprocess.run(
            command(device, "true", verbose=True),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            timeout=3 * CONNECT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return unknown
    found = re.search(r"Server host key: (\S+) (SHA256:\S+)", done.stderr)
    return f"{found[1]} {found[2]}" if found else unknown
