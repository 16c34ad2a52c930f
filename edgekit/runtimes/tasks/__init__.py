"""One file per task: raw outputs of a graph become results. A task registers by declaring ``open_task`` and
``ROLES``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgekit import registry
from edgekit.arrays import Floats
from edgekit.errors import ContractError, choices
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import Result
from edgekit.runtimes.tasks.decoders import Candidates


class Task(Protocol):
    """Postprocessing of one contract: results for users, and candidates in input pixels for validation.

    ``gives`` is the type of its results. ``dense``: candidates are regions that share an image among them.
    ``oriented``: what is attached to candidates are oriented boxes (n, 5).
    """

    contract: Contract
    measure: str
    gives: type[Result]
    dense: bool
    oriented: bool

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Result:
        """The result in original pixels from raw outputs in the contract's order."""
        ...

    def candidates(self, outputs: Sequence[Floats], threshold: float) -> Candidates:
        """Everything with a score above the threshold."""
        ...

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """Candidates after NMS, best first."""
        ...

    def comparable(self, outputs: Sequence[Floats], found: Candidates) -> Candidates:
        """The candidates with everything that `similarity` needs."""
        ...

    def areas(self, found: Candidates) -> Floats:
        """The area (n,) of each object's box in input pixels."""
        ...

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """How alike each object of one run is to each of another, (n, m) 0..1."""
        ...


def task_names() -> tuple[str, ...]:
    """Names of all tasks."""
    return tuple(registry.declared(__name__, "open_task"))


def roles(task: str) -> tuple[str, ...]:
    """Roles of outputs that a task has beside those of its decoder."""
    named: tuple[str, ...] = registry.module(__name__, task).ROLES
    return named


def open_task(contract: Contract) -> Task:
    """The task of a contract, with its decoder's numbers checked.

    Raises:
        ContractError: unknown task or decoder, or numbers that do not fit.
    """
    if contract.task not in task_names():
        raise ContractError(f"task {choices(contract.task, task_names())}")
    opened: Task = registry.module(__name__, contract.task).open_task(contract)
    return opened
