"""Language models on engines against transformers' ``generate`` of a whole BLIP-2, from the pixels on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from edgekit.arrays import Floats, Ints

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")
for engine in ("onnxruntime", "openvino"):
    pytest.importorskip(engine, reason="needs the engines of the extra 'convert'")

import tiny_blip2
from blip2_writing import ENGINES, ONE_THREAD, Written, write_graphs
from language_cases import CONFIGURATIONS, References, case, difference, differences, ours, theirs

from edgekit.errors import EngineError
from edgekit.runtimes.engines import Engine, SessionOptions, open_language
from edgekit.runtimes.language import LanguageGraph

every_kind = pytest.mark.parametrize("kind", ["opt", "t5"])
every_target = pytest.mark.parametrize("target", list(ENGINES))


class Model(NamedTuple):
    references: References
    written: dict[str, Written]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> dict[str, Model]:
    root, made = tmp_path_factory.mktemp("engines"), {}
    for kind, write in (("opt", tiny_blip2.opt), ("t5", tiny_blip2.t5)):
        folder = write(root / kind)
        written = {target: write_graphs(folder, target, root / f"{kind}-{target}") for target in ENGINES}
        made[kind] = Model(References(folder, shared_folder), written)
    return made


@pytest.mark.parametrize(
    ("target", "seeds"),
    [
        pytest.param("onnx", range(12), id="onnx-some"),
        pytest.param("onnx", range(12, CONFIGURATIONS), marks=pytest.mark.nightly, id="onnx-others"),
        pytest.param("openvino", range(CONFIGURATIONS), marks=pytest.mark.nightly, id="openvino"),
    ],
)
@every_kind
def test_random_configurations(kind: str, target: str, seeds: range, models: dict[str, Model]) -> None:
    references, written = models[kind].references, models[kind].written[target]
    wrong = differences(written, written.spoken(), references, seeds)
    assert not wrong, "\n".join(wrong)


@every_kind
def test_configurations_are_of_every_sort(kind: str, models: dict[str, Model]) -> None:
    references = models[kind].references
    every = [case(kind, references.model, seed) for seed in range(CONFIGURATIONS)]
    options = [given.options for given in every]
    assert {(made.beams, made.early_stopping) for made in options if made.beams > 1} == {
        (beams, early) for beams in (2, 3, 4) for early in (True, False, "never")
    }
    assert sum(made.beams == 1 and not made.sample for made in options) > 15
    drawn = [made for made in options if made.sample]
    assert len(drawn) > 15
    assert {(made.top_k > 0, made.top_p < 1, made.min_p > 0) for made in drawn} >= {(True, True, False), (False,) * 3}
    for name, least in (("repetition_penalty", 1), ("no_repeat_ngram_size", 0), ("min_new_tokens", 0), ("returned", 1)):
        assert sum(getattr(made, name) > least for made in options) > 15, name
    assert {len(given.ids) for given in every} == {1, 2, 3}
    assert sum((given.mask == 0).any() for given in every) > 15
    few = [references(seed) for seed in range(12)]
    # Texts end by themselves, not only because they may get no longer.
    assert sum(len(row) < given.options.max_new_tokens for given, texts in few for row in texts.tokens) > 5


@every_kind
def test_a_draw_of_another_seed_is_noticed(kind: str, models: dict[str, Model]) -> None:
    references, written = models[kind].references, models[kind].written["onnx"]
    given, reference = next(one for one in map(references, range(CONFIGURATIONS)) if one[0].options.sample)
    graph = written.spoken()
    assert difference(ours(written, graph, given), reference) == ""
    others = (msgspec.structs.replace(given.options, seed=seed) for seed in range(100, 106))
    assert any(difference(ours(written, graph, given._replace(options=one)), reference) for one in others)


class Unordered:
    """The same graph, whose cache stays where it is when beams change places."""

    def __init__(self, graph: LanguageGraph) -> None:
        self._graph, self._rows = graph, 0

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        self._rows = len(mask)
        return self._graph.start(embeddings, mask)

    def step(self, tokens: Ints) -> Floats:
        return self._graph.step(tokens)

    def select(self, rows: Ints) -> None:
        if len(rows) != self._rows:
            self._graph.select(rows)
            self._rows = len(rows)


@every_target
@every_kind
def test_without_reordering_the_cache_the_texts_differ(kind: str, target: str, models: dict[str, Model]) -> None:
    model, written = models[kind].references.model, models[kind].written[target]
    graph, different = written.spoken(), 0
    for seed in range(12):
        given = case(kind, model, seed, beams=4, returned=1, max_new_tokens=14, min_new_tokens=8)
        right, wrong = (ours(written, one, given) for one in (graph, Unordered(graph)))
        different += right.tokens.tolist() != wrong.tokens.tolist()
    assert different >= 3


@every_target
def test_texts_outgrow_the_buffers(target: str, models: dict[str, Model]) -> None:
    """ONNX Runtime's buffers begin with room for 64 tokens."""
    model, written = models["t5"].references.model, models["t5"].written[target]
    given = case("t5", model, 1, beams=1, returned=1, max_new_tokens=150, min_new_tokens=150, early_stopping=False,
                 length_penalty=1.0, no_repeat_ngram_size=0, repetition_penalty=1.2)  # fmt: skip
    made = ours(written, written.spoken(), given)
    assert (made.lengths == 150).all()
    assert difference(made, theirs(model, given)) == ""


@every_target
@every_kind
def test_a_new_start_forgets_the_last_text(kind: str, target: str, models: dict[str, Model]) -> None:
    model, written = models[kind].references.model, models[kind].written[target]
    graph = written.spoken()
    first, other = case(kind, model, 3), case(kind, model, 4)
    before = ours(written, graph, first)
    ours(written, graph, other)
    again = ours(written, graph, first)
    np.testing.assert_array_equal(before.tokens, again.tokens)
    np.testing.assert_array_equal(before.scores, again.scores)


@every_target
@every_kind
def test_only_the_processor_runs_language_models(kind: str, target: str, models: dict[str, Model]) -> None:
    written = models[kind].written[target]
    device = {"onnx": "cuda", "openvino": "gpu"}[target]
    options = SessionOptions(device=device)
    graphs, embeddings = written.graphs, written.source.embeddings()
    with pytest.raises(EngineError, match=f"language models run on device 'cpu' with .*, not on '{device}'"):
        open_language(ENGINES[target], written.folder, graphs, written.language, embeddings, options)


def test_other_engines_say_that_they_do_not(models: dict[str, Model]) -> None:
    one = models["opt"].written["onnx"]
    other = Engine(name="abacus", packages=())
    with pytest.raises(EngineError, match="engine abacus opens no parts of vision-language models; convert this one f"):
        other.open_language(one.folder, one.graphs, one.language, one.source.embeddings(), ONE_THREAD)
