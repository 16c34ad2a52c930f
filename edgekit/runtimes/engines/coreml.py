"""Core ML: Apple's own engine, on a Mac.

It follows the documentation of coremltools 9.0 (``MLModel.predict``, ``MLComputePlan``) and has not been run: there
was no Mac to run it on. Elsewhere `edgekit.emulators.coreml` computes the saved package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, guarded_folder

UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE"}
"""Devices as ``coremltools.ComputeUnit`` names them."""

DEVICES = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ane"}
"""Classes of the compute plan's devices."""


def package_of(folder: Path, graph: Graph) -> Path:
    """The ``.mlpackage`` folder of a graph.

    Raises:
        EngineError: the file is not in such a folder, or the folder has files that the manifest does not guard.
    """
    return guarded_folder(folder, graph, ".mlpackage")


class PredictedSession:
    """One package, run by Core ML on a Mac. Compiling it takes Core ML seconds, at every opening."""

    def __init__(self, package: Path, graph: Graph, options: SessionOptions) -> None:
        import coremltools

        device = options.device or ENGINE.devices[0]
        units = coremltools.ComputeUnit[UNITS[device]]
        self._graph = graph
        try:
            self._model = coremltools.models.MLModel(str(package), compute_units=units)
            description = self._model.get_spec().description
            operators = _planned(self._model, units)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"{package}: Core ML cannot open it: {error}") from error
        names = [[one.name for one in ports] for ports in (description.input, description.output)]
        check_names(package, graph, *names)
        if options.strict and device not in ("all", "cpu") and set(operators) - {device}:
            raise EngineError(f"strict: not everything runs on {device!r}: {operators}")
        self.placement = Placement(device, operators, "as the file's types say")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        named = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        try:
            found = self._model.predict(named)
        except RuntimeError as error:
            raise EngineError(f"Core ML failed: {error}") from error
        return [as_float(found[tensor.name]) for tensor in self._graph.outputs]


def _planned(model: Any, units: Any) -> dict[str, int]:
    """Operations per compute unit as Core ML plans them; empty before macOS 14.4, which has no plans."""
    from coremltools.models.compute_plan import MLComputePlan

    try:
        plan = MLComputePlan.load_from_path(model.get_compiled_model_path(), compute_units=units)
    except (RuntimeError, AttributeError, TypeError):
        return {}
    program = plan.model_structure.program
    counts: Counter[str] = Counter()
    for function in program.functions.values() if program is not None else ():
        for operation in function.block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:  # constants have none
                name = type(usage.preferred_compute_device).__name__
                counts[DEVICES.get(name, name)] += 1
    return dict(sorted(counts.items()))


def check_names(package: Path, graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse a package that lacks a tensor of the manifest.

    Raises:
        EngineError: it lacks one; those it has are listed.
    """
    for what, tensors, found in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        for tensor in tensors:
            if tensor.name not in found:
                raise EngineError(
                    f"{package.name} has no {what} {tensor.name!r}, only {', '.join(found)}; convert the model again"
                )


def as_float(array: Any) -> Floats:
    """An output as contiguous float32."""
    found: Floats = np.ascontiguousarray(array, dtype=np.float32)
    return found


class CoreMl(Engine):
    """Core ML."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> PredictedSession:
        """Open the package that the graph's first file lies in.

        Raises:
            EngineError: the package is damaged, has other tensors than the manifest says, or ``strict`` does not hold.
        """
        return PredictedSession(package_of(folder, graph), graph, options)


ENGINE = CoreMl(
    name="coreml",
    packages=("coremltools",),
    extra="coreml",
    devices=("all", "cpu", "gpu", "ane"),
    hosts=("darwin",),
    settings="compute units ALL",
)
"""``all`` leaves the choice to Core ML; ``gpu`` and ``ane`` allow this unit and the CPU, which takes what it cannot."""
