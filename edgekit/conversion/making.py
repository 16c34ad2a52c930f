"""One bundle: built by the best of the target's recipes, proven, and put at its destination or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import edgekit
from edgekit import converters
from edgekit.bundle import Bundle, Staging, stage
from edgekit.conversion import jobs
from edgekit.conversion.runner import Stop, run
from edgekit.conversion.selection import refuse
from edgekit.errors import ConversionError, EdgekitError, EngineError, GateError
from edgekit.evaluation.agreement import GATES, quality
from edgekit.manifest import Evidence, Graph, Manifest, Record

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


class Maker:
    """Makes the bundles of one prepared folder."""

    def __init__(self, prepared: jobs.Prepared, folder: Path, conversion: Conversion, stop: Stop) -> None:
        self._prepared, self._folder, self._conversion, self._stop = prepared, folder, conversion, stop

    def make(self, wanted: Wanted, report: Report) -> Outcome:
        """Build, prove and commit one bundle; errors become part of the outcome."""
        path = self._conversion.out / f"{self._prepared.name}-{wanted.target}-{wanted.precision}"
        evidence: Evidence | None = None
        try:
            with stage(path) as staging:
                refuse(converters.target(wanted.target), self._prepared.operators)
                graph, recipe, tried = self._best(wanted, staging, lambda text, share: report(text, 0.7 * share))
                manifest = staging.seal(self._manifest(wanted, graph))
                evidence = self._prove(wanted, staging, lambda text, share: report(text, 0.7 + 0.3 * share))
                evidence = msgspec.structs.replace(evidence, recipe=recipe, recipes=tried)
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

    def _best(self, wanted: Wanted, staging: Staging, report: Report) -> tuple[Graph, str, dict[str, float]]:
        """Build by every recipe and keep the files of the best one.

        Returns:
            The manifest entry, the recipe, and the quality of all that were compared.


        Raises:
            ConversionError: no recipe gives a file.
        """
        recipes = self._recipes(wanted)
        if len(recipes) < 2:
            only = recipes[0] if recipes else ""
            return self._build(wanted, only, staging.folder, report), only, {}
        built: dict[str, Graph] = {}
        found: dict[str, float] = {}
        errors: list[EdgekitError] = []
        for number, recipe in enumerate(recipes):
            folder = self._folder / wanted.target / f"{wanted.precision}-{number}"
            folder.mkdir(parents=True)

            def told(text: str, share: float, done: int = number) -> None:
                report(f"{recipes[done]}: {text}", (done + share) / len(recipes))

            try:
                built[recipe] = self._build(wanted, recipe, folder, told)
                found[recipe] = self._quality(wanted, Staging(staging.destination, folder), built[recipe], told)
            except (ConversionError, EngineError) as error:
                errors.append(error)
        if not found:
            raise errors[0]
        best = max(found, key=lambda recipe: found[recipe])  # the first of equals: the usual one
        for item in (self._folder / wanted.target / f"{wanted.precision}-{recipes.index(best)}").iterdir():
            shutil.move(item, staging.folder / item.name)
        return built[best], best, found

    def _recipes(self, wanted: Wanted) -> tuple[str, ...]:
        """The recipes to try: the one that was asked for, or all where there are images to compare them on."""
        spec = converters.target(wanted.target)
        if wanted.precision not in spec.calibrated:
            return ()
        asked = self._conversion.recipe
        if asked != AUTO:
            return (asked,) if asked in spec.recipes else spec.recipes[:1]
        return spec.recipes if self._prepared.held_views else spec.recipes[:1]

    def _build(self, wanted: Wanted, recipe: str, out: Path, report: Report) -> Graph:
        """Make the target's files, with the interpreter of its own toolchain where it has one."""
        spec = converters.target(wanted.target)
        job = jobs.BuildJob(
            folder=str(self._folder),
            target=wanted.target,
            precision=wanted.precision,
            out=str(out),
            recipe=recipe,
            threads=self._conversion.threads,
            options=msgspec.to_builtins(wanted.options),
            # The user's own decoders may import what an isolated environment does not have; it decodes nothing.
            imports=() if spec.builder else self._conversion.imports,
        )
        return run(job, Graph, report, toolchain=spec.builder, stop=self._stop)

    def _quality(self, wanted: Wanted, staging: Staging, graph: Graph, report: Report) -> float:
        """How good a recipe's files are on the images that were held back."""
        staging.seal(self._manifest(wanted, graph))
        evidence = self._prove(wanted, staging, report, held=True)
        return 0.0 if evidence.decoded is None else round(quality(evidence.decoded), 6)

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
