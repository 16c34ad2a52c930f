"""Core ML packages as they are stored: compressed weights, and everything that can be wrong with one."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EngineError

torch = pytest.importorskip("torch", reason="needs torch: pip install edgekit[convert]")
ct = pytest.importorskip("coremltools", reason="needs the coreml toolchain: pip install edgekit[convert]")

from coreml_programs import close, compute, positive, random, save
from coremltools.converters.mil import Builder as mb  # noqa: N813

from edgekit.emulators.coreml.interpreter import Interpreter
from edgekit.emulators.coreml.package import read_program, unpack

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
X = random(2, 4, 6, 5)


@functools.lru_cache
def linear_package(folder: Path, target: str) -> tuple[Path, Any]:
    """A linear layer with its weights in weight.bin, and an input for it; made once for each target."""
    weight, x = random(64, 64), random(3, 64, seed=1)
    (folder / target).mkdir()
    package = save(folder / target, lambda x: mb.linear(x=x, weight=weight), x, target=target, skip=False)
    return package, x


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("linear")


def compressed(kind: str) -> tuple[str, Callable[[Any], Any]]:
    from coremltools.optimize import coreml as cto

    def weights(config: Any, function: Any) -> Callable[[Any], Any]:
        return lambda model: function(model, cto.OptimizationConfig(global_config=config))

    palettes, linear, pruning = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig, cto.OpMagnitudePrunerConfig
    return {
        "palette 4 bits iOS16": ("iOS16", weights(palettes(nbits=4, weight_threshold=0), cto.palettize_weights)),
        "palette 6 bits iOS17": ("iOS17", weights(palettes(nbits=6, weight_threshold=0), cto.palettize_weights)),
        "palettes by group": (
            "iOS18",
            weights(
                palettes(nbits=3, granularity="per_grouped_channel", group_size=16, weight_threshold=0),
                cto.palettize_weights,
            ),
        ),
        "palette of vectors": ("iOS18", weights(palettes(nbits=4, cluster_dim=2, weight_threshold=0),
                                                cto.palettize_weights)),
        "int8 iOS17": ("iOS17", weights(linear(mode="linear", weight_threshold=0), cto.linear_quantize_weights)),
        "int8 iOS18": ("iOS18", weights(linear(mode="linear", weight_threshold=0), cto.linear_quantize_weights)),
        "int4 by block": (
            "iOS18",
            weights(
                linear(dtype="int4", granularity="per_block", block_size=16, weight_threshold=0),
                cto.linear_quantize_weights,
            ),
        ),
        "uint4 by block": (
            "iOS18",
            weights(
                linear(mode="linear", dtype="uint4", granularity="per_block", block_size=32, weight_threshold=0),
                cto.linear_quantize_weights,
            ),
        ),
        "sparse iOS17": ("iOS17", weights(pruning(target_sparsity=0.7, weight_threshold=0), cto.prune_weights)),
        "sparse iOS18": ("iOS18", weights(pruning(target_sparsity=0.7, weight_threshold=0), cto.prune_weights)),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", [
    "palette 4 bits iOS16", "palette 6 bits iOS17", "palettes by group", "palette of vectors", "int8 iOS17",
    "int8 iOS18", "int4 by block", "uint4 by block", "sparse iOS17", "sparse iOS18",
])  # fmt: skip
def test_compressed_weights_are_what_coremltools_makes_of_them(kind: str, tmp_path: Path, made: Path) -> None:
    target, compress = compressed(kind)
    package, x = linear_package(made, target)
    small = compress(ct.models.MLModel(str(package), skip_model_load=True))
    small.save(str(tmp_path / "small.mlpackage"))
    kinds = {one.kind for one in read_program(tmp_path / "small.mlpackage").operations}
    assert any(one.startswith("constexpr_") for one in kinds), "nothing was compressed"
    (found,) = compute(tmp_path / "small.mlpackage", x)
    plain = ct.optimize.coreml.decompress_weights(small)  # Apple's own reading of the same weights
    plain.save(str(tmp_path / "plain.mlpackage"))
    (wanted,) = compute(tmp_path / "plain.mlpackage", x)
    close(found, wanted, 1e-4)
    assert np.abs(found - compute(package, x)[0]).max() > 1e-3, "compressing changes the numbers"


@given(st.integers(1, 8), st.booleans(), st.lists(st.integers(0, 255), max_size=20))
def test_small_integers_are_unpacked_lowest_bits_first(bits: int, signed: bool, values: list[int]) -> None:
    expected = [value % (1 << bits) for value in values]
    number = sum(value << (bits * place) for place, value in enumerate(expected))
    packed = np.frombuffer(number.to_bytes((bits * len(values) + 7) // 8, "little"), np.uint8)
    if signed:
        expected = [value - (1 << bits) if value >= 1 << (bits - 1) else value for value in expected]
    assert unpack(packed, bits, len(values), signed).tolist() == expected


def test_too_few_packed_bytes_are_refused() -> None:
    with pytest.raises(EngineError, match="1 bytes do not hold 3 integers of 4 bits"):
        unpack(np.zeros(1, np.uint8), 4, 3)


@pytest.fixture
def small(tmp_path: Path, made: Path) -> tuple[Path, Any]:
    """A package of one's own to damage, and its input."""
    package, x = linear_package(made, "iOS17")
    return Path(shutil.copytree(package, tmp_path / package.name)), x


def test_unknown_operators_are_named_with_their_place(tmp_path: Path) -> None:
    x = positive(2, 8)
    package = save(
        tmp_path, lambda x: mb.local_response_norm(x=mb.expand_dims(x=x, axes=[0], name="first"), size=3, name="odd"), x
    )
    with pytest.raises(EngineError, match=r"no MIL operator 'local_response_norm' \(at 'odd'\); check it on a Mac"):
        Interpreter(package)


def test_blocks_are_refused(tmp_path: Path) -> None:
    x = random(1)

    def build(x: Any) -> Any:
        return mb.cond(
            pred=mb.squeeze(x=mb.greater(x=x, y=0.0)),
            _true_fn=lambda: mb.identity(x=x),
            _false_fn=lambda: mb.square(x=x),
            name="branch",
        )

    with pytest.raises(EngineError, match="'branch' \\(cond\\) has blocks of its own"):
        Interpreter(save(tmp_path, build, x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: mb.real_div(x=mb.cast(x=x, dtype="int32"), y=2), "divides integers"),
        (
            lambda x: mb.resize(
                x=x, shape=[4, 4], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR",
                sampling_mode="ALIGN_CORNERS",
            ),
            "only interpreted with the DEFAULT sampling",
        ),
        (
            lambda x: mb.conv_transpose(x=x, weight=np.ones((4, 2, 3, 3), np.float32), pad_type="same"),
            "pad_type 'same' is not interpreted",
        ),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused(build: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=message):
        Interpreter(save(tmp_path, build, X))


def test_a_flipped_byte_of_the_weights_changes_the_numbers(small: tuple[Path, Any]) -> None:
    package, x = small
    (before,) = compute(package, x)
    path = package / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)
    (after,) = compute(package, x)
    assert np.abs(after - before).max() > 0.1
    assert (after == before)[:, :-1].all(), "and only those of its row"


@pytest.mark.parametrize(
    ("offset", "message"), [(4, "version 2"), (64, "sentinel"), (None, "cannot be read"), (68, "cannot be read")]
)
def test_damaged_weights_are_refused(offset: int | None, message: str, small: tuple[Path, Any]) -> None:
    path = small[0] / WEIGHTS
    data = bytearray(path.read_bytes())
    if offset is None:
        del data[100:]
    else:
        data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=message):
        Interpreter(small[0])


def rewritten(package: Path, change: Callable[[Any], None]) -> None:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((package / MODEL).read_bytes())
    change(model)
    (package / MODEL).write_bytes(model.SerializeToString())


def block_of(model: Any) -> Any:
    return model.mlProgram.functions["main"].block_specializations["CoreML7"]


def blob_of(model: Any) -> Any:
    (blob,) = [one for one in block_of(model).operations if "val" in one.attributes
               and one.attributes["val"].WhichOneof("value") == "blobFileValue"][:1]  # fmt: skip
    return blob.attributes["val"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.ClearField("mlProgram"), "only an ML Program can be interpreted"),
        (lambda model: setattr(model.description, "defaultFunctionName", "other"), "has no function 'other'"),
        (lambda model: block_of(model).outputs.append("ghost"), "the list of outputs reads 'ghost'"),
        (
            lambda model: setattr(blob_of(model).blobFileValue, "fileName", "@model_path/../../../../secret"),
            "outside the package",
        ),
        (lambda model: setattr(blob_of(model).blobFileValue, "fileName", "/etc/passwd"), "outside the package"),
        (
            lambda model: setattr(blob_of(model).type.tensorType.dimensions[0].constant, "size", 63),
            r"has 4096 values for the shape \(63, 64\)",
        ),
        (lambda model: setattr(blob_of(model).type.tensorType, "dataType", 41), "has the type float8e5m2"),
    ],
)
def test_damaged_models_are_refused(change: Callable[[Any], None], message: str, small: tuple[Path, Any]) -> None:
    rewritten(small[0], change)
    with pytest.raises(EngineError, match=message):
        Interpreter(small[0])


def test_a_result_of_another_shape_than_the_file_says_is_refused(small: tuple[Path, Any]) -> None:
    def change(model: Any) -> None:
        (linear,) = [one for one in block_of(model).operations if one.type == "linear"]
        linear.outputs[0].type.tensorType.dimensions[1].constant.size = 65

    rewritten(small[0], change)
    with pytest.raises(EngineError, match=r"\(linear\) has the shape 3x64, the file says 3x65"):
        compute(*small)


def test_inputs_are_checked(small: tuple[Path, Any]) -> None:
    interpreter = Interpreter(small[0])
    with pytest.raises(EngineError, match="takes the input 'x', given: y"):
        interpreter.run({"y": small[1]})
    with pytest.raises(EngineError, match=r"'x' \(input\) has the shape 2x64, the file says 3x64"):
        interpreter.run({"x": small[1][:2]})


def test_indices_out_of_reach_are_refused_with_their_operation(tmp_path: Path) -> None:
    x, places = random(4, 3), np.array([9], np.int32)
    package = save(tmp_path, lambda x, y: mb.gather(x=x, indices=y, axis=0, name="picked"), x, places)
    with pytest.raises(EngineError, match=r"operation 'picked' \(gather\) failed"):
        compute(package, x, places)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "not the manifest of a Core ML package"),
        (b"{}", "not the manifest of a Core ML package"),
        (
            json.dumps({"itemInfoEntries": {"a": {"path": "../../x"}}, "rootModelIdentifier": "a"}).encode(),
            "outside the package",
        ),
        (
            json.dumps({"itemInfoEntries": {"a": {"path": "gone"}}, "rootModelIdentifier": "a"}).encode(),
            "not a readable Core ML model",
        ),
    ],
)
def test_damaged_manifests_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "Manifest.json").write_bytes(content)
    with pytest.raises(EngineError, match=message):
        read_program(tmp_path)


def test_garbage_is_no_model(small: tuple[Path, Any]) -> None:
    (small[0] / MODEL).write_bytes(b"\xff" * 100)
    with pytest.raises(EngineError, match="not a readable Core ML model"):
        Interpreter(small[0])


def test_threads_are_left_as_they_were(small: tuple[Path, Any]) -> None:
    before = torch.get_num_threads()
    compute(*small, threads=before + 1)
    assert torch.get_num_threads() == before
