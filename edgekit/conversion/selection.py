"""The bundles to make, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit import converters
from edgekit.converters import Target
from edgekit.emulators import emulator
from edgekit.errors import ConversionError, UsageError, choices
from edgekit.graph.blip2.precision import AWQ, GPTQ, PART_NAMES, SCALE, Precision, read_part, read_precisions
from edgekit.runtimes.bundle.manifest import Record
from edgekit.runtimes.engines import engine
from edgekit.sources import WHOLE, Source

ALL = ("all",)
PUBLISHED = {"vision": 986, "qformer": 188, "language": 2652}
"""Megabytes of each part of Salesforce/blip2-opt-2.7b with a byte for each weight."""
AUTO = "auto"
"""Every recipe of the target is tried, the best is kept."""


@dataclass(frozen=True)
class PartSpec:
    """The target and the precision of a part."""

    target: str
    precision: str


@dataclass(frozen=True)
class BundleSpec:
    """One bundle to make.

    Attributes:
        target, precision: for its name.
        parts: target and precision of each part, by the part's role.
        calibrated: whether calibration images are needed.
    """

    target: str
    precision: str
    parts: Mapping[str, PartSpec]
    calibrated: bool

    @property
    def targets(self) -> tuple[str, ...]:
        """Each target once, in the order of the parts."""
        return tuple(dict.fromkeys(part.target for part in self.parts.values()))


@dataclass(frozen=True)
class Skipped:
    """A target that ``all`` leaves out, and why."""

    target: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The bundles to make, in order; ``skipped`` are the targets of ``all`` that are not possible here."""

    bundles: tuple[BundleSpec, ...]
    skipped: tuple[Skipped, ...]
    options: Mapping[str, Record]

    @property
    def targets(self) -> tuple[str, ...]:
        """Each target once, in order."""
        return tuple(dict.fromkeys(target for spec in self.bundles for target in spec.targets))

    @property
    def half(self) -> bool:
        """Whether any of the bundles computes in float16, wholly or in part."""
        return any(
            part.precision in converters.target(part.target).half_precisions
            for spec in self.bundles
            for part in spec.parts.values()
        )

    @property
    def ranges(self) -> bool:
        """Whether a vision part is in static INT8, which needs the ranges of its activations."""
        return any(part.precision == "int8" for name, part in self._parts() if name == "vision")

    @property
    def fitted(self) -> tuple[str, ...]:
        """The parts that have weights, or the scales of their cache, fitted to calibration data."""
        return tuple(dict.fromkeys(name for name, part in self._parts() if self._fits(name, part)))

    def _fits(self, name: str, part: PartSpec) -> bool:
        return read_part(part.precision).fitted or _observes(name, part, self.options)

    def _parts(self) -> Iterator[tuple[str, PartSpec]]:
        return (item for spec in self.bundles for item in spec.parts.items())

    @property
    def calibrated(self) -> bool:
        """Whether any of the bundles needs calibration images."""
        return any(spec.calibrated for spec in self.bundles)


def select(
    source: Source,
    targets: Sequence[str],
    precisions: Sequence[str],
    options: Mapping[str, Mapping[str, str]],
    recipe: str = AUTO,
    several: bool = False,
    language_bits: float | None = None,
) -> Selection:
    """The bundles that were asked for.

    Args:
        source: what is converted.
        targets: names; ``("all",)``, every target that is possible here; or one for each part (``vision=openvino``).
        precisions: each target makes those of them that it has; or one for each part.
        options: options of the targets' own, as text, by target.
        recipe: way of quantising on images.
        several: each bundle is to take several batches or input sizes.
        language_bits: budget of the language part in int4 (`read_precisions`).

    Raises:
        UsageError: an unknown name, a precision or a recipe that a chosen target does not have, an option that it does
            not take, a part that it cannot take, or a target that is not possible here.
    """
    _check_recipe(recipe)
    if source.written:
        bundles, skipped = _of_parts(source, targets, read_precisions(precisions, language_bits))
    else:
        bundles, skipped = _of_network(targets, precisions, recipe, several)
    if not bundles:
        raise UsageError("no target is available here; see: edgekit targets")
    chosen = dict.fromkeys(target for spec in bundles for target in spec.targets)
    read = _options(options, tuple(chosen))
    _check_caches(bundles, read)
    return Selection(tuple(_with_cache(spec, read) for spec in bundles), skipped, read)


def _check_caches(bundles: Sequence[BundleSpec], options: Mapping[str, Record]) -> None:
    """Refuse a cache in 8 bits on a target that gets no language model."""
    for name, given in options.items():
        language = [spec.parts["language"].target for spec in bundles if "language" in spec.parts]
        if (cache := converters.cache_of(given)) == "int8" and name not in language:
            raise UsageError(
                f"--option {name}.kv_cache={cache} is for the language part of a vision-language model, and "
                f"{name} gets none; leave it out"
            )


def _with_cache(spec: BundleSpec, options: Mapping[str, Record]) -> BundleSpec:
    """The bundle, which needs calibration images where a cache in 8 bits has its scales from them."""
    observed = any(_observes(name, part, options) for name, part in spec.parts.items())
    return replace(spec, calibrated=True) if observed else spec


def _observes(name: str, part: PartSpec, options: Mapping[str, Record]) -> bool:
    return name == "language" and converters.target(part.target).observes(options[part.target])


def _of_network(
    targets: Sequence[str], precisions: Sequence[str], recipe: str, several: bool
) -> tuple[tuple[BundleSpec, ...], tuple[Skipped, ...]]:
    """Bundles of a model of one network: each target in each requested precision that it supports."""
    for one in (*targets, *precisions):
        if "=" in one:
            raise UsageError(f"{one}: the source is one network without parts; give {one.split('=')[1]}")
    _check_precisions(precisions)
    bundles: list[BundleSpec] = []
    skipped: list[Skipped] = []
    for name in converters.target_names() if tuple(targets) == ALL else targets:
        spec = converters.target(name)
        offered = [precision for precision in precisions if precision in spec.precisions]
        reason = spec.missing or ("" if offered else _lacks(spec, precisions)) or _lacks_recipe(spec, offered, recipe)
        reason = reason or (_one_shape() if several and not spec.several else "")
        if reason and tuple(targets) != ALL:
            raise UsageError(f"target {name}: {reason}")
        if reason:
            skipped.append(Skipped(name, reason))
            continue
        for word in offered:
            bundles.append(BundleSpec(name, word, {WHOLE: PartSpec(name, word)}, word in spec.calibrated))
    return tuple(bundles), tuple(skipped)


def _of_parts(
    source: Source, targets: Sequence[str], read: Sequence[Precision]
) -> tuple[tuple[BundleSpec, ...], tuple[Skipped, ...]]:
    """Bundles of a model of several parts: each choice of targets in each choice of precisions."""
    if tuple(targets) == ALL:
        return _of_all_targets(source, read)
    bundles = []
    wanted = read_targets(targets, source.parts)
    for chosen in wanted:
        for part, name in chosen.items():
            _check_taken(part, name)
        bundles += [_bundle(chosen, precision) for precision in read]
    for spec in bundles:
        if refusal := _other_precisions(spec):
            raise UsageError(refusal)
    for chosen in wanted:
        for part, name in chosen.items():
            _check_present(part, name)
    return tuple(bundles), ()


def _of_all_targets(
    source: Source, precisions: Sequence[Precision]
) -> tuple[tuple[BundleSpec, ...], tuple[Skipped, ...]]:
    """Bundles of every target that takes all parts, in those of the precisions that it has."""
    bundles: list[BundleSpec] = []
    skipped: list[Skipped] = []
    for name in converters.target_names():
        if not _takes(name, source.parts):
            continue
        specs = [_bundle(dict.fromkeys(source.parts, name), precision) for precision in precisions]
        refusals = {spec.precision: _other_precisions(spec) for spec in specs}
        reason = _absent(converters.target(name)) or ("" if "" in refusals.values() else next(iter(refusals.values())))
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            bundles += [spec for spec in specs if not refusals[spec.precision]]
    return tuple(bundles), tuple(skipped)


def _other_precisions(spec: BundleSpec) -> str:
    """Why a part's target does not have its precision, empty where all do."""
    for part, own in spec.parts.items():
        target, wanted = converters.target(own.target), read_part(own.precision)
        offered = target.part_precisions
        undone = [method for method in (GPTQ, SCALE) if wanted.uses(method)]
        if undone and target.grid is None:
            return (
                f"target {own.target} rounds the weights of {part} with tools of its own, which would undo "
                f"{undone[0]}; give {replace(wanted, method=AWQ)}"
            )
        if wanted.word not in offered:
            return (
                f"target {own.target} takes {part} of a vision-language model in {' or '.join(offered)}, not in "
                f"{own.precision}; say so with --precision {part}={offered[0]}, or give {part} another target"
            )
    return ""


def _bundle(targets: Mapping[str, str], precision: Precision) -> BundleSpec:
    words = dict(zip(targets, map(str, precision.parts), strict=True))
    parts = {part: PartSpec(target, words[part]) for part, target in targets.items()}
    names = tuple(targets.values())
    name = names[0] if len(set(names)) == 1 else "+".join(names)
    return BundleSpec(name, precision.name, parts, precision.calibrated)


def read_targets(given: Sequence[str], parts: Sequence[str]) -> list[dict[str, str]]:
    """Targets for all parts, or one by part: ``("onnx", "openvino")``, ``("vision=openvino", "language=onnx", ...)``.

    Raises:
        UsageError: an unknown part, one without a target or with two, or a mixture of both forms.
    """
    if not any("=" in one for one in given):
        return [dict.fromkeys(parts, name) for name in given]
    chosen: dict[str, str] = {}
    for one in given:
        part, equals, name = one.partition("=")
        if not equals:
            raise UsageError(f"--target {','.join(given)}: give targets, or PART=TARGET for every part, not both")
        if part not in parts:
            raise UsageError(f"--target {one}: {choices(part, parts)}")
        if part in chosen:
            raise UsageError(f"--target {','.join(given)}: {part} has two targets; give each part one")
        chosen[part] = name
    missing = [part for part in parts if part not in chosen]
    if missing:
        raise UsageError(f"--target {','.join(given)}: no target for {', '.join(missing)}; name one for every part")
    return [{part: chosen[part] for part in parts}]


def _takes(name: str, parts: Iterable[str]) -> bool:
    return set(parts) <= set(converters.target(name).parts)


def _check_taken(part: str, name: str) -> None:
    """Refuse a target that does not take a part."""
    spec, takers = converters.target(name), _takers(part)
    if name not in takers:
        small = f": {_too_small(part, spec)}" if spec.megabytes else ""
        raise UsageError(
            f"target {name} takes no {part} of a vision-language model{small}; these do: {', '.join(takers)}"
            f"{_divided(spec)}"
        )


def _divided(spec: Target) -> str:
    """The options to give instead of a target that takes only some of the parts."""
    if not set(PART_NAMES) & set(spec.parts):
        return ""
    parts = ",".join(f"{part}={spec.name if part in spec.parts else 'onnx'}" for part in PART_NAMES)
    return f"; for the others give --target {parts}"


def _check_present(part: str, name: str) -> None:
    """Refuse a target that cannot be made here."""
    if absent := _absent(converters.target(name)):
        here = [other for other in _takers(part) if not _absent(converters.target(other))]
        raise UsageError(f"target {name}: {absent}; possible here for {part}: {', '.join(here) or 'none'}")


def _takers(part: str) -> list[str]:
    """The targets that take a part."""
    return [other for other in converters.target_names() if _takes(other, [part])]


def _too_small(part: str, spec: Target) -> str:
    needed = PUBLISHED[part]
    return (
        f"its devices have about {spec.megabytes} MB for a network with its activations, and that of the smallest "
        f"published BLIP-2 has {needed} MB of weights at 8 bits, {needed - spec.megabytes} MB too many"
    )


def _absent(spec: Target) -> str:
    """The packages missing to convert parts here, and to check them with their engine or its emulator."""
    if spec.missing or emulator(spec.engine) is not None:
        return spec.missing
    return f"engine {spec.engine} {missing}" if (missing := engine(spec.engine).missing) else ""


def _check_precisions(precisions: Iterable[str]) -> None:
    specs = [converters.target(name) for name in converters.target_names()]
    known = sorted({precision for spec in specs for precision in spec.precisions})
    for precision in precisions:
        if precision not in known:
            raise UsageError(f"--precision {choices(precision, known)}")


def _check_recipe(recipe: str) -> None:
    specs = [converters.target(name) for name in converters.target_names()]
    known = sorted({one for spec in specs for one in spec.recipes})
    if recipe not in (AUTO, *known):
        raise UsageError(f"--recipe {choices(recipe, (AUTO, *known))}")


def _lacks(spec: Target, precisions: Sequence[str]) -> str:
    said = f"has no {', '.join(precisions)}; it has: {', '.join(spec.precisions)}"
    names = converters.target_names()
    takers = [name for name in names if set(precisions) <= set(converters.target(name).precisions)]
    return f"{said}; targets that have it: {', '.join(takers)}" if len(takers) <= len(names) // 2 else said


def _one_shape() -> str:
    taking = [name for name in converters.target_names() if converters.target(name).several]
    return (
        "its files have one batch and one input size; give one --batch and one --size, and convert again for others "
        f"(several in one bundle: {', '.join(taking)})"
    )


def _lacks_recipe(spec: Target, precisions: Iterable[str], recipe: str) -> str:
    for precision in (one for one in precisions if one in spec.calibrated):
        offered = spec.recipes_of(precision)
        if recipe != AUTO and recipe not in offered:
            of = f" for {precision}" if precision in spec.one_recipe else ""
            return f"has no recipe {recipe}{of}; it has: {', '.join(offered)}"
    return ""


def _options(given: Mapping[str, Mapping[str, str]], chosen: Sequence[str]) -> dict[str, Record]:
    for name in given:
        converters.target(name)
        if name not in chosen:
            raise UsageError(f"--option {name}....: target {name} is not converted to; name it in --target")
    return {name: converters.read_options(converters.target(name), given.get(name, {})) for name in chosen}


def refuse(spec: Target, operators: Mapping[str, str]) -> None:
    """Refuse a graph with operators that a target does not support, before its toolchain fails on them.

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
    takers = [other.name for other in others if not any(operator in other.refuses for operator in operators)]
    named = "; ".join(f"{operator} (node {operators[operator]!r}): {spec.refuses[operator]}" for operator in found)
    raise ConversionError(f"{spec.name} cannot take {named}. Targets that take it: {', '.join(takers) or 'none'}")
