"""The index of images: what a search finds against plain comparisons with transformers' own scores, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, which runs the model")
pytest.importorskip("transformers", reason="needs transformers, whose BLIP-2 is compared with")
pytest.importorskip("tokenizers", reason="needs tokenizers")

import tiny_blip2
import torch_blip2
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures
from test_vision_language import picture, pixels
from tiny_transformers import package

import edgekit
from edgekit.errors import BundleError, InputError, UsageError
from edgekit.runtimes.language import index as retrieval
from edgekit.runtimes.language.index import Hit, ImageIndex
from edgekit.runtimes.language.vision_language import VisionLanguage

COUNT = 11
TEXTS = ("a red circle", "two blue squares below the star")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_blip2.retrieval(tmp_path_factory.mktemp("retrieval") / "source")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(COUNT):
        Pictures.fromarray(picture(seed)[..., ::-1]).save(folder / f"{seed:02}.png")
    return folder


@pytest.fixture(scope="session")
def model(source: Path) -> VisionLanguage:
    return torch_blip2.opened(source)


@pytest.fixture(scope="session")
def index(model: VisionLanguage, photographs: Path) -> ImageIndex:
    return ImageIndex.build(model, photographs, batch=4)


def by_transformers(model: Any, source: Path, text: str, *, matching: bool) -> list[float]:
    """Similarity or probability of a text for every photograph."""
    tokens = package().AutoTokenizer.from_pretrained(source)([text], return_tensors="pt")
    given = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    found = []
    for seed in range(COUNT):
        with torch.no_grad():
            made = model.torch(
                pixel_values=pixels(source, picture(seed)), use_image_text_matching_head=matching, **given
            ).logits_per_image
        found.append(float(made.softmax(1)[0, 1] if matching else made[0, 0]))
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_finds_what_transformers_finds_most_similar(
    text: str, index: ImageIndex, model: VisionLanguage, source: Path, photographs: Path
) -> None:
    scores = by_transformers(model, source, text, matching=False)
    order = sorted(range(COUNT), key=lambda seed: -scores[seed])
    hits = index.search(text, top=5)
    assert [hit.source for hit in hits] == [str(photographs / f"{seed:02}.png") for seed in order[:5]]
    assert [hit.score for hit in hits] == pytest.approx([scores[seed] for seed in order[:5]], abs=1e-4)
    assert len(index.search(text, top=99)) == len(index) == COUNT


@pytest.mark.parametrize("text", TEXTS)
def test_reranking_orders_the_best_by_probability(
    text: str, index: ImageIndex, model: VisionLanguage, source: Path
) -> None:
    likely = by_transformers(model, source, text, matching=True)
    plain = index.search(text, top=COUNT)
    hits = index.search(text, top=COUNT, rerank=9)
    best = {hit.source for hit in plain[:9]}
    assert {hit.source for hit in hits[:9]} == best
    assert hits[9:] == plain[9:]
    found = [hit.probability for hit in hits[:9]]
    assert found == pytest.approx([likely[int(Path(hit.source).stem)] for hit in hits[:9]], abs=1e-4)
    assert found == sorted(found, key=lambda one: -(one or 0))
    assert index.search(text, top=3, rerank=9) == hits[:3]
    assert [hit.source for hit in hits] != [hit.source for hit in plain]


def test_an_image_is_the_most_similar_to_itself(index: ImageIndex, photographs: Path) -> None:
    for path in sorted(photographs.iterdir()):
        best, second = index.search(path, top=2)
        assert best.source == str(path)
        assert best.score == pytest.approx(1, abs=1e-5)
        assert second.score < 1 - 1e-5
    assert index.search(picture(3), top=1)[0].source.endswith("03.png")
    assert index.search(Pictures.open(path), top=1)[0].source == str(path)


def test_vectors_do_not_depend_on_the_batch(model: VisionLanguage, photographs: Path, index: ImageIndex) -> None:
    seen: list[int] = []
    again = ImageIndex.build(model, str(photographs / "*.png"), batch=5, progress=seen.append)
    assert seen == [5, 10, 11]
    assert again.names == index.names
    np.testing.assert_allclose(again.vectors, index.vectors, atol=1e-5)
    assert index.vectors.shape == (COUNT, tiny_blip2.QUERIES, 16)


@given(
    images=st.integers(0, 40), queries=st.integers(1, 4), wanted=st.integers(1, 3), seed=st.integers(0, 99),
    block=st.integers(1, 9),
)  # fmt: skip
def test_similarity_is_the_mean_of_the_nearest(images: int, queries: int, wanted: int, seed: int, block: int) -> None:
    random = np.random.default_rng(seed)
    vectors, asked = random.normal(size=(images, queries, 5)), random.normal(size=(wanted, 5))
    slow = [np.mean([max(float(one @ query) for one in image) for query in asked]) for image in vectors]
    made = ImageIndex(_Retrieval(), tuple(map(str, range(images))), vectors.astype(np.float32))  # type: ignore[arg-type]
    before, retrieval.BLOCK = retrieval.BLOCK, block
    try:
        found = made.similarities(asked.astype(np.float32))
    finally:
        retrieval.BLOCK = before
    np.testing.assert_allclose(found, slow, atol=1e-5)


class _Retrieval:
    kind = "retrieval"
    identity = ""
    manifest = None

    def embed_text(self, texts: list[str]) -> Any:
        return np.ones((1, 5), np.float32)


def test_of_equal_images_the_first_comes_first() -> None:
    made = ImageIndex(_Retrieval(), ("a", "b", "c"), np.ones((3, 2, 5), np.float32))  # type: ignore[arg-type]
    assert [hit.source for hit in made.search("x")] == ["a", "b", "c"]
    empty = ImageIndex(_Retrieval(), (), np.zeros((0, 2, 5), np.float32))  # type: ignore[arg-type]
    assert empty.search("x") == []


@pytest.fixture
def bundled(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    torch_blip2.engine(monkeypatch, source)
    return edgekit.load(torch_blip2.write_bundle(source, tmp_path / "bundle").path)


def test_an_index_is_written_and_opened(bundled: Any, photographs: Path, tmp_path: Path) -> None:
    index = ImageIndex.build(bundled, photographs)
    for _ in range(2):  # the second replaces the first
        assert index.save(tmp_path / "index") == tmp_path / "index"
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["index.json", "vectors.npy"]
    again = ImageIndex.open(tmp_path / "index", bundled)
    assert again.names == index.names
    assert again.search(TEXTS[0]) == index.search(TEXTS[0])
    document = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (document["model"], document["identity"]) == ("source", bundled.identity)


def test_evidence_that_is_measured_anew_leaves_an_index_valid(bundled: Any, source: Path) -> None:
    import msgspec

    changed = msgspec.structs.replace(bundled.manifest, proven=True, digest="another")
    other = torch_blip2.opened(source)
    other.manifest = changed
    assert other.identity == bundled.identity
    other.manifest = msgspec.structs.replace(changed, files=changed.files[1:])
    assert other.identity != bundled.identity


def test_an_index_of_another_bundle_is_refused(bundled: Any, photographs: Path, tmp_path: Path, source: Path) -> None:
    ImageIndex.build(bundled, photographs).save(tmp_path / "index")
    with pytest.raises(UsageError, match=r"made by another bundle \(source\), whose vectors cannot be compared"):
        ImageIndex.open(tmp_path / "index", torch_blip2.opened(source))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "index.json").unlink(), "no index there (no index.json); give the folder of edgekit index"),
        (lambda f: (f / "index.json").write_text("{"), "not a readable index ("),
        (lambda f: (f / "index.json").write_text('{"schema": 9}'), "an index of layout 9, this edgekit reads up to 1"),
        (lambda f: (f / "index.json").write_text('{"schema": 1}'), "not a readable index ("),
        (lambda f: (f / "vectors.npy").unlink(), "vectors.npy: cannot be read as vectors: "),
        (lambda f: (f / "vectors.npy").write_bytes(b"x"), "vectors.npy: cannot be read as vectors: "),
        (lambda f: np.save(f / "vectors.npy", np.zeros((COUNT, 4, 16), np.float32)), "not the vectors that were"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_refused(
    damage: Any, words: str, index: ImageIndex, model: VisionLanguage, tmp_path: Path
) -> None:
    folder = index.save(tmp_path / "index")
    damage(folder)
    with pytest.raises(BundleError) as refused:
        ImageIndex.open(folder, model)
    assert words in str(refused.value)


def test_an_index_never_overwrites_something_else(index: ImageIndex, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BundleError, match="exists and is not an index; move it away"):
        index.save(tmp_path)
    with pytest.raises(BundleError, match="exists and is not an index"):
        index.save(tmp_path / "letter.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter.txt"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda i: i.search("a", top=0), "top=0 and rerank=0: top must be 1 or more"),
        (lambda i: i.search("a", rerank=-1), "top=10 and rerank=-1"),
        (lambda i: i.search(picture(0), rerank=2), "rerank compares a text with images"),
        (lambda i: ImageIndex.build(i.model, "x", batch=0), "batch must be 1 or more, not 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(call: Any, words: str, index: ImageIndex) -> None:
    with pytest.raises(UsageError) as refused:
        call(index)
    assert words in str(refused.value)


def test_images_that_are_gone_are_named(model: VisionLanguage, tmp_path: Path) -> None:
    Pictures.fromarray(picture(0)).save(tmp_path / "gone.png")
    index = ImageIndex.build(model, tmp_path)
    (tmp_path / "gone.png").unlink()
    assert index.search("a")[0] == Hit(source=str(tmp_path / "gone.png"), score=index.search("a")[0].score)
    with pytest.raises(InputError, match=r"gone\.png"):
        index.search("a", rerank=1)
    with pytest.raises(InputError, match="no image in this folder"):
        ImageIndex.build(model, tmp_path)


def test_a_generation_bundle_has_no_index(tmp_path: Path) -> None:
    generating = torch_blip2.opened(tiny_blip2.t5(tmp_path / "t5"))
    with pytest.raises(UsageError, match="an index of images needs a retrieval bundle"):
        ImageIndex.build(generating, tmp_path)
