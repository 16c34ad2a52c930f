"""Class names that many models share: a text file for each data set, with a name a line in the order of the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def _read() -> dict[str, tuple[str, ...]]:
    files = sorted(Path(__file__).parent.glob("*.txt"))
    return {file.stem: tuple(file.read_text(encoding="utf-8").splitlines()) for file in files}


NAMED: Mapping[str, tuple[str, ...]] = _read()
"""Known sets by name.

``coco`` has the 80 classes of COCO 2017, ``coco90`` the ids 1 to 90 with ``N/A`` where COCO has none (torchvision,
TensorFlow), ``coco91`` a background before them. ``voc`` has the 20 classes of Pascal VOC, ``voc21`` a background
before them. ``imagenet`` has the 1000 classes of ILSVRC 2012 in the order of their WordNet ids, ``objects365`` is in
the order of version 2, ``cityscapes`` has the 19 that are evaluated, ``ade20k`` the 150 of the scene parsing benchmark.
"""


def names_for(count: int, *known: str) -> tuple[str, ...]:
    """Names for ``count`` classes: those of the first of the ``known`` sets that has as many, else numbers."""
    for name in known:
        if len(NAMED[name]) == count:
            return NAMED[name]
    return tuple(f"class_{number}" for number in range(count))
