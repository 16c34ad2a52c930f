"""An ONNX graph of one batch and input size, opened to several: one file, one set of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_END = np.iinfo(np.int64).max
_OTHERWISE = "give one --batch and one --size, and a bundle for each"


def open_shapes(model: ModelProto, *, batch: bool, size: bool) -> ModelProto:
    """The graph with its batch, its input's height and width, or both left open; the given one is changed.

    Constants that hold the batch or the size are written anew: shapes of reshapes, sizes of resizes, ends of slices.
    Whether the graph then computes the same is for the proof of each variant to say.

    Args:
        model: batch 1, input NCHW, all shapes known.
        batch: leave the batch open.
        size: leave height and width open.

    Raises:
        ConversionError: a constant holds the batch or the size in a way that is not known here; names the node.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    opening = _Opening(model, shapes, batch, size)
    for node in model.graph.node:
        opening.rewrite(node)
    del model.graph.value_info[:]
    names = ("batch" if batch else None, None, "height" if size else None, "width" if size else None)
    for value in model.graph.input:
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if name:
                dim.dim_param = name
    for value in model.graph.output:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if (batch and not place) or (size and place and _follows_size(place, value.type.tensor_type.shape.dim)):
                dim.dim_param = "batch" if not place else f"{value.name}_{place}"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConversionError(f"this network does not take several batches or sizes ({first}); {_OTHERWISE}") from error
    return model


def opened(shape: tuple[int, ...], *, batch: bool, size: bool) -> tuple[int, ...]:
    """The shape of an output in the manifest, -1 where any size goes."""
    return tuple(
        -1 if (batch and not place) or (size and place and _follows_size(place, shape)) else length
        for place, length in enumerate(shape)
    )


def _follows_size(place: int, shape: object) -> bool:
    """Whether a dimension of an output may depend on the input's size: rows and columns of NCHW, else all."""
    return place >= 2 or len(shape) != 4  # type: ignore[arg-type]


class _Opening:
    """Writes the constants of nodes anew."""

    def __init__(self, model: ModelProto, shapes: dict[str, tuple[int, ...]], batch: bool, size: bool) -> None:
        self._model, self._shapes, self._batch, self._size = model, shapes, batch, size
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._new = 0

    def rewrite(self, node: NodeProto) -> None:
        if node.op_type == "Reshape":
            self._reshape(node)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            self._resize(node)
        elif node.op_type == "Slice" and self._size:
            self._slice(node)

    def _reshape(self, node: NodeProto) -> None:
        wanted = self._values(node, 1)
        before, after = self._shapes.get(node.input[0], ()), self._shapes.get(node.output[0], ())
        if not before or not after or node.input[0] in self._constants:
            return
        shape = [int(one) for one in wanted]
        if before == (1, *after):  # (1, n, ...) to (n, ...): images one below the other, as products take them
            node.input[1] = self._constant(node, "shape", np.array([-1, *after[1:]], np.int64))
            return
        if after == (1, *before):  # and back
            if self._batch and self._size:
                raise ConversionError(f"{_named(node)} has batch and size in one dimension; {_OTHERWISE}")
            whole = [-1, *after[1:]] if self._batch else [1, -1, *after[2:]]
            node.input[1] = self._constant(node, "shape", np.array(whole, np.int64))
            return
        if self._batch:
            if before[0] != 1 or after[0] != 1:
                raise ConversionError(f"{_named(node)} mixes the batch with other dimensions; {_OTHERWISE}")
            shape[0] = 0  # what the input has there, unless the node says that 0 is 0
            kept = [one for one in node.attribute if one.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        if self._size:
            places = [place for place in range(1, len(after)) if self._spatial(after[place], before)]
            if len(places) > 1 or (places and any(one == -1 for n, one in enumerate(shape) if n != places[0])):
                raise ConversionError(f"{_named(node)} has more than one dimension of the input's size; {_OTHERWISE}")
            for place in places:
                shape[place] = -1
        node.input[1] = self._constant(node, "shape", np.array(shape, np.int64))

    def _spatial(self, length: int, before: tuple[int, ...]) -> bool:
        """Whether a dimension is made of rows and columns of what is reshaped."""
        return len(before) == 4 and length > 1 and length in (before[2] * before[3], before[2], before[3])

    def _resize(self, node: NodeProto) -> None:
        before, after = self._shapes.get(node.input[0], ()), self._shapes.get(node.output[0], ())
        if len(before) != 4 or len(after) != 4:
            raise ConversionError(f"{_named(node)} resizes to a size that is not known; {_OTHERWISE}")
        scales = np.array([after[place] / before[place] for place in range(4)], np.float32)
        node.input[2] = self._constant(node, "scales", scales)
        del node.input[3:]

    def _slice(self, node: NodeProto) -> None:
        before = self._shapes.get(node.input[0], ())
        ends = self._values(node, 2).copy()
        axes = self._values(node, 3) if len(node.input) > 3 and node.input[3] else np.arange(len(ends))
        changed = False
        for number, axis in enumerate(axes):
            if len(before) == 4 and int(axis) % 4 >= 2 and ends[number] >= before[int(axis) % 4]:
                ends[number], changed = _END, True
        if changed:
            node.input[2] = self._constant(node, "ends", ends.astype(np.int64))

    def _values(self, node: NodeProto, place: int) -> NDArray[np.int64]:
        from onnx import numpy_helper

        tensor = self._constants.get(node.input[place])
        if tensor is None:
            raise ConversionError(f"{_named(node)} computes its own shape; {_OTHERWISE}")
        return np.asarray(numpy_helper.to_array(tensor), np.int64).reshape(-1)

    def _constant(self, node: NodeProto, what: str, values: NDArray[np.int64] | NDArray[np.float32]) -> str:
        from onnx import numpy_helper

        self._new += 1
        tensor = numpy_helper.from_array(values, f"opened_{what}_{self._new}")
        self._model.graph.initializer.append(tensor)
        return str(tensor.name)


def _named(node: NodeProto) -> str:
    return f"this network does not take several batches or sizes: {node.op_type} {node.name!r}"
