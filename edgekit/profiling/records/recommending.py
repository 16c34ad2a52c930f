"""HOST: what to ship on a machine: from the records there are, from what is measured for it, or from a search."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.errors import EdgekitError, UsageError
from edgekit.profiling.protocol import Event, SessionProgress
from edgekit.profiling.record import Profile, Settings
from edgekit.profiling.records.choosing import Bounds, Preference, Recommendation, choose
from edgekit.profiling.records.making import ProfileRequest, make
from edgekit.profiling.records.searching import SearchPoint, Space, points, search
from edgekit.profiling.records.store import Store
from edgekit.runtimes.bundle.folder import open_bundle

Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class ConversionChoices:
    """The conversions of a search: a source to targets, precisions and input sizes ((height, width), or its own)."""

    source: str
    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    sizes: tuple[tuple[int, int] | None, ...] = (None,)
    data: str = ""
    out: Path = Path("out")


@dataclass(frozen=True, kw_only=True)
class RecommendRequest:
    """What is asked.

    ``bundles`` are the candidates, all that the store knows of the machine when empty. ``on`` is the name of a host
    over SSH, empty for this machine. ``budget`` are the seconds of a search, 0 for none: then ``bundles`` that the
    store does not know on this machine are measured, one after the other. ``conversions`` widen a search. ``imports``
    are modules of the user's that register decoders.
    """

    bounds: Bounds
    prefer: Preference
    bundles: tuple[Path, ...] = ()
    on: str = ""
    threads: tuple[int, ...] = (0,)
    settings: Settings = Settings(operators=False)  # noqa: RUF009 - it is immutable
    labels: str = ""
    images: str = ""
    budget: float = 0.0
    conversions: ConversionChoices | None = None
    imports: tuple[str, ...] = ()


def recommend(question: RecommendRequest, store: Store, report: Report) -> Recommendation:
    """Answer it; what is measured on the way is added to the store.

    Raises:
        UsageError: nothing to choose from.
    """
    if question.budget:
        return choose(_searched(question, store, report), question.bounds, question.prefer)
    if question.conversions is not None:
        raise UsageError("--source is converted by a search: say how long it may take with --budget 10min")
    machine = question.on or platform.node() or "this machine"
    known = [one for one in store.read() if one.conditions.machine.key == machine]
    if question.bundles:
        known = _completed(question, known, store, report)
    if not known:
        raise UsageError(
            f"{store.path} has no records of {machine}: give bundles, which it then measures, or run edgekit profile"
        )
    return choose(known, question.bounds, question.prefer)


def _completed(question: RecommendRequest, known: Sequence[Profile], store: Store, report: Report) -> list[Profile]:
    """Records of the given bundles alone, with every number of threads; what is missing is measured."""
    wanted = {
        (open_bundle(path).manifest.digest, count): (path, count)
        for path in question.bundles
        for count in question.threads
    }
    there = {
        (one.subject.sha256, one.settings.threads): one
        for one in known
        if one.settings.delay == 0 and (one.accuracy is not None or not question.labels)
    }
    missing = [wanted[key] for key in wanted if key not in there]
    made = _measured(
        question,
        [path for path, _ in missing],
        [msgspec.structs.replace(question.settings, threads=count) for _, count in missing],
        store,
        report,
    )
    return [*(there[key] for key in wanted if key in there), *made]


def _measured(
    question: RecommendRequest, paths: Sequence[Path], each: Sequence[Settings], store: Store, report: Report
) -> tuple[Profile, ...]:
    if not paths:
        return ()
    request = ProfileRequest(
        bundles=tuple(paths),
        settings=each[0],
        each=tuple(each),
        on=question.on,
        labels=question.labels,
        images=question.images,
        imports=question.imports,
    )
    made = make(request, report, store.read())
    store.add(made.profiles)
    return made.profiles


def _searched(question: RecommendRequest, store: Store, report: Report) -> list[Profile]:
    """The finals of a search, and its trials of bundles and threads that did not come so far."""
    given: dict[tuple[str, str, str], Path] = {}
    for path in question.bundles:
        manifest = open_bundle(path).manifest
        given[manifest.target, manifest.precision, _written(manifest.contract.image.size)] = path
    asked = question.conversions
    possible = list(given)
    if asked is not None:
        possible += [
            (target, precision, _written(size))
            for target in asked.targets
            for precision in asked.precisions
            for size in asked.sizes
        ]
    converted = _Converted(asked, question.imports, report) if asked is not None else None

    def bundle(point: SearchPoint) -> Path | None:
        key = (point.target, point.precision, point.size)
        return given.get(key) or (converted(point) if converted is not None else None)

    def measure(paths: Sequence[Path], each: Sequence[Settings]) -> Sequence[Profile]:
        return _measured(question, paths, each, store, report)

    space = Space(points=points(possible, question.threads), bundle=bundle, measure=measure)
    found = search(space, question.bounds, question.prefer, question.settings, question.budget)
    final = {(one.subject.path, one.settings.threads) for one in found.finals}
    return [*(one for one in found.trials if (one.subject.path, one.settings.threads) not in final), *found.finals]


class _Converted:
    """Bundles of a source, made when a search asks for them; None for what fails or falls outside its gate."""

    def __init__(self, asked: ConversionChoices, imports: tuple[str, ...], report: Report) -> None:
        self._asked, self._imports, self._report = asked, imports, report
        self._sizes = {_written(size): size for size in asked.sizes}
        self._known: dict[tuple[str, str, str], Path | None] = {}

    def __call__(self, point: SearchPoint) -> Path | None:
        key = (point.target, point.precision, point.size)
        if key not in self._known:
            self._known[key] = self._made(point)
        return self._known[key]

    def _made(self, point: SearchPoint) -> Path | None:
        from edgekit.conversion.convert import convert
        from edgekit.conversion.request import Request

        self._report(SessionProgress(text=f"converting to {point.target} {point.precision} {point.size}", share=0.0))
        out = self._asked.out / point.size if point.size != OWN else self._asked.out
        request = Request(
            source=self._asked.source,
            targets=(point.target,),
            precisions=(point.precision,),
            data=self._asked.data,
            size=self._sizes[point.size],
            out=out,
            imports=self._imports,
        )
        try:
            (outcome, *_) = convert(request).outcomes
        except EdgekitError as error:
            self._report(SessionProgress(text=f"{point.target} {point.precision} {point.size}: {error}", share=0.0))
            return None
        return outcome.bundle.path if outcome.bundle is not None else None


OWN = "own"
"""The input size that a source has by itself, in names of points."""


def _written(size: tuple[int, int] | None) -> str:
    return OWN if size is None else f"{size[0]}x{size[1]}"
