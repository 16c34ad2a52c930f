"""BLIP-2 as Core ML packages: written, read back by coremltools' own definitions, and run by the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

coremltools = pytest.importorskip("coremltools", reason="needs the extra 'convert'")
pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which makes the tiny models")

import msgspec
import tiny_blip2
from blip2_writing import Written, write_graphs
from test_language_engines import Unordered

from edgekit.converters import WrittenJob
from edgekit.converters.coreml import CoremlOptions, convert_written
from edgekit.converters.coreml.layers import symmetric
from edgekit.converters.coreml.mil import MilPackage
from edgekit.converters.coreml.written import PIECE
from edgekit.emulators.coreml.interpreter import InterpretedState, Interpreter
from edgekit.emulators.coreml.package import quietly, read_program
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.graph.blip2.blip2 import Blip2, Forms, WrittenPart
from edgekit.graph.blip2.forms import Blocks, Float16, Float32, Form
from edgekit.runtimes.engines.coreml.language import StatedOpt
from edgekit.runtimes.engines.coreml.network import PackageNetwork
from edgekit.runtimes.language import GenerationOptions, LanguageGraph, generate

HALF = Forms(Float16(), Float16())
FOUR = Forms(Blocks(4), Blocks(8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coreml")


def source(root: Path, kind: str) -> Path:
    folder = root / kind
    if not folder.exists():
        getattr(tiny_blip2, kind)(folder)
    return folder


def written(root: Path, kind: str, name: str, given: Forms) -> Written:
    return write_graphs(source(root, kind), "coreml", root / f"{kind}-{name}", given=given)


def read_back(package: Path) -> dict[str, int]:
    """Functions and how many operations they have, by coremltools, which checks every parameter, type and shape."""
    from coremltools.converters.mil.frontend.milproto import load

    with quietly():
        model = coremltools.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
        program = load.load(spec, spec.specificationVersion, model.weights_dir)
    return {name: len(function.operations) for name, function in program.functions.items()}


def logits(graph: LanguageGraph, made: Written, steps: int = 4) -> Any:
    """Of prompts of two lengths and a few tokens, with rows that change places and are repeated."""
    rng = np.random.default_rng(0)
    embeddings = made.source.embeddings()[rng.integers(5, 90, (2, PIECE + 6))]
    mask = np.ones(embeddings.shape[:2], np.int64)
    mask[1, :3] = 0
    found = [np.array(graph.start(embeddings, mask))]
    graph.select(np.array([1, 0, 1]))
    for _ in range(steps):
        found.append(np.array(graph.step(rng.integers(5, 90, 3))))
        graph.select(np.array([2, 2, 0]))
    return np.concatenate(found)


def cosine(x: Any, y: Any) -> float:
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def test_states_give_what_buffers_of_the_host_give(root: Path) -> None:
    """A prompt of two pieces, padded on the left, beams that are copied: float16 in states against float32 outside."""
    exact, half = written(root, "opt", "exact", Forms(Float32(), Float32())), written(root, "opt", "half", HALF)
    spoken = half.spoken()
    assert isinstance(spoken, StatedOpt)
    assert not isinstance(exact.spoken(), StatedOpt)  # states are float16
    reference = logits(exact.spoken(), exact)
    assert np.isfinite(reference).all()
    for _ in range(2):  # what an earlier text left in the states does not matter
        found = logits(spoken, half)
        assert np.isfinite(found).all()
        assert cosine(reference, found) > 0.99999
        np.testing.assert_allclose(found, reference, atol=0.05)
    assert cosine(reference, logits(Unordered(half.spoken()), half)) < 0.999


def test_both_functions_share_the_weights_and_coremltools_reads_them_back(root: Path) -> None:
    four = written(root, "opt", "four", FOUR)
    assert set(read_back(four.folder / "language.mlpackage")) == {"prefill", "decode"}
    weights = four.folder / "language.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    values = sum(np.prod(four.source.checkpoint.shape(name)) for name in four.source.checkpoint.names
                 if name.startswith("language_model."))  # fmt: skip
    assert weights.stat().st_size < 2 * values  # two functions in float16 would take four bytes each
    assert cosine(logits(written(root, "opt", "half", HALF).spoken(), four), logits(four.spoken(), four)) > 0.95


@pytest.mark.nightly
@pytest.mark.parametrize("form", [Float32(), Float16(), Blocks(8), Blocks(4, 64)], ids=["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("kind", ["opt", "t5", "retrieval"])
def test_coremltools_reads_every_graph_back(kind: str, form: Form, root: Path) -> None:
    made = written(root, kind, "read", Forms(form, Blocks(8) if isinstance(form, Blocks) else form))
    for graph in made.graphs.values():
        functions = read_back(made.folder / graph.files[0].split("/")[0])
        assert functions
        assert min(functions.values()) > 10


@pytest.mark.nightly
def test_t5_computes_in_float32_whatever_its_weights_are_stored_in(root: Path) -> None:
    """Squares of a T5 leave float16."""
    made = written(root, "t5", "half", HALF)
    for name in ("encoder", "decoder"):
        program = read_program(made.folder / f"{name}.mlpackage")
        halves = {one.kind for one in program.operations for port in one.outputs if port.dtype == "fp16"}
        assert not halves
        assert any(one.kind == "constexpr_cast" for one in program.operations)


@pytest.mark.nightly
def test_generated_texts_are_those_of_float32(root: Path) -> None:
    """Greedy and beams, over states: where float16 decides as float32 does, the texts are the same."""
    exact, half = written(root, "opt", "exact", Forms(Float32(), Float32())), written(root, "opt", "half", HALF)
    rng, same = np.random.default_rng(1), 0
    graphs = [one.spoken() for one in (exact, half)]
    for number in range(12):
        ids = rng.integers(5, 90, (2, 6))
        options = GenerationOptions(beams=1 + number % 4, max_new_tokens=10)
        made = [
            generate(graph, exact.source.embeddings()[ids], np.ones_like(ids), ids, options, eos=(4,), pad=1)
            for graph in graphs
        ]
        same += all(np.array_equal(one, other) for one, other in zip(*(each.sequences for each in made), strict=True))
    assert same >= 11


def test_a_text_that_outgrows_the_states_is_refused(root: Path) -> None:
    made = written(root, "opt", "half", HALF)
    graph = made.spoken()
    room = 3 * PIECE  # the model sees 80 tokens
    long = np.zeros((1, room + 1, made.language.width), np.float32)
    said = f"{room + 1} tokens .* are more than the {room} that this bundle has room for; .* larger capacity="
    with pytest.raises(UsageError, match=said):
        graph.start(long, np.ones((1, room + 1), np.int64))
    graph.start(long[:, :-1], np.arange(room)[None] >= PIECE)
    with pytest.raises(UsageError, match=said):
        graph.step(np.array([5]))
    graph.start(long[:, :3], np.ones((1, 3), np.int64))  # it can be used again


def test_a_text_for_retrieval_that_is_too_long(root: Path) -> None:
    made = written(root, "retrieval", "half", HALF)
    words = {name: np.ones((2, 61), np.int64) for name in ("input_ids", "attention_mask")}
    with pytest.raises(UsageError, match=r"a text of 61 tokens is longer than the 60 that this bundle takes; .* text="):
        made.network("text").run(words)
    with pytest.raises(EngineError, match=r"graph 'match' takes an input 'image_embeds', which is not given"):
        made.network("match").run(words)
    with pytest.raises(EngineError, match=r"'pixel_values' takes shape \[1, 3, 32, 32\], not \[1, 3, 16, 32\]"):
        made.network("vision").run({"pixel_values": np.zeros((2, 3, 16, 32), np.float32)})


def test_options_that_cannot_be(root: Path, tmp_path: Path) -> None:
    part = WrittenPart(Blip2(source(root, "opt")), "language", HALF)

    def convert(**options: Any) -> None:
        job = WrittenJob(part=part, out=tmp_path, work=tmp_path, options=CoremlOptions(**options))
        convert_written(job, lambda text, share: None)

    with pytest.raises(ConversionError, match=r"deployment=iOS16: .* need iOS18, which has states .* leave deployment"):
        convert(deployment="iOS16")
    with pytest.raises(UsageError, match=r"capacity=31 text=64: capacity has to be 32 or more, text 1 or more"):
        convert(capacity=PIECE - 1)
    with pytest.raises(UsageError, match=r"capacity=256 text=0"):
        convert(text=0)


def test_a_graph_without_a_cache_is_refused(root: Path) -> None:
    made = written(root, "opt", "half", HALF)
    graph = made.graphs["language"]
    other = msgspec.structs.replace(graph, inputs=tuple(one for one in graph.inputs if one.name != "pick"))
    network = made.network("language")
    assert isinstance(network, PackageNetwork)
    with pytest.raises(EngineError, match=r"graph 'language' takes .* and keeps no cache; convert the model again"):
        StatedOpt(network, other, made.language, made.source.embeddings())
    with pytest.raises(EngineError, match=r"graph 'language' takes \[1, 32\] tokens, not 2"):
        network.run({one.name: np.zeros((1, 2, 24)) for one in graph.inputs})


def counter(path: Path) -> Path:
    """A package that adds its input to a state, in two functions of other names for the result."""
    package = MilPackage(path)
    for name in ("first", "second"):
        function = package.function(name, "fp16")
        function.input("x.0", (2,), "fp32")
        state = function.state("sum", (2,))
        before = function.node("read_state", {"input": state}, (2,))
        function.write(state, function.node("add", {"x": before, "y": "x.0"}, (2,)))
        after = function.node("read_state", {"input": state}, (2,))
        function.output(f"{name}.before", before)
        function.output(f"{name}.after", after)
    package.save()
    return path


def test_states_outlast_a_run_and_are_shared_by_functions(tmp_path: Path) -> None:
    path = counter(tmp_path / "counter.mlpackage")
    assert read_back(path).keys() == {"first", "second"}
    first, second = (Interpreter(path, function=name) for name in ("first", "second"))
    assert [port.name for port in first.inputs] == ["x_0"]
    assert [port.name for port in first.states] == ["sum"]
    state, other, x = first.make_state(), second.make_state(), {"x_0": np.array([1, 2], np.float32)}
    found = first.run(x, state=state)
    assert (found["first_before"].tolist(), found["first_after"].tolist()) == ([0, 0], [1, 2])
    found = second.run(x, state=state)
    assert (found["second_before"].tolist(), found["second_after"].tolist()) == ([1, 2], [2, 4])
    assert other.read_state("sum").tolist() == [0, 0]
    other.write_state("sum", state.read_state("sum"))
    assert second.run(x, state=other)["second_after"].tolist() == [3, 6]
    assert state.read_state("sum").tolist() == [2, 4]
    assert Interpreter(path).outputs == first.outputs  # the first is the one that runs unasked


def test_what_does_not_fit_a_state(tmp_path: Path) -> None:
    path = counter(tmp_path / "counter.mlpackage")
    opened, x = Interpreter(path), {"x_0": np.zeros(2, np.float32)}
    with pytest.raises(EngineError, match=r"counter.mlpackage keeps sum from run to run: a state has to be given"):
        opened.run(x)
    with pytest.raises(EngineError, match=r"keeps 'sum', which the given state does not hold"):
        opened.run(x, state=InterpretedState(()))
    wide = opened.make_state()
    wide.tensors["sum"] = wide.tensors["sum"].repeat(2)
    with pytest.raises(EngineError, match=r"'sum' \(state\) has the shape 4, the file says 2"):
        opened.run(x, state=wide)
    with pytest.raises(EngineError, match=r"has no function 'third'; convert the model again"):
        Interpreter(path, function="third")


def test_equal_packages_are_equal_and_a_weight_is_stored_once(tmp_path: Path) -> None:
    files = [
        sorted(one for one in counter(tmp_path / f"{name}.mlpackage").rglob("*") if one.is_file()) for name in "ab"
    ]
    assert [one.read_bytes() for one in files[0]] == [one.read_bytes() for one in files[1]]
    package = MilPackage(tmp_path / "c.mlpackage")
    package.store("w", np.ones(3), "fp16")
    with pytest.raises(ConversionError, match=r"the weight 'w' is written twice"):
        package.store("w", np.ones(3), "fp16")
    function = package.function("main", "fp16")
    function.input("x", (2,), "fp32")
    with pytest.raises(ConversionError, match=r"two tensors are called 'x'"):
        function.output("x", "x")


@pytest.mark.parametrize(("bits", "block", "blocks"), [(8, 0, 1), (4, 32, 3), (4, 64, 2), (4, 128, 1)])
def test_integers_around_zero(bits: int, block: int, blocks: int) -> None:
    """96 inputs: blocks are the largest that divide them and are not larger than asked for."""
    weight = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32)
    weight[2] = 0
    integers, scales = symmetric(weight, bits, block)
    top = (1 << (bits - 1)) - 1
    assert scales.shape == (5, blocks)
    assert np.abs(integers).max() == top
    steps = np.repeat(scales, 96 // blocks, 1)
    assert (np.abs(integers * steps - weight) <= steps * 0.5 + np.abs(weight) * 1e-3).all()
