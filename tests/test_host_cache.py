"""Language models over buffers of the host, with ONNX Runtime as the engine: against transformers' ``generate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")
pytest.importorskip("onnxruntime", reason="needs an engine that takes ONNX files")

import tiny_blip2
from blip2_writing import ONE_THREAD, Written
from language_cases import CONFIGURATIONS, References, case, difference, differences, ours, theirs
from test_language_engines import Unordered

from edgekit.errors import EngineError, UsageError
from edgekit.graph.blip2.blip2 import Blip2, Forms
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.forms import Float32
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import Network, open_network
from edgekit.runtimes.language import LanguageGraph
from edgekit.runtimes.language.host_cache import BLOCK, Limits, open_hosted

PIECE, CAPACITY = 5, 45

every_kind = pytest.mark.parametrize("kind", ["opt", "t5"])
configurations = pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(3), id="some"),
        pytest.param(range(3, CONFIGURATIONS), marks=pytest.mark.nightly, id="others"),
    ],
)


class Fixed:
    """A network that takes what the manifest says, to the number: as an engine whose files have no open shapes.

    ``one`` is what it takes for a single token.
    """

    def __init__(self, network: Network, graph: Graph) -> None:
        self._network, self._shapes = network, {tensor.name: tensor.shape for tensor in graph.inputs}
        self.tokens: list[int] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert set(feeds) == set(self._shapes)
        tokens = feeds["inputs_embeds"].shape[1]
        self.tokens.append(tokens)
        for name, shape in self._shapes.items():
            wanted = list(shape)
            if tokens == 1 and name in ("inputs_embeds", "position_ids"):
                wanted[1] = 1
            elif tokens == 1 and name == "pick":
                wanted[2] = 1
            elif tokens == 1 and name == "mask" and "pick" in feeds:
                wanted[2:] = [1, CAPACITY + 1]
            assert feeds[name].shape == tuple(wanted), name
            assert feeds[name].flags.c_contiguous, name
        return self._network.run(feeds)


def fixed(graph: Graph) -> Graph:
    """The same with every size a number: one row, pieces, a capacity."""
    tokens = CAPACITY if graph.name == "encoder" else 1 if graph.name == "decoder" else PIECE

    def shape(tensor: Tensor) -> tuple[int, ...]:
        sizes = {"inputs_embeds": (1, tokens), "position_ids": (1, tokens), "pick": (1, 1, tokens)}
        if tensor.name == "mask":
            return (1, 1, 1, tokens) if graph.name == "encoder" else (1, 1, tokens, CAPACITY + tokens)
        if tensor.name == "distances":
            return (tokens, tokens) if graph.name == "encoder" else (1, CAPACITY + 1)
        if tensor.name == "encoder_mask":
            return (1, 1, 1, CAPACITY)
        if tensor.name.startswith(("past.", "cross.")):
            return (1, tensor.shape[1], CAPACITY, tensor.shape[3])
        given = sizes[tensor.name]
        return (*given, *tensor.shape[len(given) :])

    inputs = tuple(msgspec.structs.replace(tensor, shape=shape(tensor)) for tensor in graph.inputs)
    return msgspec.structs.replace(graph, inputs=inputs)


class Hosted(Written):
    """Graphs with a cache of the host, on ONNX Runtime."""

    def network(self, name: str) -> Network:
        return open_network("onnxruntime", self.folder, self.graphs[name], ONE_THREAD)

    def hosted(self, *, static: bool = False) -> LanguageGraph:
        names = [name for name in self.graphs if name not in ("vision", "qformer")]
        graphs = {name: fixed(self.graphs[name]) if static else self.graphs[name] for name in names}
        networks: dict[str, Any] = {name: self.network(name) for name in names}
        if static:
            networks = {name: Fixed(network, graphs[name]) for name, network in networks.items()}
        return open_hosted(networks, graphs, self.language, self.source.embeddings())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> dict[str, tuple[References, Hosted]]:
    root, made = tmp_path_factory.mktemp("hosted"), {}
    for kind, write in (("opt", tiny_blip2.opt), ("t5", tiny_blip2.t5)):
        folder, out = write(root / kind), root / f"{kind}-onnx"
        out.mkdir()
        source = Blip2(folder)
        forms = Forms(Float32(), Float32())
        graphs = {name: source.write(name, out, forms, HostCache) for name in source.graphs}
        made[kind] = References(folder, shared_folder), Hosted(source, "onnx", out, graphs)
    return made


@pytest.mark.parametrize("static", [False, True])
@configurations
@every_kind
def test_random_configurations(
    kind: str, seeds: range, static: bool, models: dict[str, tuple[References, Hosted]]
) -> None:
    references, written = models[kind]
    wrong = differences(written, written.hosted(static=static), references, seeds)
    assert not wrong, "\n".join(wrong)


@every_kind
def test_without_reordering_the_cache_the_texts_differ(kind: str, models: dict[str, tuple[References, Hosted]]) -> None:
    references, written = models[kind]
    graph, different = written.hosted(), 0
    for seed in range(6):
        given = case(kind, references.model, seed, beams=4, returned=1, max_new_tokens=14, min_new_tokens=8)
        right, wrong = (ours(written, one, given) for one in (graph, Unordered(graph)))
        different += right.tokens.tolist() != wrong.tokens.tolist()
    assert different >= 2


def test_texts_outgrow_the_buffers(models: dict[str, tuple[References, Hosted]]) -> None:
    references, written = models["t5"]
    given = case("t5", references.model, 1, beams=1, returned=1, max_new_tokens=2 * BLOCK, min_new_tokens=2 * BLOCK,
                 early_stopping=False, length_penalty=1.0, no_repeat_ngram_size=0, repetition_penalty=1.2)  # fmt: skip
    made = ours(written, written.hosted(), given)
    assert (made.lengths == 2 * BLOCK).all()
    assert difference(made, theirs(references.model, given)) == ""


def test_a_prompt_is_read_in_pieces(models: dict[str, tuple[References, Hosted]]) -> None:
    """Twelve tokens in pieces of five: two whole pieces, one filled up; the same logits as at once."""
    _, written = models["opt"]
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((2, 12, written.language.width)).astype(np.float32)
    mask = np.ones((2, 12), np.int64)
    mask[1, :3] = 0
    graph = fixed(written.graphs["language"])
    network = Fixed(written.network("language"), graph)
    pieces = open_hosted({"language": network}, {"language": graph}, written.language, written.source.embeddings())
    np.testing.assert_allclose(pieces.start(embeddings, mask), written.hosted().start(embeddings, mask), atol=2e-5)
    assert network.tokens == [PIECE] * 6  # two rows, one after another
    pieces.step(np.array([7, 8]))
    assert network.tokens[6:] == [1, 1]


def test_more_tokens_than_there_is_room_for(models: dict[str, tuple[References, Hosted]]) -> None:
    _, written = models["opt"]
    graph = written.hosted(static=True)
    width = written.language.width
    long = np.zeros((1, CAPACITY + 1, width), np.float32)
    said = f"{CAPACITY + 1} tokens .* are more than the {CAPACITY} that this bundle has room for; shorten the prompt"
    with pytest.raises(UsageError, match=said):
        graph.start(long, np.ones((1, CAPACITY + 1), np.int64))
    graph.start(long[:, :-1], np.ones((1, CAPACITY), np.int64))
    with pytest.raises(UsageError, match=said):
        graph.step(np.array([5]))
    graph.start(long[:, :3], np.ones((1, 3), np.int64))  # it can be used again


def test_a_prompt_that_the_encoder_has_no_room_for(models: dict[str, tuple[References, Hosted]]) -> None:
    _, written = models["t5"]
    long = np.zeros((1, CAPACITY + 1, written.language.width), np.float32)
    with pytest.raises(UsageError, match=f"{CAPACITY + 1} tokens .* more than the {CAPACITY} that this bundle's encod"):
        written.hosted(static=True).start(long, np.ones((1, CAPACITY + 1), np.int64))


def test_a_graph_of_another_cache_is_refused(models: dict[str, tuple[References, Hosted]]) -> None:
    _, written = models["opt"]
    graph, language = written.graphs["language"], written.language
    network = {"language": written.network("language")}
    other = msgspec.structs.replace(language, layers=language.layers + 1)
    said = "has a cache of 2 layers with .* the contract says 3 with .*; convert again"
    with pytest.raises(EngineError, match=said):
        open_hosted(network, {"language": graph}, other, written.source.embeddings())
    kept = tuple(tensor for tensor in graph.inputs if tensor.name != "pick")
    without = msgspec.structs.replace(graph, inputs=kept)
    with pytest.raises(EngineError, match=r"graph 'language' takes .* and no cache of the host; convert the model"):
        open_hosted(network, {"language": without}, language, written.source.embeddings())


def test_limits_are_the_shapes_of_the_manifest(models: dict[str, tuple[References, Hosted]]) -> None:
    _, opt = models["opt"]
    _, t5 = models["t5"]
    assert Limits.of(opt.graphs["language"]) == Limits.of(t5.graphs["encoder"]) == Limits()
    assert Limits.of(fixed(opt.graphs["language"])) == Limits(one_row=True, tokens=PIECE, capacity=CAPACITY)
    assert Limits.of(fixed(t5.graphs["decoder"])) == Limits(one_row=True, tokens=1, capacity=CAPACITY)
    assert Limits.of(fixed(t5.graphs["encoder"])) == Limits(one_row=True, tokens=CAPACITY)


def test_graphs_have_nothing_that_an_engine_may_lack(
    models: dict[str, tuple[References, Hosted]], tmp_path: Path
) -> None:
    """Of a decoder: no scatter, no range, no shape that depends on values."""
    onnx = pytest.importorskip("onnx")
    for kind, names in (("opt", ["language"]), ("t5", ["encoder", "decoder"])):
        for name in names:
            model = onnx.load(models[kind][1].folder / f"{name}.onnx", load_external_data=False)
            operators = {node.op_type for node in model.graph.node}
            assert not operators & {"Range", "ScatterND", "Shape", "Expand", "Where", "NonZero"}, name
            assert {node.domain for node in model.graph.node} == {""}
