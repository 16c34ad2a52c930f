"""Cutting fused tails of known families at their raw convolutions, folding BatchNorm, and the exchange files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import ContractError, SourceError
from edgekit.graph.heads import Cut, CutPoint, cut_at, cut_automatically
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.runtimes.tasks.decoders import find
from edgekit.runtimes.tasks.detect import Detect

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("onnx", reason="needs the extra 'convert'")
pytest.importorskip("onnxslim", reason="needs the extra 'convert'")

from edgekit.graph.exchange import flatten, write_exchange
from edgekit.graph.fold import fold_batch_norm

nn, functional = torch.nn, torch.nn.functional
SIZE = 64
STRIDES = (8, 16, 32)
EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)


def photo(seed: int = 0) -> Any:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


class Tailed(nn.Module):  # type: ignore[misc, name-defined]
    """A backbone of three levels, one convolution with BatchNorm per level and role, and a tail that decodes."""

    def __init__(self, roles: dict[str, int], strides: tuple[int, ...] = STRIDES) -> None:
        super().__init__()
        self.strides = strides
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 8, stride, stride), nn.BatchNorm2d(8)) for stride in strides
        )
        for role, channels in roles.items():
            setattr(self, role, nn.ModuleList(nn.Conv2d(8, channels, 1) for _ in strides))
        torch.manual_seed(sum(roles.values()))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.25)
        self.eval()

    def raw(self, x: Any) -> list[list[Any]]:
        """Per level, the raw heads in the order of the roles."""
        features = [functional.silu(body(x)) for body in self.body]
        roles = [name for name, _ in self.named_children() if name != "body"]
        return [[getattr(self, role)[level](f) for role in roles] for level, f in enumerate(features)]

    def forward(self, x: Any) -> Any:
        return tuple(head for level in self.raw(x) for head in level)


class FastestDet(Tailed):
    """FastestDet's tail: [sigmoid(objectness), boxes, softmax(classes)] along the channels."""

    def __init__(self, classes: int) -> None:
        super().__init__({"objectness": 1, "boxes": 4, "classes": classes}, (16,))

    def forward(self, x: Any) -> Any:
        ((objectness, boxes, classes),) = self.raw(x)
        return torch.cat((objectness.sigmoid(), boxes, functional.softmax(classes, dim=1)), 1)


class Yolov8(Tailed):
    """Ultralytics' tail: concat, DFL by a fixed convolution, dist2bbox, sigmoid, concat."""

    def __init__(self, classes: int, reg_max: int = 16) -> None:
        super().__init__({"boxes": 4 * reg_max, "classes": classes})
        self.reg_max, self.count = reg_max, classes
        self.expectation = nn.Conv2d(reg_max, 1, 1, bias=False).requires_grad_(False)
        self.expectation.weight.data[:] = torch.arange(reg_max, dtype=torch.float32).view(1, reg_max, 1, 1)

    def raw(self, x: Any) -> list[list[Any]]:
        features = [functional.silu(body(x)) for body in self.body]
        return [[self.boxes[i](f), self.classes[i](f)] for i, f in enumerate(features)]

    def forward(self, x: Any) -> Any:
        levels = [torch.cat(level, 1).flatten(2) for level in self.raw(x)]
        boxes, classes = torch.cat(levels, 2).split((4 * self.reg_max, self.count), 1)
        if self.reg_max > 1:
            boxes = self.expectation(boxes.view(1, 4, self.reg_max, -1).transpose(2, 1).softmax(1)).view(1, 4, -1)
        centres, strides = [], []
        for stride in self.strides:
            side = torch.arange(SIZE // stride) + 0.5
            y, x_ = torch.meshgrid(side, side, indexing="ij")
            centres.append(torch.stack((x_.flatten(), y.flatten())))
            strides.append(torch.full((1, y.numel()), float(stride)))
        low, high = boxes.chunk(2, 1)
        low, high = torch.cat(centres, 1) - low, torch.cat(centres, 1) + high
        xywh = torch.cat(((low + high) / 2, high - low), 1) * torch.cat(strides, 1)
        return torch.cat((xywh, classes.sigmoid()), 1)


class Yolox(Tailed):
    """YOLOX's tail: concat of boxes, sigmoid(objectness), sigmoid(classes), flattened, of all levels, permuted."""

    def __init__(self, classes: int) -> None:
        super().__init__({"boxes": 4, "objectness": 1, "classes": classes})

    def forward(self, x: Any) -> Any:
        levels = [
            torch.cat((boxes, objectness.sigmoid(), classes.sigmoid()), 1).flatten(2)
            for boxes, objectness, classes in self.raw(x)
        ]
        return torch.cat(levels, 2).permute(0, 2, 1)


class Ssd(Tailed):
    """SSD's tail: permuted, reshaped to rows of all levels, softmax over the classes; classes first or last."""

    def __init__(self, classes: int, priors: int = 3, classes_first: bool = False) -> None:
        super().__init__({"boxes": 4 * priors, "classes": (classes + 1) * priors})
        self.count, self.classes_first = classes + 1, classes_first

    def forward(self, x: Any) -> Any:
        levels = self.raw(x)
        boxes = torch.cat([b.permute(0, 2, 3, 1).reshape(1, -1, 4) for b, _ in levels], 1)
        logits = torch.cat([c.permute(0, 2, 3, 1).reshape(1, -1, self.count) for _, c in levels], 1)
        scores = functional.softmax(logits, dim=-1)
        return (scores, boxes) if self.classes_first else (boxes, scores)


def roles_of(cut: Cut) -> list[tuple[str, str, int]]:
    return [(output.name, output.role, output.level) for output in cut.outputs]


def automatic(network: Any, decoder: str, options: dict[str, Any], classes: int) -> Cut:
    found = find(Decoder(name=decoder))
    assert found.channels is not None
    channels = found.channels(found.read(options), classes)
    return cut_automatically(flatten(network, EXAMPLE), channels, decoder)


def detect(cut: Cut, decoder: str, options: dict[str, Any], classes: int) -> Detect:
    return Detect(
        Contract(
            image=ImageRule(size=(SIZE, SIZE)),
            classes=tuple(f"c{index}" for index in range(classes)),
            decoder=Decoder(name=decoder, options=options),
            outputs=cut.outputs,
            postprocess=Postprocess(),
        )
    )


SSD_OPTIONS = {"strides": list(STRIDES), "priors": [[[s, s], [s, 2 * s], [2 * s, s]] for s in (9.0, 20.0, 40.0)]}
FAMILIES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "fastestdet": (FastestDet, "fastestdet", {}),
    "yolov8": (Yolov8, "anchor_free", {"strides": list(STRIDES)}),
    "yolo without DFL": (lambda classes: Yolov8(classes, 1), "anchor_free", {"strides": list(STRIDES), "reg_max": 1}),
    "yolox": (Yolox, "grid", {"strides": list(STRIDES)}),
    "ssd": (Ssd, "ssd", SSD_OPTIONS),
    "ssd, classes first": (lambda classes: Ssd(classes, classes_first=True), "ssd", SSD_OPTIONS),
}


@pytest.mark.parametrize("classes", [1, 2, 4, 80])
@pytest.mark.parametrize("family", FAMILIES)
def test_fused_tails_are_cut_at_the_raw_heads(family: str, classes: int) -> None:
    """The cut gives the very heads, in the decoder's roles; one class and four are where channels are ambiguous."""
    make, decoder, options = FAMILIES[family]
    network = make(classes)
    cut = automatic(network, decoder, options, classes)
    channels = find(Decoder(name=decoder)).channels(find(Decoder(name=decoder)).read(options), classes)  # type: ignore[misc]
    with torch.no_grad():
        wanted = network.raw(photo())
        got = cut.graph(photo())
    several = len(wanted) > 1
    assert roles_of(cut) == [
        (f"{role}_{level}" if several else role, role, level) for level in range(len(wanted)) for role in channels
    ]
    named = [name for name, _ in network.named_children() if name in channels]
    for index, output in enumerate(cut.outputs):
        torch.testing.assert_close(got[index], wanted[output.level][named.index(output.role)], rtol=1e-4, atol=1e-4)
    assert cut.note.startswith(f"cut at {len(got)} raw heads, before ")
    for operator in ("cat",) if family != "ssd" else ("cat", "softmax", "permute"):
        assert operator in cut.note
    assert ("equal channels" in cut.note) == (len(set(channels.values())) < len(channels))


@pytest.mark.parametrize(
    ("family", "fused"),
    [
        ("fastestdet", ("fastestdet", {"activated": True})),
        ("yolov8", ("decoded", {})),
        ("yolo without DFL", ("decoded", {})),
    ],
)
def test_decoded_the_cut_says_what_the_whole_network_says(family: str, fused: tuple[str, dict[str, Any]]) -> None:
    make, decoder, options = FAMILIES[family]
    network = make(6)
    cut = automatic(network, decoder, options, 6)
    task = detect(cut, decoder, options, 6)
    whole = Detect(
        Contract(
            image=task.contract.image,
            classes=task.contract.classes,
            decoder=Decoder(name=fused[0], options=fused[1]),
            outputs=(Output(name="predictions", role="predictions"),),
        )
    )
    with torch.no_grad():
        ours = task.candidates([array.numpy() for array in cut.graph(photo())], -1.0)
        given = whole.candidates([network(photo()).numpy()], -1.0)
    np.testing.assert_array_equal(ours.anchors, given.anchors)
    np.testing.assert_array_equal(ours.class_ids, given.class_ids)
    np.testing.assert_allclose(ours.scores, given.scores, atol=1e-5)
    np.testing.assert_allclose(ours.boxes, given.boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["yolov8", "yolox", "fastestdet"])
def test_the_decoder_names_its_fused_form(family: str) -> None:
    make, decoder, options = FAMILIES[family]
    fused = find(Decoder(name=decoder)).fused
    shape = tuple(make(6)(photo()).shape)
    if fused is None:
        assert decoder == "grid"
        return
    spec = fused(options, shape, 6)
    assert spec is not None
    assert spec.name == {"yolov8": "decoded", "fastestdet": "fastestdet"}[family]
    assert fused(options, shape, 7) is None
    assert fused(options, shape[1:], 6) is None


def test_raw_already() -> None:
    network = Tailed({"boxes": 64, "classes": 6})
    cut = automatic(network, "anchor_free", {"strides": list(STRIDES)}, 6)
    assert cut.note == "the graph ends in raw heads already"
    assert len(cut.outputs) == 6
    for got, wanted in zip(cut.graph(photo()), network(photo()), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_convolutions_with_padding_by_name() -> None:
    """padding="same" is another operator in torch.export."""

    class Same(FastestDet):
        def __init__(self) -> None:
            super().__init__(3)
            self.body[0].append(nn.Conv2d(8, 8, 3, padding="same", bias=False))
            self.body[0].append(nn.BatchNorm2d(8))
            for role, channels in (("objectness", 1), ("boxes", 4), ("classes", 3)):
                getattr(self, role)[0] = nn.Conv2d(8, channels, 3, padding="same")
            self.eval()

    cut = automatic(Same(), "fastestdet", {}, 3)
    assert [output.role for output in cut.outputs] == ["objectness", "boxes", "classes"]
    assert not any("batch_norm" in str(node.target) for node in cut.graph.graph.nodes)


def test_wrong_number_of_classes_names_what_was_found() -> None:
    with pytest.raises(ContractError) as caught:
        automatic(FastestDet(6), "fastestdet", {}, 7)
    for part in (
        "decoder 'fastestdet' needs, per level, objectness with 1 channels, boxes with 4 channels, classes with 7 ",
        "the last convolutions are: conv2d_1 (1, 1, 4, 4), conv2d_2 (1, 4, 4, 4), conv2d_3 (1, 6, 4, 4)",
        "Correct classes or decoder, or name the tensors in the contract: cut: [{tensor: NAME, role: ROLE, level: 0}",
    ):
        assert part in str(caught.value)


def test_wrong_decoder() -> None:
    with pytest.raises(ContractError, match="decoder 'grid' needs, per level, boxes with 4 channels, objectness"):
        automatic(Yolov8(6), "grid", {"strides": list(STRIDES)}, 6)


def test_equal_channels_in_another_order_are_not_guessed() -> None:
    """Objectness between boxes and four classes: which of the two with four channels is which, nobody can tell."""

    class Shuffled(FastestDet):
        def forward(self, x: Any) -> Any:
            ((objectness, boxes, classes),) = self.raw(x)
            return torch.cat((boxes, objectness, classes), 1)

    with pytest.raises(ContractError, match=r"equal channels in an unusual order"):
        automatic(Shuffled(4), "fastestdet", {}, 4)


def test_without_any_convolution() -> None:
    network = nn.Sequential(nn.Flatten(2), nn.Linear(SIZE * SIZE, 4))
    with pytest.raises(ContractError, match="the last convolutions are: none"):
        automatic(network, "anchor_free", {"strides": [8]}, 1)


# --- cutting by name ---


def test_cut_at_named_tensors() -> None:
    network = FastestDet(6)
    flat = flatten(network, EXAMPLE)
    cut = cut_at(flat, [CutPoint("conv2d_3", "classes"), CutPoint("conv2d_1", "objectness")])
    assert roles_of(cut) == [("classes", "classes", 0), ("objectness", "objectness", 0)]
    assert (cut.tensors, cut.note) == (("conv2d_3", "conv2d_1"), "cut at conv2d_3, conv2d_1")
    ((objectness, _, classes),) = network.raw(photo())
    got = cut.graph(photo())
    torch.testing.assert_close(got[0], classes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], objectness, rtol=1e-4, atol=1e-4)
    used = [node for node in cut.graph.graph.nodes if node.op == "call_function"]
    assert not {"cat", "softmax", "sigmoid"} & {str(node.target).split(".")[1] for node in used}
    levels = cut_at(flat, [CutPoint("conv2d_3", "classes", 0), CutPoint("conv2d_1", "classes", 1)])
    assert [output.name for output in levels.outputs] == ["classes_0", "classes_1"]


def test_cut_at_a_name_that_is_not_there() -> None:
    with pytest.raises(ContractError) as caught:
        cut_at(flatten(FastestDet(6), EXAMPLE), [CutPoint("conv2d_33", "classes")])
    message = str(caught.value)
    assert message.startswith("cut: the graph has no tensor 'conv2d_33'; near it: conv2d_3")
    assert message.endswith("its last convolutions: conv2d_1, conv2d_2, conv2d_3")
    with pytest.raises(ContractError, match="no tensor 'ZZZZ'; near it: none"):
        cut_at(flatten(FastestDet(6), EXAMPLE), [CutPoint("ZZZZ", "classes")])


# --- the real FastestDet ---


def test_the_real_fastestdet_cut_gives_the_same_detections(shared_data: Path) -> None:
    """Decoded on photographs, the cut network and the program as it was given agree box by box."""
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source, uncut_task
    from edgekit.conversion.reference import detections
    from edgekit.graph.exchange import output_shapes
    from edgekit.runtimes.inputs.images import Preprocessor
    from edgekit.runtimes.inputs.media import references

    torch.set_num_threads(1)
    contract = Path(__file__).parents[1] / "examples" / "fastestdet.yaml"
    source = str(shared_data / "models" / "fastestdet_coco.pt2")
    read = read_source(PrepareJob(folder="", source=source, contract=str(contract)))
    assert read.note.startswith("cut at 3 raw heads, before cat, ")
    assert [(output.name, output.role) for output in read.contract.outputs] == [
        (role, role) for role in ("objectness", "boxes", "classes")
    ]
    shapes = output_shapes(torch.export.export(read.heads, (read.model.example,)))
    assert shapes == [(1, 1, 22, 22), (1, 4, 22, 22), (1, 80, 22, 22)]
    task, whole = Detect(read.contract), uncut_task(read.model, read.contract)
    assert whole is not None
    prepare, found = Preprocessor(read.contract.image), 0
    for reference in references(shared_data / "calibration")[:10]:
        tensor = torch.from_numpy(prepare(reference.open())[0].copy())
        with torch.no_grad():
            ours = detections(task, [head.numpy() for head in read.heads(tensor)])
            given = detections(whole, [read.model.module(tensor).numpy()])
        np.testing.assert_array_equal(ours.anchors, given.anchors)
        np.testing.assert_array_equal(ours.class_ids, given.class_ids)
        np.testing.assert_allclose(ours.scores, given.scores, atol=1e-4)
        np.testing.assert_allclose(ours.boxes, given.boxes, atol=1e-2)
        found += len(ours)
    assert found > 10


# --- folding BatchNorm ---


def normed(conv: Any, channels: int, affine: bool = True) -> Any:
    """A convolution and a BatchNorm with random statistics."""
    torch.manual_seed(7)
    norm = nn.BatchNorm2d(channels, eps=1e-3, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.01, 3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(conv, norm).eval()


def norms(graph: Any) -> int:
    return sum("batch_norm" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("conv", "channels"),
    [
        (nn.Conv2d(3, 8, 3), 8),
        (nn.Conv2d(3, 8, 3, bias=False), 8),
        (nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=False), 6),
        (nn.Conv2d(3, 12, 3, padding=2, dilation=2, groups=3), 12),
        (nn.Conv2d(3, 4, (1, 5), padding="same"), 4),
        (nn.Conv2d(3, 4, 3, padding="same", bias=False), 4),
    ],
    ids=["bias", "no bias", "depthwise", "grouped", "same", "same, no bias"],
)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_folded_exactly(conv: Any, channels: int, affine: bool) -> None:
    network = normed(conv, channels, affine)
    flat = flatten(network, EXAMPLE)
    assert norms(flat) == 0
    with torch.no_grad():
        torch.testing.assert_close(flat(photo()), network(photo()), rtol=1e-5, atol=1e-5)


def test_a_convolution_that_is_read_twice_keeps_its_norm() -> None:
    class Twice(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = normed(nn.Conv2d(3, 8, 3), 8)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return self.norm(y) + y

    network = Twice().eval()
    flat = flatten(network, EXAMPLE)
    assert norms(flat) == 1
    torch.testing.assert_close(flat(photo()), network(photo()), rtol=1e-5, atol=1e-5)


def test_a_convolution_with_two_norms_that_is_called_twice() -> None:
    class Shared(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = normed(nn.Conv2d(3, 3, 3), 3)
            self.other = normed(nn.Conv2d(3, 3, 3), 3)[1]

        def forward(self, x: Any) -> Any:
            return self.other(self.norm(self.conv(self.norm(self.conv(x)))))

    network = Shared().eval()
    flat = flatten(network, EXAMPLE)
    assert norms(flat) == 0  # each call has its own weights, and one norm after another folds as well
    torch.testing.assert_close(flat(photo()), network(photo()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_fold_too(groups: int) -> None:
    """LiteRT cannot take the norm behind one apart: it refused CenterFace in INT8."""

    class Upsampled(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.up, self.norm = normed(nn.ConvTranspose2d(4, 6, 2, 2, groups=groups, bias=groups == 2), 6)

        def forward(self, x: Any) -> Any:
            return self.norm(self.up(self.stem(x)))

    network = Upsampled().eval()
    flat = flatten(network, EXAMPLE)
    assert norms(flat) == 0
    torch.testing.assert_close(flat(photo()), network(photo()), rtol=1e-5, atol=1e-5)


def test_a_norm_in_training_mode_is_left_alone() -> None:
    network = normed(nn.Conv2d(3, 8, 3), 8).train()
    flat = fold_batch_norm(torch.export.export(network, (photo(),)).module())
    assert norms(flat) == 1


# --- the exchange ---


def test_exchange_files_give_the_networks_answers(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs an engine of the extra 'convert'")
    cut = automatic(Yolox(5), "grid", {"strides": list(STRIDES)}, 5)
    names = tuple(output.name for output in cut.outputs)
    exchange = write_exchange(cut.graph, EXAMPLE, names, tmp_path)
    assert tuple(exchange.shapes) == names
    assert exchange.shapes["classes_0"] == (1, 5, 8, 8)
    session = runtime.InferenceSession(str(exchange.onnx), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(names)
    program = torch.export.load(exchange.program).module()
    with torch.no_grad():
        wanted, again = cut.graph(photo()), program(photo())
    for got in (session.run(None, {session.get_inputs()[0].name: photo().numpy()}), again):
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_another_number_of_outputs(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the network has 3 outputs, the contract names 1: boxes"):
        write_exchange(Tailed({"boxes": 4}), EXAMPLE, ("boxes",), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_followed(tmp_path: Path) -> None:
    class Branching(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * 2 if x.sum() > 0 else json.loads("0")

    with pytest.raises(SourceError, match=r"torch\.export cannot follow this network: "):
        write_exchange(Branching(), EXAMPLE, ("out",), tmp_path)
