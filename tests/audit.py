"""Watching a command for what it fetches or installs, in every process that it starts.

Python processes get an audit hook (PEP 578) through a ``sitecustomize`` on PYTHONPATH. Where it is allowed the command
also runs in a network namespace of its own with nothing in it, whose counters then tell of every packet that anything,
Python or not, wanted to send.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tiny_conversions import without_network

HOOK = """
import json, os, re, sys

def watch():
    log, block = os.environ["EDGEKIT_AUDIT_LOG"], os.environ.get("EDGEKIT_AUDIT_BLOCK")
    calls = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}
    network = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
               "socket.gethostbyaddr", "urllib.Request", "http.client.connect"}
    fetchers = re.compile(r"(^|[\\s/'\\"\\[(])(pip3?|uv|conda|npm|apt|apt-get|curl|wget|git)(?=$|[\\s'\\",\\])])")
    local = ("localhost", "127.0.0.1", "::1")

    def write(event, what):
        line = json.dumps([os.getpid(), event, what]) + "\\n"
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, line.encode())
        os.close(file)

    def hook(event, args):
        if event in network:
            if getattr(args[0], "family", None) == 1:  # AF_UNIX: between processes of one machine
                return
            # A socket between processes of one machine has a path for its address, not a pair.
            found = [arg for arg in args if isinstance(arg, (str, tuple))] or list(map(str, args))
            if event.startswith("socket.") and (isinstance(found[0], str) and "/" in found[0] or
                    str(found[0] if isinstance(found[0], str) else found[0][0]) in local):
                return
        elif event in calls:
            if not fetchers.search(repr(args[:2])):  # the rest is the folder and the environment
                return
        elif not (event == "import" and str(args[0]).startswith("pip._internal")):
            return
        write(event, repr(args[:2])[:300])
        if block:
            raise RuntimeError("blocked by the test: " + event)

    write("python", repr(sys.orig_argv)[:300])
    sys.addaudithook(hook)

if os.environ.get("EDGEKIT_AUDIT_LOG"):
    watch()
"""

COUNTERS = "/proc/net/snmp"


@dataclass(frozen=True)
class Watched:
    """What a command did: its end, its Python processes, what they tried to fetch, and packets that could not leave.

    ``unroutable`` is None where no network namespace can be made. ``left`` is what stayed in the folder for temporary
    files that it was given.
    """

    code: int
    stdout: str
    stderr: str
    pythons: list[str]
    attempts: list[str]
    unroutable: int | None
    changes: list[str]
    left: list[str]

    def record(self) -> dict[str, Any]:
        """For a JSON file, without what the command printed."""
        return {
            "pythons": len(self.pythons),
            "attempts": self.attempts,
            "unroutable": self.unroutable,
            "changes": self.changes,
            "left": self.left,
        }


AUTOMATION = (
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID"),
    *("BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"),
)
"""Variables of continuous integration. ONNX Runtime sends nothing where one of them is set: a watch would see less than
happens on a user's machine."""


def watch(
    command: Sequence[str], folder: Path, *, timeout: int = 1500, cwd: Path | None = None, **environment: str
) -> Watched:
    """Run a command to its end under the hook; ``folder`` is for the hook and its log, ``cwd`` where it is run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    log, counters, temporary = folder / "audit.log", folder / "counters", folder / "temporary"
    temporary.mkdir(exist_ok=True)
    path = os.pathsep.join([str(folder), *filter(None, [environment.pop("PYTHONPATH", os.environ.get("PYTHONPATH"))])])
    isolated = without_network()
    script = f'"$@"; code=$?; cat {COUNTERS} > {shlex.quote(str(counters))}; exit $code'
    at_a_users = {name: value for name, value in os.environ.items() if name not in AUTOMATION}
    before = packages()
    done = subprocess.run(
        [*isolated, "/bin/sh", "-c", script, "watched", *command] if isolated else list(command),
        env={**at_a_users, "PYTHONPATH": path, "EDGEKIT_AUDIT_LOG": str(log), "TMPDIR": str(temporary), **environment},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    return Watched(
        code=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        pythons=[what for _, event, what in events if event == "python"],
        attempts=[f"{event} {what}" for _, event, what in events if event != "python"],
        unroutable=_unroutable(counters.read_text()) if isolated else None,
        changes=differences(before, packages()),
        left=sorted(path.name for path in temporary.iterdir()),
    )


def packages() -> dict[str, str]:
    """Everything that is installed: version, and when its list of files was written."""
    found = {}
    for one in metadata.distributions():
        record = Path(str(one.locate_file(""))) / f"{getattr(one, '_path', one.name)}" / "RECORD"
        stamp = record.stat().st_mtime_ns if record.is_file() else 0
        found[f"{one.name} in {one.locate_file('')}"] = f"{one.version} of {stamp}"
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Each package that came, went or changed."""
    names = sorted({*before, *after})
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names if before.get(name) != after.get(name)]


def _unroutable(counters: str) -> int:
    """Packets for which the kernel found no way: ``OutNoRoutes`` of IPv4."""
    names, values = re.findall(r"^Ip: (.*)$", counters, re.MULTILINE)
    return int(dict(zip(names.split(), values.split(), strict=True))["OutNoRoutes"])
