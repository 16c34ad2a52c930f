"""Hexagon NPU emulator: QNN's own on x86-64, which runs the same context with the NPU's arithmetic."""

from __future__ import annotations

from pathlib import Path

from edgekit.emulators.base import Emulator
from edgekit.emulators.served import ServedNetwork, ServedSession
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Network, Session, SessionOptions, host
from edgekit.runtimes.engines.qnn import QnnSession, open_network


class HexagonEmulator(Emulator):
    """QNN's own emulator, in its toolchain."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph, in this process where it is one of the toolchain.

        Raises:
            EngineError: the emulator cannot open it, or does not exist for this host.
        """
        self._check_host()
        if self.inside:
            return QnnSession(folder, graph, options, emulated=True)
        return ServedSession(self.toolchain, self.engine, folder, graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> Network:
        """Open a part of a vision-language model, in this process where it is one of the toolchain.

        Raises:
            EngineError: the emulator cannot open it, or does not exist for this host.
        """
        self._check_host()
        if self.inside:
            return open_network(folder, graph, options, emulated=True)
        return ServedNetwork(self.toolchain, self.engine, folder, graph, options)

    def _check_host(self) -> None:
        if host() != "linux-x86_64":
            raise EngineError(f"the emulator of engine qnn runs on linux-x86_64, this host is {host()}")


EMULATOR = HexagonEmulator(
    engine="qnn", device="emulator", word="emulated", by="QNN's emulator", of="the Hexagon NPU", toolchain="qnn"
)
