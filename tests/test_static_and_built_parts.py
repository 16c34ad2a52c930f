"""Parts of a BLIP-2 on engines that are told their shapes: TensorRT's profiles, sizes of Hexagon and Rockchip."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which tiny models are made with")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the engine that stands for TensorRT")

import tiny_blip2
from blip2_writing import ONE_THREAD, Written, pixels, torch_model
from language_cases import case, difference, ours, theirs

from edgekit.arrays import Floats
from edgekit.converters import WrittenJob, qnn, rknn, tensorrt
from edgekit.converters._fixed_shapes import Sizes, fix, fixed
from edgekit.converters.qnn.written import sizes_of
from edgekit.converters.qnn.written import write as write_static
from edgekit.converters.rknn.written import write_older
from edgekit.converters.tensorrt.forms import SymmetricStatic
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.graph.blip2.blip2 import Blip2, Forms, WrittenPart
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Blocks, ChannelRanges, Float16, Float32
from edgekit.graph.blip2.writer import GraphWriter
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Network, Placement, SessionOptions, open_language, open_network
from edgekit.runtimes.engines.qnn.network import QnnNetwork, contexts
from edgekit.runtimes.engines.rknn import run_by_name
from edgekit.runtimes.engines.tensorrt import cuda
from edgekit.runtimes.language.host_cache import open_hosted
from edgekit.worker import toolchains

FAKE = Path(__file__).parent / "fake_tensorrt"
FLOATS = Forms(Float32(), Float32())


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {kind: getattr(tiny_blip2, kind)(root / kind) for kind in ("opt", "t5", "retrieval")}


@pytest.fixture(autouse=True)
def without_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorRT-RTX says of files is tested in test_tensorrt.py; here it would cost seconds."""
    monkeypatch.setattr(tensorrt, "_tried", lambda *given: {})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The recording module under TensorRT's name, and an Orin's driver."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(FAKE))
    module, driver = importlib.import_module("tensorrt"), importlib.import_module("fake_driver").Driver()
    monkeypatch.setattr(cuda, "load", lambda: driver)
    module.reset()
    yield module
    sys.modules.pop("tensorrt", None)


def built(source: Path, name: str, out: Path, forms: Forms = FLOATS, **options: Any) -> Graph:
    """One graph as the tensorrt target writes it."""
    out.mkdir(parents=True, exist_ok=True)
    part = WrittenPart(Blip2(source), name, forms)
    given = tensorrt.TensorrtOptions(**options)
    job = WrittenJob(part=part, out=out, work=out, options=given)
    return tensorrt.convert_written(job, lambda text, share: None)


def on(device: str, folder: Path, graph: Graph) -> Any:
    return open_network("tensorrt", folder, graph, dataclasses.replace(ONE_THREAD, device=device))


def spoken(device: str, source: Path, folder: Path, graphs: dict[str, Graph]) -> Any:
    written = Written(Blip2(source), "tensorrt", folder, graphs)
    options = dataclasses.replace(ONE_THREAD, device=device)
    return open_language("tensorrt", folder, graphs, written.language, written.source.embeddings(), options)


# --- TensorRT ---------------------------------------------------------------------------------------------------------
def test_the_device_runs_prompts_and_tokens_as_the_reference(
    device: Any, sources: dict[str, Path], tmp_path: Path
) -> None:
    graphs = {"language": built(sources["opt"], "language", tmp_path / "out")}
    rng = np.random.default_rng(0)
    prompt = rng.standard_normal((10, 6, 24)).astype(np.float32)  # more rows than an engine takes at once
    mask = np.ones((10, 6), np.int64)
    mask[3, :2] = 0
    ours, reference = (spoken(where, sources["opt"], tmp_path / "out", graphs) for where in ("gpu", "reference"))
    np.testing.assert_allclose(ours.start(prompt, mask), reference.start(prompt, mask), atol=5e-5)
    rows = np.array([4, 3, 3])
    for graph in (ours, reference):
        graph.select(rows)
    np.testing.assert_allclose(ours.step(np.array([5, 6, 7])), reference.step(np.array([5, 6, 7])), atol=5e-5)
    profiles = device.recorded("profile")
    assert len(profiles) == 2
    assert {call[0] for call in device.recorded("choose")} == {0, 1}
    assert len(device.recorded("build")) == 1


def test_another_file_of_weights_is_another_engine(device: Any, sources: dict[str, Path], tmp_path: Path) -> None:
    graph = built(sources["opt"], "qformer", tmp_path / "out")
    feeds = {"image_embeds": np.ones((1, 17, 32), np.float32)}
    before = np.array(on("gpu", tmp_path / "out", graph).run(feeds)["query_output"])
    data = tmp_path / "out" / "qformer.onnx.data"
    (np.fromfile(data, np.float32) * np.float32(1.5)).tofile(data)
    after = np.array(on("gpu", tmp_path / "out", graph).run(feeds)["query_output"])
    assert len(device.recorded("build")) == 2
    assert np.abs(after - before).max() > 0.1


def test_a_text_that_the_engine_is_not_built_for(sources: dict[str, Path], tmp_path: Path) -> None:
    graph = built(sources["opt"], "language", tmp_path / "out", tokens=64)
    opened = spoken("reference", sources["opt"], tmp_path / "out", {"language": graph})
    long = np.zeros((1, 140, 24), np.float32)
    said = r"language: input 'inputs_embeds' of shape \[1, 140, 24\] is outside .* --option tensorrt.tokens=N for more"
    with pytest.raises(EngineError, match=said):
        opened.start(long, np.ones((1, 140), np.int64))
    opened.start(long[:, :10], np.ones((1, 10), np.int64))
    with pytest.raises(EngineError, match=r"language takes .*, not pixel_values"):
        on("reference", tmp_path / "out", graph).run({"pixel_values": pixels(1)})


def test_settings_without_shapes_and_dlas_are_refused(device: Any, sources: dict[str, Path], tmp_path: Path) -> None:
    graph = built(sources["opt"], "qformer", tmp_path / "out")
    with pytest.raises(EngineError, match="a DLA takes no inputs of free shapes, which qformer has; use unit='gpu'"):
        on("dla0", tmp_path / "out", graph)
    (tmp_path / "out" / graph.files[-1]).write_text('{"precision": "fp32"}')
    with pytest.raises(EngineError, match="no shapes of named inputs; convert the model again"):
        on("reference", tmp_path / "out", graph)


def test_options_that_parts_cannot_have(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="weights=float32 is for TensorRT 8, which takes no parts of vision-"):
        built(sources["opt"], "qformer", tmp_path / "out", weights="float32")
    with pytest.raises(ConversionError, match="floats=fp16: squares of a T5's activations overflow float16"):
        built(sources["t5"], "encoder", tmp_path / "out", floats="fp16")


@pytest.mark.parametrize(
    ("forms", "cosine", "said"),
    [
        (Forms(Float16(), Float16()), 0.9999, "float16"),
        (Forms(Blocks(8), Blocks(8)), 0.999, "int8 where the file has Q/DQ, weights of 8 bits with float16 elsewhere"),
        (Forms(Blocks(4), Blocks(8)), 0.9, "weights of 4 bits in blocks, float16 arithmetic"),
    ],
)
def test_parts_compute_in_float16(
    forms: Forms, cosine: float, said: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    """Inputs and outputs are float32, all products float16; small models lose as much as they may."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to look at the file")
    exact = {"language": built(sources["opt"], "language", tmp_path / "exact")}
    small = {"language": built(sources["opt"], "language", tmp_path / "small", forms)}
    assert small["language"].report["arithmetic"] == said
    prompt = np.random.default_rng(1).standard_normal((1, 5, 24)).astype(np.float32)
    found = [
        spoken("reference", sources["opt"], tmp_path / name, graphs).start(prompt, np.ones((1, 5), np.int64)).ravel()
        for name, graphs in (("exact", exact), ("small", small))
    ]
    assert np.dot(*found) / np.prod([np.linalg.norm(one) for one in found]) > cosine
    model = onnx.load(tmp_path / "small" / "language.onnx", load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    products = [node.output[0] for node in model.graph.node if node.op_type == "MatMul"]
    assert {kinds[name] for name in products if name in kinds} == {onnx.TensorProto.FLOAT16}
    sizes = [(tmp_path / name / "language.onnx.data").stat().st_size for name in ("exact", "small")]
    assert sizes[1] < sizes[0]


def test_static_inputs_have_no_zero_point(tmp_path: Path) -> None:
    """TensorRT has none. A product with them is that of floats, as far as eight bits go."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 6, 16)).astype(np.float32), rng.standard_normal((8, 16)).astype(np.float32)
    ranges = {"w": ChannelRanges(x.min((0, 1)), x.max((0, 1)))}
    with GraphWriter(tmp_path, "one") as writer:
        made = SymmetricStatic(ranges).product(writer, writer.input("x", (1, 6, 16)), "w", weight)
        writer.output("y", made, (1, 6, 8))
        graph = writer.save()
    onnx = pytest.importorskip("onnx", reason="needs onnx to look at the file")
    model = onnx.load(tmp_path / "one.onnx")
    scalars = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8 and not one.dims]
    assert [onnx.numpy_helper.to_array(one).item() for one in scalars] == [0]
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")  # fused, it saturates on x86 without VNNI
    session = onnxruntime.InferenceSession(str(tmp_path / graph.files[0]), settings)
    np.testing.assert_allclose(session.run(["y"], {"x": x})[0], x @ weight.T, atol=0.2)


# --- Hexagon ----------------------------------------------------------------------------------------------------------
class Opened(Written):
    """Graphs that are opened already, in place of what the manifest says of them."""

    def network(self, name: str) -> Any:
        return self.graphs[name]


class Compiled:
    """Stands for a compiler: keeps the source as the context, so that ONNX Runtime's CPU can open it."""

    def __call__(self, source: Path, context: Path) -> int:
        context.write_bytes(source.read_bytes())
        return 7


def static(source: Path, name: str, out: Path, **options: Any) -> tuple[Graph, QnnNetwork]:
    """A graph as the qnn target writes it, opened by ONNX Runtime's CPU."""
    (out / "work").mkdir(parents=True, exist_ok=True)
    part = WrittenPart(Blip2(source), name, Forms(Float16(), Float16()))
    given = qnn.QnnOptions(**{"tokens": 40, "piece": 5, **options})
    job = WrittenJob(part=part, out=out, work=out / "work", options=given)
    graph = write_static(job, given, Compiled(), lambda text, share: None)
    sessions = [onnxruntime.InferenceSession(str(context)) for context, _ in contexts(out, graph)]
    return graph, QnnNetwork(sessions, graph, Placement("cpu"))


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_static_graphs_generate_what_transformers_does(kind: str, sources: dict[str, Path], tmp_path: Path) -> None:
    model, source = torch_model(sources[kind]), Blip2(sources[kind])
    made = {name: static(sources[kind], name, tmp_path) for name in source.graphs}
    written = Opened(source, "qnn", tmp_path, {name: network for name, (_, network) in made.items()})
    spoken_names = [name for name in made if name not in ("vision", "qformer")]
    graph = open_hosted(
        {name: made[name][1] for name in spoken_names}, {name: made[name][0] for name in spoken_names},
        written.language, source.embeddings(),
    )  # fmt: skip
    given = case(kind, model, 2, beams=2, returned=1, max_new_tokens=6, min_new_tokens=0)
    assert difference(ours(written, graph, given), theirs(model, given)) == ""


def test_a_decoder_has_a_graph_for_one_token(sources: dict[str, Path], tmp_path: Path) -> None:
    graph, network = static(sources["opt"], "language", tmp_path)
    assert graph.files == (
        "language_ctx.onnx", "language.onnx", "language_one_ctx.onnx", "language_one.onnx", "language.onnx.data",
    )  # fmt: skip
    assert graph.report["htp_operators"] == 14
    shapes = {tensor.name: tensor.shape for tensor in graph.inputs}
    assert (shapes["inputs_embeds"], shapes["mask"], shapes["past.0.key"]) == ((1, 5, 24), (1, 1, 5, 45), (1, 3, 40, 8))
    assert all(size > 0 for tensor in (*graph.inputs, *graph.outputs) for size in tensor.shape)
    assert sizes_of(graph, Blip2(sources["opt"]), qnn.QnnOptions()) == (Sizes(32, 128), Sizes(1, 128))
    assert len(network._sessions) == 2


def test_texts_are_filled_up_and_longer_ones_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    source = sources["retrieval"]
    _, network = static(source, "text", tmp_path)
    plain = Blip2(source)
    (tmp_path / "plain").mkdir()
    graph = plain.write("text", tmp_path / "plain", FLOATS, HostCache)
    exact = open_network("onnxruntime", tmp_path / "plain", graph, ONE_THREAD)
    ids = np.random.default_rng(0).integers(5, 60, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    words = {"input_ids": ids, "attention_mask": mask}
    np.testing.assert_allclose(network.run(words)["text_vector"], exact.run(words)["text_vector"], atol=1e-5)
    long = {name: np.ones((1, 41), np.int64) for name in words}
    with pytest.raises(UsageError, match=r"41 tokens of text are more than the 40 that text was compiled for"):
        network.run(long)


def test_what_hexagon_does_not_take(sources: dict[str, Path], tmp_path: Path) -> None:
    part = WrittenPart(Blip2(sources["opt"]), "qformer", Forms(Blocks(4), Blocks(8)))

    def convert(part: WrittenPart, **options: Any) -> None:
        job = WrittenJob(part=part, out=tmp_path, work=tmp_path, options=qnn.QnnOptions(**options))
        qnn.convert_written(job, lambda text, share: None)

    with pytest.raises(ConversionError, match="qnn computes parts of vision-language models in float16 only; choose"):
        convert(part)
    with pytest.raises(ConversionError, match=r"qnn\.piece=64 is more than qnn\.tokens=32; give less"):
        convert(part, piece=64, tokens=32)
    with pytest.raises(ConversionError, match="has Hexagon v68, which computes in integers only"):
        convert(part, soc="qcs6490")


@pytest.mark.nightly
@pytest.mark.skipif(not toolchains.installed("qnn"), reason="needs the toolchain qnn")
def test_the_emulator_runs_the_match_graph(sources: dict[str, Path], tmp_path: Path) -> None:
    """Hexagon has no Pad of integers: all of it is compiled, and computes as ONNX Runtime does."""
    out = tmp_path / "npu"
    (out / "work").mkdir(parents=True)
    part = WrittenPart(Blip2(sources["retrieval"]), "match", Forms(Float16(), Float16()))
    job = WrittenJob(part=part, out=out, work=out / "work", options=qnn.QnnOptions(tokens=40))
    graph = qnn.convert_written(job, lambda text, share: None)
    opened = open_network("qnn", out, graph, SessionOptions(device="emulator"))
    assert opened.placement.word == "emulated"
    _, reference = static(sources["retrieval"], "match", tmp_path / "cpu")
    ids = np.random.default_rng(0).integers(5, 60, (2, 7))
    image = np.random.default_rng(1).standard_normal((2, 17, 32)).astype(np.float32)
    feeds = {"image_embeds": image, "input_ids": ids, "attention_mask": np.ones_like(ids)}
    np.testing.assert_allclose(opened.run(feeds)["logits"], reference.run(feeds)["logits"], atol=0.02)


# --- Rockchip ---------------------------------------------------------------------------------------------------------
def older(source: Path, name: str, out: Path) -> tuple[Graph, Network]:
    """A graph as the rknn target hands it to the toolkit, opened by ONNX Runtime."""
    out.mkdir()
    graph = Blip2(source).write(name, out, FLOATS, HostCache)
    path = out / graph.files[0]
    fix(path, path, Sizes(40))
    write_older(path)
    inputs, outputs = fixed(graph, Sizes(40))
    graph = msgspec.structs.replace(graph, inputs=inputs, outputs=outputs)
    return graph, open_network("onnxruntime", out, graph, ONE_THREAD)


def test_what_the_toolkit_reads_computes_the_same(sources: dict[str, Path], tmp_path: Path) -> None:
    """Opset 19 without Gelu, queries that are no constants, one row after another, words filled up."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to look at the file")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 60, (2, 7))
    feeds = {
        "image_embeds": rng.standard_normal((2, 17, 32)).astype(np.float32),
        "input_ids": ids, "attention_mask": np.ones_like(ids),
    }  # fmt: skip
    graph, network = older(sources["retrieval"], "match", tmp_path / "old")
    model = onnx.load(tmp_path / "old" / "match.onnx", load_external_data=False)
    assert {one.version for one in model.opset_import if not one.domain} == {19}
    assert "Gelu" not in {node.op_type for node in model.graph.node}

    def run(arrays: Sequence[NDArray[Any]]) -> list[Floats]:
        named = dict(zip((tensor.name for tensor in graph.inputs), arrays, strict=True))
        return list(network.run(named).values())

    _, exact = static(sources["retrieval"], "match", tmp_path / "exact")
    found = run_by_name(graph, feeds, run)["logits"]
    np.testing.assert_allclose(found, exact.run(feeds)["logits"], atol=1e-5)
    with pytest.raises(UsageError, match=r"41 tokens of text are more than the 40 that match .*rknn\.tokens=N"):
        run_by_name(graph, {**feeds, "input_ids": np.ones((1, 41), np.int64)}, run)


def test_gelu_in_steps(tmp_path: Path) -> None:
    x = np.linspace(-6, 6, 61, dtype=np.float32)[None, None]
    for approximate in ("none", "tanh"):
        with GraphWriter(tmp_path, "one") as writer:
            writer.output("y", writer.node("Gelu", writer.input("x", (1, 1, 61)), approximate=approximate), (1, 1, 61))
            graph = writer.save()
        before = open_network("onnxruntime", tmp_path, graph, ONE_THREAD).run({"x": x})["y"].copy()
        write_older(tmp_path / "one.onnx")
        after = open_network("onnxruntime", tmp_path, graph, ONE_THREAD).run({"x": x})["y"]
        np.testing.assert_allclose(after, before, atol=2e-6)


@pytest.mark.nightly
@pytest.mark.skipif(not toolchains.installed("rknn"), reason="needs the toolchain rknn")
@pytest.mark.parametrize("name", ["qformer", "text", "match"])
def test_the_simulator_runs_the_q_former(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "npu"
    (out / "work").mkdir(parents=True)
    part = WrittenPart(Blip2(sources["retrieval"]), name, Forms(Float16(), Float16()))
    job = WrittenJob(part=part, out=out, work=out / "work", options=rknn.RknnOptions(tokens=40))
    graph = rknn.convert_written(job, lambda text, share: None)
    assert graph.report["types"].startswith("float16 in ")
    opened = open_network("rknn", out, graph, SessionOptions(device="simulator"))
    assert opened.placement.word == "emulated"
    _, reference = older(sources["retrieval"], name, tmp_path / "cpu")
    ids = np.random.default_rng(0).integers(5, 60, (1, 40))
    image = np.random.default_rng(1).standard_normal((1, 17, 32)).astype(np.float32)
    given = {"image_embeds": image, "input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds = {tensor.name: given[tensor.name] for tensor in graph.inputs}
    for output, array in reference.run(feeds).items():
        np.testing.assert_allclose(opened.run(feeds)[output], array, atol=0.02)
