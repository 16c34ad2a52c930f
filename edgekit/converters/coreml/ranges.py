"""Map a quantisation plan to a float Core ML package: the range of each tensor, and what stays in float.

coremltools would ask Core ML for the extremes of every tensor. It names tensors after the nodes of the program, so most
ranges are the plan's; what the plan does not know is observed by interpreting the saved float16 package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.arrays import Floats
from edgekit.calibration.correspondence import kept_in_float
from edgekit.calibration.fitting import fit
from edgekit.calibration.plan import PlannedGraph, TensorRange
from edgekit.calibration.ranges import TensorStatistics
from edgekit.emulators.coreml.interpreter import Interpreter
from edgekit.emulators.coreml.package import Operation, Program, ValueReference, read_program
from edgekit.graph.exchange import INPUT

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTED = ("conv", "linear")
"""The operations whose surroundings become INT8."""

LEAST = 1e-4
"""Half of the least range: a tensor that is always 0 has to have a scale, and float16 has to hold it."""

HALF = "_cast_fp16"
"""The suffix of a tensor that coremltools computes in float16."""


def activation_ranges(
    package: Path,
    plan: PlannedGraph,
    outputs: Iterable[str],
    samples: Iterable[Floats],
    threads: int,
    seen: Callable[[int], None],
) -> dict[str, dict[str, float]]:
    """The range of every tensor that coremltools may quantise, as it wants them: ``rmin`` and ``rmax`` by name.

    Args:
        package: the float16 package of the plan's graph.
        plan: that knows most of them.
        outputs: the contract's names of the outputs, in order.
        samples: calibration tensors (1, 3, H, W), for those that the plan does not know.
        threads: of the interpreter.
        seen: told the number of samples done.
    """
    program = read_program(package)
    names = planned_names(program, outputs)
    wanted = _around(program, _readers(program))
    ranges = {name: plan.tensors[names[name]] for name in wanted if names[name] in plan.tensors}
    unknown = wanted - ranges.keys()
    if unknown:
        ranges |= _observed(package, unknown, samples, threads, seen)
    return {name: {"rmin": min(one.low, -LEAST), "rmax": max(one.high, LEAST)} for name, one in ranges.items()}


def float_operations(package: Path, plan: PlannedGraph, outputs: Iterable[str]) -> list[str]:
    """Convolutions and linear layers that the plan leaves in float, in order."""
    program = read_program(package)
    names = planned_names(program, outputs)
    weighted = {
        operation.name: (names[operation.outputs[0].name], names.get(_sources(operation, "x")[0], ""))
        for operation in program.operations
        if operation.kind in WEIGHTED
    }
    floats = kept_in_float(plan, weighted)
    return [name for name in weighted if name in floats]


def planned_names(program: Program, outputs: Iterable[str]) -> dict[str, str]:
    """The plan's name of every tensor of a package by its own name, if the plan knows it at all.

    Args:
        program: of the package.
        outputs: the contract's names of the outputs, in order.
    """
    (entry,) = program.inputs
    names = {entry.name: INPUT}
    makers = {port.name: operation for operation in program.operations for port in operation.outputs}
    for operation in program.operations:
        for port in operation.outputs:
            names[port.name] = port.name.removesuffix(HALF)
            if operation.kind == "cast":
                names[port.name] = names[_sources(operation, "x")[0]]
    for name, planned in zip(program.outputs, outputs, strict=True):
        names[name] = planned
        while name in makers and makers[name].kind == "cast":
            (name,) = _sources(makers[name], "x")
            names[name] = planned
    return names


def _observed(
    package: Path, wanted: Iterable[str], samples: Iterable[Floats], threads: int, seen: Callable[[int], None]
) -> dict[str, TensorRange]:
    """Ranges of tensors from what the interpreted package makes of all samples."""
    tensors = {name: TensorStatistics() for name in wanted}
    interpreter = Interpreter(package, threads=threads)

    def watch(name: str, value: Tensor) -> None:
        if name in tensors:
            tensors[name].add(value.numpy())

    for count, sample in enumerate(samples, 1):
        interpreter.run({interpreter.inputs[0].name: sample}, watch)
        seen(count)
    return {name: fit(statistics) for name, statistics in tensors.items()}


def _around(program: Program, readers: Mapping[str, list[Operation]]) -> set[str]:
    """Tensors that go into convolutions and linear layers, come out of them, or of the activation behind them."""
    found = set()
    for operation in program.operations:
        if operation.kind in WEIGHTED:
            result = operation.outputs[0].name
            found |= {*_sources(operation, "x"), result}
            found |= {port.name for reader in readers[result] for port in reader.outputs}
    return found


def _readers(program: Program) -> Mapping[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for operation in program.operations:
        for key in operation.arguments:
            for name in _sources(operation, key):
                found[name].append(operation)
    return found


def _sources(operation: Operation, key: str) -> list[str]:
    """Names of the tensors of one argument."""
    argument = operation.arguments.get(key)
    parts = argument if isinstance(argument, tuple) else (argument,)
    return [part.name for part in parts if isinstance(part, ValueReference)]
