"""Lowering of a torch.export program to an ExecuTorch delegate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from edgekit.errors import ConversionError
from edgekit.runtimes.engines.executorch import BACKENDS, COREML, DELEGATED, PORTABLE, VULKAN, XNNPACK


@contextlib.contextmanager
def shared_histories() -> Iterator[None]:
    """Have nodes share their histories: torch.fx keeps for each node, for debugging, what it was made from, and copies
    that deeply in every pass. Lowering has some hundred passes, and spends a third of its time on it."""
    from torch.fx.traceback import NodeSource

    shared: Any = NodeSource
    shared.__deepcopy__ = lambda source, memo: source  # nothing ever changes one
    try:
        yield
    finally:
        del shared.__deepcopy__


def lowered_to(program: Any, delegate: str, **options: Any) -> Any:
    """The program lowered to the delegate, as far as the delegate supports it."""
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, partitioner=_partitioners(delegate), **options)


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


def counts(lowered: Any, delegate: str) -> dict[str, int]:
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
