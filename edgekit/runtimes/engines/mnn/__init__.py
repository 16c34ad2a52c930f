"""MNN: Alibaba's engine for phones and small boards, here through its Python module on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs
from edgekit.runtimes.engines.mnn.flatbuffer import CONST, INPUT, MnnOperator, read_operators

_DEFAULT_THREADS = 4
"""What MNN takes by itself; its Python module wants a number."""

_STDOUT = threading.Lock()


class MnnSession:
    """An opened ``.mnn`` file.

    Attributes:
        interpreter: MNN's own, which owns the session and all its tensors.
        session: MNN's own.
    """

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        operators = _operators(path)
        if path.with_name(f"{path.name}.weight").exists():  # MNN reads it without being told
            raise EngineError(f"{path}.weight: weights that the manifest does not guard; do not use this bundle")
        with _silence():
            import MNN

            # "high" is float32 wherever it runs; "low", the default of some builds, would be float16 on newer ARM.
            config = {"backend": "CPU", "precision": "high", "numThread": options.threads or _DEFAULT_THREADS}
            try:
                interpreter = MNN.Interpreter(str(path))
                session = interpreter.createSession(config)
            except Exception as error:  # MNN raises nothing narrower
                raise EngineError(f"{path}: MNN cannot open it: {error}; convert again") from error
        self._graph, self._path = graph, path
        self.interpreter: Any = interpreter
        self.session: Any = session
        self._host = MNN.Tensor, MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
        made = {name for operator in operators for name in operator.outputs}
        for tensor in (*graph.inputs, *graph.outputs):  # MNN would give the first tensor for a name it does not know
            if tensor.name not in made:
                raise EngineError(f"{path}: has no tensor {tensor.name!r}, which the manifest names; convert again")
        try:
            self._inputs = [interpreter.getSessionInput(session, tensor.name) for tensor in graph.inputs]
            self._outputs = [interpreter.getSessionOutput(session, tensor.name) for tensor in graph.outputs]
        except Exception as error:  # MNN raises nothing narrower
            raise EngineError(f"{path}: MNN cannot open it: {error}; convert again") from error
        for tensor, found in zip((*graph.inputs, *graph.outputs), (*self._inputs, *self._outputs), strict=True):
            if tuple(found.getShape()) != tensor.shape:
                raise EngineError(
                    f"{path}: {tensor.name!r} has shape {list(found.getShape())}, the manifest says "
                    f"{list(tensor.shape)}; convert again"
                )
        self._results = [self._tensor(np.zeros(tensor.shape, np.float32)) for tensor in graph.outputs]
        self.placement = _placement(operators)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        self.feed(inputs)
        code = self.interpreter.runSession(self.session)
        if code:
            raise EngineError(f"{self._path.name}: MNN failed (code {code})")
        for output, result in zip(self._outputs, self._results, strict=True):
            output.copyToHostTensor(result)
        # Copied: what MNN hands out is its own memory, which nothing keeps when the session goes.
        return [
            np.array(result.getNumpyData(), np.float32).reshape(tensor.shape)
            for result, tensor in zip(self._results, self._graph.outputs, strict=True)
        ]

    def feed(self, inputs: Sequence[Floats]) -> None:
        """Copy the inputs into the engine, without running it."""
        check_inputs(self._graph, inputs)
        for tensor, array in zip(self._inputs, inputs, strict=True):
            tensor.copyFrom(self._tensor(np.ascontiguousarray(array)))

    def _tensor(self, array: Floats) -> Any:
        kind, dtype, layout = self._host
        return kind(array.shape, dtype, array, layout)


def _operators(path: Path) -> list[MnnOperator]:
    """Check the file before MNN opens it, because MNN aborts the process on some broken files."""
    try:
        operators = read_operators(path)
    except FileNotFoundError as error:
        raise EngineError(f"{path}: missing; convert again") from error
    except ValueError as error:
        raise EngineError(f"{path}: {error}; convert again") from error
    if not operators:
        raise EngineError(f"{path}: holds no operators; convert again")
    return operators


def _placement(operators: list[MnnOperator]) -> Placement:
    stored = Counter(operator.stored for operator in operators if operator.stored)
    arithmetic = "float32"
    if stored["int8"]:
        arithmetic = f"int8 in {stored['int8']} of {stored.total()} convolutions, float32 or int8 tables elsewhere"
    elif stored["int8 weights"]:
        arithmetic = f"float32, weights of {stored['int8 weights']} of {stored.total()} convolutions stored as int8"
    elif stored["float16"]:
        arithmetic = "float32, weights stored as float16"
    computing = sum(operator.kind not in (INPUT, CONST) for operator in operators)
    return Placement("cpu", {"cpu": computing}, arithmetic)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Redirect what MNN prints about the CPU, so that it does not mix with a command's JSON on stdout."""
    with _STDOUT:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        try:
            yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what C holds back would come out after the restoration
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)


class Mnn(Engine):
    """MNN."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> MnnSession:
        """Open a ``.mnn`` file on the CPU. Everything MNN has runs there, so ``strict`` always holds.

        Raises:
            EngineError: the file is not what MNN reads, or not what the manifest says.
        """
        return MnnSession(folder / graph.files[0], graph, options)


SETTINGS = "backend CPU, precision high (the default may be low, which is float16)"

ENGINE = Mnn(name="mnn", packages=("MNN",), extra="mnn", settings=SETTINGS)
