"""BLIP-2 on ncnn: its files written tensor by tensor, against transformers and against products in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")
pytest.importorskip("ncnn", reason="needs ncnn")

import tiny_blip2
from blip2_writing import ONE_THREAD, Written, edited, torch_model, write_graphs
from test_language_engines import Unordered, case, ended, ours, same, theirs

from edgekit.arrays import Floats
from edgekit.converters.ncnn.layers import NcnnLayers
from edgekit.converters.ncnn.writer import NcnnWriter
from edgekit.errors import EngineError, SourceError
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Blocks, ChannelRanges, Float16, Float32, Form, Static
from edgekit.runtimes.engines import Network, open_network

every_kind = pytest.mark.parametrize("kind", ["opt", "t5"])
configurations = pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 33), marks=pytest.mark.nightly)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Written]]:
    root, made = tmp_path_factory.mktemp("ncnn"), {}
    for kind, write in (("opt", tiny_blip2.opt), ("t5", tiny_blip2.t5), ("retrieval", tiny_blip2.retrieval)):
        folder = write(root / kind)
        made[kind] = torch_model(folder), write_graphs(folder, "ncnn", root / f"{kind}-ncnn")
    return made


@configurations
@every_kind
def test_random_configurations(kind: str, seeds: range, models: dict[str, tuple[Any, Written]]) -> None:
    """Greedy texts and beams, token for token."""
    model, written = models[kind]
    graph, ends = written.spoken(), 0
    for seed in seeds:
        given = case(kind, model, seed)
        made = ours(written, graph, given)
        same(kind, made, theirs(model, given), given)
        ends += int((made.lengths < given.options.max_new_tokens).sum())
    assert ends > 20 or len(seeds) < 20


@pytest.mark.nightly
@every_kind
def test_without_reordering_the_cache_the_texts_differ(kind: str, models: dict[str, tuple[Any, Written]]) -> None:
    model, written = models[kind]
    graph, different = Unordered(written.spoken()), 0
    for seed in range(12):
        given = case(kind, model, seed, beams=4, returned=1, max_new_tokens=14, min_new_tokens=8)
        begin = given.ids.shape[1] if kind == "opt" else 1
        reference = ended(theirs(model, given).sequences[:, begin:].numpy(), given.eos)
        different += [row.tolist() for row in ours(written, graph, given).sequences] != reference
    assert different >= 3


def test_retrieval(models: dict[str, tuple[Any, Written]]) -> None:
    """Vectors and decisions of transformers, for rows of different lengths."""
    model, written = models["retrieval"]
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 3, tiny_blip2.SIZE, tiny_blip2.SIZE)).astype(np.float32)
    ids, mask = rng.integers(5, 60, (2, 7)), np.ones((2, 7), np.int64)
    mask[1, 4:] = 0
    given = {
        "pixel_values": torch.from_numpy(pixels), "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
    }  # fmt: skip
    image = written.network("vision").run({"pixel_values": pixels})["image_embeds"]
    words = {"input_ids": ids, "attention_mask": mask}
    similar = model(**given, use_image_text_matching_head=False)
    vectors = written.network("qformer").run({"image_embeds": image})["image_vectors"]
    np.testing.assert_allclose(vectors, similar.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        written.network("text").run(words)["text_vector"], similar.text_embeds.numpy().reshape(2, -1), atol=1e-5
    )
    matched = model(**given, use_image_text_matching_head=True).logits_per_image.numpy()
    np.testing.assert_allclose(
        written.network("match").run({"image_embeds": image, **words})["logits"], matched, atol=1e-4
    )


class Tensors(Checkpoint):
    """A checkpoint of arrays."""

    def __init__(self, arrays: dict[str, Floats]) -> None:
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Floats:
        return self._arrays[name]


def product(folder: Path, weight: Floats, bias: Floats | None, form: Form) -> Network:
    """One linear layer."""
    arrays = {"layer.weight": weight} | ({} if bias is None else {"layer.bias": bias})
    with NcnnWriter(folder, "one") as writer:
        layers = NcnnLayers(writer, Tensors(arrays), form)
        x = layers.input("x", (-1, -1, weight.shape[1]))
        layers.output("y", layers.linear(x, "layer"), (-1, -1, len(weight)))
        graph = writer.save()
    return open_network("ncnn", folder, graph, ONE_THREAD)


def rounded(weight: Floats, bits: int, size: int) -> NDArray[np.float64]:
    """The weight on the grid of its blocks, one block after another."""
    made, top = weight.astype(np.float64), 2 ** (bits - 1) - 1
    for row in made:
        for first in range(0, len(row), size):
            block = row[first : first + size]
            step = np.abs(block).max() / top or 1
            row[first : first + size] = np.rint(block / step) * step
    return made


@pytest.mark.parametrize("inputs", [64, 75])
@pytest.mark.parametrize("form", [Blocks(8), Blocks(4), Blocks(4, 64), Blocks(8, 128), Float16(), Float32()])
def test_a_product_is_of_the_weights_on_their_grid(form: Form, inputs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(inputs)
    weight = rng.standard_normal((1030 if inputs == 75 else 12, inputs)).astype(np.float32)
    weight[3, :32] = 0
    bias = rng.standard_normal(len(weight)).astype(np.float32)
    x = rng.standard_normal((2, 5, inputs)).astype(np.float32)
    seen = rounded(weight, form.bits, form.size) if isinstance(form, Blocks) else weight.astype(np.float64)
    if isinstance(form, Float16):
        seen = weight.astype(np.float16).astype(np.float64)
    for added in (None, bias):
        network = product(tmp_path, weight, added, form)
        wanted = x @ seen.T + (0 if added is None else added)
        np.testing.assert_allclose(network.run({"x": x})["y"], wanted, atol=2e-5)
    told = {"Float32": "float32", "Float16": "float32, weights stored as float16"}.get(
        type(form).__name__, "float32, weights of 1 of 1 products in blocks of "
    )
    assert network.placement.arithmetic.startswith(told)
    bits = form.bits if isinstance(form, Blocks) else 16 if isinstance(form, Float16) else 32
    stored = (tmp_path / "one.bin").stat().st_size
    assert stored >= weight.size * bits / 8
    assert bits == 32 or stored < weight.size * (bits + 32 / 16) / 8 + 4 * len(weight) * 3 + 64


def test_static_int8_becomes_blocks(tmp_path: Path) -> None:
    """ncnn has one scale for all of a product's inputs: vision's INT8 is that of the weights."""
    weight = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    flat = np.zeros(32, np.float32)
    static = product(tmp_path, weight, None, Static({"layer.weight": ChannelRanges(flat, flat)}))
    assert static.placement.arithmetic == "float32, weights of 1 of 1 products in blocks of 8 bits"
    x = np.ones((1, 1, 32), np.float32)
    np.testing.assert_allclose(static.run({"x": x})["y"], x @ rounded(weight, 8, 32).T, atol=1e-5)


def test_weights_are_in_the_file_before_the_next_is_read(tmp_path: Path) -> None:
    """Memory holds one of them, whatever the checkpoint's size."""
    sizes, path = [], tmp_path / "one.bin"

    class Watched(Tensors):
        def __getitem__(self, name: str) -> Floats:
            sizes.append(path.stat().st_size)
            return np.ones((256, 256), np.float32)

        def __contains__(self, name: str) -> bool:
            return name.endswith("weight")

    with NcnnWriter(tmp_path, "one") as writer:
        layers = NcnnLayers(writer, Watched({}), Float32())
        x = layers.input("x", (-1, -1, 256))
        for number in range(8):
            x = layers.linear(x, f"layer{number}")
    assert sizes == sorted(sizes)
    assert all(size > (number - 1) * 256 * 256 * 4 for number, size in enumerate(sizes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "graph 'one' takes an input 'x', which is not given"),
        ({"x": np.zeros((1, 2, 5), np.float32)}, r"input 'x' takes shape \[-1, -1, 4\], not \[1, 2, 5\]"),
        ({"x": np.zeros((2, 4), np.float32)}, r"input 'x' takes shape \[-1, -1, 4\], not \[2, 4\]"),
        ({"x": np.zeros((0, 1, 4), np.float32)}, r"input 'x' takes shape \[-1, -1, 4\], not \[0, 1, 4\]"),
    ],
)
def test_inputs_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    network = product(tmp_path, np.ones((3, 4), np.float32), None, Float32())
    with pytest.raises(EngineError, match=message):
        network.run({name: array for name, array in changes.items() if array is not None})


def test_what_ncnn_cannot_hold_is_named(models: dict[str, tuple[Any, Written]], tmp_path: Path) -> None:
    folder = models["opt"][1].source.folder
    config = models["opt"][1].source.config
    other = edited(folder, tmp_path / "other", text_config={**config["text_config"], "activation_function": "prelu"})
    with pytest.raises(SourceError, match="activation 'prelu' is not one of"):
        write_graphs(other, "ncnn", tmp_path / "out")
    with NcnnWriter(tmp_path, "one") as writer:
        layers = NcnnLayers(writer, Tensors({}), Float32())
        with pytest.raises(SourceError, match="norm has no weights, and ncnn no such normalisation; choose another"):
            layers.normalisation(layers.input("x", (-1, -1, 4)), "norm", 1e-5)


def test_a_weight_that_is_cut_off_is_refused(models: dict[str, tuple[Any, Written]], tmp_path: Path) -> None:
    written = models["opt"][1]
    for name in written.graphs["qformer"].files:
        data = (written.folder / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2] if name.endswith(".bin") else data)
    with pytest.raises(EngineError, match="cannot read the weights, truncated"):
        open_network("ncnn", tmp_path, written.graphs["qformer"], ONE_THREAD)
