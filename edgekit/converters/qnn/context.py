"""Compiles an ONNX file to a context for one SoC; runs in the toolchain ``qnn``.

``python -m edgekit.converters.qnn.context SOURCE DESTINATION SOC_MODEL HTP_ARCH`` prints what became of it as JSON, in
the last line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from edgekit.runtimes.bundle.manifest import Record
from edgekit.runtimes.engines.qnn.provider import assigned, session


class Compiled(Record, frozen=True, kw_only=True):
    """Operators per provider, or the provider's own error."""

    operators: dict[str, int] = msgspec.field(default_factory=dict)
    error: str = ""


def main() -> None:
    """Compile and report."""
    from edgekit.runtimes.engines.onnxruntime.session import failures

    source, destination = (Path(argument).absolute() for argument in sys.argv[1:3])
    soc, arch = sys.argv[3:]
    os.chdir(source.parent)  # ONNX Runtime names the context after a hash of the path that it was given
    try:
        opened = session(Path(source.name), {"soc_model": soc, "htp_arch": arch}, destination)
    except failures() as error:
        told = Compiled(error=str(error))
    else:
        told = Compiled(operators=assigned(opened))
    sys.stdout.write("\n" + msgspec.json.encode(told).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
