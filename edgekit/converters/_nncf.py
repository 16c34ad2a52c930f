"""NNCF for the targets that quantise with it, without output or telemetry, and with the plan's float fallback."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

from edgekit.calibration.layers import node_names
from edgekit.converters import Job
from edgekit.runtimes.engines.openvino.session import import_openvino

NNCF = "nncf"
"""The recipe that leaves ranges to NNCF."""


def import_nncf() -> Any:
    """Import nncf without output and telemetry."""
    import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantisation(job: Job, *, per_tensor_activations: bool = False) -> dict[str, Any]:
    """Arguments of ``nncf.quantize`` for a graph that came from the exchange ONNX file.

    Left to itself NNCF gives every channel of a depthwise convolution's input a scale of its own. OpenVINO computes
    that; elsewhere it is no INT8 arithmetic, and ONNX Runtime 1.22 refuses such a file (QLinearAdd, scalar scales).

    MIXED: asymmetric activations behind SiLU; on a depthwise + SiLU detector (float mAP .504) the default preset left
    .453 where this leaves .500.
    """
    import onnx

    nncf = import_nncf()
    kept_float = node_names(onnx.load(job.onnx, load_external_data=False), job.planned().float_layers)
    # A pattern, because OpenVINO splits a convolution with a bias and renames it NAME/WithoutBiases.
    scope = nncf.IgnoredScope(patterns=[f"^{re.escape(name)}(/.*)?$" for name in kept_float])
    arguments = {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(job.calibration()),
        "ignored_scope": scope,
    }
    if per_tensor_activations:
        advanced = nncf.quantization.advanced_parameters
        activations = advanced.QuantizationParameters(per_channel=False)
        arguments["advanced_parameters"] = advanced.AdvancedQuantizationParameters(
            activations_quantization_params=activations
        )
    return arguments
