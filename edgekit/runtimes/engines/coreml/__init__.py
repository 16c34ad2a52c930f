"""Core ML: Apple's own engine, on a Mac.

It follows the documentation of coremltools 9.0 (``MLModel.predict``, ``MLComputePlan``) and has not been run: there
was no Mac to run it on. Elsewhere `edgekit.emulators.coreml` computes the saved package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, guarded_folder
from edgekit.runtimes.engines.coreml.language import open_packages
from edgekit.runtimes.engines.coreml.names import DECODE, PREFILL
from edgekit.runtimes.engines.coreml.network import PackageNetwork, State

if TYPE_CHECKING:
    from edgekit.runtimes.language.graph import LanguageGraph

UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE"}
"""Devices as ``coremltools.ComputeUnit`` names them."""

DEVICES = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ane"}
"""Classes of the compute plan's devices."""


def package_of(folder: Path, graph: Graph) -> Path:
    """The ``.mlpackage`` folder of a graph.

    Raises:
        EngineError: the file is not in such a folder, or the folder has files that the manifest does not list.
    """
    return guarded_folder(folder, graph, ".mlpackage")


class PredictedSession:
    """One package, run by Core ML on a Mac. Compiling it takes Core ML seconds, at every opening."""

    def __init__(self, package: Path, graph: Graph, options: SessionOptions) -> None:
        self._graph = graph
        self._model, self.placement = _opened(package, options)
        description = self._model.get_spec().description
        names = [[one.name for one in ports] for ports in (description.input, description.output)]
        check_names(package, graph, *names)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        named = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        try:
            found = self._model.predict(named)
        except RuntimeError as error:
            raise EngineError(f"Core ML failed: {error}") from error
        return [as_float(found[tensor.name]) for tensor in self._graph.outputs]


def _opened(package: Path, options: SessionOptions, function: str = "") -> tuple[Any, Placement]:
    """A function of a package, the one that runs unasked where none is named, and where Core ML runs it.

    Raises:
        EngineError: the package is damaged, or ``strict`` does not hold.
    """
    import coremltools

    device = options.device or ENGINE.devices[0]
    units = coremltools.ComputeUnit[UNITS[device]]
    try:
        model = coremltools.models.MLModel(str(package), compute_units=units, function_name=function or None)
        operators = _planned(model, units)
    except (RuntimeError, ValueError, OSError) as error:
        raise EngineError(f"{package}: Core ML cannot open it: {error}") from error
    if options.strict and device not in ("all", "cpu") and set(operators) - {device}:
        raise EngineError(f"strict: not everything runs on {device!r}: {operators}")
    return model, Placement(device, operators, "as the file's types say")


class PredictedFunction:
    """A function of a package, run by Core ML on a Mac; `edgekit.runtimes.engines.coreml.network.Function`."""

    def __init__(self, model: Any, function: str) -> None:
        description = model.get_spec().description
        named = [one for one in description.functions if one.name == function] or [description]
        self._model = model
        self.states = tuple(one.name for one in named[0].state)

    def make_state(self) -> State:
        """An ``MLState``."""
        made: State = self._model.make_state()
        return made

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: State | None) -> Mapping[str, NDArray[Any]]:
        """Run once.

        Raises:
            EngineError: Core ML failed.
        """
        try:
            found: Mapping[str, NDArray[Any]] = self._model.predict(dict(inputs), state)
        except RuntimeError as error:
            raise EngineError(f"Core ML failed: {error}") from error
        return found


def functions_of(graph: Graph) -> dict[int, str]:
    """Functions of a graph's package by the number of tokens that they take; 0 is any number.

    The first is the one whose shapes the manifest has.
    """
    if graph.name != "language":
        return {0: ""}
    tokens = next((one.shape[1] for one in graph.inputs if one.name == "inputs_embeds"), 0)
    return {tokens: PREFILL, 1: DECODE}


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

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> PackageNetwork:
        """Open every function of a package.

        Raises:
            EngineError: the package is damaged, or ``strict`` does not hold.
        """
        package, opened, placement = package_of(folder, graph), {}, None
        for tokens, name in functions_of(graph).items():
            model, placed = _opened(package, options, name)
            placement = placement or placed
            opened[tokens] = PredictedFunction(model, name)
        return PackageNetwork(opened, graph, placement or Placement(options.device))

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open the packages of a language model.

        Raises:
            EngineError: a package is damaged, or its cache is not the contract's.
        """
        opened = {name: self.open_network(folder, graph, options) for name, graph in graphs.items()}
        return open_packages(opened, graphs, language, embeddings)


ENGINE = CoreMl(
    name="coreml",
    packages=("coremltools",),
    extra="coreml",
    devices=("all", "cpu", "gpu", "ane"),
    hosts=("darwin",),
    settings="compute units ALL",
)
"""``all`` leaves the choice to Core ML; ``gpu`` and ``ane`` allow this unit and the CPU, which takes what it cannot."""
