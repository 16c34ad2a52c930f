"""Run Arm's Vela compiler in a process of its own, and read its report."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from edgekit.errors import ConversionError

COMPILED = "model_vela.tflite"
"""How Vela calls what it makes of ``model.tflite``."""

CONFIG = "Arm/vela.ini"

Facts = dict[str, str | int | float]

_COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)
_MEMORY = {
    "sram_kib": "sram_memory_used",
    "dram_kib": "dram_memory_used",
    "flash_kib": "off_chip_flash_memory_used",
    "on_chip_flash_kib": "on_chip_flash_memory_used",
}


def compile_with_vela(
    source: Path, out: Path, work: Path, *, accelerator: str, system: str = "", memory: str = "", optimise: str
) -> Facts:
    """Compile ``model.tflite`` to ``model_vela.tflite`` in ``out``.

    Returns:
        Operators by unit, memory, cycles and time as Vela estimates them; none of it measured on a device.

    Raises:
        ConversionError: Vela refuses the file or an option; its own words are in the message.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="vela-") as folder:
        command = [sys.executable, "-m", "ethosu.vela", str(source), "--output-dir", folder]
        command += ["--accelerator-config", accelerator, "--optimise", optimise, "--show-cpu-operations"]
        if system and memory:
            command += ["--config", CONFIG, "--system-config", system, "--memory-mode", memory]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, cwd=folder
        )
        compiled, summaries = Path(folder, COMPILED), list(Path(folder).glob("*_summary_*.csv"))
        if done.returncode or not compiled.is_file() or not summaries:
            raise ConversionError(f"Vela ({accelerator}) failed: {_last_words(done.stdout, done.stderr)}")
        shutil.copyfile(compiled, out / COMPILED)
        with summaries[0].open(encoding="utf-8", newline="") as file:
            summary = next(csv.DictReader(file))
        return _facts(done.stdout, summary, _left_on_cpu(compiled))


def _last_words(output: str, errors: str) -> str:
    lines = [line.strip() for line in f"{output}\n{errors}".splitlines() if line.strip()]
    telling = [line.partition("Error: ")[2].strip("\"'") for line in lines if "Error: " in line]
    return [*(lines[-1:] or ["no output"]), *telling][-1]


def _facts(said: str, summary: dict[str, str], outside: dict[str, int]) -> Facts:
    counts = {unit.lower(): int(count) for unit, count in _COUNTS.findall(said)}
    facts: Facts = {
        "accelerator": summary["accelerator_configuration"],
        "system": summary["system_config"],
        "memory": summary["memory_mode"],
        "npu_operators": counts.get("npu", 0),
        "cpu_operators": sum(outside.values()),
        "placement": "100 % on the NPU"
        if not outside
        else "on the CPU: " + ", ".join(f"{count} {kind}" for kind, count in sorted(outside.items())),
        **{name: round(float(summary[column]), 1) for name, column in _MEMORY.items() if float(summary[column])},
        "cycles": round(float(summary["cycles_total"])),
        "estimated_ms": round(1000 * float(summary["inference_time"]), 3),
        "macs": round(float(summary["nn_macs"])),
    }
    return facts


def _left_on_cpu(compiled: Path) -> dict[str, int]:
    """Operators of the compiled file that run on the CPU, by TFLite name, read from the file itself."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(compiled.read_bytes()), 0)
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if code.customCode != b"ethos-u":
                # Old files keep the code in a field of 8 bits, which TFLite reads as the larger of the two.
                found[kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]] += 1
    return dict(found)
