"""The Core ML program inside a ``.pte`` file, taken out and computed by edgekit's interpreter of Core ML."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs

_FOLDER = 1
_LONGEST_TREE = 1 << 16
"""Bytes at the end of a payload that hold the tree of its files; one of a network has about a thousand."""


class InterpretedDelegateSession:
    """One ``.pte`` file that Core ML runs as a whole.

    Raises:
        EngineError: parts of it are outside Core ML, or the program in it cannot be interpreted.
    """

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        from edgekit.emulators.coreml.interpreter import Interpreter

        payload = _payload(path)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
            write_files(payload, Path(scratch) / "payload")
            names = json.loads((Path(scratch) / "payload" / "metadata.json").read_text(encoding="utf-8"))
            self._interpreter = Interpreter(Path(scratch) / "payload" / "model.mlpackage", threads=options.threads)
        self._graph = graph
        self._inputs, self._outputs = names["inputNames"], names["outputNames"]
        if len(self._inputs) != len(graph.inputs) or len(self._outputs) != len(graph.outputs):
            raise EngineError(
                f"{path}: its Core ML program has {len(self._inputs)} inputs and {len(self._outputs)} outputs, the "
                f"manifest says {len(graph.inputs)} and {len(graph.outputs)}; convert again"
            )
        self.placement = Placement(
            options.device,
            {options.device: sum(self._interpreter.kinds.values())},
            "float16 rounding, float32 sums" if self._interpreter.half else "float32",
            "interpreted",
        )

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        found = self._interpreter.run(dict(zip(self._inputs, inputs, strict=True)))
        return [np.ascontiguousarray(found[name], np.float32) for name in self._outputs]


def _payload(path: Path) -> bytes:
    """The contents of the one delegate of a file.

    Raises:
        EngineError: not a whole ``.pte`` file, or something in it runs outside the delegate.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall

    try:
        program = deserialize_pte_binary(path.read_bytes()).program
        (plan,) = program.execution_plan
        instructions = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    except Exception as error:  # its reader is generated code that raises whatever broken bytes lead to
        raise EngineError(f"{path}: not a whole ExecuTorch file ({error}); convert again") from error
    calls = [call for call in instructions if isinstance(call, DelegateCall)]
    if len(calls) != 1 or len(instructions) != 1:
        raise EngineError(
            f"{path}: {len(instructions) - len(calls)} operators are outside Core ML's {len(calls)} part(s), and the "
            "interpreter computes one whole Core ML program; check it on a Mac or an iPhone"
        )
    _check_order(path, plan, calls[0])
    return bytes(program.backend_delegate_data[plan.delegates[calls[0].delegate_index].processed.index].data)


def _check_order(path: Path, plan: Any, call: Any) -> None:
    """The delegate's arguments have to be the program's inputs and outputs in their order."""
    if call.args != [*plan.inputs, *plan.outputs]:
        raise EngineError(f"{path}: its Core ML part takes its tensors in another order; convert again")


def write_files(payload: bytes, folder: Path) -> None:
    """Unpack what ExecuTorch's Core ML backend stores: files one after another, then their tree as reversed JSON.

    A node of the tree is a file (kind 0) with its region, or a folder (kind 1) with the numbers of its children; the
    last is the root.

    Raises:
        EngineError: not such a payload.
    """
    try:
        # Reversed, so that a reader may begin at the end without knowing how long the tree is.
        tail = payload[: -_LONGEST_TREE - 1 : -1].decode("latin-1")
        nodes = json.JSONDecoder().raw_decode(tail)[0]["nodes"]
        _write(nodes, nodes[-1], payload, folder)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise EngineError(f"not a Core ML payload of ExecuTorch ({error}); convert again") from error


def _write(nodes: list[dict[str, Any]], node: dict[str, Any], payload: bytes, path: Path) -> None:
    if node["kind"] != _FOLDER:
        offset, size = node["dataRegion"]["offset"], node["dataRegion"]["size"]
        if not 0 <= offset <= offset + size <= len(payload):
            raise ValueError(f"{path.name} lies outside it")
        path.write_bytes(payload[offset : offset + size])
        return
    path.mkdir()
    for name, index in node["children"].items():
        if name in ("", ".", "..") or Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file")
        _write(nodes, nodes[index], payload, path / name)
