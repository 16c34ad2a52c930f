"""NNCF, which quantises for two targets: kept silent and off the network, and told what stays in float."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

from edgekit.calibration.islands import float_islands
from edgekit.converters import Job
from edgekit.runtimes.openvino import import_openvino


def import_nncf() -> Any:
    """The nncf package, silent and kept from phoning home."""
    import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantisation(job: Job) -> dict[str, Any]:
    """Arguments of ``nncf.quantize`` for a graph that came from the exchange ONNX file.

    MIXED: asymmetric activations behind SiLU; on a depthwise + SiLU detector (float mAP .504) the default preset left
    .453 where this leaves .500.
    """
    import onnx

    nncf = import_nncf()
    islands = float_islands(onnx.load(job.onnx, load_external_data=False))
    # A pattern, because OpenVINO splits a convolution with a bias and renames it NAME/WithoutBiases.
    scope = nncf.IgnoredScope(patterns=[f"^{re.escape(name)}(/.*)?$" for name in islands])
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(job.calibration()),
        "ignored_scope": scope,
    }
