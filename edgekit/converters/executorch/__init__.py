"""ExecuTorch from the torch.export program: float32 for four delegates, static INT8 for XNNPACK."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from edgekit.converters import PLAN, Job, Report, Target
from edgekit.converters._foreign import tool_error
from edgekit.converters._quiet import quiet
from edgekit.converters.executorch.int8 import TORCHAO, quantised
from edgekit.converters.executorch.partition import told_integers
from edgekit.errors import ConversionError
from edgekit.graph.exchange import COMPLEX_DFT
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.runtimes.engines.executorch import BACKENDS, COREML, DELEGATE, DELEGATED, PORTABLE, VULKAN, XNNPACK

FILE = "model.pte"


class ExecutorchOptions(Record, frozen=True):
    """``delegate`` is what runs the network: XNNPACK on any CPU, Core ML on Apple's devices, Vulkan on GPUs, or no
    more than ExecuTorch's own portable kernels, which are slow and run everywhere."""

    delegate: Literal["xnnpack", "coreml", "vulkan", "portable"] = "xnnpack"


TARGET = Target(
    name="executorch",
    summary="Android, iOS and Raspberry Pi with ExecuTorch",
    engine="executorch",
    precisions=("fp32", "int8"),
    requires=("torch", "executorch", "torchao"),
    distributions=("executorch", "torchao", "torch", "coremltools"),
    options=ExecutorchOptions,
    refuses={
        COMPLEX_DFT: "ExecuTorch has Fourier transforms of real numbers only",
        **dict.fromkeys(("Col2Im", "Det"), "ExecuTorch does not lower it, or fails to run it"),
    },
    recipes=(PLAN, TORCHAO),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.pte`` in the job's precision.

    Raises:
        ConversionError: the delegate has not this precision or takes nothing of the network, int8 has no images, or
            the toolchain refuses the network.
    """
    delegate = job.chosen(ExecutorchOptions).delegate
    if job.precision == "int8" and delegate != XNNPACK:
        other = "; for Core ML in INT8 choose --target coreml" if delegate == COREML else ""
        raise ConversionError(f"executorch has no int8 for the delegate {delegate}, only for {XNNPACK}{other}")
    if job.precision == "int8":  # refuse before the slow part
        job.calibration()
        job.planned()
    report("loading ExecuTorch", 0.0)
    try:
        with quiet():
            import torch

            torch.set_num_threads(job.threads)
            program = torch.export.load(job.program)
        if job.precision == "int8":
            program = quantised(program, job, report, quiet)
        report(f"lowering for {delegate}", 0.4)
        with quiet(), _shared_histories():
            lowered = _lowered(program, delegate)
            counts = _counts(lowered, delegate)
            integers = told_integers(lowered) if job.precision == "int8" else {}
            data = lowered.to_executorch().buffer
    except ConversionError:
        raise
    except Exception as error:  # the toolchain raises whatever its layers raise
        raise tool_error(f"ExecuTorch {job.precision} for {delegate}", error, job.onnx) from error
    (job.out / FILE).write_bytes(data)
    told = {DELEGATE: delegate, **counts, "arithmetic": "float32", **integers}
    return msgspec.structs.replace(job.graph(FILE), report=told)


@contextlib.contextmanager
def _shared_histories() -> Iterator[None]:
    """Have nodes share their histories: torch.fx keeps for each node, for debugging, what it was made from, and copies
    that deeply in every pass. Lowering has some hundred passes, and spends a third of its time on it."""
    from torch.fx.traceback import NodeSource

    shared: Any = NodeSource
    shared.__deepcopy__ = lambda source, memo: source  # nothing ever changes one
    try:
        yield
    finally:
        del shared.__deepcopy__


def _lowered(program: Any, delegate: str) -> Any:
    """The program lowered to the delegate, as far as the delegate supports it."""
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, partitioner=_partitioners(delegate))


def _partitioners(delegate: str) -> list[Any]:
    if delegate == XNNPACK:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return [XnnpackPartitioner()]
    if delegate == VULKAN:
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return [VulkanPartitioner()]
    if delegate == COREML:
        import coremltools
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

        # It would take float16 by itself, whatever it is given.
        specs = CoreMLBackend.generate_compile_specs(compute_precision=coremltools.precision.FLOAT32)
        return [CoreMLPartitioner(compile_specs=specs)]
    return []


def _counts(lowered: Any, delegate: str) -> dict[str, int]:
    """Operators in the delegate and on the portable kernels, before either is optimised further.

    Raises:
        ConversionError: the delegate took nothing, or what took it is another.
    """
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    module = lowered.exported_program().graph_module
    parts = [part for _, part, _ in get_lowered_submodules(module)]
    wanted = BACKENDS.get(delegate)
    if {part.backend_id for part in parts} != ({wanted} if wanted else set()):
        raise ConversionError(f"the delegate {delegate} takes no operator of this network; try delegate=portable")
    inside = sum(_computing(part.original_module.graph_module) for part in parts)
    return {DELEGATED: inside, PORTABLE: _computing(module)}


def _computing(module: Any) -> int:
    """Operators that compute something: neither calls of a delegate nor picks of its results."""
    aside = ("getitem", "executorch_call_delegate")
    called = [node for node in module.graph.nodes if node.op == "call_function"]
    return sum(getattr(node.target, "__name__", str(node.target)) not in aside for node in called)
