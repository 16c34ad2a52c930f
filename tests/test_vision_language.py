"""The torch-free vision-language runtime against transformers: tokens, scores, vectors and matches of tiny models."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.arrays import Image

torch = pytest.importorskip("torch", reason="needs torch, which runs the models compared with")
pytest.importorskip("transformers", reason="needs transformers, whose BLIP-2 is compared with")
pytest.importorskip("tokenizers", reason="needs tokenizers")

import tiny_blip2
import torch_blip2
from PIL import Image as Pictures
from tiny_transformers import package

import edgekit
from edgekit.errors import BundleError, EngineError, InputError, UsageError
from edgekit.runtimes import model as detectors
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.language.features import KEPT
from edgekit.runtimes.language.text import Tokenizer
from edgekit.runtimes.language.vision_language import VisionLanguage
from edgekit.runtimes.results import Match, Text, TextTimings

GENERATING = ("opt", "t5", "tied")
every_generator = pytest.mark.parametrize("name", GENERATING)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 7, "repetition_penalty": 1.4},
    {"beams": 3, "returned": 3, "length_penalty": 0.5},
    {"beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    {"beams": 2, "early_stopping": "never", "length_penalty": 2.0, "repetition_penalty": 1.2, "returned": 2},
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("blip2")
    made = {"tied": tiny_blip2.t5(root / "tied", tied=True)}
    return made | {name: getattr(tiny_blip2, name)(root / name) for name in ("opt", "t5", "retrieval")}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, VisionLanguage]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: torch_blip2.opened(folder) for name, folder in folders.items()}


@pytest.fixture
def fresh(folders: dict[str, Path]) -> Any:
    """Opens a model of its own, with no image known yet."""
    return lambda name, **changes: torch_blip2.opened(folders[name], **changes)


def picture(seed: int) -> Image:
    """A photograph-like image: coloured rectangles on a gradient, of any size."""
    random = np.random.default_rng(seed)
    height, width = random.integers(20, 90, 2)
    image = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    for _ in range(4):
        top, left = random.integers(0, height), random.integers(0, width)
        image[top : top + 25, left : left + 25] = random.integers(0, 256, 3)
    return image


def pixels(folder: Path, image: Image) -> Any:
    """As transformers' own processor prepares it; across and then down, whatever order Pillow 13 would choose."""
    processor = package().AutoImageProcessor.from_pretrained(folder, backend="pil")
    narrow = Pictures.fromarray(image[..., ::-1]).resize((tiny_blip2.SIZE, len(image)), Pictures.Resampling.BICUBIC)
    return processor(narrow, return_tensors="pt").pixel_values


def searched(options: dict[str, Any]) -> dict[str, Any]:
    """Options under transformers' names."""
    names = {"beams": "num_beams", "returned": "num_return_sequences"}
    return {"max_new_tokens": 20, **{names.get(name, name): value for name, value in options.items()}}


def theirs(
    model: VisionLanguage, folder: Path, images: list[Image], prompts: list[str], options: dict[str, Any]
) -> list[list[int]]:
    """New tokens of ``Blip2ForConditionalGeneration.generate``, up to the end token; one batch, padded on the left."""
    source, language = model.torch, model.contract.language
    tokenizer = package().AutoTokenizer.from_pretrained(folder)
    rows = [[language.image] * language.queries + tokenizer(prompt).input_ids for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[language.pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    made = source.generate(
        torch.cat([pixels(folder, image) for image in images]), input_ids=ids, attention_mask=mask, **searched(options)
    )
    new = made[:, longest if language.family == "opt" else 1 :].tolist()
    return [_ended(row, language.eos[0]) for row in new]


def _ended(row: list[int], eos: int) -> list[int]:
    return row[: row.index(eos) + 1] if eos in row else row


def tokens(made: Text | list[Text]) -> list[list[int]]:
    """Of every text and its others, in order."""
    every = made if isinstance(made, list) else [made]
    return [list(one.tokens) for text in every for one in (text, *text.others)]


def test_images_are_prepared_as_transformers_does(folders: dict[str, Path]) -> None:
    preprocess = Preprocessor(torch_blip2.contract(folders["opt"]).image)
    for seed in range(8):
        image = picture(seed)
        ours, _ = preprocess(image)
        np.testing.assert_allclose(ours, pixels(folders["opt"], image).numpy(), atol=1e-5)


@every_generator
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_captions_are_those_of_transformers(
    name: str, options: dict[str, Any], models: dict[str, VisionLanguage], folders: dict[str, Path]
) -> None:
    for seed, prompt in enumerate(["a photo of", "", "two red circles above", "Zebra? What's that!"]):
        image = picture(seed)
        made = models[name].caption(image, prompt, **options)
        assert tokens(made) == theirs(models[name], folders[name], [image], [prompt], options)
        assert isinstance(made, Text)
        assert made.prompt == prompt


@every_generator
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_of_two_is_that_of_transformers_and_of_each_alone(
    name: str, options: dict[str, Any], models: dict[str, VisionLanguage], folders: dict[str, Path]
) -> None:
    images, prompts = [picture(5), picture(6)], ["a photo of two red circles above", "the"]
    made = models[name].caption(images, prompts, **options)
    assert isinstance(made, list)
    assert len(made) == 2
    assert tokens(made) == theirs(models[name], folders[name], images, prompts, options)
    for image, prompt, together in zip(images, prompts, made, strict=True):
        assert tokens(models[name].caption(image, prompt, **options)) == tokens(together)


@every_generator
def test_questions_are_asked_as_the_contract_says(
    name: str, models: dict[str, VisionLanguage], folders: dict[str, Path]
) -> None:
    image, asked = picture(1), "how many {} circles?"
    made = models[name].ask(image, asked, beams=2)
    assert made.prompt == f"Question: {asked} Answer:"  # type: ignore[union-attr]
    assert tokens(made) == theirs(models[name], folders[name], [image], [made.prompt], {"beams": 2})  # type: ignore[union-attr]


@every_generator
def test_the_image_decides(name: str, models: dict[str, VisionLanguage]) -> None:
    """The negative control: a caption that did not see its image would be the same for all."""
    made = [models[name].caption(picture(seed)) for seed in range(6)]
    assert len({str(tokens(one)) for one in made}) > 1


@every_generator
def test_beam_scores_are_those_of_transformers(
    name: str, models: dict[str, VisionLanguage], folders: dict[str, Path]
) -> None:
    model, image = models[name], picture(3)
    language = model.contract.language
    assert language is not None
    ids = [language.image] * language.queries + model.tokenizer.encode("a photo of")
    made = model.torch.generate(  # type: ignore[attr-defined]
        pixels(folders[name], image), input_ids=torch.tensor([ids]), num_beams=3, num_return_sequences=3,
        max_new_tokens=9, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    ours = model.caption(image, beams=3, returned=3, max_new_tokens=9)
    assert isinstance(ours, Text)
    scores = [ours.score, *(one.score for one in ours.others)]
    np.testing.assert_allclose(scores, made.sequences_scores.numpy(), atol=1e-4)


def test_ten_questions_run_the_vision_model_once(fresh: Any) -> None:
    model = fresh("opt")
    made = [model.ask(picture(0), f"what is {number}?") for number in range(10)]
    assert model.networks["vision"].rows == model.networks["qformer"].rows == [1]
    assert model.encoder.runs == 1
    together = model.ask(picture(0), [f"what is {number}?" for number in range(10)])
    assert [one.text for one in together] == [one.text for one in made]
    assert model.networks["vision"].rows == [1]


def test_a_batch_runs_what_is_new_and_equal_images_once(fresh: Any, tmp_path: Path) -> None:
    model = fresh("t5")
    model.caption(picture(0))
    path = tmp_path / "two.png"
    Pictures.fromarray(picture(2)[..., ::-1]).save(path)
    made = model.caption([picture(1), picture(0), str(path), picture(2), Pictures.open(path)])
    assert model.networks["vision"].rows == [1, 2]
    assert [one.source for one in made] == ["", "", str(path), "", str(path)]
    assert made[2].text == made[3].text == made[4].text


def test_only_the_last_images_are_remembered(fresh: Any) -> None:
    model = fresh("retrieval")
    for seed in [*range(KEPT + 1), 1, 0]:
        model.embed(picture(seed))
    assert model.encoder.runs == KEPT + 2  # image 1 was still known, image 0 was not


def test_one_pixel_makes_another_image(fresh: Any) -> None:
    model, image = fresh("opt"), picture(0)
    model.embed(image)
    other = image.copy()
    other[3, 4, 1] ^= 255
    assert np.abs(model.embed(other) - model.embed(image)).max() > 0
    model.embed(image.reshape(image.shape[1], image.shape[0], 3))  # the same bytes in another shape
    assert model.encoder.runs == 3


@every_generator
def test_a_stream_is_the_caption_in_pieces(name: str, models: dict[str, VisionLanguage]) -> None:
    model = models[name]
    for seed in range(6):
        whole = model.caption(picture(seed))
        pieces = list(model.stream(picture(seed)))
        # Bytes that never become a character are shown as U+FFFD by the one and left out by the other.
        assert _readable("".join(pieces)) == _readable(str(whole))
    assert len(list(model.stream(picture(5), "a", max_new_tokens=20))) > 1
    asked = "".join(model.stream(picture(2), question="what?"))
    assert _readable(asked) == _readable(str(model.ask(picture(2), "what?")))


def _readable(text: str) -> str:
    return text.replace("�", "").strip()


def test_a_stop_text_ends_caption_and_stream(models: dict[str, VisionLanguage]) -> None:
    model = models["t5"]
    every = [(picture(seed), model.caption(picture(seed))) for seed in range(20)]
    image, whole = next((image, str(one)) for image, one in every if len(model.tokenizer.decode(one.tokens[:9])) > 6)  # type: ignore[union-attr]
    stop = whole[3:5]
    cut = model.caption(image, stop=[stop])
    assert isinstance(cut, Text)
    assert cut.text == whole[: whole.index(stop)].strip()
    assert len(cut.tokens) < len(tokens(model.caption(image))[0])
    assert "".join(model.stream(image, stop=[stop])).strip() == cut.text


def test_a_stream_that_lost_its_cache_says_so(fresh: Any) -> None:
    model = fresh("opt")
    pieces = model.stream(picture(0), max_new_tokens=20)
    next(pieces)
    model.caption(picture(1))
    with pytest.raises(UsageError, match="this stream cannot continue: its model has started another text"):
        list(pieces)


def test_what_it_cost_is_told(fresh: Any) -> None:
    model = fresh("opt")
    made = model.caption([picture(0), picture(1)], max_new_tokens=5, min_new_tokens=5)
    timings = made[0].timings
    assert timings == made[1].timings
    assert timings.steps == 4
    assert min(timings.vision, timings.prefill, timings.decode) > 0
    assert timings.first_token == timings.vision + timings.prefill
    assert timings.per_token * 4 == pytest.approx(timings.decode)
    assert timings.total == pytest.approx(timings.first_token + timings.decode)
    assert TextTimings(vision=1, prefill=2, decode=0, steps=0).per_token == 0


@every_generator
def test_image_vectors_are_those_of_transformers(
    name: str, models: dict[str, VisionLanguage], folders: dict[str, Path]
) -> None:
    images = [picture(0), picture(1)]
    with torch.no_grad():
        made = models[name].torch.get_image_features(  # type: ignore[attr-defined]
            torch.cat([pixels(folders[name], image) for image in images])
        )
    expected = {
        "vision": made.last_hidden_state, "queries": made.qformer_outputs.last_hidden_state,
        "language": made.pooler_output,
    }  # fmt: skip
    for level, values in expected.items():
        np.testing.assert_allclose(models[name].embed(images, level), values.numpy(), atol=1e-4)  # type: ignore[arg-type]
    np.testing.assert_array_equal(models[name].embed(images[0]), models[name].embed(images, "language")[0])


TEXTS = ["a red circle", "two blue squares are below the yellow star", "?"]


@pytest.fixture(scope="session")
def matched(models: dict[str, VisionLanguage], folders: dict[str, Path]) -> dict[tuple[int, str], tuple[float, float]]:
    """Probability and similarity of transformers' ``Blip2ForImageTextRetrieval``, each pair alone."""
    source = models["retrieval"].torch  # type: ignore[attr-defined]
    tokenizer = package().AutoTokenizer.from_pretrained(folders["retrieval"])
    found = {}
    for seed in range(3):
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text).input_ids])
            given = {"pixel_values": pixels(folders["retrieval"], picture(seed)), "input_ids": ids}
            given["attention_mask"] = torch.ones_like(ids)
            with torch.no_grad():
                both = source(**given, use_image_text_matching_head=True).logits_per_image.softmax(1)[0, 1]
                near = source(**given, use_image_text_matching_head=False).logits_per_image[0, 0]
            found[seed, text] = (float(both), float(near))
    return found


def test_matches_are_those_of_transformers(models: dict[str, VisionLanguage], matched: Any) -> None:
    pairs = list(matched)
    together = models["retrieval"].match([picture(seed) for seed, _ in pairs], [text for _, text in pairs])
    assert isinstance(together, list)
    for (seed, text), made in zip(pairs, together, strict=True):
        assert (made.probability, made.similarity) == pytest.approx(matched[seed, text], abs=1e-4)
        alone = models["retrieval"].match(picture(seed), text)
        assert isinstance(alone, Match)
        assert (alone.probability, alone.similarity) == pytest.approx(matched[seed, text], abs=1e-4)
        assert (alone.text, alone.source) == (text, "")
    assert len({round(one.probability, 3) for one in together}) > 5


def test_one_image_goes_with_every_text_and_one_text_with_every_image(
    models: dict[str, VisionLanguage], matched: Any
) -> None:
    texts = models["retrieval"].match(picture(1), TEXTS)
    images = models["retrieval"].match(np.stack([picture(0)] * 2), TEXTS[0])
    assert [one.probability for one in texts] == pytest.approx([matched[1, text][0] for text in TEXTS], abs=1e-4)  # type: ignore[union-attr]
    assert [one.similarity for one in images] == pytest.approx([matched[0, TEXTS[0]][1]] * 2, abs=1e-4)  # type: ignore[union-attr]


def test_texts_and_images_share_a_space(models: dict[str, VisionLanguage], matched: Any) -> None:
    model = models["retrieval"]
    vectors, text = model.embed(picture(2)), model.embed_text(TEXTS[1])
    assert vectors.shape == (tiny_blip2.QUERIES, 16)
    assert text.shape == (16,)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ text).max() == pytest.approx(matched[2, TEXTS[1]][1], abs=1e-4)
    np.testing.assert_allclose(model.embed_text(TEXTS)[1], text, atol=1e-5)


GENERATES = "a generation bundle (BLIP-2 with OPT or T5: caption, ask, stream, embed)"
RETRIEVES = "a retrieval bundle (BLIP-2 for image-text matching: embed, embed_text, match)"


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("retrieval", lambda m: m.caption(picture(0)), f"caption needs {GENERATES}; this is {RETRIEVES}"),
        ("retrieval", lambda m: m.ask(picture(0), "what?"), f"ask needs {GENERATES}; this is"),
        ("retrieval", lambda m: m.stream(picture(0)), f"stream needs {GENERATES}; this is"),
        ("opt", lambda m: m.match(picture(0), "a"), f"match needs {RETRIEVES}; this is {GENERATES}"),
        ("opt", lambda m: m.embed_text("a"), f"embed_text needs {RETRIEVES}; this is"),
        ("opt", lambda m: m.embed(picture(0), "itc"), f"level 'itc' needs {RETRIEVES}; this bundle has 'language',"),
        ("retrieval", lambda m: m.embed(picture(0), "language"), f"level 'language' needs {GENERATES}; this bundle"),
        ("opt", lambda m: m.embed(picture(0), "x"), "level 'x' is not one of: vision, queries, language"),
        ("opt", lambda m: m.caption(picture(0), style="x"), "style 'x' is not one of: caption, short, detailed"),
        ("opt", lambda m: m.caption(picture(0), "a", style="short"), "prompt='a' and style='short' say the same"),
        ("opt", lambda m: m.caption(picture(0), beam=2), "option 'beam' is not one of: max_new_tokens"),
        ("opt", lambda m: m.caption([]), "an empty list of images: give at least one"),
        ("opt", lambda m: m.ask(picture(0), []), "an empty list of texts: give at least one"),
        ("opt", lambda m: m.embed([]), "an empty list of images"),
        ("retrieval", lambda m: m.embed_text([]), "an empty list of texts"),
        ("opt", lambda m: m.ask([picture(0)] * 2, ["a"] * 3), "2 image(s) and 3 text(s) do not go in pairs"),
        ("opt", lambda m: m.stream(picture(0), beams=2), "beams=2 cannot be streamed"),
        ("opt", lambda m: m.stream(picture(0), "a", question="b"), "a question, or a prompt or a style, not both"),
        ("opt", lambda m: m.caption(picture(0), "a<image>"), "prompt 'a<image>' holds the image's placeholder"),
        (
            "opt",
            lambda m: m.caption(picture(0), "!" * 70),
            f"prompt '{'!' * 57}...': 71 tokens, 4 of the image and max_new_tokens=20 are 95, the model takes 80: "
            "shorten the prompt or lower max_new_tokens",
        ),
        ("opt", lambda m: m.caption(picture(0), "a", max_new_tokens=75), "max_new_tokens=75 are 81, the model"),
        ("retrieval", lambda m: m.match(picture(0), "a " * 59), "61 tokens, the model takes 60; shorten it"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(name: str, call: Any, words: str, models: dict[str, VisionLanguage]) -> None:
    with pytest.raises(UsageError) as refused:
        call(models[name])
    assert words in str(refused.value)


def test_the_most_that_fits_is_not_refused(models: dict[str, VisionLanguage]) -> None:
    made = models["opt"].caption(picture(0), "a", max_new_tokens=74, min_new_tokens=74)
    assert len(tokens(made)[0]) == 74
    assert models["retrieval"].embed_text("a " * 38).shape == (16,)


def test_styles_are_the_bundles_prompts(models: dict[str, VisionLanguage], fresh: Any) -> None:
    prompts = [models["opt"].caption(picture(0), style=style).prompt for style in (None, "short", "detailed")]  # type: ignore[union-attr]
    assert prompts == ["a photo of", "a short caption", "describe in detail"]
    bare = fresh("t5", prompts={})
    assert (bare.caption(picture(0)).prompt, bare.ask(picture(0), "x").prompt) == ("", "Question: x Answer:")
    with pytest.raises(UsageError, match="style 'short': this bundle has none"):
        bare.caption(picture(0), style="short")


def test_the_bundles_defaults_hold_until_overridden(fresh: Any) -> None:
    model = fresh("opt", generation={"max_new_tokens": 3, "min_new_tokens": 3})
    assert len(model.caption(picture(0)).tokens) == 3
    assert len(model.caption(picture(0), min_new_tokens=5, max_new_tokens=5).tokens) == 5
    with pytest.raises(BundleError, match="the bundle's own defaults: option 'beam' is not one of"):
        fresh("opt", generation={"beam": 3})


def test_sampling_is_repeatable(models: dict[str, VisionLanguage]) -> None:
    options = {"sample": True, "seed": 3, "returned": 3, "temperature": 1.5}
    one, two = (models["opt"].caption(picture(0), **options) for _ in range(2))
    assert tokens(one) == tokens(two)
    assert len(set(map(str, tokens(one)))) > 1


def test_no_image_is_refused(models: dict[str, VisionLanguage], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an image must be uint8 of shape"):
        models["opt"].caption(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="no such file or folder"):
        models["opt"].caption(str(tmp_path / "none.png"))


def test_results_are_written_and_read_back(models: dict[str, VisionLanguage]) -> None:
    made = models["opt"].caption(picture(0), beams=2, returned=2)
    match = models["retrieval"].match(picture(0), "a star")
    assert isinstance(made, Text)
    assert isinstance(match, Match)
    for one in (made, match):
        assert type(one).from_json(one.to_json()) == one == type(one).from_dict(json.loads(one.to_json()))
        assert json.loads(one.to_json()) == json.loads(json.dumps(one.to_dict()))
    assert set(made.to_dict()) == {"image", "prompt", "text", "score", "tokens", "others", "timings"}
    with pytest.raises(InputError, match="not a text that edgekit wrote: "):
        Text.from_dict({"text": 3})
    with pytest.raises(InputError, match="not a match that edgekit wrote: "):
        Match.from_json("{")


class Broken:
    """A network that gives what an engine could give wrongly."""

    def __init__(self, network: Any, **changed: Any) -> None:
        self.network, self.changed, self.placement = network, changed, network.placement

    def run(self, feeds: Any) -> Any:
        made = {**self.network.run(feeds), **self.changed}
        return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize(
    ("part", "changed", "words"),
    [
        ("vision", {"image_embeds": None}, "a graph gave no 'image_embeds', only nothing; convert"),
        ("vision", {"image_embeds": np.zeros((1, 3))}, "gave 'image_embeds' of shape (1, 3), not (1, any, any)"),
        ("qformer", {"query_output": np.full((1, 4, 24), np.nan)}, "gave 'query_output' with NaN or infinite numbers"),
        ("qformer", {"language_inputs": np.zeros((1, 3, 24))}, "of shape (1, 3, 24), not (1, 4, any)"),
    ],
)  # fmt: skip
def test_what_an_engine_gives_wrongly_is_refused(part: str, changed: Any, words: str, fresh: Any) -> None:
    model = fresh("opt")
    networks = {**model.networks, part: Broken(model.networks[part], **changed)}
    table = torch_blip2.embeddings(model.torch)
    broken = VisionLanguage(model.contract, networks, torch_blip2.language_graph(model.torch), table, model.tokenizer)
    with pytest.raises(EngineError) as refused:
        broken.caption(picture(0))
    assert words in str(refused.value)


def test_parts_that_do_not_belong_together_are_refused(fresh: Any, folders: dict[str, Path]) -> None:
    model = fresh("opt")
    graph, table = torch_blip2.language_graph(model.torch), torch_blip2.embeddings(model.torch)
    assert table is not None
    with pytest.raises(BundleError, match="a generation bundle without its 'language'"):
        VisionLanguage(model.contract, model.networks, None, table, model.tokenizer)
    with pytest.raises(BundleError, match="a generation bundle without its 'vision'"):
        VisionLanguage(model.contract, {}, graph, table, model.tokenizer)
    with pytest.raises(BundleError, match="a retrieval bundle without its 'text'"):
        VisionLanguage(torch_blip2.contract(folders["retrieval"]), model.networks, None, None, model.tokenizer)
    small = VisionLanguage(model.contract, model.networks, graph, table[:30], model.tokenizer)
    with pytest.raises(BundleError, match=r"the tokenizer gave token \d+, embeddings.npy has 30: "):
        small.caption(picture(0))


@pytest.mark.parametrize("name", ["opt", "t5", "retrieval"])
def test_bundles_are_opened(name: str, folders: Any, models: Any, tmp_path: Path, monkeypatch: Any) -> None:
    torch_blip2.engine(monkeypatch, folders[name])
    bundle = torch_blip2.write_bundle(folders[name], tmp_path / name)
    model = edgekit.load(bundle.path)
    assert isinstance(model, edgekit.VisionLanguage)
    assert model.manifest == bundle.manifest
    assert len(model.identity) == 64
    assert set(model.placements) >= {"vision", "qformer"}
    if name == "retrieval":
        ours, theirs = model.match(picture(0), "a star"), models[name].match(picture(0), "a star")
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-5)
        assert ours.similarity == pytest.approx(theirs.similarity, abs=1e-5)
    else:
        assert tokens(model.caption(picture(0), beams=2)) == tokens(models[name].caption(picture(0), beams=2))
    commands = "match or edgekit search" if name == "retrieval" else "caption or edgekit ask"
    with pytest.raises(UsageError) as refused:
        detectors.load(bundle.path)
    assert str(refused.value).endswith(
        f"{name} is a vision-language model: use edgekit {commands}, or edgekit.load(...) in Python"
    )


def test_half_precision_embeddings_are_read(folders: Any, tmp_path: Path, monkeypatch: Any) -> None:
    source = torch_blip2.engine(monkeypatch, folders["t5"])
    table = torch_blip2.embeddings(source)
    assert table is not None
    monkeypatch.setattr(torch_blip2, "embeddings", lambda model: table.astype(np.float16))
    model = edgekit.load(torch_blip2.write_bundle(folders["t5"], tmp_path / "half").path)
    assert model.caption(picture(0)).text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: {"graphs": m.graphs[:1]}, "no graph 'qformer', only vision; convert the model again"),
        (lambda m: {"files": tuple(f for f in m.files if f.path != "tokenizer.json")}, "no 'tokenizer.json' that the"),
        (lambda m: {"files": tuple(f for f in m.files if f.path != "embeddings.npy")}, "no 'embeddings.npy' that the"),
    ],
)
def test_damaged_bundles_are_refused(damage: Any, words: str, folders: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import msgspec

    from edgekit.runtimes.bundle import manifest_file as manifests

    torch_blip2.engine(monkeypatch, folders["opt"])
    bundle = torch_blip2.write_bundle(folders["opt"], tmp_path / "bundle")
    changed = msgspec.structs.replace(bundle.manifest, **damage(bundle.manifest))
    (bundle.path / "manifest.json").write_bytes(manifests.encode(changed))
    with pytest.raises(BundleError) as refused:
        edgekit.load(bundle.path)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((9, 9), np.float32), "float32 (9, 9) is not (vocabulary, 24) of float16 or float32"),
        (np.zeros((9, 24), np.int8), "int8 (9, 24) is not (vocabulary, 24) of float16 or float32"),
        (None, "embeddings.npy: cannot be read as an array: "),
    ],
)
def test_embeddings_that_are_none_are_refused(
    array: Any, words: str, folders: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    torch_blip2.engine(monkeypatch, folders["opt"])
    given = np.array([{}], object) if array is None else array
    monkeypatch.setattr(torch_blip2, "embeddings", lambda model: given)
    if array is None:  # a pickle, which is never read
        monkeypatch.setattr(torch_blip2.np, "save", _pickled)
        given = np.zeros((1, 1))
    with pytest.raises(BundleError) as refused:
        edgekit.load(torch_blip2.write_bundle(folders["opt"], tmp_path / "bundle").path)
    assert words in str(refused.value)


def _pickled(path: Path, array: Any) -> None:
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, np.array([{}], object), allow_pickle=True)


def test_other_bundles_open_as_before(monkeypatch: Any) -> None:
    from sample_bundles import sample_manifest

    from edgekit.runtimes.bundle.folder import Bundle
    from edgekit.runtimes.language.vision_language import open_vision_language

    bundle = Bundle(Path("x"), sample_manifest())

    def opened(given: Bundle, **options: Any) -> Any:
        return SimpleNamespace(bundle=given, options=options, task=SimpleNamespace(gives=edgekit.Detections))

    monkeypatch.setattr("edgekit.runtimes.load.model.load", opened)
    found: Any = edgekit.load(bundle, threads=2, unit="cpu", strict=True, warm_up=0)
    assert found.bundle is bundle
    assert found.options == {"threads": 2, "unit": "cpu", "strict": True, "warm_up": 0, "isolation": None, "size": None}
    with pytest.raises(UsageError, match="a detect bundle is no vision-language model"):
        open_vision_language(bundle)


def test_texts_need_their_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read as a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
