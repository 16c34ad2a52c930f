"""Static INT8 of a torch.export program for XNNPACK, by torchao's PT2E quantisation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from edgekit.calibration.layers import STEM
from edgekit.calibration.samples import Samples
from edgekit.converters import Report
from edgekit.errors import ConversionError


def quantised(program: Any, samples: Samples, report: Report, quiet: Callable[[], AbstractContextManager[None]]) -> Any:
    """The program with int8 convolutions and products between floats; the first three and the raw heads stay float.

    Weights per channel, activations asymmetric with ranges by least squared error over histograms (torchao's
    ``HistogramObserver``). Only these kinds of operators are named: quantising everything, the sigmoids and products
    of SiLU included, ruins a detector. Concatenations are named too: lowering makes integer ones of those between
    convolutions, and XNNPACK refuses them unless all scales are the same.

    Args:
        program: the torch.export program, float32.
        samples: calibration images.
        report: told of every image.
        quiet: put around what the toolchain prints in.

    Raises:
        ConversionError: there are no calibration images.
    """
    import torch

    if not len(samples):
        raise ConversionError("int8 needs calibration images and there are none: give --data with photographs")
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        module = program.module()
        observed = prepare_pt2e(module, _quantizer(_islands(module)))
    with torch.no_grad():
        for number, image in enumerate(samples):
            report(f"calibrating, image {number + 1} of {len(samples)}", 0.1 + 0.2 * number / len(samples))
            observed(torch.from_numpy(image))
    report("quantising", 0.3)
    with quiet(), torch.no_grad():
        example = torch.zeros(1, 3, *samples.rule.size)
        return torch.export.export(convert_pt2e(observed), (example,))


def _quantizer(islands: set[str]) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    aten = torch.ops.aten
    quantizer = XNNPACKQuantizer()
    settings = get_symmetric_quantization_config(is_per_channel=True)
    for kind in (aten.conv2d.default, aten.linear.default, aten.cat.default):
        quantizer.set_operator_type(kind, settings)
    quantizer.set_filter_function(lambda node: node.name not in islands)
    return quantizer


def _islands(module: Any) -> set[str]:
    """Names of the weighted nodes that stay in float: the first three, and those whose results are outputs."""
    import torch

    aten = torch.ops.aten
    weighted = [node for node in module.graph.nodes if node.target in (aten.conv2d.default, aten.linear.default)]
    (end,) = [node for node in module.graph.nodes if node.op == "output"]
    results = set(end.all_input_nodes)
    return {node.name for node in (*weighted[:STEM], *(node for node in weighted if node in results))}
