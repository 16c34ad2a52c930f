"""Import this to have PyTorch's ONNX exporter ready.

At its first export a process parses the source of the exporter's 500 decompositions, which takes about a second. The
server that forks the children of conversions (`edgekit.worker.forks`) imports this, so that no child has to.
"""

from __future__ import annotations

from torch.onnx._internal.exporter._registration import ONNXRegistry

try:
    ONNXRegistry.from_torchlib()
except AttributeError as error:  # a private part of torch: without it an export takes longer, and that is all
    raise ImportError("this torch keeps its decompositions elsewhere") from error
