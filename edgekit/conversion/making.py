"""One bundle: built by the best of the target's recipes, proven, and put at its destination or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import edgekit
from edgekit import converters
from edgekit.calibration.plan import read_plan
from edgekit.calibration.sensitivity import worst_first
from edgekit.conversion import jobs
from edgekit.conversion.budget import Attempt, keep
from edgekit.conversion.build import PLAN
from edgekit.conversion.runner import Stop, run
from edgekit.conversion.selection import refuse
from edgekit.errors import ConversionError, EdgekitError, EngineError, GateError
from edgekit.evaluation.agreement import GATES, quality
from edgekit.runtimes.bundle.folder import Bundle, Staging, stage
from edgekit.runtimes.bundle.manifest import Budget, Evidence, Graph, Manifest, Record

if TYPE_CHECKING:
    from edgekit.conversion.convert import Conversion

Report = Callable[[str, float], None]

AUTO = "auto"
"""Every recipe of the target is tried, the best is kept."""


@dataclass(frozen=True)
class Outcome:
    """How one target in one precision ended: a bundle, or an error, and the evidence where it came so far."""

    target: str
    precision: str
    path: Path
    bundle: Bundle | None = None
    evidence: Evidence | None = None
    error: EdgekitError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a bundle and its evidence passed."""
        return self.bundle is not None and self.evidence is not None and self.evidence.passed


@dataclass(frozen=True)
class Wanted:
    """One bundle that is to be made: a target in a precision, with the target's own options."""

    target: str
    precision: str
    options: Record


@dataclass(frozen=True)
class _Built:
    """What a recipe gave: files in a folder, and how good they are."""

    folder: Path
    graph: Graph
    quality: float


@dataclass(frozen=True)
class _Best:
    """What a bundle is made of: the manifest entry, the recipe, the quality of all that were tried, the budget."""

    graph: Graph
    recipe: str
    tried: dict[str, float]
    budget: Budget | None = None


class Maker:
    """Makes the bundles of one prepared folder."""

    def __init__(self, prepared: jobs.Prepared, folder: Path, conversion: Conversion, stop: Stop) -> None:
        self._prepared, self._folder, self._conversion, self._stop = prepared, folder, conversion, stop

    def make(self, wanted: Wanted, report: Report) -> Outcome:
        """Build, prove and commit one bundle; errors become part of the outcome."""
        path = self._conversion.out / f"{self._prepared.name}-{wanted.target}-{wanted.precision}"
        evidence: Evidence | None = None
        try:
            with stage(path.absolute()) as staging:
                refuse(converters.target(wanted.target), self._prepared.operators)
                best = self._best(wanted, staging, lambda text, share: report(text, 0.7 * share))
                manifest = staging.seal(self._manifest(wanted, best.graph))
                proven = self._prove(wanted, staging, lambda text, share: report(text, 0.7 + 0.3 * share))
                evidence = _completed(proven, best)
                if not evidence.passed and self._conversion.gated:
                    raise GateError(
                        f"outside its gate, not written: {'; '.join(evidence.failures)} (--no-gate writes it all the "
                        "same)"
                    )
                staging.seal(msgspec.structs.replace(manifest, evidence=evidence, proven=evidence.passed))
                bundle = staging.commit()
        except EdgekitError as error:
            report("failed", 1.0)
            return Outcome(wanted.target, wanted.precision, path, evidence=evidence, error=error)
        report("done", 1.0)
        return Outcome(wanted.target, wanted.precision, path, bundle=bundle, evidence=evidence)

    def _best(self, wanted: Wanted, staging: Staging, report: Report) -> _Best:
        """Build by every recipe and keep the files of the best one, within the budget where there is one.

        Raises:
            ConversionError: no recipe gives a file.
        """
        recipes = self._recipes(wanted)
        found, errors = {}, []
        for number, recipe in enumerate(recipes if len(recipes) > 1 else ()):

            def told(text: str, share: float, done: int = number) -> None:
                report(f"{recipes[done]}: {text}", (done + share) / len(recipes))

            try:
                found[recipe] = self._quality(wanted, recipe, staging, told)
            except (ConversionError, EngineError) as error:
                errors.append(error)
        if errors and not found:
            raise errors[0]
        best = max(found, key=lambda recipe: found[recipe].quality) if found else next(iter(recipes), "")
        tried = {recipe: one.quality for recipe, one in found.items()}
        if recipes and self._conversion.max_drop is not None:
            attempt, budget = self._keep_budget(wanted, best, staging, report)
            _move(attempt.folder, staging.folder)
            return _Best(attempt.graph, best, tried, budget)
        if not found:
            return _Best(self._build(wanted, best, staging.folder, report), best, tried)
        _move(found[best].folder, staging.folder)
        return _Best(found[best].graph, best, tried)

    def _keep_budget(self, wanted: Wanted, recipe: str, staging: Staging, report: Report) -> tuple[Attempt, Budget]:
        """Put the worst layers back into float until the budget holds."""
        conversion = self._conversion
        integers = converters.target(wanted.target).integer_only
        order = [] if integers else worst_first(read_plan(self._folder / PLAN).mixed)

        def measured(bundle: str) -> jobs.Measured:
            job = jobs.MeasureJob(
                folder=str(self._folder),
                bundle=bundle,
                labels=conversion.labels,
                threads=conversion.threads,
                imports=conversion.imports,
            )
            return run(job, jobs.Measured, report, stop=self._stop)

        def attempt(floats: tuple[str, ...]) -> Attempt:
            folder = self._scratch(wanted)
            graph = self._build(wanted, recipe, folder, report, floats)
            Staging(staging.destination, folder).seal(self._manifest(wanted, graph))
            return Attempt(floats, folder, graph, measured(str(folder)))

        source = measured("")
        return keep(conversion.max_drop or 0.0, source.score, order, attempt, source.by)

    def _scratch(self, wanted: Wanted) -> Path:
        parent = self._folder / wanted.target
        parent.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{wanted.precision}-", dir=parent))

    def _recipes(self, wanted: Wanted) -> tuple[str, ...]:
        """The recipes to try: the one that was asked for, or all where there are images to compare them on."""
        spec = converters.target(wanted.target)
        if wanted.precision not in spec.calibrated:
            return ()
        asked = self._conversion.recipe
        if asked != AUTO:
            return (asked,) if asked in spec.recipes else spec.recipes[:1]
        return spec.recipes if self._prepared.held_views else spec.recipes[:1]

    def _build(self, wanted: Wanted, recipe: str, out: Path, report: Report, floats: tuple[str, ...] = ()) -> Graph:
        """Make the target's files, with the interpreter of its own toolchain where it has one."""
        spec = converters.target(wanted.target)
        job = jobs.BuildJob(
            folder=str(self._folder),
            target=wanted.target,
            precision=wanted.precision,
            out=str(out),
            recipe=recipe,
            floats=floats,
            threads=self._conversion.threads,
            options=msgspec.to_builtins(wanted.options),
            # The user's own decoders may import what an isolated environment does not have; it decodes nothing.
            imports=() if spec.builder else self._conversion.imports,
        )
        return run(job, Graph, report, toolchain=spec.builder, stop=self._stop)

    def _quality(self, wanted: Wanted, recipe: str, staging: Staging, report: Report) -> _Built:
        """Build by a recipe and see how good the files are on the images that were held back."""
        folder = self._scratch(wanted)
        graph = self._build(wanted, recipe, folder, report)
        trial = Staging(staging.destination, folder)
        trial.seal(self._manifest(wanted, graph))
        decoded = self._prove(wanted, trial, report, held=True).decoded
        return _Built(folder, graph, 0.0 if decoded is None else round(quality(decoded), 6))

    def _prove(self, wanted: Wanted, staging: Staging, report: Report, held: bool = False) -> Evidence:
        job = jobs.ProveJob(
            folder=str(self._folder),
            bundle=str(staging.folder),
            gate=self._conversion.gates.get(wanted.precision, GATES[wanted.precision]),
            held=held,
            threads=self._conversion.threads,
            imports=self._conversion.imports,
        )
        return run(job, Evidence, report, stop=self._stop)

    def _manifest(self, wanted: Wanted, graph: Graph) -> Manifest:
        spec, prepared = converters.target(wanted.target), self._prepared
        return Manifest(
            edgekit=edgekit.__version__,
            name=prepared.name,
            target=wanted.target,
            precision=wanted.precision,
            engine=spec.engine,
            graphs=(graph,),
            contract=prepared.contract,
            origin=prepared.origin,
            toolchain={**prepared.versions, **converters.versions(spec)},
            options=msgspec.to_builtins(wanted.options),
            calibration=prepared.calibration if wanted.precision in spec.calibrated else None,
        )


def _completed(evidence: Evidence, best: _Best) -> Evidence:
    """Evidence with how the bundle was quantised; a budget that is not kept is a failure."""
    broken = () if best.budget is None or best.budget.kept else (best.budget.sentence(),)
    return msgspec.structs.replace(
        evidence,
        recipe=best.recipe,
        recipes=best.tried,
        budget=best.budget,
        passed=evidence.passed and not broken,
        failures=(*evidence.failures, *broken),
    )


def _move(source: Path, destination: Path) -> None:
    for item in source.iterdir():
        shutil.move(item, destination / item.name)
