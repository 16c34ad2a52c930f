"""What would leave a proof empty: sources of which nothing can be proven are refused, and the rest is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra 'convert'")
load_file, save_file = safetensors.load_file, safetensors.save_file

import tiny_blip2

from edgekit.arrays import Image
from edgekit.calibration.samples import Samples
from edgekit.calibration.split import store
from edgekit.cli._reports import outcome_row
from edgekit.conversion import doubts
from edgekit.conversion.bundle_builder import Outcome
from edgekit.conversion.decoded import DecodedSource
from edgekit.conversion.jobs import Prepared, PrepareJob, Reference
from edgekit.conversion.network import compare_network
from edgekit.conversion.notices import of_source
from edgekit.conversion.texts import TextSource
from edgekit.conversion.workspace import Workspace
from edgekit.errors import SourceError
from edgekit.evaluation.agreement import GATES
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.inputs.media import references
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.shapes import scene
from edgekit.shapes.trained import SOURCE
from edgekit.sources import SourceRequest, WrittenModel, load

MODULE = """
import torch
import torch.nn.functional as F
from torch import nn
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output

class Network(nn.Module):
    contract = Contract(
        task="classify", image=ImageRule(size=(16, 24), resize="crop"), classes=("a", "b", "c"),
        decoder=Decoder(name="classes"), outputs=(Output(name="logits", role="logits"),),
    )
    def __init__(self, change=lambda x: x, scale=30.0, shift=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 3)
        self.change, self.scale, self.shift = change, scale, shift
    def forward(self, x):
        return self.linear(self.change(self.norm(self.conv(x))).mean((2, 3))) * self.scale + self.shift

class Training(Network):
    def eval(self):
        return self.train()

def sound(): return Network()
def still(): return Network(scale=1e-2, shift=1.0)
def dropout(): return Network(F.dropout)
def noisy(): return Network(lambda x: x + torch.randn_like(x))
def training(): return Training()
def blind(): return Network(lambda x: x * 0)
def undefined(): return Network(lambda x: x / 0 * 0)
def infinite(): return Network(lambda x: x.exp().exp().exp().exp())
"""


def unwatched(text: str, share: float) -> None:
    """A report that nobody reads."""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doubtful_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def photographs(count: int = 4) -> Image:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 24, 3), np.uint8)


def proof(images: Image, rule: ImageRule, folder: Path) -> Samples:
    return store(references(images), rule, folder / "proof.npy")


def run(factory: str, images: Image, folder: Path) -> Reference:
    spec = factory if ":" in factory else f"doubtful_module:{factory}"
    source = DecodedSource(PrepareJob(folder=str(folder), source=spec))
    return source.run(proof(images, source.contract.image, folder), Workspace(folder), unwatched)


def test_a_sound_source_is_not_doubted(tmp_path: Path) -> None:
    assert run("sound", photographs(40), tmp_path).doubts == ()
    scenes = np.stack([scene(700 + seed).image for seed in range(8)])
    made = run(SOURCE, scenes, tmp_path)
    assert made.doubts == ()
    assert str(made) == "the source's raw heads in PyTorch, decoded by edgekit"


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("dropout", r"two results for one image: output 'logits' differs by [\d.]+; put the network in eval mode"),
        ("noisy", r"two results for one image: output 'logits' differs by "),
        (
            "training",
            r"the source changes its own norm\.\w+ when it runs: it is in training mode; put the netw",
        ),
        ("blind", r"gives the same for every image, in all of its outputs \(logits\): nothing could be proven; check"),
        ("undefined", r"gives NaN or infinite values itself, in output 'logits'"),
        ("infinite", r"gives NaN or infinite values itself, in output 'logits'"),
    ],
)
def test_sources_of_which_nothing_can_be_proven(factory: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        run(factory, photographs(), tmp_path)


def test_a_source_that_finds_nothing(tmp_path: Path) -> None:
    empty = np.stack([scene(700).image] * 2) // 8 + np.arange(2, dtype=np.uint8)[:, None, None, None]
    (said,) = run(SOURCE, empty, tmp_path).doubts
    assert said.startswith(
        "the source finds nothing in the proof images, so only its raw outputs are compared; are its "
    )
    assert "are its weights trained ones (--weights)" in said


def test_a_source_that_finds_little(tmp_path: Path) -> None:
    assert run("sound", photographs(4), tmp_path).doubts == (
        "the source finds only 4 in the proof images, so its best anchors are compared",
    )


def found(score: float = 0.9, count: int = 10) -> Candidates:
    ones = np.ones(count, np.float32)
    boxes = np.repeat(np.array([[1, 1, 5, 4]], np.float32), count, 0)
    return Candidates(boxes, score * ones, np.zeros(count, np.int64), np.arange(count))


def test_a_source_whose_boxes_have_no_area() -> None:
    turned = dataclasses.replace(found(0.8), boxes=found().boxes[:, [2, 1, 0, 3]])
    (said,) = doubts.of_results([turned, found(0.7, 5)], (), "")
    assert said.startswith("10 of the source's 15 boxes have no area")
    assert said.endswith("is it trained, and is the decoder the right one?")
    assert doubts.of_results([turned, found(0.7, 11)], (), "") == ()  # negative control


def test_a_source_that_finds_the_same_everywhere() -> None:
    assert doubts.of_results([found(), found()], (), "") == ("the source finds exactly the same in every image",)
    for others in ([found(), found(0.8)], [found(), found(count=9)], [found()]):  # negative controls
        assert doubts.of_results(others, (), "") == ()


def told(prepared: Prepared) -> None:
    """Each doubt is a warning to the user."""
    assert prepared.reference.doubts
    assert {f"warning: {doubt}" for doubt in prepared.reference.doubts} <= set(of_source(prepared))


@pytest.mark.parametrize("blind", [False, True])
def test_a_bundle_that_does_not_see_the_image(blind: bool, tmp_path: Path) -> None:
    """Its raw outputs are close to those of a source that moves little, as is the case with images without objects."""
    source = DecodedSource(PrepareJob(folder=str(tmp_path), source="doubtful_module:still"))
    images, workspace = photographs(), Workspace(tmp_path)
    reference = source.run(proof(images, source.contract.image, tmp_path), workspace, unwatched)
    prepared = Prepared(
        name="x", parts=(), contract=source.contract, origin=source.origin, shapes={}, operators={}, calibration=None,
        proof_sha256="", proof_views=4, photographs=4, reference=reference, versions={},
    )  # fmt: skip
    told(prepared)
    raw = iter(np.load(workspace.reference("logits")))
    first = np.load(workspace.reference("logits"))[0]
    model: Any = SimpleNamespace(
        manifest=SimpleNamespace(precision="fp32", engines=("onnxruntime",)), contract=source.contract,
        task=open_task(source.contract), placement=Placement("cpu"), outputs=lambda _: [first if blind else next(raw)],
    )  # fmt: skip
    evidence = compare_network(model, prepared, workspace, GATES["fp32"], lambda text, share: None)
    assert evidence.compared == "candidates"
    assert evidence.decoded is not None
    assert evidence.decoded.matched == 1.0
    assert evidence.failures == (("the outputs are the same for every image, the source's are not",) if blind else ())
    assert evidence.reference == str(reference)
    bundle: Any = SimpleNamespace(bytes=1000, manifest=SimpleNamespace(proven=evidence.passed, speed=None))
    shown = outcome_row(Outcome("onnx", "fp32", tmp_path, bundle=bundle, evidence=evidence))[-1]
    assert shown == ("[yellow]unproven[/yellow]" if blind else "[green]proven[/green] on raw outputs alone")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((4, 16, 24, 3), 90, np.uint8), "every proof image is of one colour, with nothing to find"),
        (np.concatenate([np.full((6, 16, 24, 3), 90, np.uint8), photographs(3)]), "6 of 9 proof images are of one col"),
        (np.repeat(photographs(1), 5, 0), "all proof images are equal"),
    ],
)
def test_images_that_show_nothing(images: Image, words: str, tmp_path: Path) -> None:
    rule = ImageRule(size=(16, 24))
    given = tmp_path / "proof.npy"
    np.save(given, images)
    (said,) = doubts.of_images(Samples(given, rule))
    assert said.startswith(words)
    np.save(given, photographs(4))
    assert doubts.of_images(Samples(given, rule)) == ()  # negative control


def test_padding_is_no_content(tmp_path: Path) -> None:
    image = np.full((1, 16, 24, 3), 200, np.uint8)
    image[:, :, :4] = image[:, :, -4:] = 114
    np.save(tmp_path / "proof.npy", image)
    assert "one colour" in doubts.of_images(Samples(tmp_path / "proof.npy", ImageRule(size=(16, 24))))[0]


def test_an_output_that_is_always_the_same() -> None:
    same = doubts.Sameness(("classes", "priors"))
    assert same.names == ("classes", "priors")
    for value in range(3):
        same.add([np.full(4, value, np.float32), np.ones(4, np.float32)])
    assert same.names == ("priors",)
    assert "output 'priors' is the same for every image" in doubts.of_results([], same.names, "")
    (tolerated,) = [doubts.Sameness(("x",))]
    tolerated.add([np.ones(4, np.float32)])
    tolerated.add([np.ones(4, np.float32) + np.float32(1e-6)])
    assert tolerated.names == ("x",)
    clear = doubts.Sameness(("x", "y"), doubts.CLEARLY)
    clear.add([np.ones(4, np.float32)] * 2)
    clear.add([np.ones(4, np.float32) * np.float32(factor) for factor in (1.00002, 1.0005)])
    assert clear.names == ("x",)


def test_what_is_said_is_part_of_the_evidence() -> None:
    assert str(Reference(how="in PyTorch", doubts=("one", "two"))) == "in PyTorch; one; two"


# --- texts ---


def matched(folder: Path, images: Image, work: Path) -> Reference:
    model = load(SourceRequest(str(folder)))
    assert isinstance(model, WrittenModel)
    work.mkdir()
    source = TextSource(PrepareJob(folder=str(work), source=str(folder)), model)
    np.save(work / "proof.npy", images)
    return source.run(Samples(work / "proof.npy", source.contract.image), Workspace(work), unwatched)


def test_texts_of_a_source_that_does_not_see_the_image(tmp_path: Path) -> None:
    folder = tiny_blip2.retrieval(tmp_path / "whole")
    images = np.random.default_rng(1).integers(0, 256, (3, tiny_blip2.SIZE, tiny_blip2.SIZE, 3), np.uint8)
    assert "all proof images are equal" not in matched(folder, images, tmp_path / "sound").doubts
    assert matched(folder, images[[0, 0]], tmp_path / "equal").doubts == ("all proof images are equal",)
    tensors = load_file(folder / "model.safetensors")
    for name in ("vision_projection.weight", "vision_projection.bias"):
        tensors[name] = torch.full_like(tensors[name], float(name.endswith("bias")))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"gives the same for every image, in all of its outputs \(image_vectors\)"):
        matched(folder, images, tmp_path / "blind")


def test_answers_that_are_the_same_for_every_image(tmp_path: Path) -> None:
    model = load(SourceRequest(str(tiny_blip2.opt(tmp_path / "opt"))))
    assert isinstance(model, WrittenModel)
    source, workspace = TextSource(PrepareJob(folder=str(tmp_path), source=""), model), Workspace(tmp_path)
    for answers, said in (([[1, 2], [3, 4], [1, 2], [3, 4]], True), ([[1, 2], [3, 4], [1, 2], [3, 5]], False)):
        np.save(workspace.answers, np.array(answers))
        assert source._doubts(workspace, 2) == (("the source generates the same text for every image",) if said else ())
