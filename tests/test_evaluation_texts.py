"""Vision-language models on described images: every figure against an oracle, and the source beside its bundle."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_blip2
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.cli import main
from edgekit.errors import EngineError, InputError, SourceError, UsageError
from edgekit.evaluation import answers, captions, recall
from edgekit.evaluation.described import AskedQuestion, DescribedImage, read_described
from edgekit.evaluation.metrics import AnswerMetrics, CaptionMetrics, RetrievalMetrics
from edgekit.evaluation.vision_language import evaluate
from edgekit.runtimes.results import Match, Text
from edgekit.shapes.talk import FIRST_EVALUATION_SEED, balanced, talked
from edgekit.shapes.talk_dataset import write_talk

Cli = Callable[..., tuple[int, str, str]]
KINDS = ("opt", "t5", "retrieval")
java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def cli(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return cli


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes seconds to start: only the test of the figures themselves waits for it."""
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)


# Answers


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        # The rules of https://visualqa.org/evaluation.html, one after the other.
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("4.", "4"),
        ("Two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("the dog", "dog"),
        ("A red and a blue bus", "red and blue bus"),
        ("an anthem", "anthem"),
        ("dont know", "don't know"),
        ("don't", "don't"),
        ("well", "well"),
        ("red/blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("red, blue", "red blue"),
        ("red , blue!", "red blue"),
        ("100,978", "100978"),
        ("1,000 (about)", "1000 about"),
        ("man's", "man's"),
        ("12:30", "12:30"),
        ("what? ever", "what ever"),
        ("\n to the\tleft ", "to left"),
        ("", ""),
    ],
)
def test_answers_are_compared_as_vqa_says(answer: str, normal: str) -> None:
    assert answers.normalised(answer) == normal


@pytest.mark.parametrize(
    ("right", "share"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)  # the figures that every paper on VQA v2 has
def test_ten_people_are_believed_as_far_as_they_agree(right: int, share: float) -> None:
    given = ["Two"] * right + [f"other {number}" for number in range(10 - right)]
    assert answers.accuracy("2.", given) == pytest.approx(share)


@given(st.lists(st.sampled_from("abcd"), min_size=3, max_size=10), st.sampled_from("bcde"))
def test_people_are_left_out_one_at_a_time(given: list[str], answer: str) -> None:
    others = itertools.combinations(given, len(given) - 1)
    expected = [min(sum(one == answer for one in chosen) / 3, 1) for chosen in others]
    assert answers.accuracy(answer, given) == pytest.approx(float(np.mean(expected)))


@pytest.mark.parametrize(("given", "share"), [(["red"], 1), (["blue"], 0), (["blue", "The red"], 1), ([], 0)])
def test_a_single_answer_is_right_or_wrong(given: list[str], share: float) -> None:
    assert answers.accuracy("Red", given) == share


# Captions

SAID = ("a red circle above a blue square", "Two dogs, running.", "a man's hat", "a green star")
TRUTH = (
    ("a blue square below a red circle", "A red circle above a blue square."),
    ("two dogs running in the grass", "dogs run"),
    ("the hat of a man",),
    ("a yellow star", "a green arrow and a star"),
)

METEOR = 0.42758320860346183  # of these by pycocoevalcap.meteor.meteor.Meteor, tokenised by its PTBTokenizer


def by_hand(tokenise: Callable[[dict[int, list[dict[str, str]]]], dict[int, list[str]]]) -> dict[str, float]:
    """The figures as pycocoevalcap's own example computes them."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = tokenise({i: [{"caption": text} for text in many] for i, many in enumerate(TRUTH)})
    made = tokenise({i: [{"caption": text}] for i, text in enumerate(SAID)})
    return {
        "CIDEr": Cider().compute_score(truth, made)[0],
        "BLEU-4": Bleu(4).compute_score(truth, made, verbose=0)[0][3],
        "ROUGE-L": Rouge().compute_score(truth, made)[0],
    }


def simply(given: dict[int, list[dict[str, str]]]) -> dict[int, list[str]]:
    table = str.maketrans("", "", ".,")
    return {i: [one["caption"].lower().translate(table) for one in many] for i, many in given.items()}


@java
@pytest.mark.nightly
def test_captions_are_scored_as_pycocoevalcap_scores_them() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found = captions.measure(SAID, TRUTH)
    tokenise = PTBTokenizer().tokenize
    # METEOR by hand as well, but once: Java takes long to start.
    expected = {**by_hand(tokenise), "METEOR": METEOR, "exact": 0.25}
    assert found.figures == pytest.approx(expected)
    assert list(found.figures) == ["CIDEr", "BLEU-4", "ROUGE-L", "METEOR", "exact"]
    assert (found.tokenizer, found.images) == ("Penn Treebank", 4)
    assert found.main == found.cider > 0


def test_without_java_captions_are_scored_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = captions.measure(SAID, TRUTH)
    assert found.figures == pytest.approx({**by_hand(simply), "exact": 0.25})
    assert (found.meteor, found.tokenizer) == (None, "simple")
    with pytest.raises(EngineError, match="Java cannot run the tokenizer of pycocoevalcap: "):
        captions.measure(SAID, TRUTH, java=True)


EXACT = ["a red circle", "a blue square", "three stars"]


@java
def test_a_caption_of_nothing_is_wrong_and_moves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "_meteor", lambda truth, made: 0.0)  # the test above waits for it once
    truth = [("a red circle", "two\nred lines"), ("a blue square",), ("three stars",)]
    perfect, found = (captions.measure(said, truth) for said in (EXACT, ["", EXACT[1], "..."]))
    assert (perfect.exact, perfect.rouge_l) == (1, 1)
    assert found.exact == pytest.approx(1 / 3)
    assert found.rouge_l == pytest.approx(1 / 3)


def test_captions_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu", None)
    with pytest.raises(UsageError, match=r"pip install edgekit\[captions\]"):
        captions.check_installed()
    with pytest.raises(UsageError, match="no caption to measure"):
        captions.measure([], [])


# Retrieval


@given(st.data())
@settings(deadline=None)
def test_recall_is_that_of_sorting_by_hand(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=2, max_size=16).filter(different))
    known = list(dict.fromkeys(texts))
    values = st.integers(0, 12).map(float)  # few, so that there are ties
    similarity = np.array([[data.draw(values) for _ in known] for _ in texts], np.float32)
    found = recall.measure(similarity, texts, 0.5)
    for k in (1, 5, 10):
        hits = 0
        for row, text in zip(similarity, texts, strict=True):
            # Wrong ones first where they are alike.
            order = sorted(range(len(known)), key=lambda i, row=row, text=text: (-row[i], known[i] == text))
            hits += text in [known[i] for i in order[:k]]
        assert found.image_to_text[str(k)] == pytest.approx(hits / len(texts))
        hits = 0
        for place, text in enumerate(known):
            column = similarity[:, place]
            order = sorted(range(len(texts)), key=lambda i, column=column, text=text: (-column[i], texts[i] == text))
            hits += text in [texts[i] for i in order[:k]]
        assert found.text_to_image[str(k)] == pytest.approx(hits / len(known))
    assert found.main == (found.image_to_text["1"] + found.text_to_image["1"]) / 2
    assert list(found.figures) == ["R@1", "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10", "ITM"]


def different(texts: list[str]) -> bool:
    return len(set(texts)) > 1


def test_a_model_to_which_all_is_alike_finds_nothing() -> None:
    found = recall.measure(np.ones((20, 20), np.float32), [str(number) for number in range(20)], 0)
    assert set(found.figures.values()) == {0}
    with pytest.raises(InputError, match="all images have the same first caption"):
        recall.measure(np.ones((2, 1), np.float32), ["a", "a"], 0)


def test_false_pairs_are_captions_of_other_images() -> None:
    own = (("a", "b"), ("b",), ("a",), ("c",))
    assert recall.mismatched(own) == ["c", "a", "c", "a"]
    assert recall.mismatched((("a",), ("a", "b"))) == [None, None]


# The data


def write(folder: Path, document: object, pictures: tuple[str, ...] = ("1.png", "2.png")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in pictures:
        cv2.imwrite(str(folder / name), np.full((8, 8, 3), 90, np.uint8))
    (folder / "annotations.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


def image(number: int, **said: object) -> dict[str, object]:
    return {"id": number, "file_name": f"{number}.png", "width": 8, "height": 8, **said}


def test_captions_and_questions_are_read_from_every_form(tmp_path: Path) -> None:
    asked = [
        {"question": "what?", "answer": "red", "kind": "colour"},
        {"question": "which?", "answers": ["a", {"answer": "b", "answer_id": 2}], "answer_type": "other"},
    ]
    document = {
        "info": {"year": 2014},
        "images": [image(1, captions=[" one ", ""]), image(2, questions=asked), image(3)],
        "annotations": [
            {"id": 7, "image_id": 1, "caption": "two"},
            {"id": 8, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1]},
        ],
        "categories": [],
    }
    folder = write(tmp_path, document)
    questions = (AskedQuestion("what?", ("red",), "colour"), AskedQuestion("which?", ("a", "b"), "other"))
    expected = (
        DescribedImage(folder / "1.png", ("one", "two")),
        DescribedImage(folder / "2.png", (), questions),
    )
    assert read_described(folder) == read_described(folder / "annotations.json") == expected
    assert read_described(folder, limit=1) == expected[:1]
    (folder / "images").mkdir()
    (folder / "1.png").rename(folder / "images" / "1.png")
    assert read_described(folder, limit=1)[0].path == folder / "images" / "1.png"
    assert read_described(folder, folder / "images", limit=1)[0].path == folder / "images" / "1.png"


CAPTIONED = [image(1, captions=["x"]), image(2, captions=["y"])]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "annotations.json: not a COCO-style file of images with captions or questions ("),
        ({"images": 3}, "not a COCO-style file of images"),
        ({"images": [image(1), image(2)]}, "no image with captions or questions, so there is nothing to measure"),
        ({"images": [image(1), image(1)]}, "two images have the same id"),
        (
            {"images": [image(5, captions=["x"]), *CAPTIONED]},
            "5.png: no such image, 1 of 3 are missing; give their folder with --data",
        ),
        (
            {"images": CAPTIONED, "annotations": [{"image_id": 9, "caption": "z"}]},
            "a caption is of image 9, which is not in the file",
        ),
        (
            {"images": [image(1, questions=[{"question": "what?"}])]},
            "question 'what?' has no answer; give 'answer', or",
        ),
    ],
)
def test_data_that_cannot_be_used_is_refused(document: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read_described(write(tmp_path, document))
    assert words in str(refused.value)


def test_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; vision-language models are measured on a COCO-style"):
        read_described(tmp_path)
    (tmp_path / "annotations.json" / "annotations.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"annotations\.json: cannot be read: "):
        read_described(tmp_path / "annotations.json")


# Models that know everything, and one that knows nothing

SCENES = 14


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talk(tmp_path_factory.mktemp("talk"), SCENES).parent


class Knowing:
    """Says what the file says: the largest figures there can be. ``wrong`` answers are given to every second image."""

    def __init__(self, folder: Path, kind: str, wrong: bool = False) -> None:
        self.kind, self.wrong = kind, wrong
        self.truth = {
            cv2.imread(str(one.path)).tobytes(): (number, one) for number, one in enumerate(read_described(folder))
        }
        self.texts = list(dict.fromkeys(one.captions[0] for _, one in self.truth.values()))

    def seen(self, given: Any) -> tuple[bool, DescribedImage]:
        number, one = self.truth[given.tobytes()]
        return self.wrong and number % 2 == 1, one

    def caption(self, given: Any) -> Text:
        wrong, one = self.seen(given)
        return Text(text="something else" if wrong else one.captions[-1].upper() + ".", score=0)

    def ask(self, given: Any, questions: list[str]) -> list[Text]:
        assert len(questions) <= 8
        wrong, one = self.seen(given)
        said = {question.text: question.answers[0] for question in one.questions}
        return [Text(text="something else" if wrong else said[text], score=0) for text in questions]

    def embed(self, given: Any) -> Any:
        wrong, one = self.seen(given)
        vectors = np.zeros((3, len(self.texts)), np.float32)
        vectors[1, (self.texts.index(one.captions[0]) + wrong) % len(self.texts)] = 1
        return vectors

    def embed_text(self, texts: list[str]) -> Any:
        return np.eye(len(self.texts), dtype=np.float32)[[self.texts.index(text) for text in texts]]

    def match(self, given: Any, texts: list[str]) -> list[Match]:
        wrong, one = self.seen(given)
        return [Match(probability=0.9 if (text in one.captions) != wrong else 0.1, similarity=0) for text in texts]


def test_scenes_are_written_with_balanced_questions(scenes: Path) -> None:
    described = read_described(scenes)
    assert len(described) == SCENES
    for one in described:
        truth = talked(int(one.path.stem))
        assert int(one.path.stem) >= FIRST_EVALUATION_SEED
        assert one.captions == truth.captions
        assert [(asked.text, asked.answers, asked.kind) for asked in one.questions] == [
            (asked.text, (asked.answer,), asked.kind) for asked in balanced(truth)
        ]
        np.testing.assert_array_equal(cv2.imread(str(one.path)), truth.scene.image)


@pytest.mark.usefixtures("no_java")
def test_who_knows_everything_is_right_in_everything(scenes: Path) -> None:
    told: list[tuple[int, int]] = []
    data = read_described(scenes)
    found = evaluate(Knowing(scenes, "generation"), data, lambda *done: told.append(done))  # type: ignore[arg-type]
    asked, said = found.report
    assert isinstance(asked, AnswerMetrics)
    assert isinstance(said, CaptionMetrics)
    assert (asked.main, asked.questions) == (1, sum(len(one.questions) for one in data))
    assert set(asked.per_class.values()) == {1.0}
    assert set(asked.per_class) == {question.kind for one in data for question in one.questions}
    assert said.exact == 1
    assert said.bleu4 > 0.99
    assert told == [(number, SCENES) for number in range(1, SCENES + 1)]
    assert found.total >= found.inference > 0
    (retrieved,) = evaluate(Knowing(scenes, "retrieval"), data).report  # type: ignore[arg-type]
    assert isinstance(retrieved, RetrievalMetrics)
    assert set(retrieved.figures.values()) == {1.0}


@pytest.mark.usefixtures("no_java")
def test_who_is_wrong_about_every_second_image_is_half_right(scenes: Path) -> None:
    data = read_described(scenes)
    asked, said = evaluate(Knowing(scenes, "generation", wrong=True), data).report  # type: ignore[arg-type]
    right = sum(len(one.questions) for one in data[::2])
    assert asked.main == pytest.approx(right / sum(len(one.questions) for one in data))
    assert isinstance(said, CaptionMetrics)
    assert said.exact == 0.5
    (retrieved,) = evaluate(Knowing(scenes, "retrieval", wrong=True), data).report  # type: ignore[arg-type]
    assert isinstance(retrieved, RetrievalMetrics)
    assert retrieved.matching == 0.5
    assert retrieved.image_to_text["1"] == 0.5


@pytest.mark.parametrize(
    ("kind", "described", "words"),
    [
        ("retrieval", DescribedImage(Path("x"), (), (AskedQuestion("?", ("a",)),)), "no image has captions, which a"),
        ("generation", DescribedImage(Path("x")), "no image has captions or questions to measure a generation model"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(
    kind: str, described: DescribedImage, words: str, scenes: Path
) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(Knowing(scenes, kind), [described])  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_java")
def test_questions_alone_and_captions_alone_are_enough(scenes: Path) -> None:
    model: Any = Knowing(scenes, "generation")
    data = read_described(scenes)
    (asked,) = evaluate(model, [DescribedImage(one.path, (), one.questions) for one in data]).report
    (said,) = evaluate(model, [DescribedImage(one.path, one.captions) for one in data]).report
    assert (asked.kind, said.kind) == ("answers", "captions")
    assert said.per_class == {}


# The source and its bundles


Converted = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Converted:
    """A random model of a kind and its fp32 bundle, converted when a test first asks for it."""
    from edgekit.conversion.convert import Conversion, convert

    folder = tmp_path_factory.mktemp("converted")

    @functools.cache
    def converted(kind: str) -> tuple[Path, Path]:
        source = getattr(tiny_blip2, kind)(folder / kind)
        conversion = Conversion(
            source=str(source), targets=("onnx",), out=folder / "out", data=str(scenes), threads=1, gated=False
        )
        (outcome,) = convert(conversion).outcomes
        assert outcome.bundle is not None, outcome.error
        return source, outcome.bundle.path

    return converted


def answered_by(source: Path, scenes: Path, folder: Path) -> Path:
    """The scenes, where the answers and captions of every second image are what a source says."""
    from edgekit.sources.blip2.reference import open_source

    document = json.loads((scenes / "annotations.json").read_text())
    model = open_source(source, 1)
    for entry in document["images"][::2]:
        shown = cv2.imread(str(scenes / entry["file_name"]))
        entry["captions"].append(str(model.caption(shown)))
        for asked in entry["questions"]:
            asked["answer"] = str(model.ask(shown, asked["question"]))
    for entry in document["images"]:
        entry["file_name"] = str(scenes / entry["file_name"])
    return write(folder / "answered", document, ())


@pytest.mark.nightly
@pytest.mark.convert
@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("kind", KINDS)
def test_source_and_float_bundle_have_equal_figures(
    kind: str, converted: Converted, scenes: Path, cli: Cli, tmp_path: Path
) -> None:
    source, bundle = converted(kind)
    page = tmp_path / "page.html"
    data = scenes if kind == "retrieval" else answered_by(source, scenes, tmp_path)
    code, out, err = cli("evaluate", bundle, source, "--labels", data, "--threads", 1, "--json", "--html", page)
    assert code == 0, err
    document = json.loads(out)
    assert document["reference"] == str(source)
    ours, theirs = document["models"]
    costs = {"bundle", "latency_ms", "total_ms", "bytes", "difference"}
    figures = [{name: value for name, value in one.items() if name not in costs} for one in (ours, theirs)]
    assert figures[0] == figures[1]
    assert kind == "retrieval" or 0.3 < ours["accuracy"] < 0.9  # a random model is right where it was asked before
    assert ours["difference"] == 0
    assert ours["kind"] == ("retrieval" if kind == "retrieval" else "answers")
    assert ours["images"] == SCENES
    assert ours["latency_ms"] > 0
    assert ours["bytes"] > theirs["bytes"] * 0.5 > 0
    assert ("R@1" if kind == "retrieval" else "VQA accuracy") in page.read_text()
    assert ("Questions" in page.read_text()) == (kind != "retrieval")


@pytest.mark.convert
@pytest.mark.nightly
def test_bundles_say_what_the_source_says(converted: Converted, scenes: Path) -> None:
    """Equal figures of models that are always wrong would prove little: here are their texts and vectors."""
    import edgekit
    from edgekit.sources.blip2.reference import open_source

    pictures = [cv2.imread(str(one.path)) for one in read_described(scenes, limit=4)]
    for kind in KINDS:
        source, bundle = (open_source(converted(kind)[0], 1), edgekit.load(converted(kind)[1], threads=1))
        if kind == "retrieval":
            np.testing.assert_allclose(source.embed(pictures), bundle.embed(pictures), atol=1e-4)
            np.testing.assert_allclose(source.embed_text("a star"), bundle.embed_text("a star"), atol=1e-4)
            one, two = source.match(pictures[0], "a star"), bundle.match(pictures[0], "a star")
            assert one.probability == pytest.approx(two.probability, abs=1e-4)
            continue
        for options in ({}, {"beams": 3}):
            one, two = (model.caption(pictures, **options) for model in (source, bundle))
            assert [text.tokens for text in one] == [text.tokens for text in two]
        assert len({text.tokens for text in one}) > 1


@pytest.mark.convert
@pytest.mark.usefixtures("no_java")
def test_what_is_printed(converted: Converted, scenes: Path, cli: Cli) -> None:
    code, out, err = cli("evaluate", converted("opt")[1], "--labels", scenes, "--limit", 3)
    assert code == 0, err
    assert out.startswith("VQA accuracy 0.0000  on 3 images\nCIDEr ")
    assert " ms for each text, " in out
    assert "question" in out
    assert "yes/no" in out
    code, out, _ = cli("evaluate", *converted("retrieval"), "--labels", scenes, "--limit", 3)
    assert code == 0
    assert "TR@10" in out
    assert "ms: median for the vectors of an image" in out


@pytest.mark.convert
@pytest.mark.parametrize(
    ("kinds", "options", "words"),
    [
        (("opt", "retrieval"), (), "models of one task can be compared, these are of several"),
        (("opt",), ("--track", "sort"), "--track does not apply to a vision-language model; leave it out"),
        (("opt",), ("--class", "a"), "--class does not apply to a vision-language model"),
    ],
)
def test_what_does_not_go_together_is_refused(
    kinds: tuple[str, ...], options: tuple[str, ...], words: str, converted: Converted, scenes: Path, cli: Cli
) -> None:
    code, _, err = cli("evaluate", *(converted(kind)[0] for kind in kinds), "--labels", scenes, *options)
    assert code == 2
    assert words in err


def test_limit_is_for_texts(cli: Cli, tmp_path: Path) -> None:
    from tiny_onnx import write_tiny_bundle

    bundle = write_tiny_bundle(tmp_path / "bundle")
    code, _, err = cli("evaluate", getattr(bundle, "path", bundle), "--labels", tmp_path, "--limit", 3)
    assert code == 2
    assert "--limit is for vision-language models; this is a detect model" in err


def test_a_damaged_source_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'convert'")
    from edgekit.graph.blip2.blip2 import Blip2
    from edgekit.sources.blip2.reference import open_source, parameter_bytes

    folder = tiny_blip2.opt(tmp_path / "opt")
    assert 0 < parameter_bytes(Blip2(folder)) <= (folder / "model.safetensors").stat().st_size
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"hidden_size": 24', '"hidden_size": 25')
    )
    with pytest.raises(SourceError, match="transformers cannot load it: "):
        open_source(folder)


# The page

PAGE = (ROOT / "docs" / "BLIP2.md").read_text(encoding="utf-8")


def test_the_page_has_the_gates_and_presets_that_are_used() -> None:
    from edgekit.evaluation.texts import COSINES, GATES
    from edgekit.graph.blip2.precision import PRESETS

    for precision, gate in GATES.items():
        assert f"| {precision} | >= {gate.matched * 100:g} % | <= {gate.score_drift:g} |" in PAGE
        assert f"{precision} {COSINES[precision]:g}" in " ".join(PAGE.split())
    for name, words in PRESETS.items():
        cells = [f"{words[0]}, static" if words[0] == "int8" else words[0], *words[1:]]
        assert f"| `{name}` | {' | '.join(cells)} |" in PAGE


def test_the_example_of_the_page_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (one,) = read_described(write(tmp_path, example, ("street.jpg",)))
    assert len(one.captions) == 2
    colour, count = one.questions
    assert (colour.answers, colour.kind) == (("red",), "colour")
    assert answers.accuracy("two", count.answers) == 1
    assert answers.accuracy("3", count.answers) == pytest.approx(0.3)
