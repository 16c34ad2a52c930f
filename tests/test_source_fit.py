"""Weights that do not fit their network are refused in every source, and a folder cannot ask for what it does not hold.

transformers fills what a file lacks with random numbers: source and bundle then agree, and prove nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra 'convert'")

import tiny_blip2
from tiny_transformers import KINDS, package, write

from edgekit.errors import SourceError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.sources import SourceRequest, WrittenModel, load
from edgekit.sources._fit import COUNTERS, load_strictly
from edgekit.sources.blip2.reference import load_model

Tensors = dict[str, Any]
SECONDS = 10.0
"""The longest that a refusal may take."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each kind, written once."""
    package()
    root, made = tmp_path_factory.mktemp("whole"), dict[str, Path]()

    def folder(kind: str) -> Path:
        if kind not in made:
            blip2 = getattr(tiny_blip2, kind, None)
            made[kind] = blip2(root / kind) if blip2 else write(kind, root / kind)
        return made[kind]

    return folder


def changed(whole: Path, folder: Path, change: Callable[[Tensors], Any], **config: Any) -> Path:
    """A folder with other tensors and further keys in its configuration."""
    folder.mkdir(exist_ok=True)
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.load_file(whole / "model.safetensors")
    change(tensors)
    safetensors.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    given = json.loads((whole / "config.json").read_text())
    merged = {
        key: {**given[key], **value} if isinstance(value, dict) and isinstance(given.get(key), dict) else value
        for key, value in config.items()
    }
    (folder / "config.json").write_text(json.dumps({**given, **merged}))
    return folder


def read(folder: Path) -> Any:
    """The network of a folder, by whichever source takes it."""
    model = load(SourceRequest(str(folder)))
    return load_model(model.source) if isinstance(model, WrittenModel) else model.module


def refused(folder: Path) -> str:
    began = time.monotonic()
    with pytest.raises(SourceError) as caught:
        read(folder)
    assert time.monotonic() - began < SECONDS
    assert str(folder) in str(caught.value)
    return str(caught.value)


def rename(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors["x." + name] = tensors.pop(name)


def drop(tensors: Tensors) -> None:
    for name in [name for name in sorted(tensors) if not name.endswith(COUNTERS)][-6:]:
        del tensors[name]


def add(tensors: Tensors) -> None:
    tensors["further.weight"] = torch.zeros(3)


def widen(tensors: Tensors) -> None:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    tensors[name] = torch.zeros(tensors[name].shape[0] + 1, tensors[name].shape[1])


@pytest.mark.parametrize("kind", [*KINDS, "opt", "t5", "retrieval"])
def test_whole_folders_are_taken(kind: str, folders: Callable[[str], Path]) -> None:
    """Negative control: tied heads, as those of RT-DETR, D-FINE, OPT and T5, are no lack."""
    assert not read(folders(kind)).training


def test_a_tied_head_may_be_left_out(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_blip2.t5(tmp_path / "tied", tied=True)
    names = set(safetensors.load_file(folder / "model.safetensors"))
    model = read(folder)
    assert "language_model.lm_head.weight" in model.state_dict().keys() - names
    assert model.language_model.lm_head.weight is model.language_model.shared.weight


@pytest.mark.parametrize("kind", ["yolos", "rt_detr_v2", "vitpose", "opt", "retrieval"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "missing ("),
        (drop, "tensors 6 missing ("),
        (add, "tensors 1 unexpected (further.weight)"),
        (widen, "1 of another shape ("),
    ],
)
def test_tensors_that_do_not_fit(
    kind: str, change: Any, words: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    said = refused(changed(folders(kind), tmp_path / "torn", change))
    if kind not in ("opt", "retrieval") or change is not rename:  # these are no BLIP-2 to begin with
        assert words in said
        assert "does not fit the network: tensors" in said
        assert said.endswith("give the weights of this very network")


def test_renamed_tensors_are_counted(folders: Callable[[str], Path], tmp_path: Path) -> None:
    said = refused(changed(folders("yolos"), tmp_path / "renamed", rename))
    assert "tensors 52 missing (bbox_predictor.layers.0.bias, " in said
    assert " and 49 more), 52 unexpected (x.bbox_predictor.layers.0.bias, " in said


def test_batch_counters_are_of_no_account(folders: Callable[[str], Path], tmp_path: Path) -> None:
    def forget(tensors: Tensors) -> None:
        counters = [name for name in tensors if name.endswith("num_batches_tracked")]
        assert counters
        for name in counters:
            del tensors[name]

    read(changed(folders("rt_detr_v2"), tmp_path / "older", forget))
    network = torch.nn.BatchNorm2d(2)
    state = {name: value for name, value in network.state_dict().items() if name != "num_batches_tracked"}
    load_strictly(network, {**state, "x.num_batches_tracked": torch.zeros(1)}, "FILE")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("weight"), "FILE does not fit the network: tensors 1 missing (weight); give the"),
        (
            lambda state: state.update(x=state["bias"]),
            "tensors 1 unexpected (x); give the weights of this",
        ),
        (lambda state: state.update(bias=torch.zeros(7)), "tensors 1 of another shape (bias [7] for [2]); give"),
        (lambda state: state.update(bias=3), "FILE does not fit the network: bias is no tensor; save its state"),
        (dict.clear, "tensors 4 missing (bias, running_mean, running_var and 1 more)"),
    ],
)
def test_state_dicts_that_do_not_fit(change: Any, words: str) -> None:
    network = torch.nn.BatchNorm2d(2)
    state = dict(network.state_dict())
    load_strictly(network, state, "FILE")  # negative control
    change(state)
    with pytest.raises(SourceError) as caught:
        load_strictly(network, state, "FILE")
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("kind", ["yolos", "opt"])
def test_quantised_weights(kind: str, dtype: Any, folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Without their scales they load as other numbers, in source and bundle alike."""

    def quantise(tensors: Tensors) -> None:
        name = next(name for name in tensors if tensors[name].ndim == 2)
        tensors[name] = (tensors[name] * 10).to(dtype)

    assert "the weights are quantised already; give the model in float" in refused(
        changed(folders(kind), tmp_path / "coded", quantise)
    )
    network = torch.nn.Linear(3, 2)
    state = {**network.state_dict(), "weight": torch.ones(2, 3).to(dtype)}
    with pytest.raises(SourceError, match=r"FILE: weight is quantised already \(torch\.\w+\); give the weights in flo"):
        load_strictly(network, state, "FILE")
    load_strictly(network, {**state, "weight": torch.ones(2, 3).bfloat16()}, "FILE")  # negative control


# --- what a configuration asks for ---


@pytest.mark.parametrize("kind", ["yolos", "opt"])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quantised already; give the",
        ),
        (
            {"attn_implementation": "owner/kernels"},
            "attn_implementation 'owner/kernels' is not one of: eager, sdpa; rem",
        ),
        ({"vision_config": {"_attn_implementation": "flash_attention_2"}}, "'flash_attention_2' is not one of: eager"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1e+09 is more than "),
        ({"vision_config": {"num_hidden_layers": 5000}}, "num_hidden_layers 5000 is more than "),
        ({"hidden_size": 10**12}, "hidden_size 1e+12 is more than "),
        ({"image_size": [10**9, -(10**9)]}, "image_size 1e+09 is more than "),
    ],
)
def test_what_a_configuration_may_not_ask_for(
    kind: str, config: dict[str, Any], words: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    assert words in refused(changed(folders(kind), tmp_path / "asks", lambda tensors: None, **config))


@pytest.mark.parametrize("kind", ["yolos", "vitpose", "opt"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_processor_type": "SamImageProcessor"}, ": SamImageProcessor is no processor for "),
        ({"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}, ": do_center_crop is true; "),
        ({"do_resize": False}, ": do_resize is false; "),
        ({"image_std": [0, 1, 1]}, ": std must be positive, not [0.0, 1.0, 1.0]"),
    ],
)
def test_settings_of_another_processor(
    kind: str, settings: dict[str, Any], words: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = changed(folders(kind), tmp_path / "processor", lambda tensors: None)
    path = folder / "preprocessor_config.json"
    given = json.loads(path.read_text()) if path.is_file() else {}
    own = {"yolos": "YolosImageProcessorFast", "vitpose": "VitPoseImageProcessor", "opt": "BlipImageProcessor"}
    path.write_text(json.dumps({**given, "image_processor_type": own[kind], "do_center_crop": None}))
    load(SourceRequest(str(folder)))  # negative control
    path.write_text(json.dumps({**given, "do_normalize": True, **settings}))
    assert words in refused(folder)


def test_inputs_that_no_network_has(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = changed(folders("detr"), tmp_path / "size", lambda tensors: None)
    large = "size must be at most 16384 a side and 67108864 pixels in all, not ["
    for size, words in (
        ({"height": 10**6, "width": 10**6}, large),
        ({"height": 0, "width": 64}, "size must be two positive numbers (height, width), not [0, 64]"),
        ({"shortest_edge": 10**9}, large),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
        assert words in refused(folder)


def test_a_network_that_is_many_times_its_file(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = changed(folders("yolos"), tmp_path / "large", lambda tensors: None, intermediate_size=10**6)
    assert "its configuration describes a network of 130," in refused(folder)


def test_an_adapter_of_another_model(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = changed(folders("yolos"), tmp_path / "adapter", lambda tensors: None)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    assert "adapter_config.json: an adapter of another model; merge the two" in refused(folder)


def test_remote_names_and_code_are_not_followed(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of repositories and of code in the folder, at the top and in the backbone: nothing is fetched or run."""
    import socket

    def reached(*arguments: object) -> None:
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", reached)
    mark = tmp_path / "ran"
    code = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoBackbone": "code.Model"}
    named = {"auto_map": code, "_name_or_path": "owner/name", "trust_remote_code": True}
    whole = folders("rt_detr_v2")
    inner = json.loads((whole / "config.json").read_text())["backbone_config"]
    for extra in (
        named,
        {"backbone_config": {**inner, **named}},
        {"backbone": "owner/name", "use_pretrained_backbone": True, "backbone_config": {**inner, **named}},
    ):
        folder = changed(whole, tmp_path / "named", lambda tensors: None, **extra)
        (folder / "code.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()")
        (folder / "custom_generate").mkdir(exist_ok=True)
        (folder / "custom_generate" / "generate.py").write_text((folder / "code.py").read_text())
        read(folder)
        assert not mark.exists()


def test_a_backbone_from_elsewhere_is_not_fetched(folders: Callable[[str], Path], tmp_path: Path) -> None:
    remote = {"backbone_config": None, "backbone": "owner/name", "use_timm_backbone": False}
    refused(changed(folders("rt_detr_v2"), tmp_path / "remote", lambda tensors: None, **remote))


def test_graphs_of_a_torn_blip2_are_not_written(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """They read the checkpoint by name, so that they notice without transformers, which `load_model` asks before."""
    from edgekit.graph.blip2.cache import SharedCache
    from edgekit.graph.blip2.precision import forms, read_part

    def lose(tensors: Tensors) -> None:
        del tensors["query_tokens"]

    torn = Blip2(changed(folders("opt"), tmp_path / "torn", lose))
    with pytest.raises(SourceError, match=r"no tensor 'query_tokens'; is this a whole BLIP-2"):
        torn.write("qformer", tmp_path, forms("qformer", read_part("fp32"), None), SharedCache)
