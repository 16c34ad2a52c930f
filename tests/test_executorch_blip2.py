"""BLIP-2 for ExecuTorch: its layers as operators of PyTorch, its files, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")
pytest.importorskip("executorch", reason="executorch is not here")

import tiny_blip2
from blip2_writing import ONE_THREAD, Written
from language_cases import References, differences

from edgekit.converters import WrittenJob, executorch
from edgekit.converters._xnnpack_integers import blocks, channels
from edgekit.converters.executorch.layers import ExecutorchLayers
from edgekit.converters.executorch.writer import TorchWriter
from edgekit.converters.executorch.written import limited
from edgekit.errors import ConversionError, EngineError, SourceError
from edgekit.graph.blip2.blip2 import Blip2, Forms, WrittenPart
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Blocks, Float32
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import open_network
from edgekit.runtimes.engines.base import SHARED, rows_of
from edgekit.runtimes.engines.executorch import stacked
from edgekit.runtimes.language import LanguageGraph
from edgekit.runtimes.language.host_cache import open_hosted

FLOATS = Forms(Float32(), Float32())


class Eager:
    """The written operators, run one by one by PyTorch: the layers without any lowering."""

    def __init__(self, part: WrittenPart) -> None:
        writer = TorchWriter(part.name)
        part.describe(ExecutorchLayers(writer, part.source.checkpoint, part.forms.layers))
        inputs, outputs = tuple(writer.inputs), tuple(writer.outputs)
        self._module, self.products = writer.module(), writer.products
        self.graph = Graph(name=part.name, files=("none",), inputs=inputs, outputs=outputs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        made = []
        for row in rows_of(self.graph, feeds):
            given = [torch.from_numpy(array if name == SHARED else array[0]) for name, array in row.items()]
            with torch.no_grad():
                made.append([one.numpy() for one in self._module(*given)])
        tensors = enumerate(self.graph.outputs)
        return {tensor.name: stacked([row[place] for row in made], tensor) for place, tensor in tensors}


class Opened(Written):
    """Graphs that are opened already, in place of what the manifest says of them."""

    def network(self, name: str) -> Any:
        return self.graphs[name]


def eager(folder: Path, forms: Forms = FLOATS) -> tuple[Opened, LanguageGraph]:
    """A model as operators of PyTorch, and its language model over buffers of the host."""
    source = Blip2(folder)
    networks: dict[str, Any] = {name: Eager(WrittenPart(source, name, forms)) for name in source.graphs}
    written = Opened(source, "executorch", folder, networks)
    spoken = {name: network for name, network in networks.items() if name not in ("vision", "qformer")}
    graphs = {name: network.graph for name, network in spoken.items()}
    return written, open_hosted(spoken, graphs, written.language, source.embeddings())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("executorch")


def source(root: Path, kind: str) -> Path:
    folder = root / kind
    return folder if folder.exists() else getattr(tiny_blip2, kind)(folder)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_the_operators_generate_what_transformers_does(kind: str, root: Path, shared_folder: Path) -> None:
    written, graph = eager(source(root, kind))
    assert not differences(written, graph, References(source(root, kind), shared_folder), range(2))


@pytest.mark.parametrize("name", ["text", "match"])
def test_the_operators_of_a_retrieval_model(name: str, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs an engine to compare with")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 60, (2, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    image = rng.standard_normal((2, 17, 32)).astype(np.float32)
    model = Blip2(source(root, "retrieval"))
    found = Eager(WrittenPart(model, name, FLOATS))
    reference = open_network("onnxruntime", tmp_path, model.write(name, tmp_path, FLOATS, HostCache), ONE_THREAD)
    given = {"input_ids": ids, "attention_mask": mask, "image_embeds": image}
    feeds = {tensor.name: given[tensor.name] for tensor in found.graph.inputs}
    for output, array in reference.run(feeds).items():
        np.testing.assert_allclose(found.run(feeds)[output], array, atol=2e-5)


def test_integers_are_those_of_the_part(root: Path) -> None:
    """Blocks of 4 bits where they fill the inputs of a layer, 8 bits elsewhere and in the head."""
    part = WrittenPart(Blip2(source(root, "opt")), "qformer", Forms(Blocks(4), Blocks(8)))
    # Keys and values of the image are 32 wide, everything else 24 or 40.
    assert Eager(part).products == {"int4": 4, "int8": 29}
    assert Eager(dataclasses.replace(part, forms=Forms(Blocks(8), Blocks(8)))).products == {"int8": 33}
    assert Eager(dataclasses.replace(part, forms=FLOATS)).products == {"float32": 33}


def test_grids_of_weights() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    weight[0, :32] = 0
    integers, scales = blocks(weight, 32)
    assert np.abs(integers).max() == 7
    assert (integers.reshape(5, 2, 32) * scales[..., None] - weight.reshape(5, 2, 32)).max() < scales.max() / 1.9
    assert (scales.view(np.uint32) & 0xFFFF == 0).all()  # bfloat16
    integers, scales = channels(weight)
    np.testing.assert_allclose(integers * scales[:, None], weight, atol=scales.max() / 1.9)


def converted(part: WrittenPart, out: Path, **options: Any) -> Graph:
    job = WrittenJob(part=part, out=out, work=out, options=executorch.ExecutorchOptions(**options))
    return executorch.convert_written(job, lambda text, share: None)


def test_parts_are_for_xnnpack(root: Path, tmp_path: Path) -> None:
    part = WrittenPart(Blip2(source(root, "opt")), "vision", FLOATS)
    said = "executorch writes parts of vision-language models for xnnpack, not for vulkan; leave the option delegate"
    with pytest.raises(ConversionError, match=said):
        converted(part, tmp_path, delegate="vulkan")


def test_an_unknown_activation() -> None:
    layers = ExecutorchLayers(TorchWriter("one"), Blip2, Float32())  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="activation 'mish' is not one of: gelu, gelu_new"):
        layers.activation("x", "mish")


def test_capacity_is_what_the_model_can_see(root: Path) -> None:
    opt, retrieval = (Blip2(source(root, kind)) for kind in ("opt", "retrieval"))
    assert limited(WrittenPart(opt, "language", FLOATS), 128) == 80
    assert limited(WrittenPart(opt, "language", FLOATS), 30) == 30
    assert limited(WrittenPart(retrieval, "text", FLOATS), 128) == 60


@pytest.mark.nightly
def test_more_tokens_than_a_file_has_room_for(root: Path, tmp_path: Path) -> None:
    part = WrittenPart(Blip2(source(root, "t5")), "encoder", FLOATS)
    graph = converted(part, tmp_path, tokens=12)
    network = open_network("executorch", tmp_path, graph, ONE_THREAD)

    def feeds(count: int) -> dict[str, NDArray[Any]]:
        places = np.arange(count)
        return {
            "inputs_embeds": np.zeros((1, count, 24), np.float32), "mask": np.zeros((1, 1, 1, count), np.float32),
            "distances": places[None] - places[:, None],
        }  # fmt: skip

    assert network.run(feeds(12))["cross.0.key"].shape == (1, 3, 12, 8)
    assert network.run(feeds(1))["cross.0.key"].shape == (1, 3, 1, 8)
    said = r"encoder: input 'inputs_embeds' of shape \[13, 24\] is more than \[12, 24\], which encoder.pte has room for"
    with pytest.raises(EngineError, match=said):
        network.run(feeds(13))
    with pytest.raises(EngineError, match=r"encoder.pte: has inputs .* the manifest says .*; convert again"):
        open_network("executorch", tmp_path, msgspec.structs.replace(graph, inputs=graph.inputs[1:]), ONE_THREAD)
