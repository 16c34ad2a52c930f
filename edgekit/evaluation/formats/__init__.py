"""One file per format of annotated objects, found by being there. Each gives what a COCO annotations file says.

A format declares ``FORMAT``. To add one, put a file beside these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit import registry
from edgekit.evaluation.annotations import Annotations


@dataclass(frozen=True)
class LabelFormat:
    """A format: whether a path is of it, and what is in it.

    ``read(path, images)`` gives annotations whose file names are paths of images; ``images`` is the folder of these
    where the user named one. It raises InputError, with file and line, for what cannot be read.
    """

    text: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Path | None], Annotations]


def format_of(path: Path) -> LabelFormat | None:
    """The format of a file or folder of annotated objects; None where it is none of them."""
    found: LabelFormat
    for module in registry.declared(__name__, "FORMAT").values():
        found = module.FORMAT
        if found.matches(path):
            return found
    return None


def formats() -> list[str]:
    """The names of the formats in messages."""
    return [module.FORMAT.text for module in registry.declared(__name__, "FORMAT").values()]
