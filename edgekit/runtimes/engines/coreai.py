"""Core AI: Apple's runtime for ``.aimodel`` assets, of iOS and macOS 27, by the Python package coreai-core.

On a Mac the package hands the asset to the system's own runtime. That path is written from its interface and has not
been run: there was no Mac to run it on. Elsewhere `edgekit.emulators.coreai` runs the interpreter of the same package.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.folder import sha256
from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, guarded_folder

FUNCTION = "main"
"""The function of an asset that is the network."""

UNITS = {"all": "", "cpu": "cpu", "gpu": "gpu", "ane": "neural_engine"}
"""Devices, and the methods of ``coreai.runtime.ComputeUnitKind``."""

SYSTEM = "USE_OS_COREAI"
"""Environment variable with which the package takes the system's runtime in place of its interpreter."""


class CoreAiSession:
    """One asset. Core AI names outputs and does not order them.

    Args:
        asset: the ``.aimodel`` folder.
        graph: its entry in the manifest.
        options: how to open it.
        word: what a run proves: ``executed`` by the system's runtime, ``emulated`` by the package's interpreter.
    """

    def __init__(self, asset: Path, graph: Graph, options: SessionOptions, word: ProofWord) -> None:
        self._graph = graph
        self._loop = asyncio.new_event_loop()
        device = options.device or ENGINE.devices[0]
        _check_whole(asset)
        try:
            self._opened = _executable(asset, device if word == "executed" else "")
            model = self._loop.run_until_complete(self._opened.__aenter__())
            self._function = model.load_function(FUNCTION)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise EngineError(f"{asset}: Core AI cannot open it: {_first_line(error)}; {_ADVICE}") from error
        weakref.finalize(self, _close, self._loop, self._opened)
        described = self._function.desc
        _check_names(asset, graph, described.input_names, described.output_names)
        self.placement = Placement(device, {}, str(graph.report.get("arithmetic", "float32")), word)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        from coreai.runtime import NDArray

        check_inputs(self._graph, inputs)
        given = {
            tensor.name: NDArray(np.ascontiguousarray(array))
            for tensor, array in zip(self._graph.inputs, inputs, strict=True)
        }
        try:
            found = self._loop.run_until_complete(self._function(given))
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"Core AI failed: {_first_line(error)}") from error
        return [np.ascontiguousarray(found[tensor.name].numpy(), np.float32) for tensor in self._graph.outputs]


_ADVICE = (
    "the file is damaged, or of a newer format than this Core AI reads: copy the bundle again, or update coreai-core"
)


def _executable(asset: Path, device: str) -> Any:
    """The context in which an asset is open.

    Args:
        asset: its folder.
        device: of the system's runtime; empty for the interpreter.
    """
    from coreai.authoring.asset import AIModelAsset

    opened = AIModelAsset.load(asset)
    if not device or not UNITS[device]:
        return opened.executable()
    from coreai.runtime import ComputeUnitKind, SpecializationOptions

    kind = getattr(ComputeUnitKind, UNITS[device])()
    return opened.executable(SpecializationOptions.from_preferred_compute_unit_kind(kind))


def _check_whole(asset: Path) -> None:
    """Refuse a program that is not the one whose hash lies beside it: the interpreter ends the process on many.

    Raises:
        EngineError: it is another, or one of the two is missing.
    """
    program, stated = asset / "main.mlirb", asset / "main.hash"
    if not (program.is_file() and stated.is_file()) or bytes.fromhex(sha256(program)) != stated.read_bytes():
        raise EngineError(f"{program} is not the program that main.hash is of; copy the bundle again")


def _close(loop: asyncio.AbstractEventLoop, opened: Any) -> None:
    loop.run_until_complete(opened.__aexit__(None, None, None))
    loop.close()


def _check_names(asset: Path, graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for what, tensors, found in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        for tensor in tensors:
            if tensor.name not in found:
                raise EngineError(
                    f"{asset.name} has no {what} {tensor.name!r}, only {', '.join(found)}; convert the model again"
                )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class CoreAi(Engine):
    """Core AI."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> CoreAiSession:
        """Open the asset that the graph's first file lies in.

        Raises:
            EngineError: it is damaged, of a newer format, or has other tensors than the manifest says; or it cannot be
                opened with ``strict``.
        """
        if options.strict and options.device not in ("", "all", "cpu"):
            raise EngineError(
                f"strict: Core AI does not say where operators run, on {options.device!r} either; leave strict out"
            )
        os.environ[SYSTEM] = "1"  # read when the package is imported
        return CoreAiSession(guarded_folder(folder, graph, ".aimodel"), graph, options, "executed")


ENGINE = CoreAi(
    name="coreai",
    packages=("coreai",),
    devices=tuple(UNITS),
    hosts=("darwin",),
    install="pip install coreai-core==1.0.0b3",
)
"""``all`` leaves the choice to Core AI; the others are what it prefers, and the CPU takes what they cannot."""
