"""Language models on engines against transformers' ``generate`` of a whole BLIP-2, from the pixels on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from edgekit.arrays import Floats, Ints

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")
for engine in ("onnxruntime", "openvino"):
    pytest.importorskip(engine, reason="needs the engines of the extra 'convert'")

import tiny_blip2
from blip2_writing import ENGINES, ONE_THREAD, Written, pixels, torch_model, write_graphs

from edgekit.errors import EngineError
from edgekit.runtimes.engines import Engine, SessionOptions, open_language
from edgekit.runtimes.language import Generated, GenerationOptions, LanguageGraph, generate

CONFIGURATIONS = 30
"""Random ones, for each model on each engine: 120 in all."""

every_kind = pytest.mark.parametrize("kind", ["opt", "t5"])
every_target = pytest.mark.parametrize("target", list(ENGINES))


class Model(NamedTuple):
    source: Any
    written: dict[str, Written]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root, made = tmp_path_factory.mktemp("engines"), {}
    for kind, write in (("opt", tiny_blip2.opt), ("t5", tiny_blip2.t5)):
        folder = write(root / kind)
        written = {target: write_graphs(folder, target, root / f"{kind}-{target}") for target in ENGINES}
        made[kind] = Model(torch_model(folder), written)
    return made


class Case(NamedTuple):
    """A batch of images with prompts of different lengths, and how to write."""

    pixels: Floats
    ids: Ints
    mask: Ints
    options: GenerationOptions
    eos: tuple[int, ...]

    def theirs(self) -> dict[str, Any]:
        """The options under transformers' names."""
        options = self.options
        given = {
            "num_beams": options.beams, "max_new_tokens": options.max_new_tokens, "do_sample": False,
            "min_new_tokens": options.min_new_tokens or None, "repetition_penalty": options.repetition_penalty,
            "no_repeat_ngram_size": options.no_repeat_ngram_size, "num_return_sequences": options.returned,
            "eos_token_id": list(self.eos),
        }  # fmt: skip
        if options.beams > 1:
            given |= {"length_penalty": options.length_penalty, "early_stopping": options.early_stopping}
        return given


def case(kind: str, model: Any, seed: int, **fixed: Any) -> Case:
    """A random case: up to three images, prompts padded on the left."""
    rng = np.random.default_rng([seed, kind == "t5"])
    rows, words = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    ids = rng.integers(5, 90, (rows, 3 + tiny_blip2.QUERIES + words))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, : rng.integers(0, 4)] = 0
    ids[mask == 0] = model.config.text_config.pad_token_id
    ids[:, 3 : 3 + tiny_blip2.QUERIES] = model.config.image_token_index
    beams = int(rng.integers(1, 5))
    options: dict[str, Any] = {"beams": beams, "max_new_tokens": int(rng.integers(2, 16))}
    if beams > 1:
        early: list[Any] = [True, False, "never"]
        options |= {
            "length_penalty": float(rng.choice([-1, 0, 0.5, 1, 2])), "early_stopping": early[rng.integers(3)],
            "returned": int(rng.integers(1, beams + 1)),
        }  # fmt: skip
    if rng.random() < 0.4:
        options["repetition_penalty"] = float(rng.choice([0.8, 1.3]))
    if rng.random() < 0.3:
        options["no_repeat_ngram_size"] = int(rng.integers(1, 4))
    if rng.random() < 0.3:
        options["min_new_tokens"] = int(rng.integers(1, options["max_new_tokens"] + 1))
    eos = (model.config.text_config.eos_token_id, *rng.choice(np.arange(5, 140), 30, replace=False).tolist())
    return Case(pixels(rows, seed), ids, mask, GenerationOptions(**{**options, **fixed}), eos)


def ours(written: Written, graph: LanguageGraph, given: Case) -> Generated:
    """From pixels to tokens on an engine."""
    language = written.language
    image = written.network("vision").run({"pixel_values": given.pixels})["image_embeds"]
    queries = written.network("qformer").run({"image_embeds": np.array(image)})["language_inputs"]
    embeddings = written.source.embeddings()[given.ids]
    embeddings[:, 3 : 3 + language.queries] = queries
    ids = given.ids if language.family == "opt" else np.full((len(given.ids), 1), language.start)
    return generate(graph, embeddings, given.mask, ids, given.options, eos=given.eos, pad=language.pad)


def theirs(model: Any, given: Case) -> Any:
    return model.generate(
        pixel_values=torch.from_numpy(given.pixels), input_ids=torch.from_numpy(given.ids),
        attention_mask=torch.from_numpy(given.mask), return_dict_in_generate=True, output_scores=True, **given.theirs(),
    )  # fmt: skip


def ended(tokens: Ints, eos: tuple[int, ...]) -> list[list[int]]:
    """Each text up to its end token."""
    texts = []
    for row in tokens.tolist():
        ends = [place for place, token in enumerate(row) if token in eos]
        texts.append(row[: ends[0] + 1] if ends else row)
    return texts


def same(kind: str, made: Generated, reference: Any, given: Case, scores: float = 1e-4) -> None:
    begin = given.ids.shape[1] if kind == "opt" else 1
    assert [row.tolist() for row in made.sequences] == ended(reference.sequences[:, begin:].numpy(), given.eos)
    if given.options.beams > 1:
        expected = reference.sequences_scores.numpy()
        np.testing.assert_allclose(made.scores, expected, atol=scores * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("target", ["onnx", pytest.param("openvino", marks=pytest.mark.nightly)])
@every_kind
def test_random_configurations(kind: str, target: str, models: dict[str, Model]) -> None:
    model, written = models[kind].source, models[kind].written[target]
    graph, ends = written.spoken(), 0
    for seed in range(CONFIGURATIONS):
        given = case(kind, model, seed)
        made = ours(written, graph, given)
        same(kind, made, theirs(model, given), given)
        ends += int((made.lengths < given.options.max_new_tokens).sum())
    assert ends > 20  # many texts ended by themselves


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
    model, written = models[kind].source, models[kind].written[target]
    graph, different = Unordered(written.spoken()), 0
    for seed in range(12):
        given = case(kind, model, seed, beams=4, returned=1, max_new_tokens=14, min_new_tokens=8)
        made, reference = ours(written, graph, given), theirs(model, given)
        begin = given.ids.shape[1] if kind == "opt" else 1
        different += [row.tolist() for row in made.sequences] != ended(
            reference.sequences[:, begin:].numpy(), given.eos
        )
    assert different >= 3


@every_target
def test_texts_outgrow_the_buffers(target: str, models: dict[str, Model]) -> None:
    """ONNX Runtime's buffers begin with room for 64 tokens."""
    model, written = models["t5"].source, models["t5"].written[target]
    given = case("t5", model, 1, beams=1, returned=1, max_new_tokens=150, min_new_tokens=150, early_stopping=False,
                 length_penalty=1.0, no_repeat_ngram_size=0, repetition_penalty=1.2)  # fmt: skip
    made = ours(written, written.spoken(), given)
    assert (made.lengths == 150).all()
    same("t5", made, theirs(model, given), given)


@every_target
@every_kind
def test_a_new_start_forgets_the_last_text(kind: str, target: str, models: dict[str, Model]) -> None:
    model, written = models[kind].source, models[kind].written[target]
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
