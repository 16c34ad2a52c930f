"""Numbers and names that somebody else wrote into a bundle: bounds, and errors of edgekit's own for all of them."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import ROOT
from sample_bundles import forge
from tiny_models import picture
from tiny_onnx import write_model, write_tiny_bundle

import edgekit
from edgekit.errors import BundleError, ContractError, EngineError, UsageError
from edgekit.runtimes.bundle import folder
from edgekit.runtimes.bundle import manifest_file as manifests
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import MANIFEST, File, ImageRule, Language
from edgekit.runtimes.language import GenerationOptions
from edgekit.runtimes.language.text import Tokenizer
from edgekit.runtimes.tasks.decoders.base import DECODERS, every_decoder

OLD = ROOT / "tests" / "old_bundles"
BLIP2, DETECTOR = OLD / "opt-onnx-int8", OLD / "detector-onnx-int8"


def rewritten(bundle: Path, to: Path, **changes: bytes) -> Path:
    """A copy in which files are replaced, with their hashes: what a stranger's file may be."""
    shutil.copytree(bundle, to)
    manifest = manifests.decode((to / MANIFEST).read_bytes(), str(to))
    named = {name.replace("__", "."): content for name, content in changes.items()}
    for name, content in named.items():
        (to / name).write_bytes(content)
    files = tuple(
        File(path=file.path, bytes=(to / file.path).stat().st_size, sha256=folder.sha256(to / file.path))
        for file in manifest.files
    )
    (to / MANIFEST).write_bytes(manifests.encode(msgspec.structs.replace(manifest, files=files)))
    return to


def changed(bundle: Path, to: Path, place: tuple[str | int, ...], value: object) -> Path:
    """A copy whose manifest says something else at one place, with the digest of that."""
    shutil.copytree(bundle, to)
    document = json.loads((to / MANIFEST).read_bytes())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    document["digest"] = manifests.digest(document)
    (to / MANIFEST).write_text(json.dumps(document))
    return to


# ---- numbers of the manifest ----

LANGUAGE = ("contract", "language")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ((*LANGUAGE, "queries"), 0, r"Expected `int` >= 1"),
        ((*LANGUAGE, "queries"), -1, r"Expected `int` >= 1"),
        ((*LANGUAGE, "queries"), 10**9, r"Expected `int` <= 65536"),
        ((*LANGUAGE, "heads"), -4, r"Expected `int` >= 0"),
        ((*LANGUAGE, "heads"), 10**9, r"Expected `int` <= 65536"),
        ((*LANGUAGE, "head_size"), -1, r"Expected `int` >= 0"),
        ((*LANGUAGE, "layers"), 10**9, r"Expected `int` <= 1024"),
        ((*LANGUAGE, "width"), 2**40, r"Expected `int` <= 65536"),
        ((*LANGUAGE, "eos"), [2**64], r"(Expected `int` <= 2147483647|out of range)"),
        ((*LANGUAGE, "pad"), -1, r"Expected `int` >= 0"),
        (("contract", "image", "size"), [100_000, 100_000], r"size must be at most 16384 a side and 67108864 pixels"),
        (("contract", "image", "size"), [16_000, 16_000], r"size must be at most 16384 a side and 67108864 pixels"),
        (("contract", "classes"), ["a"] * 200_000, r"Expected `array` of length <= 131072"),
        (("contract", "classes"), ["a" * 2000], r"Expected `str` of length <= 1000"),
        (("contract", "postprocess", "max_detections"), 10**12, r"max_detections must be at most 1000000, not 10000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_of_a_manifest_have_bounds(tmp_path: Path, place: tuple[str, ...], value: object, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(BundleError, match=rf"the manifest is not valid \(.*{words}"):
        edgekit.load(changed(BLIP2, tmp_path / "forged", place, value))
    assert time.monotonic() - begun < 5


def test_a_cache_has_a_bound() -> None:
    with pytest.raises(ValueError, match=r"make 100000000 numbers a token, above the 4194304 that a cache may have"):
        Language(family="opt", queries=1, layers=100, heads=1000, head_size=1000)


@pytest.mark.usefixtures("needs_language")
@pytest.mark.parametrize(("name", "value"), [("head_size", 65536), ("heads", 5), ("layers", 7)])
def test_a_cache_that_is_not_the_graphs_is_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(EngineError, match=r"the language graph has a cache of \d layers .*, the contract says"):
        edgekit.load(changed(BLIP2, tmp_path / "forged", (*LANGUAGE, name), value))


def test_the_largest_input_is_taken() -> None:
    assert ImageRule(size=(8192, 8192)).size == (8192, 8192)
    assert ImageRule(size=(16384, 4096)).size == (16384, 4096)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("anchor_free", {"strides": [8], "reg_max": 10**9}),
        ("anchor_free", {"strides": [10**9]}),
        ("heatmaps", {"kernel": 10**6}),
        ("decoded", {"attached": 10**9}),
    ],
)
def test_numbers_of_decoders_have_bounds(name: str, options: dict[str, Any]) -> None:
    every_decoder()
    with pytest.raises(ContractError, match=rf"decoder '{name}': Expected `int` <= \d+"):
        DECODERS[name].read(options)


@pytest.mark.parametrize("given", [{"beams": 100_000}, {"beams": 2, "returned": 100_000}])
def test_numbers_of_sequences_have_bounds(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"option (beams|returned)=100000: expected int <= 1000"):
        GenerationOptions(**given)


def test_a_size_that_is_not_the_graphs_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    forged = changed(DETECTOR, tmp_path / "forged", ("contract", "image", "size"), [8000, 8000])
    tracemalloc.start()
    with pytest.raises(BundleError, match=r"makes an input of 8000x8000, the graph takes \[1, 3, 64, 64\]"):
        edgekit.load(forged)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


# ---- names and shapes that are not the file's ----


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="needs onnx to write a model")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    return write_tiny_bundle(tmp_path_factory.mktemp("numbers") / "tiny")


@pytest.mark.parametrize(
    ("what", "changes", "words"),
    [
        ("inputs", {"name": "renamed"}, r"model.onnx: has no input 'renamed', only images; convert again"),
        ("outputs", {"name": "renamed"}, r"model.onnx: has no output 'renamed', only classes, boxes; convert again"),
        (
            "outputs",
            {"shape": (1, 4, 9, 9)},
            r"output 'boxes' has shape \[1, 4, 4, 4\], the manifest says \[1, 4, 9, 9\]",
        ),
    ],
)
def test_names_and_shapes_of_onnx_files_are_compared(
    tiny: Path, tmp_path: Path, what: str, changes: dict[str, Any], words: str
) -> None:
    (graph,) = open_bundle(tiny).manifest.graphs
    first, *others = getattr(graph, what)
    graph = msgspec.structs.replace(graph, **{what: (msgspec.structs.replace(first, **changes), *others)})
    with pytest.raises(EngineError, match=words):
        edgekit.load(forge(tiny, tmp_path / "forged", graphs=(graph,)))


def test_names_that_are_not_utf8_are_an_engines_error(tiny: Path, tmp_path: Path) -> None:
    content = write_model(tmp_path / "m.onnx").read_bytes()
    for old, new in ((b"classes", b"cl\xff\xfeses"), (b"ReduceMax", b"Reduce\xff\xfe\xfd")):
        forged = rewritten(tiny, tmp_path / old.decode(), model__onnx=content.replace(old, new))
        with pytest.raises(EngineError, match=r"(ONNX Runtime cannot open it|not UTF-8|has no output)"):
            edgekit.load(forged)


@pytest.mark.parametrize("place", range(0, 4000, 250))
def test_a_damaged_litert_file_is_an_engines_error_or_opens(tmp_path: Path, place: int) -> None:
    """In a child: one mutant in a thousand crashes LiteRT."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra 'litert'")
    bundle = OLD / "detector-litert-int8"
    content = bytearray((bundle / "model.tflite").read_bytes())
    content[place : place + 2] = b"\xff\xfe"
    if not place:
        content[:] = content.replace(b"serving_default", b"s\xffrving_defaul\xfe")
    forged = rewritten(bundle, tmp_path / "forged", model__tflite=bytes(content))
    said = ""
    try:
        edgekit.load(forged, isolated=True, timeout=30)(picture(0))
    except EngineError as error:
        said = str(error)
    assert "UnicodeDecodeError" not in said


def test_a_zero_byte_in_an_ncnn_graph_is_refused(tmp_path: Path) -> None:
    """ncnn crashes at it, and would do so in this process."""
    pytest.importorskip("ncnn", reason="needs the extra 'ncnn'")
    bundle = OLD / "detector-ncnn-int8"
    content = bytearray((bundle / "model.ncnn.param").read_bytes())
    content[746] = 0
    with pytest.raises(EngineError, match=r"model.ncnn.param: not an ncnn graph \(it has zero bytes"):
        edgekit.load(rewritten(bundle, tmp_path / "forged", model__ncnn__param=bytes(content)))


def test_a_damaged_mnn_file_is_an_engines_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("MNN", reason="needs the extra 'mnn'")
    from edgekit.runtimes.engines import SessionOptions, mnn
    from edgekit.runtimes.engines.mnn import opening

    def refuse(*_: object) -> None:
        raise Exception("Create session failed")

    (graph,) = open_bundle(DETECTOR).manifest.graphs
    monkeypatch.setattr(opening, "_operators", lambda path: [])
    monkeypatch.setattr(package, "Interpreter", refuse)
    with monkeypatch.context() as patched:
        patched.setattr(mnn, "checked_operators", lambda path, graph: [])
        with pytest.raises(EngineError, match=r"model.mnn: MNN cannot open it: Create session failed; convert again"):
            mnn.MnnSession(tmp_path / "model.mnn", graph, SessionOptions())
    (tmp_path / "model.mnn.weight").touch()
    with pytest.raises(EngineError, match=r"model.mnn.weight: weights that the manifest does not list; do not use"):
        mnn.MnnSession(tmp_path / "model.mnn", graph, SessionOptions())


# ---- vision-language bundles ----


@pytest.fixture
def needs_language() -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'language'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")


@pytest.mark.usefixtures("needs_language")
def test_embeddings_with_fewer_rows_than_tokens_are_refused(tmp_path: Path) -> None:
    table = np.load(BLIP2 / "embeddings.npy")
    np.save(tmp_path / "short.npy", table[:-5])
    forged = rewritten(BLIP2, tmp_path / "forged", embeddings__npy=(tmp_path / "short.npy").read_bytes())
    words = rf"vocabulary's last token is {len(table) - 1}, embeddings.npy has {len(table) - 5} rows"
    with pytest.raises(BundleError, match=words):
        edgekit.load(forged)
    with pytest.raises(BundleError, match=r"pad token is 2000000, embeddings.npy has \d+ rows; convert"):
        edgekit.load(changed(BLIP2, tmp_path / "pad", (*LANGUAGE, "pad"), 2_000_000))


@pytest.mark.usefixtures("needs_language")
def test_queries_that_the_qformer_does_not_give_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"Q-Former gives \(4, 24\) for an image, the contract says \(3, 24\)"):
        edgekit.load(changed(BLIP2, tmp_path / "forged", (*LANGUAGE, "queries"), 3))


def tokenizer(path: Path, **changes: Any) -> Path:
    document = json.loads((BLIP2 / "tokenizer.json").read_text())
    path.write_text(json.dumps({**document, **changes}))
    return path


PADDING = {
    "strategy": {"Fixed": 2**32}, "direction": "Right", "pad_to_multiple_of": 2**33,
    "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>",
}  # fmt: skip
TRUNCATION = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.usefixtures("needs_language")
@pytest.mark.parametrize("changes", [{"padding": PADDING}, {"truncation": TRUNCATION}], ids=["padding", "truncation"])
def test_padding_and_truncation_of_a_tokenizer_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tokenizer(tmp_path / "tokenizer.json", **changes)
    (name,) = changes
    with pytest.raises(BundleError, match=rf"tokenizer.json: has {name}, which belong to a call; convert again"):
        edgekit.load(rewritten(BLIP2, tmp_path / "forged", tokenizer__json=path.read_bytes()))
    whole = Tokenizer(BLIP2 / "tokenizer.json")
    of_a_checkpoint = Tokenizer(path, source=True)
    text = "two red circles above a blue square and a photo of three"
    assert of_a_checkpoint.encode(text) == whole.encode(text)


@pytest.mark.usefixtures("needs_language")
def test_a_panic_of_tokenizers_is_a_bundle_error(tmp_path: Path) -> None:
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "nobody", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}}  # fmt: skip
    path = tokenizer(tmp_path / "tokenizer.json", post_processor=post)
    with pytest.raises(BundleError, match=r"tokenizer.json: (cannot encode a text|not a tokenizer)"):
        Tokenizer(path).encode("two red circles")
    forged = rewritten(BLIP2, tmp_path / "forged", tokenizer__json=path.read_bytes())
    for isolated in (False, True):
        with pytest.raises(BundleError, match=r"tokenizer.json: (cannot encode a text|not a tokenizer)"):
            edgekit.load(forged, isolated=isolated)


@pytest.mark.usefixtures("needs_language")
def test_an_interrupt_while_a_tokenizer_works_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Tokenizer(BLIP2 / "tokenizer.json")

    class Interrupted:
        def encode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(opened, "_tokenizer", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        opened.encode("a")


@pytest.mark.usefixtures("needs_language")
def test_a_checkpoints_padding_does_not_come_into_its_bundle(tmp_path: Path) -> None:
    from edgekit.graph.blip2.companions import write_companions

    shutil.copytree(ROOT / "examples" / "blip2" / "retrieval", tmp_path / "source")
    path, out = tmp_path / "source" / "tokenizer.json", tmp_path / "out"
    out.mkdir()
    write_companions(tmp_path / "source", out, ("fp32",) * 3)
    assert (out / "tokenizer.json").read_bytes() == path.read_bytes()
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "padding": PADDING, "truncation": TRUNCATION}))
    write_companions(tmp_path / "source", out, ("fp32",) * 3)
    assert json.loads((out / "tokenizer.json").read_text()) == whole
