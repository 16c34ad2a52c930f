"""Run a command as on an x86 processor with AVX2 and nothing newer: AVX-512, VNNI and AMX are hidden from all of it.

    python benchmarks/older_processor.py python benchmarks/int8_speed.py MODELS.json

Engines choose their kernels by what the processor says it can. INT8 gains much from VNNI and float32 from AVX-512, so
that figures of a new server tell little of an older computer. The clock and the caches stay those of this one. Needs
Linux, a C compiler, and a processor that can trap CPUID (``cpuid_fault`` in /proc/cpuinfo).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("hide_avx512.c")
NEWER = re.compile(r"\b(avx512\w*|avx_vnni\w*|avx_ifma|amx_\w+)\b ?")
CPUINFO = Path("/proc/cpuinfo")


def main() -> int:
    """Build the library, and run the command with it."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    if not CPUINFO.is_file() or "cpuid_fault" not in (text := CPUINFO.read_text(encoding="utf-8")):
        raise SystemExit("this processor or system cannot hide its instructions: /proc/cpuinfo lacks cpuid_fault")
    with tempfile.TemporaryDirectory() as folder:
        library, older = Path(folder) / "hide_avx512.so", Path(folder) / "cpuinfo"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        older.write_text(NEWER.sub("", text), encoding="utf-8")
        environment = os.environ | {"LD_PRELOAD": str(library), "OLDER_CPUINFO": str(older)}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
