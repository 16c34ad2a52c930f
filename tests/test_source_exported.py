"""torch.export programs as a source: what is read, what is refused, and that opening one runs none of its code."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import SourceError
from edgekit.runtimes.bundle.folder import sha256
from edgekit.sources import SourceRequest, exported
from edgekit.sources import load as load_any

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

Members = dict[str, bytes]


class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
    """One convolution with BatchNorm; further inputs are added up."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(channels, 2, 3, 2, 1), torch.nn.BatchNorm2d(2)
        self.scale = torch.ones(1)  # a constant

    def forward(self, x: Any, *others: Any) -> Any:
        return self.norm(self.conv(x)) * self.scale + sum(others)


def save(path: Path, *inputs: Any, training: bool = False, network: Any = None, **options: Any) -> Path:
    module = (network or Network()).train(training)
    torch.export.save(torch.export.export(module, inputs or (torch.rand(1, 3, 16, 24),), **options), path)
    return path


def load(path: Path, trust: bool = False) -> Any:
    return exported.load(SourceRequest(str(path), trust=trust))


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def edited(path: Path, ending: str, change: Callable[[bytes], bytes]) -> Path:
    """The file with one of its parts changed and everything else, checksums too, in order."""
    content = members(path)
    (name,) = [name for name in content if name.endswith(ending)]
    return write(path.with_name(f"edited-{path.name}"), {**content, name: change(content[name])})


@pytest.fixture(scope="module", name="good")
def _good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("pt2") / "small.pt2")


# --- what is read ---


def test_a_program(good: Path) -> None:
    x = torch.rand(1, 3, 16, 24)
    model = load_any(SourceRequest(str(good)))
    assert (model.name, tuple(model.example.shape), model.contract, model.heads) == (
        "small",
        (1, 3, 16, 24),
        None,
        None,
    )
    assert (model.origin.kind, model.origin.name, model.origin.sha256) == ("torch.export", "small.pt2", sha256(good))
    torch.testing.assert_close(model.module(x), torch.export.load(good).module()(x))


def test_a_dynamic_batch_becomes_one(tmp_path: Path) -> None:
    dynamic = ({0: torch.export.Dim("batch", max=8)},)
    network = torch.nn.Conv2d(3, 2, 3)
    path = save(tmp_path / "batch.pt2", torch.rand(2, 3, 16, 24), network=network, dynamic_shapes=dynamic)
    model = load(path)
    assert tuple(model.example.shape) == (1, 3, 16, 24)
    torch.testing.assert_close(model.module(model.example), network(model.example))
    from edgekit.graph.exchange import flatten

    torch.testing.assert_close(flatten(model.module, model.example)(model.example), network(model.example))


def test_the_shared_programs_are_plain(shared_data: Path) -> None:
    from edgekit.sources.exported.safety import refuse_code

    programs = sorted((shared_data / "models").glob("*.pt2"))
    assert programs
    for path in programs:
        refuse_code(path)  # raises where it finds any


def test_networks_that_look_unusual_but_are_plain(tmp_path: Path) -> None:
    class Unusual(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                half = x[:, :, : x.shape[2] // 2]
            a, b, c = torch.split(half, 1, 1)
            return torch.where(a > b, a, c), x.clamp(0, 1).to(torch.float64).float()

    model = load(save(tmp_path / "unusual.pt2", network=Unusual()))
    x = torch.rand(1, 3, 16, 24)
    for got, wanted in zip(model.module(x), Unusual()(x), strict=True):
        torch.testing.assert_close(got, wanted)


# --- what does not fit ---


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ((torch.rand(1, 3, 8, 8), torch.rand(1)), {}, r"takes 2 inputs \(x, \w+\); one NCHW image is needed"),
        ((torch.rand(1, 3, 64),), {"network": torch.nn.Identity()}, r"takes 1 inputs \(\w+\); one NCHW image"),
        ((torch.rand(1, 4, 8, 8),), {"network": Network(4)}, r"the input is \(1, 4, 8, 8\); export it with one image"),
        ((torch.rand(2, 3, 8, 8),), {}, r"the input is \(2, 3, 8, 8\); export it with one image \(1, 3, height"),
        ((torch.zeros(1, 3, 8, 8).byte(),), {"network": torch.nn.ReLU()}, r"the input is torch.uint8; .* float32"),
        ((torch.zeros(1, 3, 8, 8).half(),), {"network": torch.nn.ReLU()}, r"the input is torch.float16; .* float32"),
    ],
)
def test_other_inputs(inputs: Any, options: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        load(save(tmp_path / "other.pt2", *inputs, **options))


def test_no_fixed_size(tmp_path: Path) -> None:
    dynamic = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    path = save(tmp_path / "any.pt2", network=torch.nn.ReLU(), dynamic_shapes=dynamic)
    with pytest.raises(SourceError, match=r"the input is \(1, 3, dynamic, dynamic\); export it with one image"):
        load(path)


def test_training_mode(tmp_path: Path) -> None:
    for network in (Network(), torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Dropout())):
        path = save(tmp_path / "train.pt2", network=network, training=True)
        with pytest.raises(SourceError, match=r"exported in training mode; call \.eval\(\) on the network"):
            load(path)
        load(save(tmp_path / "evaluated.pt2", network=network))  # negative control


# --- damage ---


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 50], ids=["empty", "text", "header only"])
def test_not_an_archive(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"bad\.pt2: damaged or not a \.pt2 file \(.*\); copy or export it again"):
        load(path)


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt2", tmp_path):
        with pytest.raises(SourceError, match="no such file"):
            load(path)


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt2"
    torch.save(Network().state_dict(), path)
    with pytest.raises(SourceError, match=r"not a \.pt2 archive of torch >= 2\.8; save it again, or vouch"):
        load(path)
    with pytest.raises(SourceError, match=f"not a torch.export program that torch {torch.__version__[:4]}"):
        load(path, trust=True)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated(share: float, good: Path) -> None:
    data = good.read_bytes()
    path = good.with_name("truncated.pt2")
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=r"truncated\.pt2: "):
        load(path)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), trust=st.booleans())
def test_one_flipped_bit(share: float, bit: int, trust: bool, good: Path) -> None:
    """It is refused, or it hit something that nobody reads; weights never change without a word."""
    data = bytearray(good.read_bytes())
    data[int(len(data) * share)] ^= 1 << bit
    path = good.with_name("flipped.pt2")
    path.write_bytes(data)
    try:
        model = load(path, trust)
    except SourceError:
        return
    x = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(model.module(x), load(good).module(x))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ending=st.sampled_from(
        ["models/model.json", "model_weights_config.json", "model_constants_config.json", "model.pt"]
    ),
    noise=st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b"null", b'{"config": 3}', b'{"config": {"a": 3}}']),
    position=st.integers(0, 3000),
    whole=st.booleans(),
)
def test_parts_made_by_hand(ending: str, noise: bytes, position: int, whole: bool, good: Path) -> None:
    """With the right checksums, but whatever content."""
    path = edited(
        good, ending, lambda data: noise if whole else data[:position] + noise + data[position + len(noise) :]
    )
    for trust in (False, True):
        with contextlib.suppress(SourceError):
            load(path, trust)


@pytest.mark.parametrize("part", ["model_weights_config.json", "models/model.json"])
def test_parts_that_are_no_json(part: str, good: Path) -> None:
    with pytest.raises(SourceError, match=r"json is not JSON \(.*\); export it again"):
        load(edited(good, part, lambda _: b"{"))
    with pytest.raises(SourceError, match=r"edited-small\.pt2: "):
        load(edited(good, part, lambda _: b"[]"))


def test_compressed_badly(good: Path) -> None:
    content = members(good)
    path = good.with_name("deflated.pt2")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    place = data.index(b"models/model.json") + 60
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"damaged or not a \.pt2 file"):
        load(path)


# --- code inside ---


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": Payload(mark)}, buffer)
    return buffer.getvalue()


def program(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return edit


def touch(mark: Path) -> str:
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def opaque(mark: Path, good: Path) -> Path:
    """A constant of the kind that torch hands to pickle.loads."""
    content = members(good)
    (config,) = [name for name in content if name.endswith("constants_config.json")]
    listed = json.loads(content[config])
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    listed["config"]["evil"] = entry
    content[config] = json.dumps(listed).encode()
    content[config.replace("model_constants_config.json", "opaque_obj_0")] = pickle.dumps(Payload(mark))
    return write(good.with_name("opaque.pt2"), content)


def weight(mark: Path, good: Path) -> Path:
    content = members(good)
    (config,) = [name for name in content if name.endswith("weights_config.json")]
    listed = json.loads(content[config])
    entry = next(iter(listed["config"].values()))
    entry["use_pickle"] = True
    content[config] = json.dumps(listed).encode()
    content[config.replace("model_weights_config.json", entry["path_name"])] = pickled(mark)
    return write(good.with_name("weight.pt2"), content)


def symbolic(mark: Path, good: Path, key: str = "expr_str") -> Path:
    def change(content: dict[str, Any]) -> None:
        values = content["graph_module"]["graph"]["tensor_values"]
        next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": touch(mark), "hint": None}}

    path = edited(good, "models/model.json", program(change))
    return edited(path, "models/model.json", lambda data: data.replace(b'"expr_str"', f'"{key}"'.encode()))


def call(target: str, good: Path, *arguments: str, operator: bool = False) -> Path:
    """The first node of the graph calls something else, with texts for arguments."""

    def change(content: dict[str, Any]) -> None:
        node = content["graph_module"]["graph"]["nodes"][0]
        node["target"] = target
        texts = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in arguments]
        node["inputs"] = texts
        if operator:
            node["target"] = "torch.ops.higher_order.wrap_with_set_grad_enabled"
            wrapped = {"name": "", "arg": {"as_operator": target}, "kind": 1}
            node["inputs"] = [{"name": "", "arg": {"as_bool": False}, "kind": 1}, wrapped, *texts]

    return edited(good, "models/model.json", program(change))


def legacy(mark: Path, good: Path) -> Path:
    """The layout of torch < 2.8, which torch falls back to, beside enough of the new one to look like it."""
    content = {name: data for name, data in members(good).items() if name.endswith("archive_format")}
    (model,) = [data for name, data in members(good).items() if name.endswith("models/model.json")]
    from torch._export.serde.schema import SCHEMA_VERSION

    content["version"] = ".".join(map(str, SCHEMA_VERSION)).encode()
    content["serialized_exported_program.json"] = model
    for part in ("state_dict", "constants", "example_inputs"):
        content[f"serialized_{part}.{'json' if part != 'example_inputs' else 'pt'}"] = pickled(mark)
    return write(good.with_name("legacy.pt2"), content)


def respelled(mark: Path, good: Path) -> Path:
    """torch's reader finds SAMPLE_INPUTS/MODEL.PT under its usual name."""
    content = members(good)
    (name,) = [name for name in content if name.endswith("sample_inputs/model.pt")]
    del content[name]
    root = name.split("/")[0]
    return write(good.with_name("respelled.pt2"), {**content, f"{root}/DATA/SAMPLE_INPUTS/MODEL.PT": pickled(mark)})


@pytest.mark.filterwarnings("ignore:Duplicate name")
def doubled(mark: Path, good: Path) -> Path:
    """zipfile reads the last of two entries of one name, torch's reader may take the other."""
    content = members(good)
    (name,) = [name for name in content if name.endswith("sample_inputs/model.pt")]
    path = good.with_name("doubled.pt2")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, pickled(mark))
        for other, data in content.items():
            archive.writestr(other, data)
    return path


def guards(mark: Path, good: Path) -> Path:
    def change(content: dict[str, Any]) -> None:
        content["guards_code"] = [f"{touch(mark)} is None"]

    return edited(good, "models/model.json", program(change))


ATTACKS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "sample inputs": (
        lambda mark, good: edited(good, "sample_inputs/model.pt", lambda _: pickled(mark)),
        "model.pt holds more than tensors; vouch for the file with --trust",
    ),
    "pickled weight": (weight, "in .*model_weights_config.json are pickled; vouch for the file with --trust"),
    "opaque constant": (opaque, r"opaque_obj_0' is no part of a plain program; vouch for the file with --trust"),
    "symbolic size": (symbolic, r"the symbolic size .__import__.* is not arithmetic; vouch for it with --trust"),
    "symbolic size, key escaped": (
        lambda mark, good: symbolic(mark, good, "expr\\u005fstr"),
        r"the symbolic size .__import__.* is not arithmetic",
    ),
    "call of a function": (
        lambda mark, good: call("torch.os.mkdir", good, str(mark)),
        "'torch.os.mkdir' in .* is no torch operator; vouch for it with --trust",
    ),
    "call by an operator": (
        lambda mark, good: call("torch.os.mkdir", good, str(mark), operator=True),
        "'torch.os.mkdir' in .* is no torch operator",
    ),
    "old layout": (legacy, r"'version' is no part of a plain program|'serialized_.*' is no part of a plain program"),
    "other spelling": (respelled, "MODEL.PT' is no part of a plain program"),
    "two of one name": (doubled, "holds '.*sample_inputs/model.pt' twice; export it again"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_refused_and_not_run(attack: str, good: Path, tmp_path: Path) -> None:
    make, words = ATTACKS[attack]
    mark = tmp_path / "created"
    path = make(mark, good)
    with pytest.raises(SourceError, match=words):
        load(path)
    assert not mark.exists()


WORKING = [
    "sample inputs",
    "pickled weight",
    "opaque constant",
    "symbolic size",
    "symbolic size, key escaped",
    "old layout",
]


@pytest.mark.parametrize("attack", WORKING)
def test_the_same_files_do_run_code_in_torch(attack: str, good: Path, tmp_path: Path) -> None:
    """Negative control: these attacks are real, and --trust means what it says."""
    mark = tmp_path / "created"
    with contextlib.suppress(SourceError):
        load(ATTACKS[attack][0](mark, good), trust=True)
    assert mark.exists()


def test_guards_are_never_run(good: Path, tmp_path: Path) -> None:
    """They are Python code in the file; torch itself would run it."""
    mark = tmp_path / "created"
    path = guards(mark, good)
    for trust in (False, True):
        model = load(path, trust)
        model.module(model.example)
        assert not mark.exists()
    torch.export.load(path).module()(model.example)
    assert mark.exists()  # negative control


@pytest.mark.parametrize(
    "name",
    [
        "data/aotinductor/model/model.so",
        "extra/../../x",
        "data/weights/weight_0.so",
        "data/constants/custom_obj_0",
        "a/b",
    ],
)
def test_other_parts(name: str, good: Path) -> None:
    """Compiled libraries most of all: torch would load them."""
    path = write(good.with_name("more.pt2"), {**members(good), f"small/{name}": b"x"})
    with pytest.raises(SourceError, match="is no part of a plain program; vouch for the file with --trust"):
        load(path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.load_library.__call__.x",
        "torch.ops.load_library",
        "torch.ops.aten.save.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.conv2d.__class__",
        "torch.hub.load",
        "_operator.call",
        "_operator.attrgetter",
        "_operator.__call__",
        "math.__loader__",
        "#namespace:thing",
        "torch.ops.higher_order.flat_apply",
    ],
)
def test_targets_that_are_no_plain_operators(target: str, good: Path) -> None:
    with pytest.raises(SourceError, match="is no torch operator; vouch for it with --trust"):
        load(call(target, good))


# --- what would never end ---


def sized(text: str, good: Path) -> Path:
    """A program of which one size is this expression."""

    def change(content: dict[str, Any]) -> None:
        values = content["graph_module"]["graph"]["tensor_values"]
        next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return edited(good, "models/model.json", program(change))


def refused(path: Path, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(SourceError, match=words):
        load(path)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "Pow(10, Pow(10, 10))",
        "Pow(Integer(10), Integer(10000000000))",
        "s0**s0**s0",
        "s0**99999999",
        "(s0)**2**9",
        "Pow(Pow(Symbol('s0', positive=True), Integer(4)), Integer(4))",
        "2 ** 2",
        "9" * 5000,
        "+".join(["s0"] * 100),
    ],
)
def test_sizes_that_take_for_ever(text: str, good: Path) -> None:
    refused(sized(text, good), r"the symbolic size .* is not arithmetic; vouch for it with --trust")


def test_sizes_that_torch_writes_itself(tmp_path: Path) -> None:
    """Negative control: sums, quotients and small powers of a batch."""

    class Sizes(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            count = x.shape[0]
            return x, x.new_zeros(count * count + 1), x.new_zeros(count // 2 + 1)

    path = save(
        tmp_path / "sizes.pt2", torch.rand(4, 3, 8, 8), network=Sizes(), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    assert any(b"Pow(" in data for data in members(path).values())
    assert len(load(path).module(torch.rand(1, 3, 8, 8))[1]) == 2


def test_too_many_sizes(good: Path) -> None:
    text = f"Max({'*'.join(f'(s{i}+s{i + 1})' for i in range(9))},s0)"

    def change(content: dict[str, Any]) -> None:
        values = content["graph_module"]["graph"]["tensor_values"]
        next(iter(values.values()))["sizes"] = [{"as_expr": {"expr_str": text, "hint": None}}] * 1000

    refused(edited(good, "models/model.json", program(change)), "too many symbolic sizes in .*model.json; export it wi")


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".pth"])
def test_zip_bombs(suffix: str, good: Path, tmp_path: Path) -> None:
    from edgekit.sources._weights import read_weights
    from edgekit.sources.ultralytics.pickle import pickled_globals

    readers: dict[str, Callable[[Path], Any]] = {
        ".pt2": load,
        ".pt": pickled_globals,
        ".pth": lambda path: read_weights(path, trust=False),
    }
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".pt2":
        write(path, members(good))
    else:
        torch.save({"x": torch.zeros(3)}, path)
    readers[suffix](path)  # negative control
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        (first, *_) = archive.namelist()
        with archive.open(f"{first.partition('/')[0]}/data/weights/weight_77", "w") as member:
            for _ in range(400):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"[\d,]+ bytes that unpack to 419,4[\d,]+; PyTorch writes no such archive"):
        readers[suffix](path)
    assert time.monotonic() - began < 1


def test_more_than_the_directory_declares(good: Path, tmp_path: Path) -> None:
    """The bound counts what is declared; data that goes on behind that is damage."""
    path = write(tmp_path / "liar.pt2", members(good))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/data/weights/weight_77", bytes(100 << 20))
        entry = archive.infolist()[-1]
        entry.file_size = 100
        archive._didModify = True  # type: ignore[attr-defined]
    refused(path, r"liar\.pt2: damaged or not a \.pt2 file ")


def test_a_bomb_within_the_archive(good: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100 << 20))
    refused(edited(good, "sample_inputs/model.pt", lambda _: buffer.getvalue()), "that unpack to 104,857,600; PyTorch")


# --- operators ---


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.image.write_file.default",
        "torch.ops.prim.Print.default",
        "torch.ops.prim.Print",
        "torch.ops.evil.write.default",
        "torch.ops.aten._print.default",
        "torch.ops.aten.warn.default",
        "torch.ops.aten.set_data.default",
        "torch.ops.aten.set_.source_Tensor",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.manual_seed.default",
        "torch.ops.aten.add.out",
        "torch.ops.aten.format.default",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.c10d.send.default",
        "torch.ops.profiler._record_function_enter_new.default",
        "_operator.pow",
        "_operator.lshift",
        "_operator.setitem",
        "math.factorial",
    ],
)
def test_operators_that_do_more_than_compute(target: str, good: Path) -> None:
    refused(call(target, good), "is no torch operator; vouch for it with --trust")


def test_an_operator_that_somebody_registered(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "written"
    with torch.library._scoped_library("evil", "FRAGMENT") as library:
        library.define("write(Tensor x) -> Tensor")
        library.impl("write", lambda x: (mark.touch(), x.clone())[1], "CompositeExplicitAutograd")
        refused(call("torch.ops.evil.write.default", good), "is no torch operator; vouch for it with --trust")
        assert not mark.exists()
        torch.ops.evil.write(torch.zeros(1))
        assert mark.exists()  # negative control: it is there, and does what its name says


@pytest.mark.parametrize("change", ["missing", "renamed", "of another shape"])
def test_weights_that_do_not_fit_the_program(change: str, good: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        entry = content["config"].pop("conv.weight")
        if change == "renamed":
            content["config"]["x.weight"] = entry
        if change == "of another shape":
            entry["tensor_meta"]["sizes"] = [{"as_int": size} for size in (3, 2, 3, 3)]
            content["config"]["conv.weight"] = entry

    path = edited(good, "model_weights_config.json", program(edit))
    for trust in (False, True):
        with pytest.raises(SourceError, match=r"edited-small\.pt2"):
            load(path, trust)


def test_operators_that_only_compute() -> None:
    from edgekit.sources.exported.safety import _is_harmless

    for target in (
        "torch.ops.aten.conv2d.padding",
        "torch.ops.aten.gelu.default",
        "torch.ops.aten.relu_.default",
        "torch.ops.aten.add_.Tensor",
        "torch.ops.aten.copy_.default",
        "torch.ops.aten.einsum.default",
        "torch.ops.aten.meshgrid.indexing",
        "torch.ops.aten._assert_tensor_metadata.default",
        "torch.ops.aten.div.Tensor_mode",
        "torch.ops.aten.pad.default",
        "torch.ops.prims.convert_element_type.default",
        "torch.ops.torchvision.nms.default",
        "torch.ops.higher_order.wrap_with_set_grad_enabled",
        "_operator.getitem",
        "torch.sym_max",
    ):
        assert _is_harmless(target), target
