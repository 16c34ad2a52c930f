"""LiteRT files, for every target that starts from one: the float file, ranges for the quantiser, its last step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgekit.converters import Job, Report
from edgekit.converters._quiet import quiet
from edgekit.converters.litert.ranges import Ranges

FILE = "model.tflite"


def float_file(job: Job, report: Report, *, channels_last: bool = False) -> Path:
    """The float32 ``.tflite`` file, from the work folder if another precision has made it.

    Args:
        job: the conversion.
        report: progress callback.
        channels_last: make all inputs and outputs NHWC, so that no transposition is left in the file for them.
    """
    path = job.work / "float.tflite"
    if path.is_file():
        return path
    report("loading litert-torch", 0.0)
    with quiet():
        import litert_torch
        import torch
    litert_torch.config.show_progress = False
    torch.set_num_threads(job.threads)
    network = torch.export.load(job.program).module()
    example = torch.zeros(1, 3, *job.contract.image.size)
    if channels_last:
        images = [place for place, shape in enumerate(job.shapes.values()) if len(shape) > 2]
        network = litert_torch.to_channel_last_io(network, args=[0], outputs=images)
        network.training = False  # by hand, because an exported program within refuses eval()
        example = example.permute(0, 2, 3, 1).contiguous()
    report("converting with litert-torch", 0.2)
    unfinished = job.work / f"float.{os.getpid()}.tflite"  # another precision may be at it at the same time
    with quiet():
        litert_torch.convert(network, (example,)).export(str(unfinished))
    unfinished.replace(path)
    return path


def finished(quantizer: Any, ranges: Ranges | None) -> bytes:
    """Run a configured quantiser and return its file."""
    with quiet():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)
