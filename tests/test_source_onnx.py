"""ONNX files as a source: whole networks, names and cuts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import SHAPE, check, examples, image, ints, load, node, onnx, oracle, torch, weights, write

from edgekit.errors import ContractError, SourceError
from edgekit.sources import SourceRequest
from edgekit.sources import onnx as onnx_file


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


# --- whole networks ---


class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A small detector: depthwise convolutions, SiLU, pooling, upsampling, concat, two raw heads."""

    def __init__(self) -> None:
        super().__init__()
        make = torch.nn.Conv2d
        self.stem, self.norm = make(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8)
        self.depthwise, self.point = make(8, 8, 3, 2, 1, groups=8), make(8, 16, 1)
        self.boxes, self.classes = make(24, 4, 1), make(24, 5, 1)

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        fine = functional.silu(self.norm(self.stem(x)))
        coarse = functional.hardswish(self.point(functional.leaky_relu(self.depthwise(fine), 0.1)))
        pooled = functional.max_pool2d(coarse, 5, 1, 2) + functional.avg_pool2d(coarse, 3, 1, 1)
        both = torch.cat((functional.interpolate(pooled, scale_factor=2.0), fine), 1)
        return self.boxes(both), self.classes(both).sigmoid()


@pytest.mark.parametrize(
    ("opset", "dynamo"), [(11, False), (13, False), (17, False), (18, True), (20, True), (22, True)]
)
def test_networks_of_both_exporters(opset: int, dynamo: bool, folder: Path) -> None:
    path = folder / "net.onnx"
    torch.manual_seed(opset)
    network = Block().eval()
    x = image((1, 3, 64, 96))
    torch.onnx.export(network, (x,), path, dynamo=dynamo, opset_version=opset, verbose=False)
    module = check(path, x)
    with torch.no_grad():
        for got, want in zip(module(x), network(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_there_and_back_through_the_exchange(folder: Path) -> None:
    """Source -> exchange -> ONNX source -> exchange again: torch.export follows the rebuilt network."""
    from edgekit.graph.exchange import write_exchange

    x = image((1, 3, 64, 96))
    network = Block().eval()
    first = write_exchange(network, x, ("boxes", "classes"), folder)
    again = folder / "again"
    again.mkdir()
    model = load(first.onnx)
    assert model.example.shape == x.shape
    assert model.contract is None
    assert model.origin.kind == "onnx"
    assert len(model.origin.sha256) == 64
    second = write_exchange(model.module, model.example, ("boxes", "classes"), again)
    assert second.shapes == first.shapes
    for got, want in zip(oracle(second.onnx, x), network(x), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.ultralytics
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo26n.yaml"])
def test_ultralytics_networks(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_VERBOSE", "false")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(folder))
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="needs the optional package ultralytics")
    torch.manual_seed(0)
    network = tasks.DetectionModel(name, verbose=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as initialised, they fade the image out: every anchor is a tie
            module.running_var.fill_(0.5)
    network.model[-1].export = True
    x = image((1, 3, 96, 128)).sigmoid()
    network(x)
    path = folder / "yolo.onnx"
    torch.onnx.export(network, (x,), path, dynamo=False, opset_version=17)
    check(path, x, tolerance=2e-3)


@pytest.mark.nightly
def test_the_detector_of_the_shared_data(shared_data: Path, folder: Path) -> None:
    from edgekit.graph.exchange import write_exchange

    program = torch.export.load(shared_data / "models" / "fastestdet_coco.pt2")
    names = tuple(f"output_{index}" for index in range(len(program.graph_signature.user_outputs)))
    x = image((1, 3, 352, 352)).sigmoid()
    exchange = write_exchange(program.module(), x, names, folder)
    check(exchange.onnx, x, tolerance=1e-3)


# --- names and cuts ---


def pipeline(path: Path, **options: Any) -> Path:
    nodes = [
        node("Conv", "x", "w", name="/model/head.0/Conv_output_0", pads=[1, 1, 1, 1]),
        node("Relu", "/model/head.0/Conv_output_0", name="relu"),
        node("Conv", "relu", "v", name="7"),
        node("Sigmoid", "7", name="scores"),
        node("NonMaxSuppression", "scores", "scores", name="selected"),
    ]
    return write(path, nodes, {"w": weights(4, 3, 3, 3), "v": weights(2, 4, 1, 1)}, **options)


def test_names_of_the_file_are_kept(folder: Path) -> None:
    module = onnx_file.cut_at(pipeline(folder / "p.onnx"), ["scores"])
    assert module.tensor_names == {
        "x": "x",
        "/model/head.0/Conv_output_0": "model_head_0_Conv_output_0",
        "relu": "relu",
        "7": "tensor_7",
        "scores": "scores",
    }
    assert set(module.tensor_names.values()) <= {n.name for n in module.graph.nodes}


def test_cut_before_what_cannot_be_converted(folder: Path) -> None:
    path = pipeline(folder / "p.onnx")
    with pytest.raises(SourceError, match=r"NonMaxSuppression \(node '/selected'\) cannot be converted, and need"):
        load(path)
    x = image()
    raw, first = onnx_file.cut_at(path, ["7", "/model/head.0/Conv_output_0"])(x)
    model = onnx.load(path)
    del model.graph.node[2:], model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("/model/head.0/Conv_output_0"))
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "cut.onnx")
    np.testing.assert_allclose(first.numpy(), oracle(folder / "cut.onnx", x)[0], rtol=1e-4, atol=1e-5)
    assert raw.shape == (1, 2, 9, 7)
    assert onnx_file.cut_at(path, ["relu"])(x).shape == (1, 4, 9, 7)


def test_cut_at_an_unknown_name(folder: Path) -> None:
    with pytest.raises(ContractError, match=r"no tensor 'score'; near it: scores"):
        onnx_file.cut_at(pipeline(folder / "p.onnx"), ["score"])


def test_dynamic_sizes(folder: Path) -> None:
    path = write(folder / "d.onnx", [node("Relu", "x")], shape=("batch", 3, "height", "width"))
    with pytest.raises(SourceError, match="'x' has a dynamic height or width; give the input size"):
        load(path)
    model = load(path, size=(32, 48))
    assert model.example.shape == (1, 3, 32, 48)
    assert load(write(folder / "d.onnx", [node("Relu", "x")], shape=("batch", 3, 9, 7))).example.shape == SHAPE
    write(folder / "d.onnx", [node("Relu", "x")], shape=("batch", 3, 64, 96))
    with pytest.raises(SourceError, match="fixed to 64x96, not 32x48"):
        load(folder / "d.onnx", size=(32, 48))


def test_a_fixed_batch_becomes_one_and_a_placeholder_any_size(folder: Path) -> None:
    """As CenterFace is published: (10, 3, 32, 32), for images of any size."""
    made = [node("Conv", "x", "w")]
    model = load(write(folder / "ten.onnx", made, {"w": weights(4, 3, 3, 3)}, shape=(10, 3, 32, 32)), size=(96, 64))
    assert model.example.shape == (1, 3, 96, 64)
    assert "the file fixes its input to 10x3x32x32, read as 1x3x96x64" in model.notes
    with torch.no_grad():
        assert model.module(model.example).shape == (1, 4, 94, 62)


def test_a_batch_that_the_graph_needs(folder: Path) -> None:
    path = write(folder / "two.onnx", [node("Reshape", "x", "s")], {"s": ints(2, 189)}, shape=(2, 3, 9, 7))
    with pytest.raises(SourceError, match="input to 2x3x9x7, read as 1x3x9x7, which its graph may not allow"):
        load(path)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_opsets_are_converted(opset: int, folder: Path) -> None:
    """An Upsample by two, which later opsets do not have, and a Softmax with another default axis."""
    up = {"scales": [1.0, 1.0, 2.0, 2.0]} if opset < 9 else {}
    inputs = ("x",) if opset < 9 else ("x", "r")
    operator = "Upsample" if opset < 10 else "Resize"
    nodes = [node(operator, *inputs, name="up", mode="nearest", **up), node("Conv", "up", "w", name="raw")]
    constants = {"w": weights(4, 3, 1, 1)} | ({"r": np.float32([1, 1, 2, 2])} if opset >= 9 else {})
    check(write(folder / "old.onnx", nodes, constants, opset=opset, infer=False), tolerance=1e-4)


def test_rounding_of_a_tiny_output_is_no_difference(folder: Path) -> None:
    """A sigmoid where nothing is seen: what is off is less than float32 rounds near one."""
    constants = {"w": weights(4, 3, 3, 3), "b": np.full(4, -15, np.float32)}
    model = load(write(folder / "tiny.onnx", [node("Conv", "x", "w", "b"), node("Sigmoid", "Conv")], constants))
    from edgekit.sources.onnx import _check_rebuilt

    class Off(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Any) -> Any:
            return model.module(x) + self.by

    _check_rebuilt(folder / "tiny.onnx", Off(1e-7), "x", model.example, ())
    with pytest.raises(SourceError, match="off ONNX Runtime"):
        _check_rebuilt(folder / "tiny.onnx", Off(1e-3), "x", model.example, ())


def test_initialisers_that_are_inputs_too(folder: Path) -> None:
    path = write(folder / "old_style.onnx", [node("Conv", "x", "w")], {"w": weights(4, 3, 3, 3)})
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (4, 3, 3, 3)))
    onnx.save(model, path)
    check(path)


# --- refusals ---


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("GridSample", "x", "g"), r"operator GridSample \(node '/GridSample'\) cannot be converted"),
        (node("FusedConv", "x", "w", domain="com.microsoft"), "com.microsoft::FusedConv .* cannot be converted"),
        (node("QuantizeLinear", "x", "s", "z"), r"QuantizeLinear \(node .*quantized already; give the float32"),
        (node("Resize", "x", "", "r", mode="linear", coordinate_transformation_mode="asymmetric"),
         "coordinate_transformation_mode=asymmetric, of which only half_pixel"),
        (node("Resize", "x", "", "r", mode="linear", antialias=1), "antialias=1, of which only 0"),
        (node("Resize", "x", "", "r", mode="cubic", cubic_coeff_a=-0.5), "cubic_coeff_a=-0.5"),
        (node("Resize", "x", "", "q", mode="linear"), "which torch cannot"),
        (node("MaxPool", "x", count=2, kernel_shape=[2, 2]), "returns indices"),
        (node("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1), "torch cannot express"),
        (node("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 2]), r"dilations=\[2, 2\]"),
        (node("AveragePool", "x", kernel_shape=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
         "implementations disagree"),
        (node("ConvTranspose", "x", "w3", output_shape=[9, 7]), "output_shape, which is not supported"),
        (node("ConvTranspose", "x", "w3", auto_pad="SAME_UPPER"), "auto_pad=SAME_UPPER, of which only NOTSET, VALID"),
        (node("Cast", "x", to=onnx.TensorProto.FLOAT16), "casts to element type 10"),
        (node("Pad", "x", "everywhere", mode="edge"), "only spatial axes"),
        (node("Gather", "x", "far", axis=3), r"index outside -7\.\.6"),
        (node("Dropout", "x", count=2), "training mode"),
        (node("Concat", "x", "x", axis=7), "has axis 7 for a tensor of rank 4"),
        (node("Reshape", "x", "far"), r"operator Reshape \(node '/Reshape'\) does not fit its inputs"),
        (node("Tile", "x", "many"), r"Tile .* does not fit its inputs \(a tensor of 1\.67772e\+07 x 3 x 9 x 7 numb"),
        (node("Expand", "one", "huge"), r"Expand .* does not fit its inputs \(a tensor of 1\.04858e\+06 x "),
        (node("ConstantOfShape", "huge"), r"ConstantOfShape .* \(a tensor of 1\.04858e\+06 x 3 x "),
        (node("Range", "zero", "vast", "step"), r"Range .* \(a tensor of 1e\+12 numbers\)"),
    ],
)  # fmt: skip
def test_refusals_name_operator_and_node(made: Any, message: str, folder: Path) -> None:
    constants = {
        "g": weights(1, 4, 4, 2), "w": weights(3, 3, 1, 1), "w3": weights(3, 3, 2, 2), "far": ints(99),
        "huge": ints(1 << 20, 3, 1 << 20, 1 << 20), "many": ints(1 << 24, 1, 1, 1), "one": weights(1, 3, 1, 1),
        "zero": ints(0).reshape(()), "vast": ints(10**12).reshape(()), "step": ints(1).reshape(()),
        "z": np.uint8(0), "s": np.float32(0.1),
        "r": np.array([1, 1, 2, 2], np.float32), "q": np.array([1, 2, 2, 2], np.float32),
        "everywhere": ints(0, 1, 0, 0, 0, 0, 0, 0),
    }  # fmt: skip
    path = folder / "refused.onnx"
    write(path, [made], constants, opset=20, infer=False)
    with pytest.raises(SourceError, match=message):
        load(path)


def test_shapes_that_depend_on_the_image(folder: Path) -> None:
    nodes = [
        node("ReduceMax", "x", name="top", keepdims=0),
        node("Cast", "top", name="count", to=onnx.TensorProto.INT64),
        node("Reshape", "count", "one", name="list"),
        node("Expand", "x", "list"),
    ]
    with pytest.raises(SourceError, match=r"operator Expand .*input 1 that depends on the image"):
        load(write(folder / "dynamic.onnx", nodes, {"one": ints(1)}))


def test_output_without_the_image(folder: Path) -> None:
    with pytest.raises(SourceError, match="output 'Constant' does not depend on the image"):
        load(write(folder / "constant.onnx", [node("Relu", "x"), node("Constant", value_float=1.0)]))


def test_quantized_by_onnxruntime(folder: Path) -> None:
    """A real QDQ file, as its tools write it."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime's tools")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter([{"x": image().numpy()}])

        def get_next(self) -> Any:
            return next(self.left, None)

    path = write(folder / "float.onnx", [node("Conv", "x", "w")], {"w": weights(4, 3, 3, 3)}, opset=13)
    quantization.quantize_static(path, folder / "qdq.onnx", Reader())
    with pytest.raises(SourceError, match="quantized already"):
        load(folder / "qdq.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 6}, "opset 6, but edgekit reads 7 to 22"),
        ({"shape": (1, 9, 7, 3)}, r"one NCHW image \(1, 3, height, width\) is needed"),
        ({"shape": (1, 3)}, "one NCHW image"),
        ({"dtype": onnx.TensorProto.FLOAT16}, "input 'x' is FLOAT16; export the model with a float32 input"),
    ],
)
def test_inputs_that_are_no_image(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(SourceError, match=message):
        load(write(folder / "input.onnx", [node("Relu", "x")], **options))


def test_two_inputs(folder: Path) -> None:
    model = onnx.load(write(folder / "two.onnx", [node("Relu", "x")]))
    model.graph.input.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1]))
    onnx.save(model, folder / "two.onnx")
    with pytest.raises(SourceError, match=r"has 2 inputs \(x, ids\)"):
        load(folder / "two.onnx")


def test_damaged_files(folder: Path) -> None:
    good = write(folder / "good.onnx", [node("Conv", "x", "w")], {"w": weights(8, 3, 3, 3)}).read_bytes()
    path = folder / "bad.onnx"
    with pytest.raises(SourceError, match="no such file"):
        load(folder / "missing.onnx")
    for content, message in [(b"", r"empty \(0 bytes\)"), (b"hello, not a model" * 9, "truncated or not an ONNX file")]:
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            load(path)
    for keep in (1, 10, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:keep])
        with pytest.raises(SourceError, match=r"bad\.onnx: (truncated|damaged)"):
            load(path)


@examples
@given(st.data())
def test_no_damage_ends_in_another_error(folder: Path, data: st.DataObject) -> None:
    """Any flipped byte either leaves a readable model or is refused with a SourceError."""
    content = bytearray(pipeline(folder / "p.onnx").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = folder / "flipped.onnx"
    path.write_bytes(content)
    try:
        onnx_file.cut_at(path, ["scores"])
    except (SourceError, ContractError) as error:
        assert "flipped.onnx" in str(error)  # noqa: PT017 - no error is fine as well


def test_external_data(folder: Path) -> None:
    path = write(folder / "inside.onnx", [node("Conv", "x", "w")], {"w": weights(8, 3, 3, 3)})
    out = folder / "outside.onnx"
    model = onnx.load(path)
    onnx.save_model(model, out, save_as_external_data=True, location="outside.data", size_threshold=0)
    check(out)
    (folder / "outside.data").write_bytes(b"short")
    with pytest.raises(SourceError, match="external data cannot be read"):
        load(out)
    (folder / "outside.data").unlink()
    with pytest.raises(SourceError, match=r"external data cannot be read.*outside\.data"):
        load(out)


def test_external_data_must_stay_beside_the_file(folder: Path) -> None:
    path = write(folder / "inside.onnx", [node("Conv", "x", "w")], {"w": weights(8, 3, 3, 3)})
    inner = folder / "inner"
    inner.mkdir()
    model = onnx.load(path)
    onnx.save_model(model, inner / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (inner / "m.data").rename(folder / "m.data")
    model = onnx.load(inner / "m.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../m.data"
    (inner / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="external data cannot be read"):
        load(inner / "m.onnx")


def test_matches_by_spelling() -> None:
    assert onnx_file.matches(SourceRequest("a/B.ONNX"))
    assert not onnx_file.matches(SourceRequest("model.pt"))
