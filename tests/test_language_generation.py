"""Generation against transformers' own ``generate``: token for token and score for score, on tiny OPT and T5 models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from edgekit.arrays import Floats, Ints

torch = pytest.importorskip("torch", reason="needs torch, which runs the models compared with")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")

from tiny_transformers import package

package()  # It makes transformers work beside a torchvision that was built for another torch.

from transformers import (
    GenerationConfig,
    GenerationMixin,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.generation import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import CausalLMOutput

from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.language import Generated, GenerationOptions, LanguageGraph, generate, generation_options, stream
from golden import cases as golden

VOCABULARY, WIDTH, IMAGE_TOKENS = 37, 24, 3
KINDS = ("opt", "t5")
BEAM_CONFIGURATIONS = 120
GREEDY_CONFIGURATIONS = 40
every_kind = pytest.mark.parametrize("kind", KINDS)


def likely_end(model: Any, eos: list[int], push: float) -> Any:
    """The model with a new head: logits far apart, and end tokens more likely by ``push``."""
    model.lm_head = torch.nn.Linear(WIDTH, VOCABULARY)
    torch.nn.init.normal_(model.lm_head.weight, std=0.6)
    torch.nn.init.normal_(model.lm_head.bias, std=0.6)
    with torch.no_grad():
        model.lm_head.bias[eos] += push
    return model.eval()


def opt(eos: list[int], pad: int, push: float) -> Any:
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=40, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=64, init_std=0.5, pad_token_id=pad, bos_token_id=0,
        eos_token_id=eos, dropout=0.0, tie_word_embeddings=False,
    )  # fmt: skip
    return likely_end(OPTForCausalLM(config), eos, push)


def t5(eos: list[int], pad: int, push: float) -> Any:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=40, num_layers=2, num_heads=3, dropout_rate=0.0,
        pad_token_id=pad, eos_token_id=eos, decoder_start_token_id=pad, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    return likely_end(T5ForConditionalGeneration(config), eos, push)


MODELS = {"opt": opt, "t5": t5}


class OPTGraph:
    """A `LanguageGraph` of a torch OPT: explicit positions, explicit cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        self.mask, self.cache = torch.from_numpy(mask), DynamicCache()
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return self.run(positions, inputs_embeds=torch.from_numpy(embeddings))

    def step(self, tokens: Ints) -> Floats:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return self.run(self.mask.sum(1, keepdim=True) - 1, input_ids=torch.from_numpy(tokens)[:, None])

    def select(self, rows: Ints) -> None:
        self.mask = self.mask[rows]
        self.cache.reorder_cache(torch.from_numpy(rows))

    def run(self, positions: Any, **inputs: Any) -> Floats:
        with torch.no_grad():
            made = self.model(attention_mask=self.mask, position_ids=positions, past_key_values=self.cache, **inputs)
        return made.logits[:, -1].numpy()


class T5Graph:
    """A `LanguageGraph` of a torch T5: the encoder once, the decoder with self- and cross-attention cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        self.mask = torch.from_numpy(mask)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with torch.no_grad():
            encoded = self.model.encoder(inputs_embeds=torch.from_numpy(embeddings), attention_mask=self.mask)
        self.encoded = encoded.last_hidden_state
        return self.step(np.full(len(mask), self.model.config.decoder_start_token_id))

    def step(self, tokens: Ints) -> Floats:
        with torch.no_grad():
            made = self.model(
                encoder_outputs=(self.encoded,), attention_mask=self.mask, past_key_values=self.cache,
                decoder_input_ids=torch.from_numpy(tokens)[:, None],
            )  # fmt: skip
        return made.logits[:, -1].numpy()

    def select(self, rows: Ints) -> None:
        self.mask, self.encoded = self.mask[rows], self.encoded[rows]
        self.cache.reorder_cache(torch.from_numpy(rows))


class Counted:
    """Any graph, with a count of its runs."""

    def __init__(self, graph: LanguageGraph) -> None:
        self.graph, self.select, self.runs = graph, graph.select, 0

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        self.runs += 1
        return self.graph.start(embeddings, mask)

    def step(self, tokens: Ints) -> Floats:
        self.runs += 1
        return self.graph.step(tokens)


def forgetting(graph: Any) -> Any:
    """The negative control: the same graph, but its cache stays where it is when beams change places."""
    known, rows_now = graph.select, [0]

    def select(rows: Ints) -> None:
        if len(rows) != rows_now[0]:
            known(rows)
            rows_now[0] = len(rows)

    graph.select = select
    return graph


@dataclass(frozen=True)
class Case:
    """A model, a batch of prompts and options, and how transformers is asked for the same."""

    model: Any
    embeddings: Floats
    mask: Ints
    ids: Ints
    options: GenerationOptions
    eos: list[int]
    pad: int

    @property
    def decoder_only(self) -> bool:
        return not self.model.config.is_encoder_decoder

    def graph(self) -> LanguageGraph:
        return OPTGraph(self.model) if self.decoder_only else T5Graph(self.model)

    def ours(self, graph: LanguageGraph | None = None, **more: Any) -> Generated:
        given = (self.embeddings, self.mask, self.ids, self.options)
        return generate(graph or self.graph(), *given, eos=self.eos, pad=self.pad, **more)

    def theirs(self, **more: Any) -> Any:
        options = self.options
        inputs = {"inputs_embeds": torch.from_numpy(self.embeddings), "attention_mask": torch.from_numpy(self.mask)}
        if self.decoder_only:  # As Blip2ForConditionalGeneration does, so that penalties see the prompt.
            inputs["input_ids"] = torch.from_numpy(self.ids)
        sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        searching = {name: getattr(options, name) for name in ("length_penalty", "early_stopping")}
        return self.model.generate(
            **inputs, max_new_tokens=options.max_new_tokens, min_new_tokens=options.min_new_tokens or None,
            num_beams=options.beams, num_return_sequences=options.returned, do_sample=options.sample,
            repetition_penalty=options.repetition_penalty, no_repeat_ngram_size=options.no_repeat_ngram_size,
            eos_token_id=self.eos or None, pad_token_id=self.pad, return_dict_in_generate=True, output_scores=True,
            output_logits=True, **(searching if options.beams > 1 else {}), **(sampling if options.sample else {}),
            **more,
        )  # fmt: skip

    def expected(self, made: Any) -> Ints:
        return made.sequences.numpy()[:, self.ids.shape[1] :]


def random_options(random: np.random.Generator, beams: bool) -> GenerationOptions:
    count = int(random.integers(2, 6)) if beams else 1
    longest = int(random.integers(1, 15))
    return GenerationOptions(
        max_new_tokens=longest,
        min_new_tokens=int(random.choice([0, 0, random.integers(0, longest + 1)])),
        beams=count,
        returned=int(random.integers(1, count + 1)),
        length_penalty=float(random.choice([-1, -0.5, 0, 0.6, 1, 1, 2])),
        early_stopping=[True, False, "never"][random.integers(3)],
        repetition_penalty=float(random.choice([1, 1, 0.8, 1.3, 1.8])),
        no_repeat_ngram_size=int(random.choice([0, 0, 1, 2, 3])),
    )


def case(
    kind: str, seed: int, beams: bool = True, options: GenerationOptions | None = None, rows: int | None = None
) -> Case:
    """A random case: 1..3 prompts of several lengths, image embeddings in front, one or more end tokens."""
    random = np.random.default_rng([seed, beams, KINDS.index(kind)])
    torch.manual_seed(seed)
    eos = [[2], [2], [2, 9], []][random.integers(4)]
    pad = int(random.choice([0, 1, 2] if kind == "opt" else [0, 1]))
    model = MODELS[kind](eos, pad, float(random.choice([0, 1.5, 3])))
    rows, longest = rows or int(random.integers(1, 4)), int(random.integers(1, 7))
    ids = random.integers(3, VOCABULARY, (rows, IMAGE_TOKENS + longest))
    ids[:, :IMAGE_TOKENS] = random.choice([VOCABULARY - 1, VOCABULARY + 3])  # A placeholder may be outside of the head.
    mask = np.ones_like(ids)
    images = random.normal(size=(rows, IMAGE_TOKENS, WIDTH))
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.from_numpy(ids.clip(max=VOCABULARY - 1))).numpy()
    embeddings = np.concatenate([images, embedded[:, IMAGE_TOKENS:]], 1)
    for row in range(rows):  # Shorter prompts are padded on the left, in front of the image.
        short = int(random.integers(longest)) if row else 0
        for array, filler in ((ids, pad), (mask, 0), (embeddings, 0.5)):
            array[row] = np.concatenate([np.full_like(array[row, :short], filler), array[row, : len(ids[row]) - short]])
    if kind == "t5":
        ids = np.full((rows, 1), pad)
    made = options or random_options(random, beams)
    return Case(model, embeddings.astype(np.float32), mask, ids, made, eos, pad)


def difference(ours: Generated, tokens: Ints, pad: int, fill: set[int]) -> str:
    """How our tokens differ from transformers', empty when they do not. What it fills up with may be an end token."""
    if ours.tokens.shape != tokens.shape:
        return f"shape {ours.tokens.shape}, not {tokens.shape}"
    for mine, theirs, length in zip(ours.tokens, tokens, ours.lengths, strict=True):
        if mine[:length].tolist() != theirs[:length].tolist():
            return f"{mine.tolist()}, not {theirs.tolist()}"
        if (mine[length:] != pad).any():
            return f"{mine.tolist()} is not padded after {length} tokens"
        if not {*theirs[length:].tolist()} <= fill:
            return f"ends after {length} tokens, theirs goes on {theirs.tolist()}"
    return ""


@cache
def beam_cases(kind: str) -> list[Case]:
    return [case(kind, seed) for seed in range(BEAM_CONFIGURATIONS)]


def compared(cases: list[Case]) -> tuple[list[str], list[Generated]]:
    """Differences in tokens, beam scores and runs of the model, and what was generated."""
    wrong, every = [], []
    for number, given in enumerate(cases):
        theirs, graph = given.theirs(), Counted(given.graph())
        ours = given.ours(graph)
        found = difference(
            ours, given.expected(theirs), given.pad, {given.pad, *given.eos[:1], *([-1] if not given.eos else [])}
        )
        if not found and graph.runs != len(theirs.scores):
            found = f"{graph.runs} runs of the graph, not {len(theirs.scores)}"
        if not found and given.options.beams > 1:
            off = np.abs(ours.scores - theirs.sequences_scores.numpy()).max()
            found = f"scores differ by {off}" if off > 1e-4 else ""
        wrong += [f"{number}: {found} ({given.options}, eos={given.eos}, pad={given.pad})"] if found else []
        every.append(ours)
    return wrong, every


@pytest.mark.parametrize("kind", ["opt", pytest.param("t5", marks=pytest.mark.nightly)])
def test_beam_search_is_that_of_transformers(kind: str) -> None:
    wrong, every = compared(beam_cases(kind))
    assert not wrong, "\n".join(wrong)
    lengths = [length / made.lengths.max() for made in every for length in made.lengths]
    assert np.mean(np.array(lengths) < 1) > 0.1  # Many ended early, or the comparison would be of little.


@every_kind
def test_beams_go_on_where_most_continuations_end(kind: str) -> None:
    # With two end tokens twice as many candidates as beams may all have ended.
    cases = []
    for seed in range(12):
        options = GenerationOptions(beams=3, returned=3, max_new_tokens=8, length_penalty=2, early_stopping="never")
        given = case(kind, seed, options=options)
        torch.manual_seed(seed)
        cases.append(replace(given, model=MODELS[kind]([2, 9], given.pad, 8), eos=[2, 9]))
    wrong, every = compared(cases)
    assert not wrong, "\n".join(wrong)
    assert any((made.lengths < 8).any() for made in every)


@every_kind
def test_greedy_decoding_is_that_of_transformers(kind: str) -> None:
    wrong, every = compared([case(kind, seed, beams=False) for seed in range(GREEDY_CONFIGURATIONS)])
    assert not wrong, "\n".join(wrong)
    assert len({int(length) for made in every for length in made.lengths}) > 5


@every_kind
def test_the_cases_are_of_every_sort(kind: str) -> None:
    cases = beam_cases(kind)
    options = [given.options for given in cases]
    assert {made.early_stopping for made in options} == {True, False, "never"}
    assert {made.length_penalty for made in options} == {-1, -0.5, 0, 0.6, 1, 2}
    assert {made.beams for made in options} == {2, 3, 4, 5}
    assert {len(given.eos) for given in cases} == {0, 1, 2}
    for name, least in (("min_new_tokens", 0), ("returned", 1), ("no_repeat_ngram_size", 0), ("repetition_penalty", 1)):
        assert sum(getattr(made, name) > least for made in options) > 15, name
    assert sum((given.mask == 0).any() for given in cases) > 15


@every_kind
def test_a_cache_that_does_not_follow_its_beams_is_noticed(kind: str) -> None:
    different = 0
    for seed in range(30):
        given = case(kind, seed, options=GenerationOptions(beams=4, max_new_tokens=10, early_stopping="never"))
        right, wrong = given.ours(), given.ours(forgetting(given.graph()))
        different += right.tokens.tolist() != wrong.tokens.tolist() or np.abs(right.scores - wrong.scores).max() > 1e-3
    assert different >= 20


@every_kind
def test_without_end_tokens_everything_is_as_long_as_allowed(kind: str) -> None:
    given = replace(case(kind, 3, options=GenerationOptions(beams=3, returned=2, max_new_tokens=6)), eos=[])
    assert set(given.ours().lengths) == {6}
    assert difference(given.ours(), given.expected(given.theirs()), given.pad, {-1}) == ""


class SamePair(StoppingCriteria):  # type: ignore[misc]
    """Ends a sequence whose last token is a given one, or whose last two generated tokens are equal."""

    def __init__(self, prompt: int, token: int) -> None:
        self.prompt, self.token = prompt, token

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.from_numpy(self.ended(input_ids[:, self.prompt :].numpy()))

    def ended(self, tokens: Ints) -> Any:
        same = tokens[:, -1] == tokens[:, -2] if tokens.shape[1] > 1 else np.zeros(len(tokens), np.bool_)
        return same | (tokens[:, -1] == self.token)


@every_kind
@pytest.mark.parametrize("beams", [1, 4])
def test_a_reason_of_the_callers_ends_a_sequence_as_in_transformers(kind: str, beams: int) -> None:
    shorter = 0
    for seed in range(12):
        given = case(kind, seed, options=GenerationOptions(beams=beams, returned=beams, max_new_tokens=9))
        given = replace(given, eos=[2])
        criterion = SamePair(given.ids.shape[1], seed % VOCABULARY)
        ours = given.ours(stopped=criterion.ended)
        theirs = given.theirs(stopping_criteria=StoppingCriteriaList([criterion]))
        assert difference(ours, given.expected(theirs), given.pad, {given.pad, 2}) == ""
        if beams > 1:
            np.testing.assert_allclose(ours.scores, theirs.sequences_scores.numpy(), atol=1e-4)
        shorter += sum(row[-1] != 2 and len(row) < 9 for row in ours.sequences)
    assert shorter > 3


@every_kind
def test_scores_of_greedy_decoding_are_the_models_own(kind: str) -> None:
    for seed in range(8):
        given = case(kind, seed, beams=False)
        theirs, ours = given.theirs(), given.ours()
        logits = torch.log_softmax(torch.stack(theirs.logits, 1), -1).numpy()
        chosen = np.take_along_axis(logits, given.expected(theirs)[..., None], 2)[..., 0]
        for row, length in enumerate(ours.lengths):
            expected = chosen[row, :length].sum() / length**given.options.length_penalty
            assert ours.scores[row] == pytest.approx(expected, abs=1e-4)


@every_kind
def test_greedy_decoding_and_beams_score_the_same_sequence_the_same(kind: str) -> None:
    found = 0
    for seed in range(10):
        one = case(kind, seed, options=GenerationOptions(max_new_tokens=6, length_penalty=0.5), rows=1)
        several = replace(one, options=replaced(one.options, beams=3, returned=3))
        made, greedy = several.ours(), one.ours()
        for tokens, score in zip(made.sequences, made.scores, strict=True):
            if tokens.tolist() == greedy.sequences[0].tolist():
                assert score == pytest.approx(greedy.scores[0], abs=1e-4)
                found += 1
    assert found >= 5


SAMPLING = GenerationOptions(
    sample=True, temperature=0.7, top_k=12, top_p=0.9, min_p=0.05, seed=7, max_new_tokens=10, repetition_penalty=1.2,
    no_repeat_ngram_size=2, min_new_tokens=2, returned=2,
)  # fmt: skip


@every_kind
def test_sampling_draws_from_the_distributions_of_transformers(kind: str) -> None:
    from edgekit.runtimes.language.processors import Penalties, filter_for_sampling
    from edgekit.runtimes.language.prompt import prompt_of

    for seed in range(6):
        given = case(kind, seed, options=SAMPLING)
        theirs = given.theirs()
        prompt = prompt_of(given.embeddings, given.mask, given.ids, given.eos, given.pad)
        copies, start = np.repeat(np.arange(len(given.ids)), 2), given.ids.shape[1]
        penalties = Penalties(SAMPLING, prompt.eos, start, prompt.padding[copies])
        for count, (logits, expected) in enumerate(zip(theirs.logits, theirs.scores, strict=True)):
            history = theirs.sequences.numpy()[:, : start + count]
            ours = filter_for_sampling(penalties(history, logits.numpy()), SAMPLING)
            np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)


@every_kind
def test_the_seed_decides_what_is_drawn(kind: str) -> None:
    given = case(kind, 4, options=SAMPLING)
    again, other = given.ours(), replace(given, options=replaced(SAMPLING, seed=8)).ours()
    assert given.ours().tokens.tolist() == again.tokens.tolist()
    assert again.tokens.tolist() != other.tokens.tolist()
    fresh = replace(given, options=replaced(SAMPLING, seed=None))
    assert len({str(fresh.ours().tokens.tolist()) for _ in range(4)}) > 1


@every_kind
def test_a_row_draws_the_same_alone_and_in_a_batch(kind: str) -> None:
    given = replace(case(kind, 11, options=replaced(SAMPLING, returned=1), rows=3), eos=[2])
    alone = replace(given, embeddings=given.embeddings[:1], mask=given.mask[:1], ids=given.ids[:1])
    assert alone.ours().sequences[0].tolist() == given.ours().sequences[0].tolist()


def replaced(options: GenerationOptions, **given: Any) -> GenerationOptions:
    import msgspec

    return msgspec.structs.replace(options, **given)


def streamed(given: Case, graph: LanguageGraph) -> Iterator[int]:
    prompt = (given.embeddings, given.mask, given.ids, given.options)
    return stream(graph, *prompt, eos=given.eos, pad=given.pad)


@every_kind
@pytest.mark.parametrize("sample", [False, True])
def test_a_stream_gives_the_same_tokens(kind: str, sample: bool) -> None:
    for seed in range(5):
        given = case(kind, seed, options=GenerationOptions(sample=sample, seed=3, max_new_tokens=9), rows=1)
        assert list(streamed(given, given.graph())) == given.ours().sequences[0].tolist()


def test_a_stream_runs_no_step_that_nobody_asked_for() -> None:
    given = replace(case("opt", 0, options=GenerationOptions(max_new_tokens=9), rows=1), eos=[])
    graph = Counted(given.graph())
    tokens = streamed(given, graph)
    assert graph.runs == 0
    assert [next(tokens), graph.runs] == [given.ours().tokens[0, 0], 1]
    assert [next(tokens), graph.runs] == [given.ours().tokens[0, 1], 2]
    assert len([*tokens]) == 7
    assert graph.runs == 9


@pytest.mark.parametrize(
    ("options", "rows", "words"),
    [
        (GenerationOptions(beams=3), 1, "beams=3 cannot be streamed"),
        (GenerationOptions(), 2, "2 prompt(s) with returned=1 cannot be streamed: stream one prompt"),
        (GenerationOptions(sample=True, returned=2), 1, "1 prompt(s) with returned=2 cannot be streamed"),
    ],
)
def test_what_cannot_be_streamed_is_refused(options: GenerationOptions, rows: int, words: str) -> None:
    given = case("t5", 11, options=options, rows=rows)
    with pytest.raises(UsageError) as refused:
        streamed(given, given.graph())
    assert words in str(refused.value)


class Scripted:
    """A graph whose logits are given: what an engine could return."""

    def __init__(self, logits: Any) -> None:
        self.logits = np.asarray(logits, np.float32)

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        return self.logits

    def step(self, tokens: Ints) -> Floats:
        return self.logits

    def select(self, rows: Ints) -> None:
        self.logits = self.logits[rows]


def scripted(logits: Any, options: GenerationOptions | None = None, **given: Any) -> Generated:
    prompt = {
        "embeddings": np.zeros((1, 2, 4), np.float32), "mask": np.ones((1, 2), np.int64),
        "prompt_ids": np.zeros((1, 2), np.int64), "eos": [1], "pad": 0,
    }  # fmt: skip
    prompt.update(given)
    return generate(Scripted(logits), options=options or GenerationOptions(max_new_tokens=3), **prompt)


@pytest.mark.parametrize("options", [GenerationOptions(), GenerationOptions(beams=2)])
@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.zeros((2, 5)), "gave logits of shape (2, 5), not (1, vocabulary)"),
        (np.zeros((1, 3, 5)), "gave logits of shape (1, 3, 5), not (1, vocabulary)"),
        ([[0, np.nan, 0, 0]], "gave nan as its highest logit in row 0"),
        ([[0, np.inf, 0, 0]], "gave inf as its highest logit in row 0: its numbers overflowed"),
        ([[-np.inf] * 4], "gave -inf as its highest logit in row 0"),
    ],
)
def test_logits_that_are_none_are_refused(options: GenerationOptions, logits: Any, words: str) -> None:
    with pytest.raises(EngineError) as refused:
        scripted(logits, options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"embeddings": np.zeros((2, 4), np.float32)}, "prompt embeddings of shape (2, 4): expected (rows, tokens,"),
        ({"embeddings": np.zeros((1, 0, 4), np.float32)}, "prompt embeddings of shape (1, 0, 4)"),
        ({"mask": np.ones((1, 3), np.int64)}, "prompt mask of shape (1, 3): expected (1, 2), as the embeddings"),
        ({"prompt_ids": np.ones((1, 3), np.int64)}, "prompt ids of shape (1, 3): expected (1, 2) for a decoder-only"),
        ({"mask": np.array([[0, 2]])}, "prompt mask: expected 0 and 1, with at least one 1 in every row"),
        ({"mask": np.array([[0, 0]])}, "prompt mask: expected 0 and 1, with at least one 1 in every row"),
        ({"mask": np.array([[1, 0]])}, "prompt mask: expected the padding on the left"),
        ({"prompt_ids": np.array([[-100, 3]])}, "prompt ids -100: expected token ids of 0 and above"),
        ({"eos": [3, -1]}, "eos -1: expected token ids of 0 and above"),
        ({"pad": -1}, "pad -1: expected token ids of 0 and above"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        scripted(np.zeros((1, 5)), **given)
    assert words in str(refused.value)


def test_an_encoder_may_be_padded_on_the_right() -> None:
    made = scripted([[0, 0, 1, 0]], mask=np.array([[1, 0]]), prompt_ids=np.zeros((1, 1), np.int64))
    assert made.tokens.tolist() == [[2, 2, 2]]


def test_a_vocabulary_too_small_for_beams_is_refused() -> None:
    assert scripted(np.zeros((1, 3)), GenerationOptions(beams=2), eos=[0, 1]).tokens.shape[0] == 1
    with pytest.raises(UsageError, match=r"with 2 end token\(s\) needs a vocabulary of 3 or more, this one has 2: "):
        scripted(np.zeros((1, 2)), GenerationOptions(beams=2), eos=[0, 1])


def test_nothing_left_to_draw_is_refused() -> None:
    options = GenerationOptions(sample=True, no_repeat_ngram_size=1, max_new_tokens=9)
    with pytest.raises(
        UsageError, match="row 0 has no token left to draw: no_repeat_ngram_size=1 and min_new_tokens=0"
    ):
        scripted(np.zeros((1, 3)), options, eos=[])


def test_sequences_come_without_their_padding() -> None:
    made = Generated(np.array([[5, 1, 0], [6, 7, 1]]), np.array([2, 3]), np.zeros(2, np.float32))
    assert [row.tolist() for row in made.sequences] == [[5, 1], [6, 7, 1]]


def test_equal_scores_go_to_the_first_token() -> None:
    assert scripted(np.zeros((1, 9))).tokens.tolist() == [[0, 0, 0]]
    first = scripted(np.zeros((1, 9)), GenerationOptions(beams=3, returned=3, max_new_tokens=2), eos=[])
    assert first.tokens.tolist() == [[0, 0], [0, 1], [0, 2]]


class Table(GenerationMixin, PreTrainedModel):  # type: ignore[misc]
    """A table of logits as a model of transformers: the case of the golden set, without edgekit's generation."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def __init__(self, case: golden.Case, options: GenerationOptions) -> None:
        count = case.given["table"].shape[1]
        super().__init__(PreTrainedConfig(vocab_size=count, is_encoder_decoder=False, num_hidden_layers=1))
        self.table = torch.nn.Parameter(torch.tensor(case.given["table"]))
        self.begin, self.prompt = case.given["start"], len(case.given["prompt"])

    def forward(self, input_ids: Any, **_: Any) -> CausalLMOutput:
        states = torch.full((len(input_ids),), self.begin)
        for tokens in input_ids[:, self.prompt :].T:
            states = (5 * states + tokens + 1) % len(self.table)
        return CausalLMOutput(logits=self.table[states][:, None])

    def prepare_inputs_for_generation(self, input_ids: Any, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}


SEARCHED = [
    one
    for one in golden.stored("generation")
    # Of equal sums torch takes any.
    if "sequences" in one.expected and not one.must_fail and one.name != "beams-ties"
]


@pytest.mark.parametrize("case", SEARCHED, ids=lambda case: case.name)
def test_the_golden_set_is_what_transformers_generates(case: golden.Case) -> None:
    options = generation_options(case.given["options"])
    made = Table(case, options).generate(
        torch.tensor([case.given["prompt"]]),
        generation_config=GenerationConfig(
            max_new_tokens=options.max_new_tokens, min_new_tokens=options.min_new_tokens or None,
            num_beams=options.beams, num_return_sequences=options.returned,
            length_penalty=options.length_penalty, early_stopping=options.early_stopping,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size, do_sample=False, use_cache=False,
            eos_token_id=case.given["eos"] or None, pad_token_id=case.given["pad"], return_dict_in_generate=True,
            output_scores=True,
        ),
    )  # fmt: skip
    rows = [row[len(case.given["prompt"]) :].tolist() for row in made.sequences]
    for row, expected in zip(rows, case.expected["sequences"], strict=True):
        count = len(expected["tokens"])
        assert row[:count] == expected["tokens"]
        assert set(row[count:]) <= {case.given["pad"]}
    if options.beams > 1:
        assert np.allclose(made.sequences_scores, case.expected["scores"], atol=1e-5)
