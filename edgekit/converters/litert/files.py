"""LiteRT files, for every target that starts from one: the float file, ranges for the quantiser, its last step."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.converters import Job, Report
from edgekit.converters._quiet import quiet
from edgekit.converters.litert.ranges import Ranges
from edgekit.graph.nodes import operator_name, shape_of

if TYPE_CHECKING:
    from torch import fx

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
    _fold(network)
    _as_rows(network)
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


def _fold(network: fx.GraphModule) -> None:
    """Compute what depends on counted numbers alone, such as the places of cells that a transformer adds.

    LiteRT's converter leaves some of that in the graph, in float64, and then refuses it: "failed to legalize operation
    'tfl.pow'".
    """
    import torch
    from torch import fx

    known: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        read = node.all_input_nodes
        counted = all(one in known for one in read) if read else operator_name(node) == "arange"
        if node.op == "call_function" and counted and not any(map(_writes, (node, *node.users))):
            arguments = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*arguments[0], **arguments[1])
    for number, (node, value) in enumerate(known.items()):
        if isinstance(value, torch.Tensor) and any(user not in known for user in node.users):
            name = f"_folded_{number}"
            network.register_buffer(name, value.contiguous())
            with network.graph.inserting_before(node):
                constant = network.graph.get_attr(name)
            constant.meta["val"] = value
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in known)
    network.graph.eliminate_dead_code()
    network.recompile()


def _writes(node: fx.Node) -> bool:
    """Whether an operator changes a tensor that it is given."""
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def _as_rows(network: fx.GraphModule) -> None:
    """Give linear layers that see a single vector in four dimensions or more a row instead.

    LiteRT's converter leaves the reshapes out that torch puts around such a layer, and then refuses its own product:
    "'tfl.batch_matmul' op found invalid output rank".
    """
    for node in list(network.graph.nodes):
        if operator_name(node) != "linear":
            continue
        read = node.args[0]
        shape = shape_of(read)
        if len(shape) < 4 or math.prod(shape[:-1]) != 1:
            continue
        with network.graph.inserting_before(node):
            row = network.graph.call_method("reshape", (read, (1, shape[-1])))
        node.replace_input_with(read, row)
        with network.graph.inserting_after(node):
            back = network.graph.call_method("reshape", (node, shape_of(node)))
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
    network.recompile()


def finished(quantizer: Any, ranges: Ranges | None) -> bytes:
    """Run a configured quantiser and return its file."""
    with quiet():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)
