"""Texts to tokens and back, whole and in pieces, and the texts that end a generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import BundleError, EngineError
from edgekit.runtimes.language.text import Tokenizer, before, cut, ending, left_padded

tokenizers = pytest.importorskip("tokenizers", reason="texts need the package tokenizers")

SENTENCES = [
    "two red circles above a blue square",
    "a photo of",
    "Question: how many? Answer: three",
    "größer, 三つ 🙂",
]


def byte_pairs(folder: Path) -> Path:
    """A byte-level tokenizer as OPT has, with a start token."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    made.train_from_iterator(SENTENCES, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(folder / "bytes.json"))
    return folder / "bytes.json"


def words(folder: Path) -> Path:
    """A tokenizer of word pieces behind a mark for the space, as T5 has."""
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=80, special_tokens=["<pad>", "</s>"], unk_token="<pad>")
    made.train_from_iterator(SENTENCES * 20, trainer)
    made.save(str(folder / "words.json"))
    return folder / "words.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module", params=[byte_pairs, words], ids=["bytes", "words"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    return Tokenizer(request.param(folder))


@pytest.mark.parametrize("text", SENTENCES[:3])
def test_a_text_comes_back(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.stream(ids)) == text
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(np.array(ids)) == text


def test_special_tokens_are_put_in_and_left_out(folder: Path) -> None:
    tokenizer = Tokenizer(byte_pairs(folder))
    with_them, without = tokenizer.encode("a photo of"), tokenizer.encode("a photo of", special=False)
    assert with_them == [0, *without]
    assert tokenizer.decode([*with_them, 1]) == "a photo of"


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_in_pieces_is_the_whole(text: str, folder: Path) -> None:
    """Characters of several bytes are cut by tokens, and come in one piece all the same."""
    path = folder / "bytes.json"
    tokenizer = Tokenizer(path if path.is_file() else byte_pairs(folder))
    pieces = list(tokenizer.stream(tokenizer.encode(text)))
    assert "".join(pieces) == text
    assert all(pieces)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces) or "\N{REPLACEMENT CHARACTER}" in text


def test_a_character_that_never_ends_is_left_out(folder: Path) -> None:
    tokenizer = Tokenizer(byte_pairs(folder))
    ids = tokenizer.encode("a\N{CJK UNIFIED IDEOGRAPH-4E8C}", special=False)
    assert len(ids) > 2
    assert "".join(tokenizer.stream(ids[:-1])) == "a"


def test_padding_is_on_the_left() -> None:
    ids, mask = left_padded([[5, 6, 7], [8]], pad=1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == np.int64


def test_a_stop_text_ends_the_rows_that_have_it(tokenizer: Tokenizer) -> None:
    rows, _ = left_padded([tokenizer.encode("a photo of", special=False), tokenizer.encode("a blue", special=False)], 0)
    stopped = ending(tokenizer, ["photo", "never"])
    assert stopped is not None
    assert stopped(rows).tolist() == [True, False]
    assert ending(tokenizer, []) is None


stops = st.lists(st.text("ab.", min_size=1, max_size=3), max_size=3)


@settings(deadline=None)
@given(st.lists(st.text("ab.", max_size=4), max_size=8), stops)
def test_a_streamed_text_ends_where_the_whole_would(pieces: list[str], stop: list[str]) -> None:
    """A generation ends with the first piece that completes a stop text: what would follow never comes."""
    made = ""
    for piece in pieces:
        made += piece
        if any(one in made for one in stop):
            break
    found = [made.index(one) for one in stop if one in made]
    wanted = made[: min(found)] if found else made
    assert cut(made, stop) == wanted
    assert "".join(before(pieces, stop)) == wanted


def test_nothing_is_asked_for_behind_a_stop_text() -> None:
    asked: list[str] = []

    def pieces() -> Any:
        for piece in ("one ", "two. ", "three"):
            asked.append(piece)
            yield piece

    assert list(before(pieces(), ["."])) == ["one ", "two"]
    assert asked == ["one ", "two. "]


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.json: cannot be read as a tokenizer"):
        Tokenizer(tmp_path / "gone.json")
    (tmp_path / "text.json").write_text("{}")
    with pytest.raises(BundleError, match=r"text\.json: not a tokenizer that tokenizers reads"):
        Tokenizer(tmp_path / "text.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"bytes\.json: cannot be read as a tokenizer"):
        Tokenizer(tmp_path / "bytes.json")


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EngineError, match="texts need the package tokenizers: pip install"):
        Tokenizer(tmp_path / "tokenizer.json")
