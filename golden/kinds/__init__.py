"""One file per kind of case. A kind is registered by being there, and has three functions:

``planned(recorded)`` yields its cases, `golden.cases.Planned`; ``recorded`` is the folder of the kind's cases as they
stand, for inputs that are kept from one writing to the next.
``answer(given, folder)`` is what the runtime of this machine gives.
``differences(case, answered)`` says in what this is not what the case expects, a sentence each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from edgekit import registry
from golden.cases import Case, Planned, Tree


class Kind(Protocol):
    """What each file here has."""

    def planned(self, recorded: Path) -> Iterator[Planned]:
        """The cases."""
        ...

    def answer(self, given: Tree, folder: Path) -> Tree:
        """What the runtime gives."""
        ...

    def differences(self, case: Case, answered: Tree) -> list[str]:
        """In what an answer is not the expected one."""
        ...


def every_kind() -> dict[str, Kind]:
    """All kinds by name."""
    return {name: cast("Kind", module) for name, module in registry.declared(__name__, "answer").items()}
