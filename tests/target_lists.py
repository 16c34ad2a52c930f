"""The targets that the main environment holds, and those that need an isolated toolchain (``make test-toolchains``)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from edgekit import converters
from edgekit.conversion import installation

ISOLATED = tuple(
    name for name in converters.target_names() if any(t.requirements for t in converters.target(name).toolchains)
)
ORDINARY = tuple(name for name in converters.target_names() if name not in ISOLATED)
WITH_TOOLCHAINS = "EDGEKIT_TEST_TOOLCHAINS" in os.environ
EVERYTHING = "EDGEKIT_TEST_ALL" in os.environ
"""Whether this is ``make test-all``, which takes its time."""

MADE = ISOLATED if WITH_TOOLCHAINS else ORDINARY
"""What the shared conversions of this run make."""


def made(target: str) -> tuple[str, ...]:
    """The precisions that the shared conversions make of a target: its most exact one and the one in integers."""
    known = converters.target(target).precisions
    return known if EVERYTHING else tuple(dict.fromkeys((known[0], "int8")))


PRECISIONS = ",".join(sorted({p for name in MADE for p in made(name)}))


def here() -> list[str]:
    """Those of them that are possible on this machine."""
    return [name for name in MADE if not converters.target(name).missing]


def _marks(target: str) -> list[pytest.MarkDecorator]:
    reason = converters.target(target).missing
    marks = [pytest.mark.skipif(bool(reason), reason=f"{target}: {reason}")]
    if target in ISOLATED:
        absent = pytest.mark.skipif(not WITH_TOOLCHAINS, reason=f"{target} is for make test-toolchains")
        return [pytest.mark.toolchain, absent, *marks]
    return marks


def pairs(*precisions: str) -> list[Any]:
    """Every (target, precision), of these precisions or all, as parameters of a test."""
    return [
        pytest.param(name, precision, marks=_marks(name), id=f"{name}-{precision}")
        for name in converters.target_names()
        for precision in made(name)
        if not precisions or precision in precisions
    ]


def targets() -> list[Any]:
    """Every target, as parameters of a test."""
    return [pytest.param(name, marks=_marks(name), id=name) for name in converters.target_names()]


def best(target: str) -> str:
    """The most exact precision that the shared conversions make of a target."""
    return made(target)[0]


def toolchain(name: str) -> pytest.MarkDecorator:
    """Skip unless an isolated toolchain is installed."""
    state = installation.find(name).state
    return pytest.mark.skipif(state != "installed", reason=f"toolchain {state}: edgekit toolchain install {name}")
