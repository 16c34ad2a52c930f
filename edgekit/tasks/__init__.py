"""One file per task: raw outputs of a graph become results. A task registers by declaring ``open_task``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgekit import registry
from edgekit.errors import ContractError, choices
from edgekit.images import Floats, Transform
from edgekit.manifest import Contract
from edgekit.results import Detections


class Task(Protocol):
    """Postprocessing of one contract."""

    contract: Contract

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Detections:
        """The result in original pixels from raw outputs in the contract's order."""
        ...


def task_names() -> tuple[str, ...]:
    """Names of all tasks."""
    return tuple(registry.declared(__name__, "open_task"))


def open_task(contract: Contract) -> Task:
    """The task of a contract, with its decoder's numbers checked.

    Raises:
        ContractError: unknown task or decoder, or numbers that do not fit.
    """
    if contract.task not in task_names():
        raise ContractError(f"task {choices(contract.task, task_names())}")
    opened: Task = registry.module(__name__, contract.task).open_task(contract)
    return opened
