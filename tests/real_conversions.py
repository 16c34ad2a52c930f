"""Conversions that several test files look at: made once for all workers, by the command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit import watch
from filelock import FileLock


@dataclass(frozen=True)
class Converted:
    """What ``edgekit convert --json`` said, with which exit code, and what it tried to fetch (`audit.Watched`)."""

    code: int
    report: dict[str, Any]
    messages: str
    watched: dict[str, Any]

    def bundle(self, target: str, precision: str) -> dict[str, Any]:
        """The entry of one target and precision."""
        found = [b for b in self.report["bundles"] if (b["target"], b["precision"]) == (target, precision)]
        failed = [f for f in self.report["failed"] if (f["target"], f["precision"]) == (target, precision)]
        assert found, f"{target} {precision} was not converted: {failed} {self.messages[-2000:]}"
        return dict(found[0])


def convert_once(shared: Path, name: str, arguments: Callable[[Path], list[str]]) -> Converted:
    """Run ``edgekit convert`` into ``shared/name`` unless another worker has; ``arguments`` is told that folder.

    The command is given the folder by a relative path, as users do: toolchains run in folders of their own.
    """
    folder = shared / name
    record = shared / f"{name}.json"
    with FileLock(shared / f"{name}.lock"):
        if not record.exists():
            command = [sys.executable, "-m", "edgekit", "convert", *arguments(folder), "-o", name, "--json"]
            found = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            done = watch(command, shared / f"{name}-watch", timeout=1500, cwd=shared, PYTHONPATH=found)
            report = json.loads(done.stdout or "null")
            for entry in (report or {}).get("bundles", []):
                entry["path"] = str(shared / entry["path"])
            data = {"code": done.code, "report": report, "messages": done.stderr}
            data["watched"] = done.record()
            record.write_text(json.dumps(data))
    return Converted(**json.loads(record.read_text()))
