"""Files of LiteRT for several batches and sizes: shapes worked out here against LiteRT's own, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs LiteRT")
pytest.importorskip("flatbuffers", reason="needs flatbuffers, which LiteRT's toolchain brings")

from edgekit.converters.litert.signatures import with_signatures

SIZE = (8, 8)


class Writer:
    """A ``.tflite`` graph written operator by operator; shapes are those of one image of 8x8."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self.input = self.tensor((1, 3, *SIZE))

    def tensor(self, shape: Sequence[int], kind: int = schema.TensorType.FLOAT32) -> int:
        one = schema.TensorT()
        one.shape, one.type, one.name = np.array(shape, np.int32), kind, f"t{len(self.graph.tensors)}"
        self.graph.tensors.append(one)
        return len(self.graph.tensors) - 1

    def constant(self, values: Any) -> int:
        array = np.asarray(values)
        array = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        buffer = schema.BufferT()
        buffer.data = array.reshape(-1).view(np.uint8)
        self.model.buffers.append(buffer)
        kind = schema.TensorType.INT32 if array.dtype == np.int32 else schema.TensorType.FLOAT32
        place = self.tensor(array.shape, kind)
        self.graph.tensors[place].buffer = len(self.model.buffers) - 1
        return place

    def add(self, kind: str, inputs: Sequence[int], *shapes: Sequence[int], **options: Any) -> Any:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        self.model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs = len(self.model.operatorCodes) - 1, list(inputs)
        op.outputs = [self.tensor(shape) for shape in shapes]
        if options:
            name = options.pop("table")
            op.builtinOptions = getattr(schema, f"{name}T")()
            op.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            for key, value in options.items():
                setattr(op.builtinOptions, key, value)
        self.graph.operators.append(op)
        return op.outputs[0] if len(op.outputs) == 1 else op.outputs

    def finished(self, *outputs: int) -> bytes:
        from ai_edge_litert.tools import flatbuffer_utils

        self.graph.inputs, self.graph.outputs = [self.input], list(outputs)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [_named("images", self.input)]
        signature.outputs = [_named(f"output_{number}", place) for number, place in enumerate(outputs)]
        self.model.subgraphs, self.model.signatureDefs = [self.graph], [signature]
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def _named(name: str, place: int) -> Any:
    found = schema.TensorMapT()
    found.name, found.tensorIndex = name, place
    return found


def network(random: np.random.Generator) -> bytes:
    """Most operators whose constants hold the batch or the size, one behind the other."""
    w = Writer()
    x = w.add("TRANSPOSE", [w.input, w.constant([0, 2, 3, 1])], (1, 8, 8, 3))
    x = w.add("PAD", [x, w.constant([[0, 0], [1, 1], [1, 1], [0, 0]])], (1, 10, 10, 3))
    kernel, bias = w.constant(random.normal(size=(4, 3, 3, 3))), w.constant(random.normal(size=4))
    conv = {"table": "Conv2DOptions", "padding": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    x = w.add("CONV_2D", [x, kernel, bias], (1, 4, 4, 4), strideH=2, strideW=2, **conv)
    pool = {"table": "Pool2DOptions", "padding": 0, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    small = w.add("MAX_POOL_2D", [x], (1, 2, 2, 4), **pool)
    options = {"table": "ResizeNearestNeighborOptions"}
    large = w.add("RESIZE_NEAREST_NEIGHBOR", [small, w.constant([4, 4])], (1, 4, 4, 4), **options)
    x = w.add("CONCATENATION", [x, large], (1, 4, 4, 8), table="ConcatenationOptions", axis=3)
    cut = {"table": "StridedSliceOptions", "endMask": 0}
    even = [x, w.constant([0, 0, 0, 0]), w.constant([1, 4, 4, 8]), w.constant([1, 2, 2, 1])]
    focus = w.add("STRIDED_SLICE", even, (1, 2, 2, 8), beginMask=1, **cut | {"endMask": 1})
    whole = w.add("MEAN", [x, w.constant([1, 2])], (1, 1, 1, 8), table="ReducerOptions", keepDims=True)
    focus = w.add("MUL", [focus, whole], (1, 2, 2, 8), table="MulOptions")
    # A channel shuffle as FastestDet has it: the batch goes from one dimension to another.
    y = w.add("TRANSPOSE", [x, w.constant([0, 3, 1, 2])], (1, 8, 4, 4))
    y = w.add("RESHAPE", [y, w.constant([4, 2, 16])], (4, 2, 16), table="ReshapeOptions", newShape=[4, 2, 16])
    y = w.add("TRANSPOSE", [y, w.constant([1, 0, 2])], (2, 4, 16))
    y = w.add("RESHAPE", [y, w.constant([2, 1, 4, 4, 4])], (2, 1, 4, 4, 4), table="ReshapeOptions")
    taken = [y, w.constant([1, 0, 0, 0, 0]), w.constant([1, 1, 4, 4, 4])]
    y = w.add("SLICE", taken, (1, 1, 4, 4, 4), table="SliceOptions")
    y = w.add("RESHAPE", [y, w.constant([1, 4, 4, 4])], (1, 4, 4, 4), table="ReshapeOptions")
    # Tokens, as heads have them.
    z = w.add("RESHAPE", [x, w.constant([1, 16, 8])], (1, 16, 8), table="ReshapeOptions")
    table = {"table": "FullyConnectedOptions", "keepNumDims": True}
    z = w.add("FULLY_CONNECTED", [z, w.constant(random.normal(size=(6, 8))), -1], (1, 16, 6), **table)
    parts = w.add("SPLIT", [w.constant([2]), z], (1, 16, 3), (1, 16, 3), table="SplitOptions", numSplits=2)
    products = w.add("BATCH_MATMUL", [*parts], (1, 16, 16), table="BatchMatMulOptions", adjX=False, adjY=True)
    z = w.add("BATCH_MATMUL", [products, parts[1]], (1, 16, 3), table="BatchMatMulOptions", adjX=False, adjY=False)
    z = w.add("RESHAPE", [z, w.constant([1, 4, 4, 3])], (1, 4, 4, 3), table="ReshapeOptions")
    return w.finished(focus, y, z)


def opened(content: bytes, folder: Path) -> Any:
    folder.joinpath("model.tflite").write_bytes(content)
    graph = Graph(
        files=("model.tflite",),
        inputs=(Tensor(name="images", shape=(-1, 3, -1, -1)),),
        outputs=(
            Tensor(name="output_0", shape=(-1, -1, -1, 8)),
            Tensor(name="output_1", shape=(-1, 4, -1, -1)),
            Tensor(name="output_2", shape=(-1, -1, -1, 3)),
        ),
    )
    return open_session("litert", folder, graph, SessionOptions(threads=1))


def test_each_signature_computes_what_it_should(tmp_path: Path) -> None:
    """Several images at once against one by one; `test_variants` compares sizes with a source."""
    content = network(np.random.default_rng(0))
    shapes = ((3, 3, 8, 8), (1, 3, 16, 24), (3, 3, 16, 24))
    made = with_signatures(content, shapes)
    assert len(made) < len(content) + 3 * 8192
    session = opened(made, tmp_path)
    for height, width in (SIZE, (16, 24)):
        images = np.random.default_rng(1).normal(size=(3, 3, height, width)).astype(np.float32)
        together = [array.copy() for array in session.run([images])]
        apart = [[array.copy() for array in session.run([image[None]])] for image in images]
        for place, array in enumerate(together):
            assert len(array) == 3
            np.testing.assert_allclose(array, np.concatenate([one[place] for one in apart]), rtol=1e-4, atol=1e-4)
    assert together[2].shape == (3, 8, 12, 3)
    with pytest.raises(EngineError, match=r"no signature 'batch_2_8x8', only serving_default, batch_3_8x8"):
        session.run([np.zeros((2, 3, 8, 8), np.float32)])


def test_the_first_signature_is_as_it_was(tmp_path: Path) -> None:
    content = network(np.random.default_rng(0))
    image = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    found = []
    for name, one in (("one", content), ("several", with_signatures(content, ((1, 3, 16, 16),)))):
        (tmp_path / name).mkdir()
        found.append([array.copy() for array in opened(one, tmp_path / name).run([image])])
    for array, wanted in zip(*found, strict=True):
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 16), r"ADD 't2' has a constant of the size that it was made for; give one --batch and one --size"),
        ((2, 3, 8, 8), r""),
    ],
    ids=["size", "batch"],
)
def test_a_constant_of_the_size_is_refused(shape: tuple[int, ...], message: str) -> None:
    w = Writer()
    content = w.finished(w.add("ADD", [w.input, w.constant(np.ones((1, 3, 8, 8)))], (1, 3, 8, 8), table="AddOptions"))
    if not message:
        assert with_signatures(content, (shape,))
        return
    with pytest.raises(ConversionError, match=message):
        with_signatures(content, (shape,))


def test_what_cannot_be_told_is_refused() -> None:
    w = Writer()
    rows = w.add("RESHAPE", [w.input, w.constant([3, 64])], (3, 64), table="ReshapeOptions")
    cut = w.add("RESHAPE", [rows, w.constant([3, 4, 4, 4])], (3, 4, 4, 4), table="ReshapeOptions")
    with pytest.raises(ConversionError, match=r"RESHAPE 't\d' has the input's size in several of \[4, 4, 4\]"):
        with_signatures(w.finished(cut), ((1, 3, 16, 8),))
    w = Writer()
    parts = w.add("UNPACK", [w.input], *[(1, 3, 8)] * 8, table="UnpackOptions", num=8, axis=2)
    with pytest.raises(ConversionError, match=r"UNPACK .* takes the input's rows or columns apart"):
        with_signatures(w.finished(parts[0]), ((1, 3, 16, 8),))


def test_a_rule_that_is_not_litert_s_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.converters.litert import shapes

    def wrong(op: shapes.Operator) -> shapes.Written:
        return shapes.Written([op.new[0]])

    monkeypatch.setitem(shapes._RULES, "MAX_POOL_2D", wrong)
    w = Writer()
    pool = {"table": "Pool2DOptions", "padding": 0, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    content = w.finished(w.add("MAX_POOL_2D", [w.input], (1, 2, 4, 8), **pool))
    with pytest.raises(ConversionError, match=r"LiteRT makes \(2, 2, 4, 8\) of 't1' where \(2, 3, 8, 8\) was expected"):
        with_signatures(content, ((2, 3, 8, 8),))


def test_a_manifest_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    session = opened(with_signatures(network(np.random.default_rng(0)), ((2, 3, 8, 8),)), tmp_path)
    graph = session._graph
    outputs = (msgspec.structs.replace(graph.outputs[0], shape=(-1, 7, -1, 8)), *graph.outputs[1:])
    with pytest.raises(EngineError, match=r"output_0 is float32 \(1, 2, 2, 8\), but its manifest says"):
        open_session("litert", tmp_path, msgspec.structs.replace(graph, outputs=outputs), SessionOptions())
