"""Run Sony's IMX500 converter in its own environment, and read its memory report."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgekit.errors import ConversionError
from edgekit.worker import toolchains

PACKED = "packerOut.zip"

Facts = dict[str, str | int | float]


class NoRoomError(ConversionError):
    """The network does not fit into the chip's memory."""


def pack(program: Path, network: Path, out: Path, *, persistent: bool) -> Facts:
    """Convert a quantised ``.onnx`` file to ``packerOut.zip`` in ``out``.

    Returns:
        The converter's memory report: bytes needed and there, and whether it fits.

    Raises:
        ConversionError: the converter fails.
        NoRoomError: the network does not fit into the chip.
    """
    with tempfile.TemporaryDirectory(dir=network.parent, prefix="imx500-") as folder:
        command = [str(program), "-i", str(network), "-o", folder, "--overwrite-output", "--report-size-unit", "B"]
        done = subprocess.run(
            [*command, *([] if persistent else ["--no-input-persistency"])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=toolchains.environment(),
            check=False,
        )
        reports = list(Path(folder).glob("*_MemoryReport.json"))
        facts = memory_report(reports[0].read_text(encoding="utf-8")) if reports else {}
        if facts.get("fits") == "no":
            raise NoRoomError(
                f"the network needs {facts['memory_bytes']} bytes of the chip's {facts['memory_available_bytes']}: "
                "take a smaller input size or network, or try --option imx500.input_persistency=false"
            )
        packed = Path(folder, PACKED)
        if done.returncode or not packed.is_file():
            raise ConversionError(f"the IMX500 converter failed: {_last_words(done.stdout)}")
        shutil.copyfile(packed, out / PACKED)
    return facts


def memory_report(text: str) -> Facts:
    """Read the converter's ``*_MemoryReport.json``, in bytes."""
    found = json.loads(text)["Memory Report"]
    return {
        "fits": "yes" if found["Fit In Chip"] else "no",
        "memory_bytes": _bytes(found["Memory Usage"]),
        "memory_available_bytes": _bytes(found["Total Memory Available On Chip"]),
        "weights_bytes": _bytes(found["Model Memory Physical Size"]),
        "runtime_bytes": _bytes(found["Runtime Memory Physical Size"]),
    }


def _bytes(text: str) -> int:
    return int(text.removesuffix("B"))


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or "Error" in line] or lines[-1:] or ["no output"]
    return telling[-1]
