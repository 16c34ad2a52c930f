"""Conversions that several test files look at: made once for all workers, by the command line."""

from __future__ import annotations

import json
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
    """Run ``edgekit convert`` into ``shared/name`` unless another worker has; ``arguments`` is told that folder."""
    folder = shared / name
    record = shared / f"{name}.json"
    with FileLock(shared / f"{name}.lock"):
        if not record.exists():
            command = [sys.executable, "-m", "edgekit", "convert", *arguments(folder), "-o", str(folder), "--json"]
            done = watch(command, shared / f"{name}-watch", timeout=1500)
            data = {"code": done.code, "report": json.loads(done.stdout or "null"), "messages": done.stderr}
            data["watched"] = done.record()
            record.write_text(json.dumps(data))
    return Converted(**json.loads(record.read_text()))
