"""HOST: emulators of engines that cannot run on a host: interpreters, simulators, references.

One file, or one folder, with the engine's name; it declares ``EMULATOR``. Nothing else names it: the pipeline asks
here, and `edgekit.runtimes.engines.open_session` where a device is asked for that the engine does not have.
"""

from __future__ import annotations

from edgekit import registry
from edgekit.emulators.base import Emulator as Emulator
from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines import engine


def emulator(name: str) -> Emulator | None:
    """The emulator of an engine, or None."""
    found: Emulator | None = registry.find(__name__, name, "EMULATOR")
    return found


def computed_by(name: str, word: ProofWord) -> str:
    """Who computed a proof, where it was not the engine itself, as a short name; else empty."""
    other = emulator(name)
    return "" if other is None or word != other.word else other.by


def computed(name: str, word: ProofWord) -> str:
    """Who computed a proof: ``executed by ncnn``, ``computed by ONNX Runtime in place of TensorRT (reference)``."""
    other = emulator(name)
    if other is None or word != other.word:
        return f"{word} by {name}"
    if word == "executed":
        return f"executed by {other.by}"
    return f"computed by {other.by} in place of {other.of} ({word})"


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
