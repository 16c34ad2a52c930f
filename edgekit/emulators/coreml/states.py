"""MIL operations on states, whose tensors outlast a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.emulators.coreml.call import Kernel, MilCall, operator

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@operator("read_state", "input")
def _read_state(call: MilCall) -> Kernel:
    """A copy: what is written later must not change what was read."""
    return lambda state: state.clone()


@operator("write_state", "input", "data")
def _write_state(call: MilCall) -> Kernel:
    """It gives nothing."""

    def write(state: Tensor, data: Tensor) -> tuple[torch.Tensor, ...]:
        if state.shape != data.shape:
            raise ValueError(f"a state of shape {list(state.shape)} takes no value of shape {list(data.shape)}")
        state.copy_(data)
        return ()

    return write
