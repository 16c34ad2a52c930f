"""Make a graph with external weights compute in float16: operators change, no weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LARGEST = np.finfo(np.float16).max


def compute_in_half(model: ModelProto) -> None:
    """Change a model in place. Its inputs and outputs stay float32; stored floats are cast, which engines do once.

    Small constants stand in the graph and are rounded here: what float16 cannot hold becomes its largest number.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, front, renamed = model.graph, [], {}

    def cast(name: str, kind: int, result: str) -> NodeProto:
        return helper.make_node("Cast", [name], [result], f"Cast.{result}", to=kind)

    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            renamed[tensor.name] = f"{tensor.name}.half"
            front.append(cast(tensor.name, TensorProto.FLOAT16, renamed[tensor.name]))
        else:
            values = np.clip(numpy_helper.to_array(tensor), -_LARGEST, _LARGEST).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[value.name] = f"{value.name}.half"
            front.append(cast(value.name, TensorProto.FLOAT16, renamed[value.name]))
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])  # a weight stored in float16
        else:
            kept.append(node)
    outputs = {value.name for value in graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [f"{name}.half" if name in outputs else name for name in node.output]
    for node in kept:  # an output that others read too
        node.input[:] = [f"{name}.half" if name in outputs else name for name in node.input]
    back = [cast(f"{name}.half", TensorProto.FLOAT, name) for name in outputs]
    del graph.node[:]
    graph.node.extend([*front, *kept, *back])
