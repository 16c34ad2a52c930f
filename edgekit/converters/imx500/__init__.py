"""Raspberry Pi AI Camera (Sony IMX500): quantised by Sony's Model Compression Toolkit, packed by Sony's converter.

The bundle holds ``packerOut.zip``, which ``imx500-package`` makes a ``.rpk`` for the camera of on the Raspberry Pi, and
``quantised.onnx``: the quantiser's own model with every rounding written out, which is what can be computed elsewhere.

The camera hands the network its pixels as they are: 8 bits, RGB, read as pixel / 256. So the network is made to take
that, whatever the contract's normalisation; ``quantised.onnx`` takes the contract's tensors and turns them back first.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration import originals
from edgekit.calibration.originals import read_originals
from edgekit.converters import Job, Report, Target
from edgekit.converters._foreign import tool_error
from edgekit.converters._quiet import quiet
from edgekit.converters.imx500.network import rebuild, take_pixels
from edgekit.converters.imx500.pack import PACKED, Facts, NoRoomError, pack
from edgekit.converters.imx500.ranges import edits
from edgekit.converters.imx500.rounding import write_out
from edgekit.converters.imx500.stem_weights import readers_of_the_image, refine_stem
from edgekit.converters.imx500.two_parts import NOISE, divide_inputs
from edgekit.converters.imx500.unsigned import store_unsigned
from edgekit.converters.imx500.widths import wide_nodes
from edgekit.errors import ConversionError
from edgekit.graph.exchange import INPUT
from edgekit.runtimes.bundle.manifest import Graph, ImageRule, Record
from edgekit.worker import toolchains
from edgekit.worker.toolchains import Toolchain

if TYPE_CHECKING:
    import onnx
    from torch import fx


class Imx500Options(Record, frozen=True, kw_only=True):
    """``input_persistency`` keeps the frame in the chip's memory during the whole run, so that it can be read back with
    the results; without it a larger network fits."""

    input_persistency: bool = True


QUANTISER = Toolchain(
    name="imx500",
    summary="Sony's Model Compression Toolkit, the quantiser of the imx500 target",
    megabytes=1700,
    requirements=(
        "torch==2.13.0",
        "model-compression-toolkit==2.6.1",
        "mct-quantizers==1.7.0",
        "edge-mdt-cl==1.1.1",
        "numpy==2.4.6",
        "onnx==1.23.2",
        "scipy==1.17.1",
        "scikit-learn==1.9.1",
        "pydantic==2.11.10",
        "protobuf==7.36.2",
        "msgspec==0.22.0",
        "opencv-python-headless==5.0.0.93",
    ),
    without_dependencies=("torchvision==0.28.0",),  # asked for by name, never used: `_import_quantiser`
    imports=("torch", "mct_quantizers", "onnx", "msgspec", "cv2"),
    pythons=("3.11", "3.12"),
    licence="Apache-2.0",
)

CONVERTER = Toolchain(
    name="imx500-converter",
    summary="Sony's IMX500 converter, which packs a quantised network for the camera",
    megabytes=560,
    requirements=(
        "imx500-converter[pt]==3.19.2",
        "uni-pytorch==3.19.0",
        "sdspconv==3.19.1",
        "mct-quantizers==1.6.0",
        "numpy==2.4.6",
        "onnx==1.17.0",
        "onnxruntime==1.21.1",
        "ortools==9.9.3963",
        "protobuf==4.25.5",
    ),
    programs=("java",),
    imports=("imx500_converter", "uni.pytorch", "onnx"),
    pythons=("3.11", "3.12"),
    licence="Sony Semiconductor Solutions' own licence",
)

TARGET = Target(
    name="imx500",
    summary="Raspberry Pi AI Camera (Sony IMX500)",
    engine="imx500",
    precisions=("int8",),
    requires=(),
    distributions=(),
    options=Imx500Options,
    refuses=dict.fromkeys(("DFT", "STFT"), "the camera's network processor has no Fourier transforms"),
    toolchains=(QUANTISER, CONVERTER),
    builder="imx500",
    recipes=("mct",),
    integer_only=True,
    megabytes=8,
)

FILE = "quantised.onnx"

CAPABILITIES = "4.0"
"""Version of Sony's description of what the chip can do."""

OPSET = 20

LIMITS = (NOISE, 10 * NOISE, math.inf)
"""Limits of noise above which a layer reads its input in two parts. Parts take memory: if the network does not fit
into the chip with one limit, the next one is tried, and the last one divides nothing.
"""


def convert(job: Job, report: Report) -> Graph:
    """Write ``packerOut.zip`` for the camera and ``quantised.onnx`` for the check.

    Raises:
        ConversionError: an operator that the chip does not have, no images, a network that does not fit into the
            chip's memory, or a tool that fails.
    """
    report("loading the quantiser", 0.0)
    facts, divided = _made(job, report)
    if equalised := job.planned().equalized:
        facts["equalised"] = ", ".join(f"{site.layer} ({site.before:.0f}x)" for site in equalised)
    if divided:
        facts["inputs in two parts"] = ", ".join(divided)
    return msgspec.structs.replace(job.graph(PACKED, FILE), report=facts)


def _made(job: Job, report: Report) -> tuple[Facts, list[str]]:
    """Quantise and pack, with fewer inputs in two parts where the network does not fit otherwise.

    Returns:
        The packer's memory report, and the layers whose input was divided.
    """
    for noise in LIMITS:
        divided = _quantised(job, report, noise)
        report("packing for the camera", 0.7)
        try:
            facts = _packed(job)
            break
        except NoRoomError:
            if not divided:
                raise
    return facts, divided


def _quantised(job: Job, report: Report, noise: float) -> list[str]:
    """Write the quantised network; returns the layers whose input was divided."""
    try:
        with quiet():
            toolkit = _import_quantiser()
        network, divided = _network(job, noise)
        report("quantising", 0.1)
        _quantise(toolkit, network, job)
    except ConversionError:
        raise
    except Exception as error:  # the toolkit raises whatever its layers raise
        raise tool_error("IMX500 quantiser", error) from error
    return divided


def _packed(job: Job) -> Facts:
    return pack(
        toolchains.program(CONVERTER.name, "imxconv-pt"),
        job.work / "network.onnx",
        job.out,
        persistent=job.chosen(Imx500Options).input_persistency,
    )


def _network(job: Job, noise: float = NOISE) -> tuple[fx.GraphModule, list[str]]:
    """The network in the form that the quantiser supports, and the layers whose input was divided in two parts."""
    import torch
    from torch import fx

    torch.set_num_threads(job.threads)
    module = torch.export.load(job.program).module()
    if not len(job.calibration()):
        raise ConversionError("int8 needs calibration images, and there are none: give --data with photographs")
    network = rebuild(module)
    names = [node.name for node in readers_of_the_image(network)]
    # The file beside the program: `job.originals` are those of the graph before its channels were separated.
    refine_stem(network, read_originals(job.program.with_name(originals.FILE), names))
    take_pixels(network, job.contract.image)
    batches = [torch.from_numpy(pixels) for (pixels,) in _pixels(job)()]
    store_unsigned(network, batches)
    divided = divide_inputs(network, batches, noise) if math.isfinite(noise) else []
    return fx.symbolic_trace(network), divided  # nodes are called as the toolkit will call them


def _quantise(toolkit: Any, network: fx.GraphModule, job: Job) -> None:
    """Post-training quantisation; writes ``network.onnx`` for the converter and ``quantised.onnx``."""
    from unittest.mock import patch

    import onnx
    import torch

    capabilities = toolkit.get_target_platform_capabilities(CAPABILITIES, "imx500")
    # The exporter calls torch.onnx.export without saying how; its custom operators need the older way.
    plainly = functools.partial(torch.onnx.export, dynamo=False)
    names = [output.name for output in job.contract.outputs]
    widths = toolkit.core.BitWidthConfig()
    matches = toolkit.core.network_editor.NodeNameFilter
    widths.set_manual_activation_bit_width([matches(name) for name in wide_nodes(network)], 16)
    with quiet(), patch.object(torch.onnx, "export", plainly):
        quantised, _ = toolkit.ptq.pytorch_post_training_quantization(
            # Ranges by the toolkit's squared error. By absolute error the demo detector falls from mAP .893 to .804
            # (150 scenes, float .907), although YOLOX-Nano rises from .488 to .499.
            network,
            _pixels(job),
            core_config=toolkit.core.CoreConfig(bit_width_config=widths, debug_config=edits(toolkit, network)),
            target_platform_capabilities=capabilities,
        )
        formats = toolkit.exporter.QuantizationFormat
        # In this order: writing the plain file takes the quantisers out of the model.
        for path, form in ((job.work / "network.onnx", formats.MCTQ), (job.work / FILE, formats.FAKELY_QUANT)):
            if form == formats.FAKELY_QUANT:
                write_out(quantised)
            toolkit.exporter.pytorch_export_model(
                quantised,
                str(path),
                _pixels(job, 1),
                quantization_format=form,
                onnx_opset_version=OPSET,
                output_names=names,
            )
    model = onnx.load(job.work / FILE)
    _take_contract_tensors(model, job.contract.image)
    onnx.save(model, job.out / FILE)


BATCH = 4


def _pixels(job: Job, batch: int = BATCH) -> Callable[[], Iterator[list[Floats]]]:
    """Calibration images as the camera gives them: (n, 3, H, W) float32, RGB, pixel / 256."""
    images = job.calibration().images

    def batches() -> Iterator[list[Floats]]:
        for start in range(0, len(images), batch):
            chosen = np.asarray(images[start : start + batch])[..., ::-1].transpose(0, 3, 1, 2)
            yield [np.ascontiguousarray(chosen, np.float32) / np.float32(256)]

    return batches


def _take_contract_tensors(model: onnx.ModelProto, rule: ImageRule) -> None:
    """Put in front of a network of pixels what turns the contract's normalised tensor back into them, in place."""
    from onnx import helper, numpy_helper

    (entry,) = model.graph.input
    inner = entry.name
    std, mean = np.array(rule.std), np.array(rule.mean)
    constants = {
        "pixels_gain": (std / (256 * rule.scale)).astype(np.float32).reshape(1, 3, 1, 1),
        "pixels_shift": (mean / (256 * rule.scale)).astype(np.float32).reshape(1, 3, 1, 1),
        "pixels_order": np.array([2, 1, 0] if rule.color == "bgr" else [0, 1, 2], np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = [
        helper.make_node("Mul", [INPUT, "pixels_gain"], ["pixels_scaled"]),
        helper.make_node("Add", ["pixels_scaled", "pixels_shift"], ["pixels_shifted"]),
        helper.make_node("Gather", ["pixels_shifted", "pixels_order"], [inner], axis=1),
    ]
    for number, node in enumerate(nodes):
        model.graph.node.insert(number, node)
    entry.name = INPUT


def _import_quantiser() -> Any:
    """Sony's toolkit.

    One of its parts wants torchvision for a single operator, NMS, which no network here has. Its wheel is built for
    CUDA and does not import beside a CPU build of torch, unless the operators that it looks for exist already.
    """
    import torch

    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _KEPT.append(library)
    import model_compression_toolkit

    return model_compression_toolkit


_KEPT: list[Any] = []
"""An operator lives as long as its library."""
