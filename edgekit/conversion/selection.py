"""Which targets in which precisions a conversion is to make, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit import converters
from edgekit.converters import Target
from edgekit.errors import ConversionError, UsageError, choices
from edgekit.runtimes.bundle.manifest import Record

ALL = ("all",)


@dataclass(frozen=True)
class Skipped:
    """A target that ``all`` leaves out, and why."""

    target: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """What is to be made, in order; ``skipped`` are the targets that ``all`` cannot have here."""

    pairs: tuple[tuple[str, str], ...]
    skipped: tuple[Skipped, ...]
    options: Mapping[str, Record]

    @property
    def calibrated(self) -> bool:
        """Whether anything of it needs calibration images."""
        return any(precision in converters.target(name).calibrated for name, precision in self.pairs)


def select(
    targets: Sequence[str], precisions: Sequence[str], options: Mapping[str, Mapping[str, str]], data: str
) -> Selection:
    """The (target, precision) pairs that were asked for.

    Args:
        targets: names, or ``("all",)``: every target that is possible here.
        precisions: each target makes those of them that it has.
        options: options of the targets' own, as text, by target.
        data: where calibration images come from, empty for nowhere.

    Raises:
        UsageError: an unknown name, a precision that no chosen target has, a precision that needs images without data,
            an option a target does not take, a target that is not possible here.
    """
    everything = tuple(targets) == ALL
    names = converters.target_names() if everything else tuple(targets)
    _check_precisions(precisions)
    pairs: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    for name in names:
        spec = converters.target(name)
        offered = [precision for precision in precisions if precision in spec.precisions]
        reason = spec.missing or ("" if offered else _lacks(spec, precisions))
        if reason and not everything:
            raise UsageError(f"target {name}: {reason}")
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            pairs += [(name, precision) for precision in offered]
    if not pairs:
        raise UsageError("no target is available here; see: edgekit targets")
    read = _options(options, [name for name, _ in pairs])
    selection = Selection(tuple(pairs), tuple(skipped), read)
    if selection.calibrated and not data:
        needing = next(precision for name, precision in pairs if precision in converters.target(name).calibrated)
        raise UsageError(f"{needing} needs calibration images like those the device will see: give --data FOLDER")
    return selection


def _check_precisions(precisions: Iterable[str]) -> None:
    specs = [converters.target(name) for name in converters.target_names()]
    known = sorted({precision for spec in specs for precision in spec.precisions})
    for precision in precisions:
        if precision not in known:
            raise UsageError(f"--precision {choices(precision, known)}")


def _lacks(spec: Target, precisions: Sequence[str]) -> str:
    return f"has no {', '.join(precisions)}; it has: {', '.join(spec.precisions)}"


def _options(given: Mapping[str, Mapping[str, str]], chosen: Sequence[str]) -> dict[str, Record]:
    for name in given:
        converters.target(name)
        if name not in chosen:
            raise UsageError(f"--option {name}....: target {name} is not converted to; name it in --target")
    return {name: converters.read_options(converters.target(name), given.get(name, {})) for name in chosen}


def refuse(spec: Target, operators: Mapping[str, str]) -> None:
    """Refuse a graph that a target cannot take, before its toolchain fails in its own words.

    Args:
        spec: the target.
        operators: ONNX operator types of the graph, each with the name of one node.

    Raises:
        ConversionError: the graph has an operator that the target refuses; names it and the targets that take it.
    """
    found = [operator for operator in operators if operator in spec.refuses]
    if not found:
        return
    others = [converters.target(name) for name in converters.target_names()]
    takers = [other.name for other in others if not any(operator in other.refuses for operator in found)]
    named = "; ".join(f"{operator} (node {operators[operator]!r}): {spec.refuses[operator]}" for operator in found)
    raise ConversionError(f"{spec.name} cannot take {named}. Targets that take it: {', '.join(takers) or 'none'}")
