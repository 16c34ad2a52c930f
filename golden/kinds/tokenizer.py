"""Texts to token ids and back, whole and in pieces, by files of the package tokenizers, which is the oracle."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import BundleError
from edgekit.runtimes.language.text import Tokenizer, before, cut
from golden.cases import Case, Planned, Tree
from golden.charsmap import charsmap
from golden.closeness import apart

MODELS = Path(__file__).parents[2] / "examples" / "blip2"

TEXTS = (
    "",
    " ",
    "a photo of",
    "two red circles above a blue square",
    "Question: how many circles are there? Answer:",
    "  leading, inner   and trailing  ",
    "line one\nline two\r\n\n\tand a tab",
    "it's, we're, I'll, they've, you'd, I'm, don't; IT'S",
    "numbers 12, 3.5 and 1234567; 5kg",
    "größer, naïve café, cafe\u0301, Ångström",
    "日本語と三つの丸、한국어 و عربي",
    "emoji 🙂, 👩\u200d👩\u200d👧, 🇩🇪 and ❤️",
    "a\u00a0no-break, a\u3000wide and a\u2003long space, next\u0085line, \ufeffmark, soft\u00adhyphen",
    "<s> inside </s> of <pad><image> a text<image>",
    "[CLS] [SEP]the[MASK] [UNK]",
    "under_score (brackets) {braces} #hash $5 50% a+b=c ~`^ «quotes» ¿why?",
    "ǅ İstanbul ΣΊΣΥΦΟΣ ﬁne ① … ½ Ａ",
    "\u2581 the mark \u2581 of spaces",
    "\ufffd replaced \x00 zero \x7f",
    "a" * 130,
)


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    for family, about in (("opt", "byte pairs"), ("t5", "word pieces by their scores"), ("retrieval", "BERT's pieces")):
        yield _texts(family, f"{about}: the tokenizer of examples/blip2", document(family))
        yield _ids(f"{family}-ids", "ids that stand for no text, unknown and special ones", document(family))
        yield _streams(f"{family}-pieces", "texts in pieces, before a stop text", document(family))
    yield _texts("opt-published", "merges as texts, a space in front, tokens that take their spaces", opt_published())
    yield _texts("opt-unknown", "letters that the pairs do not have, one token for several", opt_unknown())
    yield _texts("t5-published", "a table of replacements, words, then marks", t5_published(older=True))
    yield _texts("t5-rules", "replacements, a strip, repeated spaces", t5_published(older=False))
    yield _texts("t5-first", "a mark at the beginning alone", t5_first())
    yield _texts("bert-cased", "letters as they are", bert_cased())
    yield from _broken()
    yield from _controls()


def _broken() -> Iterator[Planned]:
    opt = document("opt")
    for part in ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder"):
        yield _texts(f"unknown-{part.replace('_', '-')}", "a kind that nobody knows", {**opt, part: {"type": "Mine"}})
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    left = {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    yield _texts("padding-left", "padding that was left from a call", {**opt, "padding": left})
    plan = _texts("not-json", "half a file", opt)
    yield dataclasses.replace(plan, files={"tokenizer.json": plan.files["tokenizer.json"][:500]})


def _controls() -> Iterator[Planned]:
    def token(expected: Tree) -> None:
        expected["texts"][3]["ids"][1] += 1

    def accents(expected: Tree) -> None:  # equal to who compares letters and not code points
        expected["texts"][9]["decoded"] = expected["texts"][9]["decoded"].replace("cafe\u0301", "caf\u00e9")

    def piece(expected: Tree) -> None:
        one = expected["pieces"][0]["pieces"]
        one[:2] = ["".join(one[:2])]

    opt = document("opt")
    plan = _texts("must-fail-id", "planted: another token", opt)
    yield dataclasses.replace(plan, spoil=token)
    plan = _texts("must-fail-accent", "planted: an accent composed that was not", opt)
    yield dataclasses.replace(plan, spoil=accents)
    plan = _streams("must-fail-piece", "planted: two pieces in one", opt)
    yield dataclasses.replace(plan, spoil=piece)


def document(family: str) -> Tree:
    """A tokenizer of examples/blip2."""
    found: Tree = json.loads((MODELS / family / "tokenizer.json").read_text(encoding="utf-8"))
    return found


def opt_published() -> Tree:
    """As older files of OPT's are written: GPT-2's, with RoBERTa's tokens around a text."""
    made = document("opt")
    made["model"]["merges"] = [" ".join(pair) for pair in made["model"]["merges"]]
    made["pre_tokenizer"]["add_prefix_space"] = True
    made["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
        "trim_offsets": True,
        "add_prefix_space": True,
    }
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    made["added_tokens"] = [{**one, **plain} for one in made["added_tokens"]]
    made["added_tokens"][4]["lstrip"] = True
    made["added_tokens"] += [
        {"id": 400, "content": "how", **plain, "single_word": True, "special": False},
        {"id": 401, "content": "and", **plain, "rstrip": True, "special": False},
        {"id": 402, "content": "<image>s", **plain},
    ]
    return made


def opt_unknown() -> Tree:
    """Byte pairs over letters, of which it does not have all."""
    made = document("opt")
    letters = {letter: number + 4 for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}
    special = {one["content"]: one["id"] for one in made["added_tokens"] if one["id"] < 4}
    pieces = ("th", "the", "re", "red")
    vocabulary = {**special, **letters, **{one: number + 40 for number, one in enumerate(pieces)}}
    merges = [["t", "h"], ["th", "e"], ["r", "e"], ["re", "d"]]
    made["model"] |= {"vocab": vocabulary, "merges": merges, "unk_token": "<unk>", "fuse_unk": True}
    made["added_tokens"] = made["added_tokens"][:4]
    return made | {"pre_tokenizer": None, "decoder": None, "post_processor": None}


def t5_published(*, older: bool) -> Tree:
    """As published files of T5's and Flan-T5's are written."""
    made = document("t5")
    table = base64.b64encode(charsmap(REPLACEMENTS)).decode()
    precompiled = {"type": "Precompiled", "precompiled_charsmap": table}
    if older:
        marks = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
        made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]}
        made["decoder"] = marks
        made["normalizer"] = precompiled
    else:
        rules = [
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            {"type": "Replace", "pattern": {"String": "square"}, "content": "circle"},
        ]
        made["normalizer"] = {"type": "Sequence", "normalizers": [precompiled, *rules]}
    extra = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    made["added_tokens"] += [{"id": 92, "content": "<extra_id_0>", **extra}]
    return made


def t5_first() -> Tree:
    """Without its splits at the marks."""
    made = document("t5")
    for part in ("pre_tokenizer", "decoder"):
        made[part] |= {"prepend_scheme": "first", "split": False}
    return made


def bert_cased() -> Tree:
    """The tokenizer for retrieval, without its changes of letters."""
    made = document("retrieval")
    made["normalizer"] |= {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
    made["decoder"]["cleanup"] = False
    return made


REPLACEMENTS = {
    "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u0085": " ", "\x7f": "",
    "\ufeff": "", "\u00ad": "", "ﬁ": "fi", "①": "1", "…": "...", "½": "1\u20442", "Ａ": "A", "e\u0301": "é", "e": "e",
    "\u200d": " ", "ö": "o\u0308",
}  # fmt: skip
"""A little of NFKC, as T5's table has it. ``e`` is in it, so that the shortest match of ``e`` with an accent shows."""


def _case(name: str, about: str, made: Tree, **given: object) -> Planned:
    content = json.dumps(made, ensure_ascii=False).encode()
    return Planned(name, about, {"tokenizer": "tokenizer.json", **given}, files={"tokenizer.json": content})


def _texts(name: str, about: str, made: Tree) -> Planned:
    return _case(name, about, made, texts=list(TEXTS))


def _ids(name: str, about: str, made: Tree) -> Planned:
    last = made["added_tokens"][-1]["id"]
    rows = [[], [0], [2, last], [40, 41, 2, 42], [last + 1000, 40], [60, 60, 5, 60], list(range(4, 91, 3))]
    return _case(name, about, made, ids=[{"ids": row} for row in rows])


def _streams(name: str, about: str, made: Tree) -> Planned:
    """Bytes of a character one by one, an ending that is half a character, and stop texts over several pieces."""
    ids = [tokens_of(made, text) for text in (TEXTS[3], TEXTS[9], TEXTS[11], TEXTS[4], TEXTS[4], TEXTS[6])]
    stops: list[list[str]] = [[], [], [], ["Answer", "many c"], ["\n"], ["blue", "two\r"]]
    ids[1], ids[2] = ids[1][:-1], ids[2][:-2]
    streams = [{"ids": row, "stop": stop} for row, stop in zip(ids, stops, strict=True)]
    return _case(name, about, made, streams=streams)


def tokens_of(made: Tree, text: str) -> list[int]:
    """Ids of a text by a tokenizer's document."""
    import tokenizers

    found: list[int] = tokenizers.Tokenizer.from_str(json.dumps(made)).encode(text).ids
    return found


def answer(given: Tree, folder: Path) -> Tree:
    """Ids and what they decode to; or decoded ids; or pieces; or ``error``: bundle."""
    try:
        tokenizer = Tokenizer(folder / given["tokenizer"])
        found: Tree = {}
        if "texts" in given:
            ids = [tokenizer.encode(text) for text in given["texts"]]
            found["texts"] = [{"ids": row, "decoded": tokenizer.decode(row)} for row in ids]
        if "ids" in given:
            found["ids"] = [{"decoded": tokenizer.decode(one["ids"])} for one in given["ids"]]
        if "streams" in given:
            found["pieces"] = [_pieces(tokenizer, one["ids"], one["stop"]) for one in given["streams"]]
    except BundleError:
        return {"error": "bundle"}
    return found


def _pieces(tokenizer: Tokenizer, ids: list[int], stop: list[str]) -> Tree:
    pieces = list(before(tokenizer.stream(ids), stop))
    return {"pieces": pieces, "whole": cut(tokenizer.decode(ids), stop)}


def differences(case: Case, answered: Tree) -> list[str]:
    """Other ids, or other texts."""
    return apart(case.expected, answered, case.tolerance)
