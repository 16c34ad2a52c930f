"""Files of ncnn and LiteRT that are written tensor by tensor: their products, against numpy, and what is refused.

What whole models generate is tested in test_language_targets.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")
pytest.importorskip("ncnn", reason="needs ncnn")
pytest.importorskip("ai_edge_litert", reason="needs LiteRT")

import tiny_blip2
from blip2_writing import ONE_THREAD, Written, edited, torch_model, write_graphs

from edgekit.arrays import Floats
from edgekit.converters.litert.layers import LiteRTLayers
from edgekit.converters.litert.writer import LiteRTWriter
from edgekit.converters.ncnn.layers import NcnnLayers
from edgekit.converters.ncnn.writer import NcnnWriter
from edgekit.errors import EngineError, SourceError
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Blocks, ChannelRanges, Float16, Float32, Form, Static
from edgekit.runtimes.engines import Network, open_network
from edgekit.runtimes.engines.ncnn.wide import widened


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Written]]:
    root, made = tmp_path_factory.mktemp("ncnn"), {}
    for kind, write in (("opt", tiny_blip2.opt), ("retrieval", tiny_blip2.retrieval)):
        folder = write(root / kind)
        made[kind] = torch_model(folder), write_graphs(folder, "ncnn", root / f"{kind}-ncnn")
    return made


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


FORMATS: dict[str, tuple[Any, Any]] = {"ncnn": (NcnnWriter, NcnnLayers), "litert": (LiteRTWriter, LiteRTLayers)}
LOWEST = {"ncnn": -127, "litert": -128}
"""The least of the integers that an engine rounds inputs to."""

every_target = pytest.mark.parametrize("target", list(FORMATS))


def product(target: str, folder: Path, weight: Floats, bias: Floats | None, form: Form) -> Network:
    """One linear layer."""
    arrays = {"layer.weight": weight} | ({} if bias is None else {"layer.bias": bias})
    kind, written = FORMATS[target]
    with kind(folder, "one") as writer:
        layers = written(writer, Tensors(arrays), form)
        x = layers.input("x", (-1, -1, weight.shape[1]))
        layers.output("y", layers.linear(x, "layer"), (-1, -1, len(weight)))
        graph = writer.save()
    return open_network(target, folder, graph, ONE_THREAD)


def rounded(weight: Floats, bits: int, size: int, *, coarse: bool = False) -> NDArray[np.float64]:
    """The weight on the grid of its blocks, one block after another; ``coarse`` scales are bfloat16."""
    made, top = weight.astype(np.float64), 2 ** (bits - 1) - 1
    for row in made:
        for first in range(0, len(row), size):
            block = row[first : first + size]
            step = np.abs(block).max() / top or 1
            if coarse:
                step = torch.tensor(step, dtype=torch.bfloat16).item()
            row[first : first + size] = np.clip(np.rint(block / step), -top, top) * step
    return made


def on_grid(target: str, weight: Floats, form: Form) -> NDArray[np.float64]:
    """The weight as a file of the target holds it."""
    if isinstance(form, Float16):
        return weight.astype(np.float16).astype(np.float64)
    if not isinstance(form, Blocks):
        return weight.astype(np.float64)
    if target == "ncnn":
        return rounded(weight, form.bits, form.size)
    if form.bits == 4 and not weight.shape[1] % form.size:
        return rounded(weight, 4, form.size, coarse=True)
    return rounded(weight, 8, weight.shape[1])


def whole_numbers(target: str, inputs: int) -> Floats:
    """Inputs that rounding to 8 bits leaves as they are: integers, and in each block the least and the greatest."""
    low = LOWEST[target]
    x = np.random.default_rng(1).integers(low, 128, (2, 5, inputs)).astype(np.float32)
    x[..., 0::32], x[..., 1::32] = low, 127
    return x


@pytest.mark.parametrize("inputs", [64, 75])
@pytest.mark.parametrize("form", [Blocks(8), Blocks(4), Blocks(4, 64), Blocks(8, 128), Float16(), Float32()])
@every_target
def test_a_product_is_of_the_weights_on_their_grid(target: str, form: Form, inputs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(inputs)
    weight = rng.standard_normal((1030 if inputs == 75 else 12, inputs)).astype(np.float32)
    weight[3, :32] = 0
    bias = rng.standard_normal(len(weight)).astype(np.float32)
    x, seen = whole_numbers(target, inputs), on_grid(target, weight, form)
    for added in (None, bias):
        network = product(target, tmp_path, weight, added, form)
        wanted = x @ seen.T + (0 if added is None else added)
        close = np.isclose(network.run({"x": x})["y"], wanted, atol=0.02, rtol=1e-4)
        assert close.mean() > 0.998  # of ten thousands of weights one lies in the middle of two steps
    bits = form.bits if isinstance(form, Blocks) else 16 if isinstance(form, Float16) else 32
    if target == "litert" and bits == 4 and np.array_equal(seen, rounded(weight, 8, inputs)):
        bits = 8
    stored = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix in (".bin", ".tflite"))
    assert weight.size * bits / 8 <= stored < weight.size * (bits + 2) / 8 + 20 * len(weight) + 4096


@pytest.mark.parametrize(
    ("target", "form", "told"),
    [
        ("ncnn", Float32(), "float32"),
        ("ncnn", Float16(), "float32, weights stored as float16"),
        ("ncnn", Blocks(4), "float32, weights of 1 of 1 products in blocks of 4 bits, held in 8, the input too"),
        ("ncnn", Blocks(8), "float32, weights of 1 of 1 products in blocks of 8 bits; where 8, the input too"),
        ("litert", Float32(), "float32"),
        ("litert", Float16(), "float32"),
        ("litert", Blocks(4), "int8 in 1 of 1 products, float32 elsewhere"),
        ("litert", Blocks(8), "int8 in 1 of 1 products, float32 elsewhere"),
    ],
)
def test_the_arithmetic_is_told(target: str, form: Form, told: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    assert product(target, tmp_path, weight, None, form).placement.arithmetic == told


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 75), (3, 34), (1030, 66)])
def test_integers_of_4_bits_are_left_where_rows_are_no_whole_words(outputs: int, inputs: int, tmp_path: Path) -> None:
    """ncnn's loop over single weights runs them: inputs in floats, as they are."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    x = rng.standard_normal((1, 5, inputs)).astype(np.float32)
    network = product("ncnn", tmp_path, weight, None, Blocks(4))
    assert network.placement.arithmetic == "float32, weights of 1 of 1 products in blocks of 4 bits"
    wanted = x @ rounded(weight, 4, 32).T
    assert np.isclose(network.run({"x": x})["y"], wanted, atol=1e-4).mean() > 0.998


def test_wide_weights_read_an_input_of_8_bits(tmp_path: Path) -> None:
    """Beside the same file by ncnn itself, whose product of 4 bits reads floats."""
    import ncnn

    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 128), (5, 128)))
    wide = product("ncnn", tmp_path, weight, weight[:, 0].copy(), Blocks(4)).run({"x": x[None]})["y"][0]
    net = ncnn.Net()
    assert (net.load_param(str(tmp_path / "one.param")), net.load_model(str(tmp_path / "one.bin"))) == (0, 0)
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(x).clone())
    narrow = np.array(extractor.extract("y")[1])
    seen = rounded(weight, 4, 32).T
    np.testing.assert_allclose(narrow, x @ seen + weight[:, 0], atol=1e-4)
    np.testing.assert_allclose(wide, rounded(x, 8, 32) @ seen + weight[:, 0], atol=1e-4)
    assert np.abs(wide - narrow).max() > 0.01


def test_files_that_are_laid_out_otherwise_are_not_widened(tmp_path: Path) -> None:
    """A layer with weights that edgekit does not write, and bytes that no layer reads."""
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    product("ncnn", tmp_path, weight, None, Blocks(4))
    param, weights = tmp_path / "one.param", tmp_path / "one.bin"
    assert widened(param, weights)
    text = param.read_text()
    param.write_text(text.replace("Noop ", "PReLU"))
    assert widened(param, weights) is None
    param.write_text(text)
    weights.write_bytes(weights.read_bytes() + bytes(4))
    assert widened(param, weights) is None


@every_target
def test_static_int8_is_left_to_the_engine(target: str, tmp_path: Path) -> None:
    """Both find the ranges of inputs by themselves: those of the calibration images are not needed."""
    weight = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    flat = np.zeros(32, np.float32)
    static = product(target, tmp_path, weight, None, Static({"layer.weight": ChannelRanges(flat, flat)}))
    x = whole_numbers(target, 32)
    np.testing.assert_allclose(static.run({"x": x})["y"], x @ rounded(weight, 8, 32).T, atol=1e-2, rtol=1e-4)


@every_target
def test_weights_are_in_the_file_before_the_next_is_read(target: str, tmp_path: Path) -> None:
    """Memory holds one of them, whatever the checkpoint's size."""
    sizes, path = [], tmp_path / {"ncnn": "one.bin", "litert": "one.weights"}[target]

    class Watched(Tensors):
        def __getitem__(self, name: str) -> Floats:
            sizes.append(path.stat().st_size)
            return np.ones((256, 256), np.float32)

        def __contains__(self, name: str) -> bool:
            return name.endswith("weight")

    kind, written = FORMATS[target]
    with kind(tmp_path, "one") as writer:
        layers = written(writer, Watched({}), Float32())
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
@every_target
def test_inputs_that_do_not_fit(target: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    network = product(target, tmp_path, np.ones((3, 4), np.float32), None, Float32())
    with pytest.raises(EngineError, match=message):
        network.run({name: array for name, array in changes.items() if array is not None})


@every_target
def test_an_unknown_activation_is_named(target: str, models: dict[str, tuple[Any, Written]], tmp_path: Path) -> None:
    source = models["opt"][1].source
    text = {**source.config["text_config"], "activation_function": "prelu"}
    other = edited(source.folder, tmp_path / "other", text_config=text)
    with pytest.raises(SourceError, match="activation 'prelu' is not one of"):
        write_graphs(other, target, tmp_path / "out")


def test_a_normalisation_without_weights(tmp_path: Path) -> None:
    """ncnn has none; LiteRT's is made of smaller operators."""
    with NcnnWriter(tmp_path, "one") as writer:
        layers = NcnnLayers(writer, Tensors({}), Float32())
        with pytest.raises(SourceError, match="norm has no weights, and ncnn no such normalisation; choose another"):
            layers.normalisation(layers.input("x", (-1, -1, 4)), "norm", 1e-5)
    with LiteRTWriter(tmp_path, "two") as litert:
        made = LiteRTLayers(litert, Tensors({}), Float32())
        made.output("y", made.normalisation(made.input("x", (-1, -1, 4)), "norm", 1e-5), (-1, -1, 4))
        graph = litert.save()
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    found = open_network("litert", tmp_path, graph, ONE_THREAD).run({"x": x})["y"]
    np.testing.assert_allclose(found, torch.nn.functional.layer_norm(torch.from_numpy(x), (4,)).numpy(), atol=1e-5)


def test_a_weight_that_is_cut_off_is_refused(models: dict[str, tuple[Any, Written]], tmp_path: Path) -> None:
    written = models["opt"][1]
    for name in written.graphs["qformer"].files:
        data = (written.folder / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2] if name.endswith(".bin") else data)
    with pytest.raises(EngineError, match="cannot read the weights, truncated"):
        open_network("ncnn", tmp_path, written.graphs["qformer"], ONE_THREAD)
