"""HOST: emulators of engines that cannot run on a host: interpreters, simulators, references.

One file, or one folder, with the engine's name; it declares ``EMULATOR``. Nothing else names it: the pipeline asks
here, and `edgekit.runtimes.engines.open_session` where a device is asked for that the engine does not have.
"""

from __future__ import annotations

from edgekit import registry
from edgekit.emulators.base import Emulator as Emulator
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import engine


def emulator(name: str) -> Emulator | None:
    """The emulator of an engine, or None."""
    found: Emulator | None = registry.find(__name__, name, "EMULATOR")
    return found


def proof_device(name: str, graph: Graph | None = None) -> str:
    """The ``device=`` that files of an engine are checked with on this host.

    Args:
        name: the engine.
        graph: the file in question; some files need what this host lacks though the engine is here.

    Raises:
        UsageError: no such engine.
    """
    spec, other = engine(name), emulator(name)
    return other.device if other is not None and other.needed(graph) else spec.devices[0]
