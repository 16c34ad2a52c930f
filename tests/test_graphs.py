"""Graphs written from checkpoints: equal to transformers in floats, small in integers, refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which is compared with")
for engine in ("onnxruntime", "openvino"):
    pytest.importorskip(engine, reason="needs the engines of the extra 'convert'")

import tiny_blip2
from blip2_writing import edited, pixels, torch_model, write_graphs
from safetensors.torch import load_file, save_file

from edgekit.conversion.ranges import observe
from edgekit.errors import ConversionError, SourceError, UsageError
from edgekit.graph.blip2.blip2 import Blip2, Forms
from edgekit.graph.blip2.cache import SharedCache
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.contract import contract_of
from edgekit.graph.blip2.forms import Blocks, ChannelRanges, Float32, Static, blocks
from edgekit.graph.blip2.precision import PartPrecision, forms, read_precisions
from edgekit.graph.blip2.t5 import T5Config, buckets
from edgekit.graph.blip2.writer import GraphWriter
from edgekit.runtimes.engines import SessionOptions, open_network
from edgekit.runtimes.engines.openvino.session import import_openvino

TARGETS = ("onnx", "openvino")
KINDS: dict[str, Callable[[Path], Path]] = {
    "opt": tiny_blip2.opt, "t5": tiny_blip2.t5, "retrieval": tiny_blip2.retrieval
}  # fmt: skip
every_target = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("blip2")
    return {kind: write(root / kind) for kind, write in KINDS.items()}


@every_target
@pytest.mark.parametrize("kind", KINDS)
def test_vision_and_queries_are_those_of_transformers(
    kind: str, target: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    model, written, given = torch_model(folders[kind]), write_graphs(folders[kind], target, tmp_path), pixels(2)
    image = model.vision_model(torch.from_numpy(given)).last_hidden_state
    made = written.network("vision").run({"pixel_values": given})["image_embeds"]
    np.testing.assert_allclose(made, image.numpy(), atol=1e-5)
    tokens = model.query_tokens.expand(2, -1, -1)
    queries = model.qformer(query_embeds=tokens, encoder_hidden_states=image).last_hidden_state
    found = written.network("qformer").run({"image_embeds": image.numpy()})
    np.testing.assert_allclose(found["query_output"], queries.numpy(), atol=2e-5)
    if kind != "retrieval":
        np.testing.assert_allclose(found["language_inputs"], model.language_projection(queries).numpy(), atol=2e-5)


@every_target
def test_itc_and_itm_are_those_of_transformers(target: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model, written = torch_model(folders["retrieval"]), write_graphs(folders["retrieval"], target, tmp_path)
    given, ids = pixels(3), np.random.default_rng(0).integers(4, 60, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = mask[2, 2:] = 0
    arrays = {"input_ids": ids, "attention_mask": mask}
    theirs = [torch.from_numpy(one) for one in (given, ids, mask)]
    contrasted, matched = model(*theirs), model(*theirs, use_image_text_matching_head=True)
    text = written.network("text").run(arrays)["text_vector"]
    image = written.network("vision").run({"pixel_values": given})["image_embeds"]
    vectors = written.network("qformer").run({"image_embeds": image})["image_vectors"]
    logits = written.network("match").run({"image_embeds": image, **arrays})["logits"]
    np.testing.assert_allclose(text, contrasted.text_embeds.numpy(), atol=1e-4)
    np.testing.assert_allclose(vectors, contrasted.image_embeds.numpy(), atol=1e-4)
    np.testing.assert_allclose(logits, matched.logits_per_image.numpy(), atol=1e-4)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2  # a pair of another kind is another number


@given(
    count=st.sampled_from([8, 16, 32, 64]),
    reach=st.integers(17, 300),
    two_sided=st.booleans(),
)
@settings(deadline=None)
def test_distances_fall_into_the_buckets_of_transformers(count: int, reach: int, two_sided: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    reach = max(reach, count)  # transformers takes the logarithm of reach / (count / 2)
    config = T5Config(relative_attention_num_buckets=count, relative_attention_max_distance=reach)
    away = torch.arange(-2 * reach, 2 * reach + 1)
    theirs = T5Attention._relative_position_bucket(away, two_sided, count, reach).numpy()
    ours = buckets(config, two_sided=two_sided)[np.clip(away.numpy(), -reach, reach) + reach]
    np.testing.assert_array_equal(ours, theirs)


@given(st.integers(0, 10_000), st.sampled_from([4, 8]), st.sampled_from([32, 64, 128]), st.integers(1, 200))
@settings(deadline=None)
def test_blocks_are_within_half_a_step(seed: int, bits: int, size: int, inputs: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((5, inputs)).astype(np.float32)
    integers, scales = blocks(weight, bits, size)
    half = 1 << (bits - 1)
    assert integers.shape == (5, -(-inputs // size), size * bits // 8)
    wide = integers if bits == 8 else np.stack([integers & 15, integers >> 4], -1).reshape(5, -1, size)
    restored = ((wide.astype(np.float32) - half) * scales[..., None]).reshape(5, -1)[:, :inputs]
    step = np.abs(scales).repeat(size, 1)[:, :inputs]
    # The largest value lies on the lowest integer; one of the other sign may be cut off by one step at most.
    assert (np.abs(restored - weight) <= step * (1 + 1e-5)).all()
    assert (np.abs(restored - weight) <= step / 2 * (1 + 1e-5)).mean() > 0.7


@every_target
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, 64), (8, 32)])
def test_engines_compute_with_the_integers_of_blocks(bits: int, size: int, target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(bits)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, 80), (2, 3, 80)))
    with GraphWriter(tmp_path, "one") as writer:
        made = Blocks(bits, size).product(writer, writer.input("x", (-1, -1, 80)), "w", weight)
        writer.output("y", made, (-1, -1, 24))
        graph = writer.save()
    engine = {"onnx": "onnxruntime", "openvino": "openvino"}[target]
    if target == "openvino":
        openvino = pytest.importorskip("openvino", reason="needs openvino: pip install edgekit[openvino]")
        read = openvino.convert_model(tmp_path / graph.files[0])
        openvino.save_model(read, tmp_path / "one.xml", compress_to_fp16=False)
        graph = msgspec.structs.replace(graph, files=("one.xml", "one.bin"))
    given = open_network(engine, tmp_path, graph, SessionOptions()).run({"x": x})["y"]
    integers, scales = blocks(weight, bits, size)
    wide = integers if bits == 8 else np.stack([integers & 15, integers >> 4], -1).reshape(24, -1, size)
    restored = ((wide.astype(np.float32) - (1 << (bits - 1))) * scales[..., None]).reshape(24, -1)[:, :80]
    # Activations are in 8 bits on the way: a hundredth of their spread.
    np.testing.assert_allclose(given, x @ restored.T, atol=0.02 * np.abs(x @ restored.T).max())
    assert np.abs(given - x @ (restored + 0.1).T).max() > 1


def test_static_int8_is_close_and_smoothing_helps_with_large_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((32, 64), (1, 50, 64)))
    gain = np.where(np.arange(64) % 16 == 0, 60, 1).astype(np.float32)
    shift = np.zeros(64, np.float32)
    normal = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * gain
    ranges = {"w": ChannelRanges(normal.min((0, 1)), normal.max((0, 1)))}
    errors = []
    for number, smoothed in enumerate((False, True)):
        from edgekit.graph.blip2.forms import Normalised

        form: Any = Static(ranges)
        values = Normalised(gain, shift, weight)
        if smoothed:
            form, values = form.behind("w", values)
        folder = tmp_path / str(number)
        folder.mkdir()
        with GraphWriter(folder, "one") as writer:
            constants = [writer.weight(name, getattr(values, name)) for name in ("gain", "shift")]
            h = writer.node("LayerNormalization", writer.input("x", (1, -1, 64)), *constants, axis=-1, epsilon=1e-6)
            writer.output("y", form.product(writer, h, "w", values.weight), (1, -1, 32))
            graph = writer.save()
        made = open_network("onnxruntime", folder, graph, SessionOptions()).run({"x": x})["y"]
        errors.append(np.abs(made - normal @ weight.T).mean() / np.abs(normal @ weight.T).mean())
    assert errors[1] < 0.02
    assert errors[1] < errors[0]


def test_the_observed_ranges_are_those_of_the_layers_inputs(folders: dict[str, Path]) -> None:
    model, given = torch_model(folders["opt"]), [pixels(1, seed) for seed in range(3)]
    ranges = observe(Blip2(folders["opt"]), given)
    seen: list[np.ndarray[Any, Any]] = []
    layer = model.vision_model.encoder.layers[1].mlp.fc2
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numpy()))
    for one in given:
        model.vision_model(torch.from_numpy(one))
    found = ranges["vision_model.encoder.layers.1.mlp.fc2.weight"]
    np.testing.assert_allclose(found.low, np.stack(seen).min((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found.high, np.stack(seen).max((0, 1, 2)), atol=1e-5)
    assert len(ranges) == 2 * 4


@every_target
@pytest.mark.parametrize(
    ("precision", "bits"), [("fp32", 32), ("fp16", 16), ("int8", 9), ("int4", 5), ("int4-g128", 4.25)]
)
def test_files_are_as_small_as_the_bits_that_were_asked_for(
    precision: str, bits: float, target: str, tmp_path: Path
) -> None:
    """A scale of 32 bits for every block of 32 inputs is a bit more for each."""
    weight = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    form = forms("language", read_precisions([precision])[0].language, None).layers
    with GraphWriter(tmp_path, "one") as writer:
        writer.output("y", form.product(writer, writer.input("x", (-1, 512)), "w", weight), (-1, 512))
        writer.save()
    path = tmp_path / "one.onnx.data"
    if target == "openvino":
        library = import_openvino()
        library.save_model(
            library.Core().read_model(tmp_path / "one.onnx"), tmp_path / "one.xml", compress_to_fp16=False
        )
        path = tmp_path / "one.bin"
    assert 8 * path.stat().st_size / weight.size == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_checkpoints_in_shards_are_read(dtype: str, folders: dict[str, Path], tmp_path: Path) -> None:
    source = load_file(folders["opt"] / "model.safetensors")
    halves = {name: tensor.to(getattr(torch, dtype)) for name, tensor in source.items()}
    sharded = tmp_path / "sharded"
    edited(folders["opt"], sharded)
    (sharded / "model.safetensors").unlink()
    names = sorted(halves)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, kept in parts.items():
        save_file({name: halves[name].contiguous() for name in kept}, sharded / file)
    index = {"weight_map": {name: file for file, kept in parts.items() for name in kept}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(sharded)
    assert set(checkpoint.names) == set(names)
    for name in names[:5]:
        np.testing.assert_array_equal(checkpoint[name], halves[name].float().numpy())
        assert checkpoint.shape(name) == tuple(halves[name].shape)


def test_a_graph_that_is_written_again_is_not_longer(folders: dict[str, Path], tmp_path: Path) -> None:
    """ONNX's own external data appends to a file that is there."""
    source, form = Blip2(folders["opt"]), Forms(Float32(), Float32())
    sizes = []
    for _ in range(2):
        graph = source.write("vision", tmp_path, form, SharedCache)
        sizes.append([(tmp_path / name).stat().st_size for name in graph.files])
    assert sizes[0] == sizes[1]


def test_a_weight_is_written_once(tmp_path: Path) -> None:
    with GraphWriter(tmp_path, "one") as writer:
        writer.weight("w", np.zeros(3, np.float32))
        with pytest.raises(ConversionError, match="weight 'w' is written twice"):
            writer.weight("w", np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("fp32",), ["fp32"]),
        (("int8", "int4"), ["int8", "int4"]),
        (("vision=int8", "qformer=int8", "language=int4"), ["int4"]),
        (("vision=int8", "language=int4-g128"), ["int8-fp16-int4-g128"]),
        (("language=int4",), ["fp16-fp16-int4"]),
        (("language=int4-g128-awq",), ["fp16-fp16-int4-g128-awq"]),
        (("language=int4.50-awq-gptq",), ["fp16-fp16-int4.5-awq-gptq"]),
        (("language=int8.0",), ["fp16-fp16-int8"]),
        (("language=int4", "language=int8"), ["fp16-fp16-int4", "fp16-fp16-int8"]),
        (("language=int4", "language=int4", "qformer=fp32", "qformer=fp16"), ["fp16-fp32-int4", "fp16-fp16-int4"]),
    ],
)
def test_precisions_by_preset_and_part(given: tuple[str, ...], names: list[str]) -> None:
    assert [precision.name for precision in read_precisions(given)] == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("w8a8",), "--precision 'w8a8' is not one of: fp32, fp16, int8, int4, int4-g64, int4-g128"),
        (("fp16-g32",), "--precision 'fp16-g32' is not one of"),
        (("int4-hqq",), "--precision int4-hqq: method 'hqq' is not one of: awq, gptq, scale, awq-gptq"),
        (("fp16-awq",), "--precision fp16-awq: awq is for weights of 4 bits; give int4-awq, or leave it out"),
        (("int8-gptq",), "--precision int8-gptq: gptq is for weights of 4 bits; give int4-gptq"),
        (("int3",), "--precision int3: weights have 4 bits to 8 in the mean, not 3"),
        (("int8.5",), "--precision int8.5: weights have 4 bits to 8 in the mean, not 8.5"),
        (("vision=int8", "int4"), "give presets, or PART=PRECISION for parts, not both"),
        (("head=int8",), "--precision head=int8: 'head' is not one of: vision, qformer, language"),
    ],
)
def test_other_precisions_are_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        read_precisions(given)


def test_a_budget_of_bits_goes_with_a_language_part_in_int4() -> None:
    (made,) = read_precisions(["int4"], 4.5)
    assert (made.name, made.language.bits, made.calibrated) == ("int8-int8-int4.5", 4.5, True)
    (made,) = read_precisions(["language=int4-g64-awq"], 5)
    assert str(made.language) == "int5-g64-awq"
    assert [str(read_precisions(["int4"], bits)[0].language) for bits in (4, 8)] == ["int4", "int8"]
    for words, bits, message in (
        (["int4"], 3.9, "--language-bits 3.9: weights have 4 bits to 8 in the mean"),
        (["int4"], 9, "--language-bits 9: weights have 4 bits to 8 in the mean"),
        (["int4"], float("nan"), "--language-bits nan: weights have 4 bits to 8 in the mean"),
        (["int8"], 5, "--language-bits 5 goes with a language part in int4, not in int8"),
        (["language=int4.5"], 5, "--language-bits 5 goes with a language part in int4, not in int4.5"),
    ):
        with pytest.raises(UsageError, match=message):
            read_precisions(words, bits)


def test_static_vision_needs_ranges() -> None:
    with pytest.raises(ConversionError, match="give --data with a folder of photographs"):
        forms("vision", PartPrecision("int8"), None)


def test_the_head_keeps_eight_bits() -> None:
    made = forms("language", PartPrecision("int4", 64), None)
    assert (made.layers, made.head) == (Blocks(4, 64), Blocks(8, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BlipModel"]}, "architecture 'BlipModel' is not one of: Blip2ForConditionalGeneration"),
        ({"text_config": {"model_type": "llama"}}, "language model 'llama' is not one of: opt, t5"),
        ({"vision_config": {"hidden_size": "wide"}}, "vision_config of config.json: Expected `int`, got `str`"),
    ],
)
def test_other_models_are_refused(
    changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = edited(folders["opt"], tmp_path / "other", **changes)
    with pytest.raises(SourceError, match=message):
        _ = Blip2(folder).vision


def test_a_checkpoint_with_less_in_it_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(folders["opt"], tmp_path / "less")
    (folder / "model.safetensors").unlink()
    save_file({"query_tokens": torch.zeros(1, 4, 24)}, folder / "model.safetensors")
    with pytest.raises(
        SourceError, match=r"no tensor 'vision_model\.embeddings\.position_embedding'; is this a whole BLIP-2"
    ):
        Blip2(folder).write("vision", tmp_path, Forms(Float32(), Float32()), SharedCache)
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(SourceError, match="not a whole safetensors file"):
        Blip2(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="no such file; only safetensors are read"):
        Blip2(folder)


def test_activations_that_are_not_known_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((folders["opt"] / "config.json").read_text())
    folder = edited(folders["opt"], tmp_path / "other", vision_config={**config["vision_config"], "hidden_act": "mish"})
    with pytest.raises(SourceError, match="activation 'mish' is not one of: gelu"):
        Blip2(folder).write("vision", tmp_path, Forms(Float32(), Float32()), SharedCache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenizer.json", "no tokenizer.json; save the fast tokenizer"),
        ("preprocessor_config.json", "no preprocessor_config.json, which says how images are resized"),
    ],
)
def test_what_a_contract_needs(name: str, message: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(folders["opt"], tmp_path / "less")
    (folder / name).unlink()
    with pytest.raises(SourceError, match=message):
        contract_of(Blip2(folder))


def test_contract(folders: dict[str, Path]) -> None:
    contract = contract_of(Blip2(folders["t5"]))
    assert contract.task == "vision-language"
    assert (contract.image.size, contract.image.resize, contract.image.interpolation) == (
        (32, 32),
        "stretch",
        "bicubic",
    )
    language = contract.language
    assert language is not None
    assert (language.family, language.queries, language.pad, language.eos, language.start) == ("t5", 4, 0, (1,), 0)
    assert (language.layers, language.heads, language.head_size, language.width) == (2, 3, 8, 24)
    assert language.prompts["ask"] == "Question: {} Answer:"
