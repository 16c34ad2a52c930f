"""Run a saved Core ML package with torch, on any host, without Core ML.

Arithmetic: every operation is computed in float32, sums included; the result of one that the file types as float16 is
then rounded to float16, so that overflow and lost digits show. Core ML's own units may sum in float16 or fuse
operations and keep digits that are rounded here: this reads the file, it does not imitate a Neural Engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.emulators.coreml import elementwise, layers, resizing, shapes, states
from edgekit.emulators.coreml.call import OPERATORS, Kernel, MilCall
from edgekit.emulators.coreml.constexpr import decompress
from edgekit.emulators.coreml.elementwise import CASTS
from edgekit.emulators.coreml.package import Operation, Port, Value, ValueReference, read_program
from edgekit.errors import EngineError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_TABLES = (elementwise, layers, resizing, shapes, states)
"""Imported because importing them fills `OPERATORS`."""

MOVES = frozenset({
    "concat", "expand_dims", "flatten2d", "gather", "identity", "max_pool", "pixel_shuffle", "pixel_unshuffle",
    "read_state", "relu", "reshape", "reverse", "slice_by_index", "slice_update", "split", "squeeze", "stack", "tile",
    "transpose", "upsample_nearest_neighbor",
})  # fmt: skip
"""Operations whose results are values they were given: nothing is left to round."""

Watch = Callable[[str, "Tensor"], None]
"""Told the name and the value of a tensor as it is computed."""


@dataclass(frozen=True)
class _Step:
    """One operation: tensors by name, and how their results are held."""

    name: str
    kind: str
    kernel: Kernel
    tensors: tuple[str | tuple[str, ...] | None, ...]
    outputs: tuple[Port, ...]
    held: tuple[torch.dtype, ...]
    rounded: tuple[bool, ...]
    finished: tuple[str, ...] = ()


class InterpretedState:
    """The state of a package, zeros at first; the methods are those of coremltools' ``MLState``."""

    def __init__(self, ports: Iterable[Port]) -> None:
        import torch

        self.tensors = {
            port.name: torch.zeros([size or 0 for size in port.shape], dtype=getattr(torch, CASTS[port.dtype]))
            for port in ports
        }

    def read_state(self, name: str) -> NDArray[Any]:
        """A copy of one value."""
        found: NDArray[Any] = self.tensors[name].numpy().copy()
        return found

    def write_state(self, name: str, value: NDArray[Any]) -> None:
        """Replace one value."""
        import torch

        self.tensors[name].copy_(torch.from_numpy(value))


class Interpreter:
    """A package opened for computing. Not thread-safe.

    Args:
        package: a ``.mlpackage`` folder.
        function: of the package; empty for the one that runs unasked.
        rounding: whether float16 results are rounded to float16; without it everything stays in float32.
        threads: torch's, 0 leaves them alone.

    Raises:
        EngineError: the package is damaged, or has an operation that is not interpreted.
    """

    def __init__(self, package: Path, rounding: bool = True, threads: int = 0, function: str = "") -> None:
        import torch

        self._package, self._threads = package, threads
        program = read_program(package, function)
        self.inputs, self.states, self.outputs = program.inputs, program.states, program.outputs
        self.kinds = Counter(one.kind for one in program.operations if not _constant(one))
        self.half = any(port.dtype == "fp16" for one in program.operations for port in one.outputs)
        self._refuse_unknown(program.operations)
        self._constants: dict[str, Value] = {}
        self._tensors: dict[str, Tensor] = {}
        self._known = {port.name for port in (*program.inputs, *program.states)}
        steps = []
        with torch.inference_mode():
            for operation in program.operations:
                if operation.kind == "const":
                    self._constants[operation.outputs[0].name] = operation.arguments["val"]
                elif _constant(operation):
                    values = {key: self._resolved(operation, value) for key, value in operation.arguments.items()}
                    self._constants[operation.outputs[0].name] = decompress(operation, values)
                else:
                    steps.append(self._step(operation, rounding))
                self._known |= {port.name for port in operation.outputs}
            for name in self.outputs:
                self._use(name, "the list of outputs")
        self._constants.clear()
        self._steps = _with_ends(steps, self.outputs)

    def make_state(self) -> InterpretedState:
        """A new state, for this function and any other that has the same."""
        return InterpretedState(self.states)

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        watch: Watch | None = None,
        state: InterpretedState | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Compute all outputs.

        Args:
            inputs: arrays by input name, of the types and shapes that `inputs` says.
            watch: told every tensor that is computed, and the inputs.
            state: read and written; needed where there are `states`.

        Raises:
            EngineError: an input or the state is missing or of another shape, or an operation gives what the file
                does not say.
        """
        import torch

        before = torch.get_num_threads()
        if self._threads and self._threads != before:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                values = {**self._given(inputs), **self._kept(state)}
                if watch is not None:
                    for name, value in values.items():
                        watch(name, value)
                for step in self._steps:
                    self._advance(step, values, watch)
                return {name: self._found(name, values) for name in self.outputs}
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)

    def _given(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        import torch

        values = {}
        for port in self.inputs:
            if port.name not in inputs:
                raise EngineError(f"{self._package.name} takes the input {port.name!r}, given: {', '.join(inputs)}")
            # A copy: what torch makes of read-only memory warns, and views of it may be outputs.
            value = torch.from_numpy(np.array(inputs[port.name])).to(getattr(torch, CASTS[port.dtype]))
            _check_shape(value, port, "input", self._package.name)
            values[port.name] = value.half().float() if port.dtype == "fp16" else value
        return values

    def _kept(self, state: InterpretedState | None) -> dict[str, Tensor]:
        if not self.states:
            return {}
        if state is None:
            names = ", ".join(port.name for port in self.states)
            raise EngineError(f"{self._package.name} keeps {names} from run to run: a state has to be given")
        for port in self.states:
            if port.name not in state.tensors:
                raise EngineError(f"{self._package.name} keeps {port.name!r}, which the given state does not hold")
            _check_shape(state.tensors[port.name], port, "state", self._package.name)
        return {port.name: state.tensors[port.name] for port in self.states}

    def _advance(self, step: _Step, values: dict[str, Tensor], watch: Watch | None) -> None:
        """Run one step and free the tensors that no later step reads."""
        results = self._results(step, values)
        for port, result, dtype, rounded in zip(step.outputs, results, step.held, step.rounded, strict=True):
            _check_shape(result, port, step.kind, self._package.name)
            value = result if result.dtype == dtype else result.to(dtype)
            values[port.name] = value.half().float() if rounded else value
            if watch is not None:
                watch(port.name, values[port.name])
        for name in step.finished:
            values.pop(name, None)

    def _results(self, step: _Step, values: Mapping[str, Tensor]) -> Sequence[Tensor]:
        tensors = [
            None
            if one is None
            else self._value(one, values)
            if isinstance(one, str)
            else [self._value(part, values) for part in one]
            for one in step.tensors
        ]
        try:
            found = step.kernel(*tensors)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise EngineError(f"{self._package.name}: operation {step.name!r} ({step.kind}) failed: {error}") from error
        results = found if isinstance(found, (tuple, list)) else (found,)
        if len(results) != len(step.outputs):
            raise EngineError(
                f"{self._package.name}: operation {step.name!r} ({step.kind}) gives {len(results)} tensors, "
                f"the file says {len(step.outputs)}"
            )
        return results

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        found = values.get(name)
        return self._tensors[name] if found is None else found

    def _found(self, name: str, values: Mapping[str, Tensor]) -> NDArray[Any]:
        array: NDArray[Any] = np.ascontiguousarray(self._value(name, values).numpy())
        return array

    def _refuse_unknown(self, operations: Iterable[Operation]) -> None:
        """Raises: EngineError, naming every operator that is missing and the first place of each."""
        missing: dict[str, str] = {}
        for one in operations:
            if not _constant(one) and one.kind not in OPERATORS:
                missing.setdefault(one.kind, one.name)
        if missing:
            listed = ", ".join(f"{kind!r} (at {place!r})" for kind, place in missing.items())
            raise EngineError(f"{self._package.name}: the interpreter has no MIL operator {listed}; check it on a Mac")

    def _step(self, operation: Operation, rounding: bool) -> _Step:
        """The operation as a kernel; parameters that are computed make the kernel anew in every run."""
        import torch

        spec = OPERATORS[operation.kind]
        tensors = tuple(self._names(operation, key) for key in spec.tensors)
        rest = {key: value for key, value in operation.arguments.items() if key not in spec.tensors}
        late = [
            key
            for key, value in rest.items()
            if isinstance(value, ValueReference) and value.name not in self._constants
        ]
        fixed = {key: self._resolved(operation, value) for key, value in rest.items() if key not in late}
        if late:
            names = tuple(str(self._names(operation, key)) for key in late)
            kernel = _late(operation, fixed, tuple(late), len(tensors))
            tensors = (*tensors, *names)
        else:
            kernel = spec.build(MilCall(operation.kind, operation.name, fixed, operation.outputs))
        return _Step(
            name=operation.name,
            kind=operation.kind,
            kernel=kernel,
            tensors=tensors,
            outputs=operation.outputs,
            held=tuple(getattr(torch, self._held(operation, port)) for port in operation.outputs),
            rounded=tuple(
                rounding and port.dtype == "fp16" and operation.kind not in MOVES for port in operation.outputs
            ),
        )

    def _held(self, operation: Operation, port: Port) -> str:
        if port.dtype not in CASTS:
            raise EngineError(
                f"{self._package.name}: operation {operation.name!r} ({operation.kind}) gives {port.dtype}, "
                "which is not interpreted"
            )
        return CASTS[port.dtype]

    def _resolved(self, operation: Operation, argument: Any) -> Value:
        """The value of an argument that is a constant."""
        if isinstance(argument, tuple):
            return [self._resolved(operation, one) for one in argument]
        if not isinstance(argument, ValueReference):
            return argument
        if argument.name not in self._constants:
            raise EngineError(
                f"{self._package.name}: operation {operation.name!r} ({operation.kind}) needs {argument.name!r} as a "
                "constant, and it is computed"
            )
        return self._constants[argument.name]

    def _names(self, operation: Operation, key: str) -> str | tuple[str, ...] | None:
        """The tensors of an argument by name, constants made into tensors."""
        if key not in operation.arguments:
            return None
        argument = operation.arguments[key]
        if key == "values" and not isinstance(argument, tuple):
            argument = (argument,)
        if isinstance(argument, tuple):
            return tuple(self._name(operation, f"{key}.{number}", one) for number, one in enumerate(argument))
        return self._name(operation, key, argument)

    def _name(self, operation: Operation, key: str, argument: Any) -> str:
        if isinstance(argument, ValueReference):
            self._use(argument.name, f"operation {operation.name!r} ({operation.kind})")
            return argument.name
        name = f"{operation.name}.{key}"
        self._constants[name] = argument
        self._known.add(name)
        self._use(name, "")
        return name

    def _use(self, name: str, reader: str) -> None:
        """Check that a tensor is defined before it is read; convert constants to tensors.

        Raises:
            EngineError: nothing before gives it, or it is text.
        """
        import torch

        if name not in self._known:
            raise EngineError(f"{self._package.name}: {reader} reads {name!r}, which nothing before it gives")
        if name in self._tensors or name not in self._constants:
            return
        array = np.asarray(self._constants[name])
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        elif array.dtype.kind == "u" and array.dtype != np.uint8:
            array = array.astype(np.int32)
        elif array.dtype == object:
            raise EngineError(f"{self._package.name}: the constant {name!r} is text, and is computed with")
        self._tensors[name] = torch.from_numpy(np.array(array))


def _constant(operation: Operation) -> bool:
    return operation.kind == "const" or operation.kind.startswith("constexpr_")


def _late(operation: Operation, fixed: Mapping[str, Value], late: tuple[str, ...], count: int) -> Kernel:
    """A kernel whose last arguments are parameters, as in a reshape to a computed shape."""
    build = OPERATORS[operation.kind].build

    def run(*tensors: Any) -> Any:
        values = {key: tensor.numpy() for key, tensor in zip(late, tensors[count:], strict=True)}
        return build(MilCall(operation.kind, operation.name, {**fixed, **values}, operation.outputs))(*tensors[:count])

    return run


def _with_ends(steps: Sequence[_Step], outputs: Sequence[str]) -> list[_Step]:
    """The steps, each with the tensors that can be freed after it."""
    import dataclasses

    read = set(outputs)
    found = []
    for step in reversed(steps):
        names = {port.name for port in step.outputs}
        for one in step.tensors:
            names.update((one,) if isinstance(one, str) else one or ())
        found.append(dataclasses.replace(step, finished=tuple(names - read)))
        read |= names
    return found[::-1]


def _check_shape(tensor: Tensor, port: Port, kind: str, package: str) -> None:
    shape = tuple(tensor.shape)
    if shape == port.shape:
        return
    fits = len(shape) == len(port.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, port.shape, strict=True)
    )
    if not fits:
        wanted = "x".join("?" if size is None else str(size) for size in port.shape)
        got = "x".join(map(str, shape))
        raise EngineError(f"{package}: {port.name!r} ({kind}) has the shape {got}, the file says {wanted}")
