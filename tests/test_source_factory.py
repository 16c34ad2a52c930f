"""``package.module:factory`` as a source: what is built, which weights are taken, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import SourceError, UsageError
from edgekit.runtimes.bundle.folder import sha256
from edgekit.sources import SourceRequest, factory
from edgekit.sources import load as load_any
from edgekit.sources._weights import read_weights

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra 'convert'")

MODULE = """
import torch
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.errors import UsageError

CONTRACT = Contract(
    image=ImageRule(size=(24, 16)),
    classes=("a",),
    decoder=Decoder(name="grid", options={"strides": [8]}),
    outputs=(Output(name="boxes", role="boxes"),),
)
number = 3
ready = torch.nn.Conv2d(3, 2, 1)
not_callable = 5

def network(): return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
def with_contract():
    made = network()
    made.contract = CONTRACT
    return made
def wrong_contract():
    made = network()
    made.contract = {"image": {"size": [24, 16]}}
    return made
def in_child():
    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Conv2d(3, 2, 1)
        def forward(self, x): return self.module(x)
    return Outer()
def seeded():
    torch.manual_seed(1)
    return network()
def a_list(): return [1]
def needs_arguments(width): return network()
def fails(): raise KeyError("no such thing")
def refuses(): raise UsageError("say it in another way")
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factory_module.py").write_text(MODULE)
    (tmp_path / "factory_imports.py").write_text("import nothing_of_this_name")
    (tmp_path / "factory_attribute.py").write_text("import math\nmath.no_such_thing\ndef network(): pass")
    (tmp_path / "factory_syntax.py").write_text("def network(:")
    monkeypatch.syspath_prepend(tmp_path)


def load(
    name: str = "network", size: tuple[int, int] | None = (8, 16), weights: Path | None = None, **more: Any
) -> Any:
    return factory.load(SourceRequest(f"factory_module:{name}", weights=weights, size=size, **more))


@pytest.fixture
def trained() -> dict[str, Any]:
    """A state dict that is not the initial one."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    network[1].running_mean += 5
    return dict(network.state_dict())


def same(module: Any, state: dict[str, Any]) -> None:
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, state[name])


# --- what is built ---


def test_spelling() -> None:
    for spec in ("a:b", "a.b.c:d_e", "_a:B2"):
        assert factory.matches(SourceRequest(spec))
    for spec in ("a.pt", "a/b:c", "a:", ":b", "a:b:c", "C:\\model.pt", "a-b:c", "http://x", "1a:b", "a..b:c"):
        assert not factory.matches(SourceRequest(spec))


def test_a_factory() -> None:
    model = load_any(SourceRequest("factory_module:network", size=(8, 16)))
    assert (model.name, tuple(model.example.shape), model.contract, model.heads) == (
        "network",
        (1, 3, 8, 16),
        None,
        None,
    )
    assert (model.origin.kind, model.origin.name) == ("factory", "factory_module:network")
    assert not model.module.training
    assert not model.module[1].training
    assert len(model.origin.sha256) == 64


def test_a_network_itself_and_the_hash_of_its_weights() -> None:
    first, again = load("ready"), load("ready")
    assert first.origin.sha256 == again.origin.sha256
    with torch.no_grad():
        first.module.bias += 1
    assert load("ready").origin.sha256 != again.origin.sha256


def test_a_network_with_its_contract() -> None:
    model = load("with_contract", size=None)
    assert model.name == "with-contract"
    assert tuple(model.example.shape) == (1, 3, 24, 16)
    assert model.contract is not None
    assert model.heads is model.module
    assert tuple(load("with_contract", size=(32, 32)).example.shape) == (1, 3, 32, 32)


def test_the_demo_detector() -> None:
    from edgekit.shapes.trained import SOURCE

    assert SOURCE == "edgekit.shapes.trained:detector"
    model = load_any(SourceRequest(SOURCE))
    assert model.contract is not None
    assert tuple(model.example.shape) == (1, 3, *model.contract.image.size)
    with torch.no_grad():
        outputs = model.heads(model.example)
    assert len(outputs) == len(model.contract.outputs) == 6
    from edgekit.runtimes.tasks.detect import Detect

    Detect(model.contract).candidates([output.numpy() for output in outputs], 0.5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "nothing_of_this_name:x",
            "cannot import 'nothing_of_this_name'; is it installed, or the right folder in PYTHON",
        ),
        ("factory_imports:x", "factory_imports:x: cannot import 'nothing_of_this_name'; is it installed"),
        ("factory_attribute:network", "importing factory_attribute failed: AttributeError: module 'math' has no attri"),
        ("factory_syntax:network", "importing factory_syntax failed: SyntaxError: "),
        ("factory_module:netwrk", "factory_module has no 'netwrk'; near it: network"),
        ("factory_module:zzzz", "factory_module has no 'zzzz'; near it: none"),
        ("factory_module:a_list", "factory_module:a_list: returned [1], which is no network (torch.nn.Module)"),
        ("factory_module:number", "calling it without arguments failed: TypeError: 'int' object is not callable"),
        ("factory_module:needs_arguments", "without arguments failed: TypeError: needs_arguments() missing 1 required"),
        (
            "factory_module:fails",
            "factory_module:fails: calling it without arguments failed: KeyError: 'no such thing'",
        ),
        (
            "factory_module:wrong_contract",
            "its .contract must be an edgekit.Contract, not dict",
        ),
    ],
)
def test_what_cannot_be_built(spec: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        factory.load(SourceRequest(spec, size=(8, 8)))
    assert spec in str(caught.value)
    assert words in str(caught.value)


def test_a_factorys_own_refusal_stands() -> None:
    with pytest.raises(UsageError, match=r"^say it in another way$"):
        load("refuses")


def test_no_size() -> None:
    with pytest.raises(UsageError) as caught:
        load(size=None)
    expected = "factory_module:network: give the input size in a contract file (--contract, image: {size: [h, w]})"
    assert str(caught.value) == expected


def test_random_weights_are_said_aloud(tmp_path: Path, trained: dict[str, Any]) -> None:
    """A factory that makes another network each time; one that always makes the same may have read a file."""
    (doubt,) = load().doubts
    assert doubt == (
        "the weights are random: calling factory_module:network twice gives two different networks (first in 0.weight)"
        "; give the trained ones with --weights"
    )
    assert load("seeded").doubts == load("ready").doubts == ()
    assert load(weights=saved(tmp_path / "w.pt", trained)).doubts == ()


# --- weights ---


def saved(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.pth", lambda state: state),
        ("a.pt", lambda state: {"state_dict": state, "epoch": 3}),
        ("a.pt", lambda state: {"model": {"state_dict": state}}),
        ("a.pt", lambda state: {"model_state_dict": state, "optimizer": {}}),
        ("a.ckpt", lambda state: {f"module.{key}": value for key, value in state.items()}),
        ("a.safetensors", lambda state: state),
    ],
    ids=["state dict", "lightning", "nested", "checkpoint", "data parallel", "safetensors"],
)
def test_weights_are_taken(name: str, wrap: Any, tmp_path: Path, trained: dict[str, Any]) -> None:
    path = saved(tmp_path / name, wrap(trained))
    model = load(weights=path)
    same(model.module, trained)
    assert model.origin.sha256 == sha256(path)


def test_the_old_format_of_torch(tmp_path: Path, trained: dict[str, Any]) -> None:
    torch.save(trained, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(load(weights=tmp_path / "old.pth").module, trained)


def test_a_child_named_module_is_no_data_parallel(tmp_path: Path) -> None:
    conv = torch.nn.Conv2d(3, 2, 1)
    path = saved(tmp_path / "child.pt", {f"module.{name}": value for name, value in conv.state_dict().items()})
    same(load("in_child", weights=path).module.module, dict(conv.state_dict()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"0.weight": torch.zeros(2, 3, 1, 1)}, "does not fit the network: tensors 5 missing"),
        ({"x": torch.zeros(1)}, r"1 unexpected \(x\)"),
        ({1: torch.zeros(1)}, r"does not fit the network: .*1 unexpected \(1\)"),
        ({}, "tensors 6 missing"),
        ([torch.zeros(1)], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({"0.weight": 3}, "does not fit the network"),
    ],
    ids=["missing", "unexpected", "numbers", "empty", "list", "tensor", "no tensor"],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_do_not_fit(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"(?s)--weights .*weights\.pt:? .*{words}"):
        load(weights=saved(tmp_path / "weights.pt", content))


def test_weights_of_another_shape(tmp_path: Path, trained: dict[str, Any]) -> None:
    trained["0.bias"] = torch.zeros(7)
    with pytest.raises(
        SourceError, match=r"does not fit the network: tensors 1 of another shape \(0\.bias \[7\] for \[2\]\)"
    ):
        load(weights=saved(tmp_path / "weights.safetensors", trained))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(SourceError, match=r"--weights .*: no such file"):
            load(weights=path)


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
@pytest.mark.parametrize("data", [b"", b"text, not weights", b"PK\x03\x04 and no more", b"\xff" * 64, b"\x80\x02."])
def test_damaged_weights(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"--weights .*{name}: (damaged or not a|holds more than tensors)"):
        load(weights=path)
    with pytest.raises(SourceError, match=rf"--weights .*{name}: "):
        load(weights=path, trust=True)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["t.pt", "t.safetensors", "old.pt"]))
def test_truncated_weights(share: float, name: str, tmp_path: Path, trained: dict[str, Any]) -> None:
    path = tmp_path / name
    if name == "old.pt":
        torch.save(trained, path, _use_new_zipfile_serialization=False)
    else:
        saved(path, trained)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match="--weights "):
        load(weights=path)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}"]))
def test_any_bytes_as_weights(data: bytes, head: bytes, tmp_path: Path) -> None:
    for name in ("any.pt", "any.safetensors"):
        (tmp_path / name).write_bytes(head + data)
        with contextlib.suppress(SourceError):
            read_weights(tmp_path / name, trust=False)


# --- code inside ---


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_and_not_run(zipped: bool, tmp_path: Path, trained: dict[str, Any]) -> None:
    mark, path = tmp_path / "created", tmp_path / "evil.pt"
    torch.save({"state_dict": trained, "x": Payload(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SourceError) as caught:
        load(weights=path)
    for words in (
        "holds more than tensors (",
        "save a state dict, use safetensors, or vouch for the file with --trust",
    ):
        assert words in str(caught.value)
    assert not mark.exists()
    same(load(weights=path, trust=True).module, trained)
    assert mark.exists()  # negative control: it was a real one, and --trust means what it says


def test_a_whole_pickled_network_needs_trust(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(SourceError, match=r"holds more than tensors .*--trust"):
        load(weights=tmp_path / "whole.pt")
    same(load(weights=tmp_path / "whole.pt", trust=True).module, dict(network.state_dict()))
    torch.save({"ema": network, "epoch": 1}, tmp_path / "ema.pt")
    same(load(weights=tmp_path / "ema.pt", trust=True).module, dict(network.state_dict()))
