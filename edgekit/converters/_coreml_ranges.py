"""What INT8 activations need of a float Core ML package: the range of each tensor, and what has to stay in float.

coremltools would ask Core ML for the extremes of every tensor. Here the saved float16 package is interpreted on the
calibration images, and each range is the one with the least squared error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.calibration.layers import STEM
from edgekit.calibration.ranges import Statistics, best_range
from edgekit.images import Floats
from edgekit.runtimes._coreml.interpreter import MOVES, Interpreter
from edgekit.runtimes._coreml.package import Operation, Program, Reference, read_program

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTED = ("conv", "linear")
"""The operations whose surroundings become INT8."""

LEAST = 1e-4
"""Half of the least range: a tensor that is always 0 has to have a scale, and float16 has to hold it."""


def activation_ranges(
    package: Path, samples: Iterable[Floats], threads: int, seen: Callable[[int], None]
) -> dict[str, dict[str, float]]:
    """The range of every tensor that coremltools may quantise, as it wants them: ``rmin`` and ``rmax`` by name.

    Empty when there are no samples. ``seen`` is told the number of samples done.
    """
    program = read_program(package)
    readers = _readers(program)
    tensors = {name: Statistics() for name in _around(program, readers)}
    interpreter = Interpreter(package, threads=threads)

    def watch(name: str, value: Tensor) -> None:
        if name in tensors:
            tensors[name].add(value.numpy())

    count = 0
    for count, sample in enumerate(samples, 1):
        interpreter.run({interpreter.inputs[0].name: sample}, watch)
        seen(count)
    ranges = {}
    for name, statistics in tensors.items() if count else ():
        silu = [operation.kind for operation in readers[name]] == ["silu"]
        low, high = best_range(statistics, silu)
        ranges[name] = {"rmin": min(low, -LEAST), "rmax": max(high, LEAST)}
    return ranges


def _around(program: Program, readers: Mapping[str, list[Operation]]) -> set[str]:
    """Tensors that go into convolutions and linear layers, come out of them, or of the activation behind them."""
    found = set()
    for operation in program.operations:
        if operation.kind in WEIGHTED:
            result = operation.outputs[0].name
            found |= {*_sources(operation, "x"), result}
            found |= {port.name for reader in readers[result] for port in reader.outputs}
    return found


def float_operations(package: Path) -> list[str]:
    """Convolutions and linear layers that stay in float: the first three, and those that give outputs."""
    program = read_program(package)
    weighted = [operation for operation in program.operations if operation.kind in WEIGHTED]
    makers = {port.name: operation for operation in program.operations for port in operation.outputs}
    heads = [name for output in program.outputs for name in _heads(output, makers)]
    return list(dict.fromkeys([*(operation.name for operation in weighted[:STEM]), *heads]))


def _heads(name: str, makers: Mapping[str, Operation]) -> list[str]:
    """The convolutions behind an output, through what computes nothing."""
    operation = makers.get(name)
    if operation is None:
        return []
    if operation.kind in WEIGHTED:
        return [operation.name]
    if operation.kind not in MOVES and operation.kind != "cast":
        return []
    return [head for key in operation.arguments for one in _sources(operation, key) for head in _heads(one, makers)]


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
    return [part.name for part in parts if isinstance(part, Reference)]
