"""A network of transformers whose weights stay in their files: each module reads its own when it runs.

What runs is the network's own code in float32, so that the results are those of a network in memory. Only one module's
weights are there at a time. A pass reads the whole file, which pays where many rows pass together.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.sources._fit import refuse_misfit

if TYPE_CHECKING:
    import torch
    from torch import nn

RESIDENT = 1 << 19
"""A tensor of fewer numbers stays in memory: biases, gains, positions."""

_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 22
"""glibc's option (malloc.h): arrays of so many bytes and more get memory of their own."""

Read = Callable[[str], NDArray[Any]]
"""Reads a tensor by its name in the file, in the precision of the file."""


def streamed(build: Callable[[], nn.Module], shapes: Mapping[str, tuple[int, ...]], read: Read, where: str) -> Any:
    """A network in eval mode that reads its weights as it runs.

    Args:
        build: makes the network; its weights are neither made nor kept.
        shapes: of the file's tensors by name.
        read: reads one of them.
        where: the file, for messages.

    Raises:
        SourceError: the tensors do not fit the network.
    """
    _return_memory()
    with _without_weights():
        network = build()
    network = network.float().eval().requires_grad_(False)
    stored = _stored(network, shapes, where)
    for path, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        names = {name: stored[f"{path}.{name}" if path else name] for name in own}
        large = {name: file for name, file in names.items() if own[name].numel() >= RESIDENT}
        _load(module, {name: file for name, file in names.items() if name not in large}, read)
        if large:
            _stream(module, large, read)
    return network


def _return_memory() -> None:
    """Let this process give arrays back to the system when they are freed.

    glibc keeps blocks of up to 32 MB for itself once some were freed. The cache of keys and values, which grows with
    every token, left as much again behind it.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Networks that are built here have parameters without memory; buffers are made as usual."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def shape_alone(module: nn.Module, name: str, parameter: torch.nn.Parameter) -> Any:
        # One that is tied to another is registered again, and has to stay the same object.
        if parameter is None or parameter.device.type == "meta":
            return None
        return torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    handle = register_module_parameter_registration_hook(shape_alone)
    try:
        yield
    finally:
        handle.remove()


def _stored(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, str]:
    """The name in the file of every parameter: its own, or that of one that it is tied to.

    Raises:
        SourceError: a parameter without a tensor, a tensor without a parameter, or one of another shape.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    tied: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        tied.setdefault(id(parameter), []).append(name)
    found = {
        name: next((other for other in (name, *tied[id(parameter)]) if other in shapes), "")
        for name, parameter in parameters.items()
    }
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    refuse_misfit(
        where,
        [name for name, file in found.items() if not file],
        set(shapes) - set(parameters),
        {name: (shapes[file], wanted[name]) for name, file in found.items() if file and shapes[file] != wanted[name]},
    )
    return found


def _load(module: nn.Module, names: Mapping[str, str], read: Read) -> None:
    import torch

    for name, file in names.items():
        module._parameters[name] = torch.nn.Parameter(_float32(read(file)), requires_grad=False)


def _float32(array: NDArray[Any]) -> torch.Tensor:
    """By PyTorch: numpy takes three times as long from float16."""
    import torch

    if array.dtype.name == "bfloat16":  # ml_dtypes', which PyTorch does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(array).float()


def _stream(module: nn.Module, names: Mapping[str, str], read: Read) -> None:
    """Read these parameters before each run of a module, and drop them after it."""
    import torch

    # One number seen in every place: networks ask for the device, and NaN tells where one is read without its weights.
    nothing = torch.tensor(float("nan"))
    own = dict(module.named_parameters(recurse=False))
    absent = {name: torch.nn.Parameter(nothing.expand(own[name].shape), requires_grad=False) for name in names}

    def load(module: nn.Module, _: object) -> None:
        _load(module, names, read)

    def drop(module: nn.Module, *_: object) -> None:
        module._parameters.update(absent)

    drop(module)
    module.register_forward_pre_hook(load)
    module.register_forward_hook(drop, always_call=True)
