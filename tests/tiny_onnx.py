"""Small ONNX files written by hand, and bundles of them, for tests of engines without any converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sample_bundles import sample_manifest
from tiny_models import CELL, CLASSES, SIZE

from edgekit.runtimes.bundle.folder import stage
from edgekit.runtimes.bundle.manifest import Contract, Decoder, Graph, ImageRule, Language, Output, Postprocess, Tensor

GRID = SIZE // CELL
GRAPH = Graph(
    files=("model.onnx",),
    inputs=(Tensor(name="images", shape=(1, 3, SIZE, SIZE)),),
    outputs=(Tensor(name="boxes", shape=(1, 4, GRID, GRID)), Tensor(name="classes", shape=(1, 2, GRID, GRID))),
)


def write_model(path: Path, dark: str = "") -> Path:
    """A detector of coloured cells as ONNX, its file's outputs in the order classes, boxes.

    ``dark`` is what it gives for a black image: "nan" for classes, "inf" for boxes whose scores are sound.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    average = np.zeros((3, 3, CELL, CELL), np.float32)
    average[range(3), range(3)] = 1 / CELL**2
    compare = np.array([[8, -8, 0], [-8, 8, 0]], np.float32).reshape(2, 3, 1, 1)
    sizes = np.full((4, 3, 1, 1), 0.1, np.float32)
    constants = {
        "average": average,
        "compare": compare,
        "sizes": sizes,
        "rare": np.full(2, -3, np.float32),
        "half": np.full(4, 0.35, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "average"], ["cells"], strides=[CELL, CELL]),
        helper.make_node("Conv", ["cells", "compare", "rare"], ["logits"]),
        helper.make_node("Conv", ["cells", "sizes", "half"], ["distances"]),
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Sign", ["brightest"], ["lit"]),
        helper.make_node("Div", ["lit", "lit"], ["one"]),
    ]
    if dark == "nan":
        nodes += [
            helper.make_node("Mul", ["logits", "one"], ["classes"]),
            helper.make_node("Identity", ["distances"], ["boxes"]),
        ]
    elif dark == "inf":
        constants["sure"] = np.array(9, np.float32)
        nodes += [
            helper.make_node("Sub", ["sure", "lit"], ["eight"]),
            helper.make_node("Add", ["logits", "eight"], ["classes"]),
            helper.make_node("Div", ["distances", "lit"], ["boxes"]),
        ]
    else:
        nodes += [
            helper.make_node("Identity", ["logits"], ["classes"]),
            helper.make_node("Identity", ["distances"], ["boxes"]),
        ]

    def value(name: str, channels: int, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size])

    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    outputs = [value("classes", 2, GRID), value("boxes", 4, GRID)]
    graph = helper.make_graph(nodes, "tiny", [value("images", 3, SIZE)], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    return path


def write_tiny_bundle(
    path: Path,
    dark: str = "",
    engine: str = "onnxruntime",
    decoder: str = "anchor_free",
    language: Language | None = None,
) -> Path:
    """The model as a bundle, which finds coloured cells as `tiny_models.detector` does.

    With ``language`` it says that it is a vision-language model, which nothing but an app's project believes.
    """
    contract = Contract(
        image=ImageRule(size=(SIZE, SIZE), resize="stretch"),
        classes=CLASSES,
        decoder=Decoder(name=decoder, options={"strides": [CELL], "reg_max": 1}),
        outputs=(Output(name="boxes", role="boxes"), Output(name="classes", role="classes")),
        postprocess=Postprocess(iou=0.6),
        language=language,
    )
    with stage(path) as staging:
        write_model(staging.folder / "model.onnx", dark)
        graph = GRAPH
        if engine == "openvino":
            graph = write_openvino(staging.folder / "model.onnx")
            (staging.folder / "model.onnx").unlink()
        staging.seal(sample_manifest(name="tiny", contract=contract, graphs=(graph,), engine=engine))
        staging.commit()
    return path


def write_openvino(model: Path) -> Graph:
    """The ONNX file as OpenVINO IR beside it."""
    from edgekit.runtimes.engines.openvino.session import import_openvino

    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(model), model.with_suffix(".xml"), compress_to_fp16=False)
    return Graph(files=("model.xml", "model.bin"), inputs=GRAPH.inputs, outputs=GRAPH.outputs)
