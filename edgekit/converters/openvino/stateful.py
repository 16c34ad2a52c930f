"""A decoder's cache as a state of OpenVINO, in place of inputs and outputs, and the attention that reads it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.graph.blip2.cache import past, present
from edgekit.runtimes.engines.openvino.session import import_openvino


def make_stateful(model: Any, layers: int, embeddings: str = "inputs_embeds") -> None:
    """Turn every ``past`` input and ``present`` output of a model into a state, in place.

    A state that was reset has no tokens, and as many rows as ``embeddings`` has.
    """
    import_openvino()
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    names = {past(n, what): present(n, what) for n in range(layers) for what in ("key", "value")}
    apply_make_stateful_transformation(model, names)
    zero = opset13.constant(0, dtype=np.int64)
    shape = opset13.shape_of(model.input(embeddings), output_type="i64")
    rows = opset13.gather(shape, opset13.constant([0], dtype=np.int64), zero)
    for operation in model.get_ops():
        if operation.get_type_name() != "ReadValue":
            continue
        _, heads, _, size = operation.get_output_partial_shape(0)
        rest = opset13.constant([heads.get_length(), 0, size.get_length()], dtype=np.int64)
        empty = opset13.concat([rows, rest], axis=0)
        first = opset13.constant(0.0, dtype=operation.get_output_element_type(0))
        operation.set_arguments([opset13.broadcast(first, empty)])
    _fuse_attention(model, opset13)
    model.validate_nodes_and_infer_types()


def _fuse_attention(model: Any, opset: Any) -> None:
    """Put one operator in place of products, sum and softmax over a state: the CPU plugin then appends to its cache
    in place, in the precision that it is asked for, and chooses rows without a copy.
    """
    for softmax in model.get_ops():
        if softmax.get_type_name() != "Softmax":
            continue
        (product,) = (port.get_node() for port in softmax.output(0).get_target_inputs())
        scores, bias = softmax.input_value(0).get_node().input_values()
        query, turned = scores.get_node().input_values()
        key = turned.get_node().input_value(0)
        if key.get_node().get_type_name() != "Concat":  # an encoder's output, which stays as it is
            continue
        scale = opset.constant(1.0, dtype=np.float32)  # the query is scaled already
        value = product.input_value(1)
        fused = opset.scaled_dot_product_attention(query, key, value, bias, scale, causal=False)
        product.output(0).replace(fused.output(0))
