"""Caches of language models in 8 bits: their scales, what engines keep, and what that does to logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgekit.arrays import Floats

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which is compared with")
onnx = pytest.importorskip("onnx", reason="needs the extra 'convert'")
for engine in ("onnxruntime", "openvino"):
    pytest.importorskip(engine, reason="needs the engines of the extra 'convert'")

import tiny_blip2
from blip2_writing import ONE_THREAD, Written, torch_model, write_graphs
from language_cases import case, theirs

from edgekit.errors import ConversionError, EngineError
from edgekit.graph.blip2.blip2 import CACHED, Blip2
from edgekit.graph.blip2.cache_scales import cache_scales
from edgekit.graph.blip2.writer import GraphWriter
from edgekit.runtimes.engines import open_language
from edgekit.runtimes.engines.openvino.language import CACHE_IN_FLOAT
from edgekit.runtimes.engines.openvino.session import CACHE_PRECISION, OpenVinoNetwork

ENGINES = ("onnx", "openvino")
every_kind = pytest.mark.parametrize("kind", ["opt", "t5"])
every_target = pytest.mark.parametrize("target", ENGINES)


class Observed(dict[str, Floats]):
    """Inputs of a model's linear layers."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self)


class Model(NamedTuple):
    torch: Any
    inputs: Observed
    outputs: dict[str, Floats]
    exact: dict[str, Written]
    small: dict[str, Written]


def observed(model: Any, kind: str) -> tuple[Observed, dict[str, Floats]]:
    """What linear layers of the language model read and gave in some random cases, by the names of their weights."""
    read: dict[str, list[Floats]] = {}
    gave: dict[str, list[Floats]] = {}

    def watched(name: str) -> Any:
        def look(_: Any, given: Any, made: Any) -> None:
            for kept, tensor in ((read, given[0]), (gave, made)):
                kept.setdefault(name, []).append(tensor.detach().numpy().reshape(-1, tensor.shape[-1]))

        return look

    layers = [(name, one) for name, one in model.language_model.named_modules() if isinstance(one, torch.nn.Linear)]
    hooks = [one.register_forward_hook(watched(f"language_model.{name}.weight")) for name, one in layers]
    for seed in range(4):
        theirs(model, case(kind, model, seed, beams=1, returned=1, max_new_tokens=8, min_new_tokens=8))
    for hook in hooks:
        hook.remove()
    inputs, outputs = ({name: np.concatenate(rows) for name, rows in kept.items()} for kept in (read, gave))
    return Observed(inputs), outputs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root, made = tmp_path_factory.mktemp("small"), {}
    for kind, write in (("opt", tiny_blip2.opt), ("t5", tiny_blip2.t5)):
        folder = write(root / kind)
        model = torch_model(folder)
        inputs, outputs = observed(model, kind)
        scales, only = cache_scales(Blip2(folder), inputs), Blip2(folder).graphs[2:]
        exact, small = (
            {
                name: write_graphs(folder, name, root / f"{kind}-{name}-{word}", scales=own, only=only)
                for name in ENGINES
            }
            for word, own in (("exact", None), ("small", scales))
        )
        made[kind] = Model(model, inputs, outputs, exact, small)
    return made


@every_kind
def test_scales_are_those_of_the_largest_values(kind: str, models: dict[str, Model]) -> None:
    _, inputs, outputs, exact, _ = models[kind]
    scales = cache_scales(exact["onnx"].source, inputs)
    layer = {"opt": "model.decoder.layers.1.self_attn.{}_proj", "t5": "decoder.block.1.layer.0.SelfAttention.{}"}[kind]
    for what in ("key", "value"):
        largest = np.abs(outputs[f"language_model.{layer.format(what[0])}.weight"]).max(0)
        np.testing.assert_allclose(scales[f"past.1.{what}"].ravel(), 1.25 * largest / 127, rtol=1e-5)
        assert scales[f"past.1.{what}"].shape == (1, 3, 1, 8)
    with pytest.raises(ConversionError, match=r"a cache in int8: .*\.weight was not observed on the calibration im"):
        cache_scales(exact["onnx"].source, Observed())


@every_target
@every_kind
def test_logits_are_nearly_those_of_floats(kind: str, target: str, models: dict[str, Model]) -> None:
    """Nearly, and not quite: what is computed is not the float cache once more."""
    exact, small = models[kind].exact, models[kind].small
    rng = np.random.default_rng(0)
    embeddings = exact[target].source.embeddings()[rng.integers(5, 90, (3, 6))]
    mask = np.ones((3, 6), np.int64)
    mask[1, :2] = 0
    graphs = [one[target].spoken() for one in (exact, small)]
    for step in range(5):
        pair = [graph.start(embeddings, mask) if not step else graph.step(np.array([5, 9, 7])) for graph in graphs]
        right, made = (np.array(one).ravel() for one in pair)
        assert right @ made / np.linalg.norm(right) / np.linalg.norm(made) > 0.98
    assert np.abs(made - right).max() > 1e-4 * np.abs(right).max()


@every_target
@every_kind
def test_rows_take_their_cache_along(kind: str, target: str, models: dict[str, Model]) -> None:
    """Rows that are chosen go on as if they had been there from the beginning."""
    written, rows = models[kind].small[target], np.array([1, 0, 1])
    rng = np.random.default_rng(1)
    embeddings, mask = written.source.embeddings()[rng.integers(5, 90, (2, 6))], np.ones((2, 6), np.int64)
    chosen, whole = written.spoken(), written.spoken()
    chosen.start(embeddings, mask)
    whole.start(embeddings[rows], mask[rows])
    first, then = np.array([5, 9]), np.array([7, 5, 6])
    chosen.step(first)
    whole.step(first[rows])
    chosen.select(rows)
    np.testing.assert_allclose(chosen.step(then), whole.step(then), atol=1e-4)


def test_buffers_of_onnx_runtime_hold_integers(models: dict[str, Model]) -> None:
    caches = []
    for one in (models["opt"].exact["onnx"], models["opt"].small["onnx"]):
        graph: Any = one.spoken()
        graph.start(np.zeros((2, 6, one.language.width), np.float32), np.ones((2, 6), np.int64))
        caches.append(graph._decoder.cache.buffers)
    exact, small = (sum(buffer.nbytes for buffer in buffers.values()) for buffers in caches)
    assert exact == 4 * small
    assert {buffer.dtype for buffer in caches[1].values()} == {np.dtype(np.int8)}


def test_a_cache_of_another_type_is_refused(models: dict[str, Model], tmp_path: Path) -> None:
    written, name = models["opt"].exact["onnx"], "language"
    with GraphWriter(tmp_path, name) as writer:
        for tensor in written.graphs[name].inputs:
            writer.input(tensor.name, tensor.shape, "float16" if tensor.name.startswith("past.") else tensor.dtype)
        logits = writer.node("Cast", "position_ids", to=onnx.TensorProto.FLOAT)
        for tensor in written.graphs[name].outputs:
            cached = tensor.name.startswith("present.")
            value = tensor.name.replace("present", "past") if cached else logits
            writer.output(tensor.name, value, tensor.shape, "float16" if cached else tensor.dtype)
        graph = writer.save()
    said = r"the language graph has a cache of tensor\(float16\), which is none of tensor\(float\), tensor\(int8\);"
    with pytest.raises(EngineError, match=said):
        open_language("onnxruntime", tmp_path, {name: graph}, written.language, np.zeros((9, 24)), ONE_THREAD)


@every_kind
def test_openvino_keeps_what_the_file_says(kind: str, models: dict[str, Model]) -> None:
    """And appends to it by one operator for each layer, which no other form of the graph becomes."""
    kept = []
    for one in (models[kind].exact["openvino"], models[kind].small["openvino"]):
        (name,) = set(one.graphs) & set(CACHED)
        compiled = OpenVinoNetwork(
            one.folder, one.graphs[name], ONE_THREAD, CACHE_IN_FLOAT
        ).request.get_compiled_model()
        layers = [node.get_rt_info()["layerType"].value for node in compiled.get_runtime_model().get_ordered_ops()]
        assert layers.count("ScaledDotProductAttention") == one.language.layers
        kept.append(compiled.get_property(CACHE_PRECISION[1]).get_type_name())
    assert kept == ["f32", "u8"]
