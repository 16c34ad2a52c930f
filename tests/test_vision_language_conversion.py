"""``edgekit convert`` on BLIP-2: proven bundles, refusals in words, and graphs that are not written twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which is compared with")
for engine in ("onnxruntime", "openvino"):
    pytest.importorskip(engine, reason="needs the engines of the extra 'convert'")

import cv2
import tiny_blip2
from blip2_writing import edited
from stages import stay

import edgekit
from edgekit import converters
from edgekit.cli import main
from edgekit.conversion import texts
from edgekit.conversion.kept_graphs import FOLDER, KEPT_SECONDS, KeptGraphs
from edgekit.conversion.source_texts import read_texts
from edgekit.emulators import proof_device
from edgekit.errors import BundleError, UsageError
from edgekit.evaluation.texts import TextTally, judge
from edgekit.runtimes.bundle.folder import Staging, open_bundle
from edgekit.runtimes.bundle.manifest import Contract, Evidence, Gate, Graph, ImageRule, Language, OutputDrift, Tensor
from edgekit.runtimes.engines.openvino.language import OptOnOpenVino
from edgekit.shapes import scene
from edgekit.sources.blip2 import reference


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny sources, a few photographs, and prompts."""
    root = tmp_path_factory.mktemp("blip2")
    for write in (tiny_blip2.opt, tiny_blip2.t5, tiny_blip2.retrieval):
        write(root / write.__name__)
    (root / "photos").mkdir()
    for seed in range(6):
        cv2.imwrite(str(root / "photos" / f"{seed}.png"), scene(seed).image)
    (root / "prompts.txt").write_text("a photo of\n\nQuestion: how many? Answer:\n")
    return root


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stay(monkeypatch)


class Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def command(*arguments: str) -> Done:
    """The command line, in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def convert(root: Path, kind: str, *arguments: str) -> Done:
    given = ["-o", str(root / "out"), "--prompts", str(root / "prompts.txt")]
    return command("convert", str(root / kind), *given, *arguments)


def converted(root: Path, kind: str, target: str) -> Path:
    """A bundle in fp32, made once."""
    path = root / "out" / f"{kind}-{target}-fp32"
    if not path.is_dir():
        done = convert(root, kind, "--target", target, "--data", str(root / "photos"))
        assert done.exit_code == 0, done.stderr
    return path


@pytest.mark.parametrize("kind", ["opt", "t5", "retrieval"])
def test_bundles_are_proven(kind: str, root: Path) -> None:
    done = convert(root, kind, "--target", "onnx,openvino", "--data", str(root / "photos"), "--json")
    assert done.exit_code == 0, done.stderr
    for entry in json.loads(done.stdout)["bundles"]:
        evidence = entry["evidence"]
        assert evidence["word"] == "executed"
        assert evidence["compared"] == "texts"
        assert evidence["texts"]["matched"] == 1
        assert evidence["texts"]["identical"] == 1
        assert evidence["texts"]["score_drift"] < 1e-4
        expected = {"vision image_embeds", "qformer query_output"}
        expected |= {"qformer image_vectors", "text text_vector", "match logits"} if kind == "retrieval" else {
            "qformer language_inputs", "language logits"
        }  # fmt: skip
        assert {output["name"] for output in evidence["outputs"]} == expected
        assert min(output["cosine"] for output in evidence["outputs"]) > 0.99999
    assert not (root / "out" / FOLDER).exists()


@pytest.mark.nightly
def test_texts_of_a_large_source_are_kept_until_its_bundle_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    run = texts.answer
    monkeypatch.setattr(texts, "answer", lambda *given: asked.append(0) or run(*given))
    monkeypatch.setattr(reference, "LARGE", 0)
    given = ("--target", "onnx", "--precision", "language=int8", "--name", "kept", "--data", str(root / "photos"))
    refused = convert(root, "opt", *given, "--gate", "matched=1", "--gate", "score_drift=0")
    assert refused.exit_code == 1
    assert "outside its gate, not written: " in refused.stderr
    assert len(asked) == 1
    (left,) = (root / "out" / FOLDER).rglob("answers.npy")
    (root / "other.txt").write_text("a picture of\n")
    other = convert(root, "opt", *given, "--prompts", str(root / "other.txt"))
    assert other.exit_code == 0, other.stderr
    assert len(asked) == 2
    assert left.exists()
    assert convert(root, "opt", *given).exit_code == 0
    assert len(asked) == 2
    assert not left.exists()
    shutil.rmtree(root / "out" / FOLDER, ignore_errors=True)


@pytest.mark.nightly
def test_a_large_model_is_proven_with_fewer_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found of its texts is the same; some answers are the source's word for word, others are not."""

    def found(name: str) -> tuple[Evidence, int]:
        runs = []
        start = OptOnOpenVino.start
        with monkeypatch.context() as counted:
            counted.setattr(OptOnOpenVino, "start", lambda *given: runs.append(0) or start(*given))
            done = convert(
                root, "opt", "--target", "openvino", "--precision", "language=int8", "--no-gate", "--name", name,
                "--data", str(root / "photos"),
            )  # fmt: skip
        assert done.exit_code in (0, 1), done.stderr
        (path,) = (root / "out").glob(f"{name}-*")
        evidence = open_bundle(path).manifest.evidence
        assert evidence is not None
        return evidence, len(runs)

    monkeypatch.setattr(texts, "MOST_IMAGES", texts.MOST_OF_LARGE)
    small, often = found("small")
    monkeypatch.setattr(reference, "LARGE", 0)
    large, seldom = found("large")
    assert small.texts is not None
    assert large.texts is not None
    assert msgspec.structs.asdict(large.texts) == pytest.approx(msgspec.structs.asdict(small.texts), abs=1e-6)
    assert 0 < small.texts.identical < 1
    assert [one.name for one in small.outputs] == [one.name for one in large.outputs]
    images = (
        often // 6
    )  # with two prompts: along the source's text from its image and from the bundle's own, and freely
    assert (often, seldom) == (6 * images, 3 * images + 2)


def test_precisions_by_part(root: Path) -> None:
    done = convert(
        root, "opt", "--target", "onnx", "--precision", "vision=int8,qformer=fp16,language=int4-g64-awq", "--no-gate",
        "--language-bits", "4.5", "--data", str(root / "photos"),
    )  # fmt: skip
    assert done.exit_code in (0, 1), done.stderr
    bundle = open_bundle(root / "out" / "opt-onnx-int8-fp16-int4.5-g64-awq")
    assert bundle.manifest.options == {"precision": "vision=int8,qformer=fp16,language=int4.5-g64-awq"}
    assert bundle.manifest.calibration is not None
    files = {file.path: file.bytes for file in bundle.manifest.files}
    assert {"tokenizer.json", "embeddings.npy", "vision.onnx", "qformer.onnx", "language.onnx"} <= set(files)
    assert np.load(bundle.file("embeddings.npy")).dtype == np.float16
    shown = command("info", str(bundle.path))
    assert "BLIP-2 with 4 queries, language model opt" in shown.stdout
    assert "prompt ask: 'Question: {} Answer:'" in shown.stdout
    language = shown.stdout.partition("graph language: language.onnx")[2]
    assert re.search(r"output \d+: logits float\d\d \(-1, ", language)
    assert "past.0.key" not in shown.stdout
    assert re.search(r"bits: 4\.\d\d for each weight, of at most 4\.5: \d+ layers in 4, \d in 8", shown.stdout)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "precision"),
    [("t5", "qformer=int4-awq,language=int4.5-awq-gptq"), ("retrieval", "vision=int4-gptq,qformer=int4-awq-gptq")],
)
def test_weights_of_every_model_are_fitted(kind: str, precision: str, root: Path) -> None:
    given = ("--target", "onnx,openvino", "--precision", precision, "--data", str(root / "photos"), "--no-gate")
    done = convert(root, kind, *given, "--json")
    assert done.exit_code in (0, 1), done.stderr
    found = json.loads(done.stdout)["bundles"]
    assert [entry["evidence"]["word"] for entry in found] == ["executed"] * 2


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_a_cache_in_int8(kind: str, root: Path) -> None:
    targets = ("onnx", "openvino")
    options = (part for target in targets for part in ("--option", f"{target}.kv_cache=int8"))
    done = convert(root, kind, "--target", ",".join(targets), *options, "--data", str(root / "photos"), "--json",
                   "--no-gate")  # fmt: skip
    assert done.exit_code in (0, 1), done.stderr
    for entry in json.loads(done.stdout)["bundles"]:
        texts, manifest = entry["evidence"]["texts"], open_bundle(entry["path"]).manifest
        assert manifest.options["kv_cache"] == "int8"
        assert (manifest.calibration is not None) == (entry["target"] == "onnx")
        assert texts["matched"] > 0.8
        assert texts["score_drift"] > 1e-4  # not the cache in floats once more
        assert manifest.evidence is not None
        assert manifest.evidence.gate.matched == 0.93  # judged as int8


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_cache_of_a_model_that_writes_no_text(target: str, root: Path) -> None:
    given = ("--target", target, "--option", f"{target}.kv_cache=int8", "--data", str(root / "photos"))
    done = convert(root, "retrieval", *given)
    assert done.exit_code == 1
    assert f"{target}.kv_cache=int8: a model for retrieval writes no text and has no cache; leave the" in done.stderr


@pytest.mark.nightly
def test_large_channels_are_lost_without_data_and_kept_with_it(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """The trained OPT with channels as large models have them: what it says in floats does not change."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import blip2_outliers

    from edgekit.shapes.talk_dataset import write_talk

    blip2_outliers.write(Path(__file__).parents[1] / "examples" / "blip2" / "opt", root / "outliers")
    photos = write_talk(root / "talk", 40).parent
    methods = ("", "-scale", "-awq", "-gptq", "-awq-gptq")
    precisions = ("fp32", *(f"int4-g128{method}" for method in methods))
    words = ",".join(("vision=fp32", "qformer=fp32", *(f"language={precision}" for precision in precisions)))
    given = ("--target", "onnx", "--precision", words, "--data", str(photos), "--no-gate", "--json")
    done = command("convert", str(root / "outliers"), "-o", str(root / "out"), *given)
    found = json.loads(done.stdout)["bundles"]
    matched = {name: one["evidence"]["texts"]["matched"] for name, one in zip(precisions, found, strict=True)}
    assert matched["fp32"] == 1
    assert matched["int4-g128"] < 0.8  # outside its gate
    assert matched["int4-g128-scale"] > matched["int4-g128"]
    assert matched["int4-g128-gptq"] > matched["int4-g128"]
    assert matched["int4-g128-awq"] > 0.9
    assert matched["int4-g128-awq-gptq"] > 0.95


def test_outside_its_gate_nothing_is_written_and_the_graphs_are_kept(root: Path) -> None:
    given = ("--target", "onnx", "--precision", "language=int4", "--name", "gated", "--data", str(root / "photos"))
    refused = convert(root, "opt", *given, "--gate", "matched=1", "--gate", "score_drift=0")
    assert refused.exit_code == 1
    assert "outside its gate, not written: " in refused.stderr
    path = root / "out" / "gated-onnx-fp16-fp16-int4"
    assert not path.exists()
    kept = {file: file.stat().st_ino for file in (root / "out" / FOLDER).rglob("*.onnx")}
    assert {file.name for file in kept} == {"vision.onnx", "qformer.onnx", "language.onnx"}
    other = convert(root, "opt", *given, "--precision", "language=int8", "--no-gate")
    assert other.exit_code in (0, 1), other.stderr
    path = root / "out" / "gated-onnx-fp16-fp16-int8"
    # Linked, not made again: what has the same precision, and nothing else.
    assert {file.name for file, number in kept.items() if (path / file.name).stat().st_ino == number} == {
        "vision.onnx", "qformer.onnx"
    }  # fmt: skip
    left = root / "out" / FOLDER
    assert {file.name for file in left.rglob("*.onnx")} == {"language.onnx"}
    shutil.rmtree(left)


@pytest.mark.parametrize(
    ("kind", "seen", "written"),
    [
        ("opt", "openvino", "onnx"),
        pytest.param("t5", "onnx", "openvino", marks=pytest.mark.nightly),
        pytest.param("opt", "mnn", "onnx", marks=pytest.mark.nightly),
        pytest.param("t5", "onnx", "mnn", marks=pytest.mark.nightly),
        pytest.param("opt", "litert", "onnx", marks=pytest.mark.nightly),
    ],
)
def test_each_part_on_an_engine_of_its_own(kind: str, seen: str, written: str, root: Path) -> None:
    """Vision on one engine and language on another, and the other way round: proven, opened, and the same texts."""
    targets = f"vision={seen},qformer={seen},language={written}"
    done = convert(root, kind, "--target", targets, "--data", str(root / "photos"), "--json")
    assert done.exit_code == 0, done.stderr
    (entry,) = json.loads(done.stdout)["bundles"]
    bundle = open_bundle(entry["path"])
    assert bundle.path.name == f"{kind}-{seen}+{seen}+{written}-fp32"
    first, last = (converters.target(name).engine for name in (seen, written))
    manifest = bundle.manifest
    assert manifest.engines == (first, last)
    by_graph = {graph.name: manifest.engine_of(graph) for graph in manifest.graphs}
    assert {name: by_graph[name] for name in ("vision", "qformer")} == {"vision": first, "qformer": first}
    assert {engine for name, engine in by_graph.items() if name not in ("vision", "qformer")} == {last}
    assert manifest.options["target"] == targets
    evidence = entry["evidence"]
    assert (evidence["engine"], evidence["word"]) == (f"{first}+{last}", "executed")
    assert evidence["texts"]["matched"] == evidence["texts"]["identical"] == 1
    shown = command("info", str(bundle.path)).stdout
    assert f"for {first} and {last}" in shown
    assert f"graph vision, {first}: vision." in shown
    assert "output 0: image_embeds float32 (" in shown
    photo = root / "photos" / "0.png"
    mixed, alone = (load(path)(photo) for path in (bundle.path, converted(root, kind, seen)))
    assert mixed == alone


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("targets", "emulated", "precision"),
    [
        ("vision=onnx,qformer=onnx,language=web", "web", "fp32"),
        ("vision=qnn,qformer=qnn,language=onnx", "qnn", "fp16"),
        ("vision=rknn,qformer=rknn,language=onnx", "rknn", "fp16"),
    ],
)
def test_a_part_on_an_emulator(targets: str, emulated: str, precision: str, root: Path) -> None:
    """Proven with what stands in for the engine, in another process; opened by naming that."""
    target = converters.target(emulated)
    if target.missing:
        pytest.skip(target.missing)
    given = ("--target", targets, "--precision", precision, "--data", str(root / "photos"), "--json")
    done = convert(root, "opt", *given)
    assert done.exit_code == 0, done.stderr
    (entry,) = json.loads(done.stdout)["bundles"]
    assert entry["evidence"]["word"] == target.proof
    photo = str(root / "photos" / "0.png")
    model = edgekit.load(entry["path"], threads=1, unit=proof_device(target.engine))
    tokens = model.caption(photo, max_new_tokens=8).tokens
    if precision == "fp32":
        assert entry["evidence"]["texts"]["identical"] == 1
        assert tokens == load(converted(root, "opt", "onnx"))(Path(photo))
        with pytest.raises(UsageError, match="unit 'npu'"):
            edgekit.load(entry["path"], unit="npu")


def load(path: Path) -> Callable[[Path], tuple[int, ...]]:
    """The tokens of a caption by a bundle."""
    model = edgekit.load(path, threads=1)
    return lambda image: model.caption(str(image), max_new_tokens=8).tokens


def test_language_on_two_engines_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(converted(root, "t5", "onnx"), tmp_path / "t5")
    manifest = open_bundle(tmp_path / "t5").manifest
    graphs = [
        msgspec.structs.replace(graph, engine="openvino") if graph.name == "decoder" else graph
        for graph in manifest.graphs
    ]
    Staging(tmp_path, tmp_path / "t5").seal(msgspec.structs.replace(manifest, graphs=tuple(graphs)))
    with pytest.raises(BundleError, match="encoder and decoder are for onnxruntime and openvino, not for one"):
        edgekit.load(tmp_path / "t5")


def test_verify(root: Path) -> None:
    bundle = str(converted(root, "t5", "onnx"))
    arguments = ["--against", str(root / "t5"), "--data", str(root / "photos"), "--json"]
    done = command("verify", bundle, *arguments)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["evidence"]["texts"]["identical"] == 1
    other = tiny_blip2.t5(root / "other", seed=1)
    arguments[1] = str(other)
    refused = command("verify", bundle, *arguments)
    assert refused.exit_code == 1  # another model is found out
    arguments[1] = "edgekit.shapes.trained:detector"
    wrong = command("verify", bundle, *arguments)
    assert wrong.exit_code == 2
    assert "was made from a vision-language model; edgekit.shapes.trained:detector is package.module" in wrong.stderr


def test_there_is_no_plan_of_it(root: Path, tmp_path: Path) -> None:
    done = command("calibrate", str(root / "opt"), "--data", str(root / "photos"), "-o", str(tmp_path / "plan"))
    assert done.exit_code == 2
    assert "has no plan: edgekit convert finds what its INT8 needs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "onnx", "--precision", "int8"), "vision in int8 needs calibration images like those the device"),
        (
            ("--target", "onnx", "--precision", "language=int4-g64-awq"),
            "language in int4-g64-awq is fitted to calibration images like those the device will see: give --data FOL",
        ),
        (
            ("--target", "onnx", "--precision", "language=int4", "--language-bits", "4.5"),
            "language in int4.5 is fitted to calibration images",
        ),
        (
            ("--target", "mnn", "--precision", "language=int4-awq-gptq"),
            "target mnn rounds the weights of language with tools of its own, which would undo gptq; give int4-awq",
        ),
        (("--target", "rknn"), "target rknn takes no language of a vision-language model; these do: "),
        (
            ("--target", "executorch", "--precision", "fp16"),
            "takes vision of a vision-language model in fp32 or int8 or",
        ),
        (
            ("--target", "imx500", "--precision", "int8"),
            "target imx500 takes no vision of a vision-language model: its devices have about 8 MB for a network with "
            "its activations, and that of the smallest published BLIP-2 has 986 MB of weights at 8 bits, 978 MB too",
        ),
        (("--target", "vision=onnx,qformer=ethosu,language=onnx"), "at 8 bits, 172 MB too many; these do: "),
        (("--target", "qnn", "--precision", "fp32"), "target qnn takes vision of a vision-language model in fp16, not"),
        (
            ("--target", "vision=onnx,qformer=onnx,language=qnn", "--precision", "language=int4"),
            "takes language of a vision-language model in fp16, not in int4; say so with --precision language=fp16",
        ),
        (("--target", "onnx", "--recipe", "plan"), "--recipe does not apply to a vision-language model"),
        (("--target", "onnx", "--no-float-fallback"), "--no-float-fallback does not apply to a vision-language model"),
        (("--target", "onnx", "--trust"), "--trust does not apply to a vision-language model"),
        (("--target", "onnx", "--gate", "iou=0.5"), "--gate 'iou' is not one of: matched, score_drift"),
        (
            ("--target", "onnx", "--option", "onnx.kv_cache=int8"),
            "--option onnx.kv_cache=int8 needs calibration images like those the device will see: give --data FOLDER",
        ),
        (("--target", "onnx", "--option", "openvino.x=1"), "target openvino is not converted to; name it in --target"),
        (("--target", "onnx", "--precision", "w8a8"), "--precision 'w8a8' is not one of"),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str, root: Path) -> None:
    done = convert(root, "opt", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_prompts_are_for_vision_language_models(root: Path) -> None:
    given = ["convert", "edgekit.shapes.trained:detector", "--target", "onnx", "--prompts", str(root / "prompts.txt")]
    done = command(*given)
    assert done.exit_code == 2
    assert "--prompts does not apply to package.module:factory" in done.stderr
    assert "It goes with: a vision-language model (BLIP-2: " in done.stderr


def test_prompts_that_are_none(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    for path, message in ((empty, "no prompt in it"), (tmp_path / "absent.txt", "cannot be read as text")):
        done = convert(root, "opt", "--target", "onnx", "--prompts", str(path))
        assert done.exit_code == 2
        assert message in done.stderr


def test_prompts_that_are_too_long(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("what is in the picture? " * 20)
    done = convert(root, "opt", "--target", "onnx", "--prompts", str(path))
    assert done.exit_code == 2
    assert "tokens of 80 for an answer: shorten it" in done.stderr


def test_a_processor_for_other_images_is_refused(root: Path, tmp_path: Path) -> None:
    other = edited(root / "opt", tmp_path / "opt", "preprocessor_config.json", size={"height": 48, "width": 48})
    done = command("convert", str(other), "--target", "onnx", "-o", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "the vision tower takes 32 x 32" in done.stderr


def test_prompts_of_our_own() -> None:
    rule = ImageRule(size=(8, 8))
    writing = Contract(
        image=rule, language=Language(family="opt", queries=1, prompts={"caption": "x", "ask": "Q {} A"})
    )
    assert read_texts("", writing)[:2] == ("x", "Q what is in the picture? A")
    matching = Contract(image=rule, language=Language(family="retrieval", queries=1))
    assert len(set(read_texts("", matching))) == len(read_texts("", matching)) > 20


def test_the_tally_counts_what_differs() -> None:
    tally = TextTally("tokens")
    source = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32))
    ours = np.log(np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]], np.float32))
    tally.add_positions(source, ours, np.array([0, 1]))
    tally.add_answers([True, False, False])
    found = tally.agreement()
    assert (found.positions, found.matched, found.answers) == (2, 0.5, 3)
    assert found.identical == pytest.approx(1 / 3)
    assert found.score_drift == pytest.approx((np.log(0.7 / 0.6) + np.log(0.8 / 0.4)) / 2, rel=1e-5)
    assert found.score_drift_max == pytest.approx(np.log(2), rel=1e-5)
    drift = OutputDrift(name="language logits", cosine=0.5, max_error=1, mean_error=1)
    failures = judge(found, [drift], Gate(iou=0, matched=0.9, score_drift=0.1), 0.9)
    assert [failure.split(",")[0] for failure in failures] == [
        "matched 0.500 of 2 tokens",
        "mean score drift 0.4236",
        "output language logits: cosine 0.50000",
    ]
    assert judge(found, [], Gate(iou=0, matched=0.5, score_drift=0.5), 0.9) == ()


def test_graphs_that_nobody_came_back_for_are_removed(tmp_path: Path) -> None:
    import os

    graph = Graph(files=("a",), inputs=(Tensor(name="x", shape=(1,)),), outputs=(Tensor(name="y", shape=(1,)),))

    def write(out: Path) -> Graph:
        out.mkdir()
        (out / "a").write_text("a")
        return graph

    files, found = KeptGraphs(tmp_path).build({"key": 1}, Graph, write)
    assert (found, (files / "a").read_text()) == (graph, "a")
    KeptGraphs(tmp_path)
    assert files.is_dir()
    os.utime(files.parent, times=(0, files.parent.stat().st_mtime - 2 * KEPT_SECONDS))
    KeptGraphs(tmp_path)
    assert not files.exists()
    with pytest.raises(OSError, match="full"):
        KeptGraphs(tmp_path).build({"key": 2}, Graph, failing)
    assert not (tmp_path / FOLDER).exists()  # nothing half made is left, nor an empty folder


def failing(out: Path) -> Graph:
    out.mkdir()
    raise OSError("full")


def test_a_model_of_the_hub_is_taken_from_its_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache as the hub's own package lays it out, and no network."""
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub"
    model = cache / "models--somebody--tiny-opt"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    shutil.copytree(root / "opt", model / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = ["--target", "onnx", "-o", str(tmp_path / "out"), "--prompts", str(root / "prompts.txt")]
    given += ["--data", str(root / "photos")]
    done = command("convert", "hf://somebody/tiny-opt", *given)
    assert done.exit_code == 0, done.stderr
    origin = open_bundle(tmp_path / "out" / "tiny-opt-onnx-fp32").manifest.origin
    assert origin.notes == (f"fetched from hf://somebody/tiny-opt@{commit}",)
    absent = command("convert", "hf://somebody/else", *given)
    assert absent.exit_code == 2
    assert "hf://somebody/else: cannot be fetched (" in absent.stderr
    assert "give a folder that has it" in absent.stderr
    wrong = command("convert", "hf://somebody", *given)
    assert wrong.exit_code == 2
    assert "not the address of a model; the form is hf://OWNER/NAME[@REVISION]" in wrong.stderr
