"""The public interface: what docs/API.md lists, ``edgekit.convert`` with its keywords, and what stops a long call."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import stages
from sample_profiles import profile as sample
from tiny_conversions import write_pictures
from tiny_models import CONTRACT, SIZE, picture
from tiny_onnx import write_tiny_bundle

import edgekit
from edgekit.conversion import api
from edgekit.errors import ContractError, SourceError, StoppedError, UsageError
from edgekit.profiling.protocol import Profiled, SessionJob, SessionProgress, SkippedBundle
from edgekit.sources.contract_file import read_contract, write_contract
from edgekit.worker.process import Stop

PAGE = (Path(__file__).parents[1] / "docs" / "API.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (edgekit[.\w]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


# ---- the page ----


@pytest.mark.parametrize("name", ["edgekit", "edgekit.results", "edgekit.tracking", "edgekit.decoders"])
def test_the_page_lists_every_public_name_and_no_other(name: str) -> None:
    rows = [row.split("|") for row in SECTIONS[name].splitlines() if row.startswith("| `")]
    listed = [one for _, names, *_ in rows for one in re.findall(r"`(\w+)`", names)]
    module = importlib.import_module(name)
    public = dir(module) if name == "edgekit.tracking" else module.__all__  # trackers are found by their place
    assert sorted(listed) == sorted(public)
    for one in listed:
        assert getattr(module, one) is not None
    for _, names, what, example, _ in rows:
        assert what.strip(), names
        code = re.findall(r"`(.*)`", example)[0]
        if not code.startswith(("@", "except ", "class ")):  # the beginning of something longer
            compile(code, names, "exec")


def test_the_page_lists_every_error() -> None:
    from edgekit import errors

    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, edgekit.EdgekitError)
    } - {"EdgekitError"}
    assert own == set(re.findall(r"`(\w+Error)`", SECTIONS["edgekit.errors"]))


def test_the_former_request_says_what_to_write() -> None:
    with pytest.raises(ImportError, match=r"write edgekit.convert\(model, target=\.\.\., precision="):
        importlib.import_module("edgekit").Conversion  # noqa: B018


# ---- edgekit.convert ----


class Asked:
    """Stands for the conversion itself, and remembers what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request: Any = None
        self.contract: Any = None
        monkeypatch.setattr(api, "run", self)

    def __call__(self, request: Any, watch: Callable[[str, str, float], None], stop: Stop, notice: Any) -> Any:
        self.request = request
        if request.contract:
            self.contract = read_contract(Path(request.contract))
        watch("prepare", "reading", 0.5)
        return edgekit.Conversions(prepared=None, outcomes=("first", "second"))  # type: ignore[arg-type]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def test_keywords_become_the_request(asked: Asked) -> None:
    events: list[edgekit.ProgressEvent] = []
    done = edgekit.convert(
        "detector.pt",
        "litert, ncnn",
        precision=("int8", "fp16"),
        data=Path("photos"),
        size=320,
        finetune=600,
        gate={"matched": 0.9},
        options={"rknn": {"platform": "rk3566"}},
        float_fallback=False,
        progress=events.append,
    )
    request = asked.request
    assert (request.source, request.targets, request.precisions) == (
        "detector.pt",
        ("litert", "ncnn"),
        ("int8", "fp16"),
    )
    assert (request.data, request.size, request.out) == ("photos", (320, 320), Path("out"))
    assert request.finetune == 10  # minutes
    assert request.options == {"rknn": {"platform": "rk3566"}}
    assert request.bounds == {"matched": 0.9}
    assert events == [edgekit.ProgressEvent("prepare", "reading", 0.5)]
    assert (len(done), done[1], list(done)) == (2, "second", ["first", "second"])


def test_every_keyword_reaches_the_request(asked: Asked) -> None:
    """One value each that is not the default: a keyword that is dropped on the way is found here."""
    given = {
        "weights": "w.pt", "name": "n", "proof_data": "p", "labels": "l", "prompts": "q", "choose": 3, "seed": 4,
        "plan": "plan", "recipe": "nncf", "max_drop": 0.25, "gated": False, "jobs": 5, "threads": 6,
        "imports": ("mine",), "trust": True, "rebuild": True, "language_bits": 5.5,
    }  # fmt: skip
    edgekit.convert("m.pt", "onnx", **given)
    assert {name: getattr(asked.request, name) for name in given} == given


def test_names_paths_and_sizes_as_one_writes_them(asked: Asked) -> None:
    edgekit.convert("x.onnx", targets="onnx", precisions=["fp32", "int8"], size=320, out="x", imports="mine")
    request = asked.request
    assert (request.targets, request.precisions) == (("onnx",), ("fp32", "int8"))
    assert (request.size, request.out, request.imports) == ((320, 320), Path("x"), ("mine",))
    edgekit.convert(Path("x.onnx"), ["onnx", "litert"], out=Path("y"))
    assert (asked.request.source, asked.request.targets, asked.request.precisions) == (
        "x.onnx",
        ("onnx", "litert"),
        ("fp32",),
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, 'convert() needs a target, such as target="onnx"'),
        ({"target": ["onnx", 3]}, 'target must be names: "onnx", "onnx,litert" or ["onnx", "litert"], not '),
        ({"target": "onnx", "targets": "litert"}, "target and targets are one argument: give target alone"),
        (
            {"target": "onnx", "size": "320"},
            "size must be a number of pixels, (height, width), or a list of these, not '320' (str)",
        ),
        (
            {"target": "onnx", "size": (320, 0)},
            "size must be a number of pixels, (height, width), or a list of these, not (320, 0)",
        ),
        ({"target": "onnx", "data": 7}, "data must be a path (str or Path), not 7 (int)"),
        ({"target": "onnx", "out": None, "jobs": 0}, "jobs must be a whole number from 1 on, not 0 (int)"),
        ({"target": "onnx", "trust": "yes"}, "trust must be True or False, not 'yes' (str)"),
        ({"target": "onnx", "language_bits": "4"}, "language_bits must be a number of bits, not "),
        ({"target": "onnx", "max_drop": 2}, "max_drop must be a number 0..1, not 2 (int)"),
        ({"target": "onnx", "finetune": -1}, "finetune must be seconds, not -1 (int)"),
        ({"target": "onnx", "gate": 0.9}, 'gate must be bounds by name: {"matched": 0.9}, not 0.9 (float)'),
        ({"target": "onnx", "options": {"rknn": 1}}, 'options must be options by target: {"rknn": {'),
        ({"target": "onnx", "contract": 1}, "contract must be an edgekit.Contract or the path of a contract file"),
        ({"target": "onnx", "progress": "bar"}, "progress must be a function, not 'bar' (str)"),
        ({"target": "onnx", "precison": "int8"}, "there is no argument 'precison'; did you mean precision?"),
        ({"target": "onnx", "zzz": 1}, "there is no argument 'zzz'; 'zzz' is not one of: precision, data, out,"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        edgekit.convert("m.onnx", **given)


def test_every_keyword_has_its_check() -> None:
    from inspect import signature

    from edgekit.conversion.arguments import _KINDS

    own = {"model", "stop", "targets", "precisions", "unknown"}
    for function in (edgekit.convert, edgekit.inspect):
        assert set(signature(function).parameters) - own <= set(_KINDS)


@pytest.mark.nightly
def test_a_dry_run_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}")
    told: list[str] = []
    out, photos = tmp_path / "out", write_pictures(tmp_path / "photos", 4)
    done = edgekit.convert("tiny_models:detector", "onnx", data=photos, out=out, dry_run=True, notice=told.append)
    assert (done.ok, list(done)) == (True, [])
    assert done.planned == (edgekit.Planned("onnx", "fp32", (), ""),)
    assert done.minutes > 0
    assert told[0].startswith("source: ")
    assert not out.exists()


@pytest.mark.nightly
def test_a_model_is_looked_at_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}")
    seen = edgekit.inspect("tiny_models:detector", size=SIZE)
    assert seen.kind == "factory"
    with pytest.raises(UsageError, match="no argument 'contract_out'"):
        edgekit.inspect("x.onnx", contract_out="x.yaml")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes a path or module:factory, not int"):
        edgekit.inspect(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"match": 0.9}, "'match' is not one of: iou, matched, score_drift, extra"),
        ({"matched": 2}, "matched=2: must be 0..1"),
        ({"matched": float("nan")}, "matched=nan: must be 0..1"),
    ],
)
def test_a_wrong_gate_is_refused(gate: dict[str, float], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        edgekit.convert("edgekit.shapes.trained:detector", "onnx", gate=gate, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_contract_goes_through_a_contract_file(asked: Asked) -> None:
    edgekit.convert("detector.pt2", "onnx", contract=CONTRACT)
    assert asked.contract.complete(asked.contract.outputs) == CONTRACT
    assert not Path(asked.request.contract).exists(), "the temporary folder is gone"


@pytest.mark.parametrize(
    "contract",
    [
        CONTRACT,
        msgspec.structs.replace(
            CONTRACT, image=edgekit.ImageRule(size=(32, 48), align="corner", scale=1e-5), outputs=()
        ),
        msgspec.structs.replace(CONTRACT, classes=("no", "1", "käse: [x]"), image=edgekit.ImageRule(size=(8, 8))),
        edgekit.Contract(
            task="pose",
            image=edgekit.ImageRule(size=(8, 8), resize="crop", crop=0.5),
            classes=("person",),
            decoder=edgekit.Decoder(name="heatmaps"),
            skeleton=edgekit.Skeleton(names=("head", "tail"), edges=((0, 1),), sigmas=(0.1, 0.2)),
        ),
    ],
    ids=["outputs", "corner", "words that YAML would read", "pose"],
)
def test_a_written_contract_is_read_again(contract: edgekit.Contract, tmp_path: Path) -> None:
    stated = read_contract(write_contract(contract, tmp_path / "contract.yaml"))
    read = stated.complete(stated.outputs)
    decoder = msgspec.structs.replace(contract.decoder, options=msgspec.to_builtins(contract.decoder.options))
    assert read == msgspec.structs.replace(contract, decoder=decoder)


def test_the_contract_of_a_vision_language_model_is_in_its_files(asked: Asked) -> None:
    from edgekit.runtimes.bundle.manifest import Language

    contract = edgekit.Contract(
        image=edgekit.ImageRule(size=(8, 8)), language=Language(family="opt", queries=1, prompts={}, generation={})
    )
    with pytest.raises(ContractError, match="is in its own files; leave contract out"):
        edgekit.convert("blip2", "onnx", contract=contract)


class TestAnOpenNetwork:
    torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

    def network(self) -> Any:
        import tiny_models

        return tiny_models.detector()

    def test_it_becomes_a_program_that_computes_the_same(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}

        def run(request: Any, watch: Any, stop: Any, notice: Any) -> Any:
            seen["program"] = self.torch.export.load(request.source).module(check_guards=False)
            seen["name"] = Path(request.source).name
            return asked(request, watch, stop, notice)

        monkeypatch.setattr(api, "run", run)
        network = self.network().eval()
        edgekit.convert(network, "onnx", contract=CONTRACT, name="mine")
        image = self.torch.rand(1, 3, SIZE, SIZE)
        for ours, theirs in zip(seen["program"](image), network(image), strict=True):
            assert self.torch.equal(ours, theirs)
        assert seen["name"] == "mine.pt2"

    def test_a_program_is_taken_as_it_is(self, asked: Asked) -> None:
        program = self.torch.export.export(self.network().eval(), (self.torch.zeros(1, 3, SIZE, SIZE),))
        edgekit.convert(program, "onnx", contract=CONTRACT)
        assert asked.request.source.endswith("exportedprogram.pt2")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda network: network.train(), "the network is in training mode; call .eval"),
            (lambda network: network.boxes.train(), "its part boxes is in training mode; call .eval"),
            (lambda network: network.double(), r"the parameter .* is torch.float64; call .float\(\)"),
            (lambda network: network.to("meta"), r"the parameter .* is on meta; call .cpu\(\)"),
        ],
        ids=["training", "partly training", "float64", "elsewhere"],
    )
    def test_what_would_be_converted_otherwise_is_refused(self, change: Any, says: str, asked: Asked) -> None:
        network = self.network().eval()
        change(network)
        with pytest.raises(SourceError, match=says):
            edgekit.convert(network, "onnx", contract=CONTRACT)
        assert asked.request is None

    def test_it_needs_a_contract(self, asked: Asked) -> None:
        with pytest.raises(UsageError, match=r"a network in memory needs its contract: convert\(network, "):
            edgekit.convert(self.network().eval(), "onnx")
        with pytest.raises(UsageError, match=r"or an ExportedProgram, not int"):
            edgekit.convert(3, "onnx", contract=CONTRACT)  # type: ignore[call-overload]

    def test_it_is_converted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The whole way, with the stages in this process."""
        pytest.importorskip("onnxruntime", reason="needs the extra 'convert'")
        stages.stay(monkeypatch)
        photos = write_pictures(tmp_path / "photos", 4)
        network = self.network().eval()
        (outcome,) = edgekit.convert(network, "onnx", contract=CONTRACT, data=photos, out=tmp_path / "out", name="tiny")
        assert outcome.ok, outcome.error
        assert outcome.path == tmp_path / "out" / "tiny-onnx-fp32"
        model = edgekit.load(outcome.path)
        assert model.contract == CONTRACT
        assert len(model(picture(3))) > 0
        assert outcome.bundle is not None
        assert outcome.bundle.manifest.origin.kind == "torch.export"


# ---- what is expected of a bundle ----


def test_load_checks_what_is_expected(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'convert'")
    bundle = write_tiny_bundle(tmp_path / "tiny")
    assert isinstance(edgekit.load(bundle, edgekit.Detections)(np.zeros((8, 8, 3), np.uint8)), edgekit.Detections)
    for wrong in (edgekit.Poses, edgekit.VisionLanguage, edgekit.Classification):
        with pytest.raises(UsageError, match=rf"gives Detections \(its task is detect\), not {wrong.__name__}: load\("):
            edgekit.load(bundle, wrong)  # type: ignore[type-var]
    with pytest.warns(DeprecationWarning, match=r"load\(device=\.\.\.\) is called load\(unit=\.\.\.\) now"):
        assert edgekit.load(bundle, device="cpu").placement.device == "cpu"
    with pytest.raises(UsageError, match="are one setting: give unit alone"):
        edgekit.load(bundle, device="cpu", unit="cpu")
    with pytest.raises(UsageError, match="unit 'tpu' is not one of: cpu"):
        edgekit.load(bundle, unit="tpu")


# ---- stopping ----


def test_a_stopped_conversion_raises_and_begins_nothing_more(tmp_path: Path) -> None:
    stop = edgekit.Stop()
    seen: list[str] = []

    def progress(event: edgekit.ProgressEvent) -> None:
        seen.append(event.step)
        if len(seen) == 1:
            threading.Thread(target=stop.pull).start()  # as a button in another thread does

    source = "edgekit.shapes.trained:detector"
    with pytest.raises(StoppedError, match="the conversion was stopped"):
        edgekit.convert(source, "onnx,openvino", out=tmp_path / "out", progress=progress, stop=stop)
    assert set(seen) == {"prepare"}
    assert not list((tmp_path / "out").glob("*/manifest.json"))


def test_a_profile_tells_and_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgekit.profiling import session as sessions

    profile = sample(1, "onnx", "fp32")

    def measured(job: SessionJob, report: Callable[[Any], None]) -> None:
        report(SessionProgress(text="round 1", share=0.25))
        report(SkippedBundle(bundle="out/other", reason="no engine"))
        report(Profiled(profile=profile))

    monkeypatch.setattr(sessions, "run_session", measured)
    events: list[edgekit.ProgressEvent] = []
    assert edgekit.profile(tmp_path, progress=events.append) == (profile,)
    assert [event.text for event in events] == ["round 1", "other: not measured: no engine"]
    stop = edgekit.Stop()
    stop.pull()
    with pytest.raises(StoppedError, match="the profile was stopped"):
        edgekit.profile(tmp_path, stop=stop)
    warned = pytest.warns(DeprecationWarning, match=r"profile\(device=\.\.\.\) is called profile\(on=\.\.\.\) now")
    with warned, pytest.raises(UsageError, match="give on alone"):
        edgekit.profile(tmp_path, on="pi", device="pi")
