"""``edgekit caption|ask|embed|match|index|search``: what they print is what the API says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch, which runs the models")
pytest.importorskip("transformers", reason="needs transformers, which makes the models")
pytest.importorskip("tokenizers", reason="needs tokenizers")

import tiny_blip2
import torch_blip2
from PIL import Image as Pictures
from sample_bundles import write_bundle
from test_vision_language import picture

from edgekit import cli
from edgekit.runtimes.language.index import Hit, ImageIndex
from edgekit.runtimes.language.vision_language import VisionLanguage
from edgekit.runtimes.results import Match, Text


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(3):
        Pictures.fromarray(picture(seed)[..., ::-1]).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: getattr(tiny_blip2, name)(root / name) for name in ("t5", "retrieval")}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, VisionLanguage]:
    return {name: torch_blip2.opened(folder) for name, folder in folders.items()}


@pytest.fixture
def bundles(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the bundle of a model, which opens with torch; gives its path."""

    def written(name: str) -> str:
        torch_blip2.engine(monkeypatch, folders[name])
        return str(torch_blip2.write_bundle(folders[name], tmp_path / name).path)

    return written


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line; gives the exit code, stdout and stderr."""

    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return called


def without_timings(text: Text, source: Path | str, **changes: Any) -> dict[str, Any]:
    return {**text.to_dict(), "image": str(source), "timings": None, **changes}


def test_caption_prints_what_the_model_says(run: Any, bundles: Any, models: Any, photographs: Path) -> None:
    bundle, first = bundles("t5"), photographs / "0.png"
    options = [
        "--beams",
        3,
        "--returned",
        2,
        "--length-penalty",
        0.5,
        "--max-new-tokens",
        6,
        "--repetition-penalty",
        1.2,
    ]
    code, out, _ = run("caption", bundle, photographs, "--json", "--prompt", "two red", *options)
    given = {"beams": 3, "returned": 2, "length_penalty": 0.5, "max_new_tokens": 6, "repetition_penalty": 1.2}
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 3
    for seed, line in enumerate(lines):
        expected = models["t5"].caption(picture(seed), "two red", **given)
        assert {**line, "timings": None} == without_timings(expected, photographs / f"{seed}.png")
        assert line["timings"]["prefill"] > 0
    plain = models["t5"].caption(picture(0), style="short")
    assert run("caption", bundle, first, "--style", "short")[:2] == (0, f"{first}: {plain.text}\n")
    code, out, _ = run("caption", bundle, first, "--beams", 2, "--returned", 2)
    both = models["t5"].caption(picture(0), beams=2, returned=2)
    assert (
        out
        == f"{first}: {both.text}  ({both.score:.3f})\n{first}: {both.others[0].text}  ({both.others[0].score:.3f})\n"
    )


def test_caption_streams(run: Any, bundles: Any, models: Any, photographs: Path) -> None:
    bundle, first = bundles("t5"), photographs / "0.png"
    code, out, _ = run("caption", bundle, first, "--stream", "--max-new-tokens", 7)
    assert (code, out) == (0, f"{first}: {''.join(models['t5'].stream(picture(0), max_new_tokens=7))}\n")
    code, _, err = run("caption", bundle, first, "--stream", "--json")
    assert (code, err) == (2, "edgekit: error: --stream prints plain text: leave out --json\n")
    assert run("caption", bundle, first, "--stream", "--beams", 2)[0] == 2


def test_sampling_flags_reach_the_model(run: Any, bundles: Any, models: Any, photographs: Path) -> None:
    bundle, first = bundles("t5"), photographs / "1.png"
    flags = "--sample --temperature 1.3 --top-k 20 --top-p 0.9 --min-p 0.01 --seed 5 --returned 3 --min-new-tokens 2"
    code, out, _ = run("caption", bundle, first, "--json", *flags.split(), "--no-repeat-ngram-size", 3, "--stop", "?")
    expected = models["t5"].caption(
        picture(1), sample=True, temperature=1.3, top_k=20, top_p=0.9, min_p=0.01, seed=5, returned=3,
        min_new_tokens=2, no_repeat_ngram_size=3, stop=["?"],
    )  # fmt: skip
    assert code == 0
    assert {**json.loads(out), "timings": None} == without_timings(expected, first)
    code, _, err = run("caption", bundle, first, "--top-k", 5)
    assert code == 2
    assert "option top_k=5 means nothing without sampling" in err
    assert run("caption", bundle, first, "--beams", 0)[0] == 2


def test_ask_answers_every_question(run: Any, bundles: Any, models: Any, photographs: Path) -> None:
    bundle, first = bundles("t5"), photographs / "0.png"
    code, out, _ = run("ask", bundle, "how many?", first, photographs / "1.png", "--also", "what colour?", "--json")
    assert code == 0
    expected = [
        without_timings(text, photographs / f"{seed}.png")
        for seed in range(2)
        for text in models["t5"].ask(picture(seed), ["how many?", "what colour?"])
    ]
    assert [{**json.loads(line), "timings": None} for line in out.splitlines()] == expected
    assert [line["prompt"] for line in expected[:2]] == [
        "Question: how many? Answer:",
        "Question: what colour? Answer:",
    ]
    plain = models["t5"].ask(picture(0), "how many?")
    assert run("ask", bundle, "how many?", first)[1] == f"{first}: {plain.text}\n"


def test_embed_prints_and_writes_vectors(
    run: Any, bundles: Any, models: Any, photographs: Path, tmp_path: Path
) -> None:
    bundle, first = bundles("retrieval"), photographs / "0.png"
    code, out, _ = run("embed", bundle, first, "--text", "a star", "--json", "-o", tmp_path / "made.npz")
    assert code == 0
    text, image = (json.loads(line) for line in out.splitlines())
    assert (text["text"], text["shape"]) == ("a star", [16])
    assert (image["image"], image["shape"]) == (str(first), [4, 16])
    np.testing.assert_allclose(text["vectors"], models["retrieval"].embed_text("a star"), atol=1e-6)
    np.testing.assert_allclose(image["vectors"], models["retrieval"].embed(picture(0)), atol=1e-6)
    with np.load(tmp_path / "made.npz", allow_pickle=False) as arrays:
        assert arrays["names"].tolist() == ["a star", str(first)]
        np.testing.assert_array_equal(arrays["1"], np.array(image["vectors"], np.float32))
    assert run("embed", bundle, first, "--level", "vision")[1] == f"{first}: 17 x 32\n"
    code, _, err = run("embed", bundle)
    assert (code, err) == (2, "edgekit: error: nothing to embed: give images, or --text\n")
    assert run("embed", bundle, first, "-o", tmp_path / "none" / "made.npz")[0] == 2


def test_match_prints_both_measures(run: Any, bundles: Any, models: Any, photographs: Path) -> None:
    bundle, first = bundles("retrieval"), photographs / "0.png"
    code, out, _ = run("match", bundle, "a star", first, photographs / "1.png", "--also", "a circle", "--json")
    assert code == 0
    found = [Match.from_json(line) for line in out.splitlines()]
    assert [(one.text, Path(one.source).stem) for one in found] == [
        ("a star", "0"), ("a circle", "0"), ("a star", "1"), ("a circle", "1"),
    ]  # fmt: skip
    expected = models["retrieval"].match([picture(0)] * 2 + [picture(1)] * 2, ["a star", "a circle"] * 2)
    assert [one.probability for one in found] == pytest.approx([one.probability for one in expected], abs=1e-6)
    out = run("match", bundle, "a star", first)[1]
    best = expected[0]
    assert out == f"{first}: 'a star'  probability {best.probability:.3f}, similarity {best.similarity:.3f}\n"


def test_index_and_search(run: Any, bundles: Any, models: Any, photographs: Path, tmp_path: Path) -> None:
    bundle, index = bundles("retrieval"), tmp_path / "index"
    code, out, _ = run("index", bundle, photographs, "-o", index, "--batch", 2, "--json")
    assert (code, json.loads(out)) == (0, {"index": str(index), "images": 3, "vectors": 4})
    code, out, err = run("index", bundle, photographs / "0.png", photographs / "1.png", "-o", tmp_path / "two")
    assert (code, out) == (0, f"{tmp_path / 'two'}: 2 images\n")
    assert "2 images" in err
    expected = ImageIndex.build(models["retrieval"], photographs).search("a star", rerank=3)
    code, out, _ = run("search", bundle, index, "a star", "--rerank", 3, "--json")
    assert code == 0
    assert [json.loads(line)["image"] for line in out.splitlines()] == [hit.source for hit in expected]
    assert json.loads(out.splitlines()[0])["probability"] == pytest.approx(expected[0].probability, abs=1e-6)
    code, out, _ = run("search", bundle, index, photographs / "2.png", "--image", "--top", 1)
    assert (code, out) == (0, f"1.000  {photographs / '2.png'}\n")
    plain = run("search", bundle, index, "a star", "--rerank", 1, "--top", 1)[1]
    assert "  probability 0." in plain
    assert run("search", bundle, tmp_path / "nothing", "a star")[0] == 2


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("retrieval", ["caption", "BUNDLE", "IMAGE"], "caption needs a generation bundle"),
        ("retrieval", ["ask", "BUNDLE", "what?", "IMAGE"], "ask needs a generation bundle"),
        ("t5", ["match", "BUNDLE", "a star", "IMAGE"], "match needs a retrieval bundle"),
        ("t5", ["index", "BUNDLE", "IMAGE", "-o", "index"], "an index of images needs a retrieval bundle"),
        ("t5", ["embed", "BUNDLE", "--text", "a"], "embed_text needs a retrieval bundle"),
        ("t5", ["run", "BUNDLE", "IMAGE"], "t5 is a vision-language model: use edgekit caption or edgekit ask, or"),
        ("retrieval", ["run", "BUNDLE", "IMAGE"], "retrieval is a vision-language model: use edgekit match or edgekit"),
        ("t5", ["caption", "BUNDLE", "none.png"], "no such file or folder"),
    ],
)
def test_the_wrong_bundle_is_refused(
    name: str, arguments: list[str], words: str, run: Any, bundles: Any, photographs: Path
) -> None:
    places = {"BUNDLE": bundles(name), "IMAGE": str(photographs / "0.png")}
    code, out, err = run(*(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["caption", "embed"])
def test_a_detector_is_run_otherwise(command: str, run: Any, photographs: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "detector").path
    code, _, err = run(command, bundle, photographs / "0.png")
    assert (code, err) == (
        2,
        f"edgekit: error: {bundle} is no vision-language model (its task is detect): use edgekit run\n",
    )


@pytest.mark.parametrize("command", ["caption", "ask", "embed", "match", "index", "search"])
def test_help_is_there_and_cheap(command: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgekit.runtimes.language.vision_language", raising=False)
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--json" in out
    assert "edgekit.runtimes.language.vision_language" not in sys.modules


def test_hits_are_named_as_in_all_results() -> None:
    import msgspec

    assert msgspec.to_builtins(Hit(source="a", score=0.5)) == {"image": "a", "score": 0.5, "probability": None}
