"""Build one bundle with its best recipe, validate it, and commit it whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

import edgekit
from edgekit import converters
from edgekit.calibration import plan as plans
from edgekit.calibration.plan import LastLayer
from edgekit.calibration.sensitivity import worst_first
from edgekit.conversion import kept_bundles, recipes
from edgekit.conversion.budget import Attempt, keep
from edgekit.conversion.contact_sheet import SUFFIX
from edgekit.conversion.jobs import HardSwish, MeasuredScore, Part, Prepared
from edgekit.conversion.kept_graphs import KeptGraphs, link
from edgekit.conversion.last_layer import HARMLESS, Decision, decide
from edgekit.conversion.recipes import Trial, choose
from edgekit.conversion.replace_silu import Choice
from edgekit.conversion.replace_silu import choose as choose_activation
from edgekit.conversion.request import gate_of
from edgekit.conversion.selection import AUTO, BundleSpec, refuse
from edgekit.conversion.stages import Stages
from edgekit.errors import ConversionError, EdgekitError, EngineError, GateError
from edgekit.graph.blip2.companions import write_companions
from edgekit.graph.blip2.precision import read_part
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import Bundle, Staging, sha256, stage
from edgekit.runtimes.bundle.manifest import (
    GOLDEN,
    Accuracy,
    Budget,
    Contract,
    Evidence,
    Graph,
    Manifest,
    Record,
    Variant,
)


@dataclass(frozen=True)
class Outcome:
    """Result for one target and precision: a bundle or an error, and the evidence if validation was reached.

    ``doubt`` says why the choice of its recipe is not certain; ``advice``, where it is outside its gate, what each
    recipe reached and what to try. ``sheet`` is the contact sheet beside the bundle, where one was drawn. ``kept`` says
    since when the bundle is there, where an earlier run of the same request made it. ``seconds`` has the time of each
    stage.
    """

    target: str
    precision: str
    path: Path
    bundle: Bundle | None = None
    evidence: Evidence | None = None
    error: EdgekitError | None = None
    doubt: str = ""
    advice: str = ""
    sheet: Path | None = None
    kept: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a bundle, its evidence passed, and nothing else that was asked for is missing."""
        proven = self.bundle is not None and self.evidence is not None and self.bundle.manifest.proven
        return proven and self.error is None


Graphs = tuple[Graph, ...]


@dataclass(frozen=True)
class _Best:
    """The chosen build: its graphs and recipe, the trials of all recipes compared, and the budget."""

    graphs: Graphs
    recipe: str
    trials: Mapping[str, Trial]
    budget: Budget | None = None


class BundleBuilder:
    """Builds the bundles of one prepared workspace.

    ``options`` are the targets' own, ``source_score`` is the source's accuracy where there are labels, ``further`` has
    the stages at further input sizes, prepared; ``replaced`` is there where the same network with hard swish in place
    of SiLU is to be tried.
    """

    def __init__(
        self,
        stages: Stages,
        prepared: Prepared,
        options: Mapping[str, Record],
        source_score: MeasuredScore | None = None,
        further: Sequence[Stages] = (),
        replaced: HardSwish | None = None,
    ) -> None:
        self._replaced = replaced
        self._further = further
        self._stages, self._prepared, self._options, self._source_score = stages, prepared, options, source_score
        self._request, self._workspace = stages.request, stages.workspace

    def build(self, spec: BundleSpec, report: Report) -> Outcome:
        """Build, validate and commit one bundle; errors become part of the outcome.

        A bundle that the same request left there is kept.
        """
        found = self.kept(spec)
        if found is not None:
            report("kept", 1.0)
            return found
        outcome = self._built(spec, report)
        return replace(outcome, seconds=self._stages.seconds)

    def kept(self, spec: BundleSpec) -> Outcome | None:
        """The outcome of an earlier run of the same request, where there is one and nothing is to be built again."""
        if self._request.rebuild:
            return None
        path = self._path(spec)
        bundle = kept_bundles.kept(path, self._key(spec))
        if bundle is None:
            return None
        sheet = path.with_name(path.name + SUFFIX)
        return Outcome(
            spec.target,
            spec.precision,
            path,
            bundle,
            bundle.manifest.evidence,
            sheet=sheet if sheet.exists() else None,
            kept=kept_bundles.since(bundle),
        )

    def _path(self, spec: BundleSpec) -> Path:
        return self._request.out / f"{self._prepared.name}-{spec.target}-{spec.precision}"

    def _key(self, spec: BundleSpec) -> str:
        return kept_bundles.request_key(self._request, self._prepared, self._options, spec)

    def _built(self, spec: BundleSpec, report: Report) -> Outcome:
        path = self._path(spec)
        evidence: Evidence | None = None
        doubt = advice = ""
        kept = KeptGraphs(self._request.out)
        try:
            with stage(path.absolute()) as staging:
                for target in spec.targets:
                    refuse(converters.target(target), self._prepared.operators)
                best = self._best(spec, staging, kept, _within(report, 0.0, 0.7))
                manifest = staging.seal(self._manifest(spec, best.graphs))
                self._check_size(manifest)
                sheet = self._sheet(path.name)
                golden = self._golden(staging.folder)
                step = _within(report, 0.7, 1.0)
                validated = self._validate(spec, staging.folder, step, sheet=sheet, golden=golden)
                evidence = _completed(validated, best)
                doubt, advice = self._doubt(spec, best), "" if evidence.passed else self._advice(evidence, spec, best)
                if not evidence.passed and self._request.gated:
                    raise GateError(
                        f"outside its gate, not written: {'; '.join(evidence.failures)} (--no-gate writes it "
                        f"anyway){'; ' if advice else ''}{advice}"
                    )
                evidence = self._with_accuracy(evidence, staging.folder, report)
                variants = self._variants(spec, staging, manifest, report)
                proven = evidence.passed and all(one.evidence and one.evidence.passed for one in variants or ())
                staging.seal(msgspec.structs.replace(manifest, evidence=evidence, variants=variants, proven=proven))
                kept_bundles.write_key(staging.folder, self._key(spec))
                bundle = staging.commit()
                drawn = _beside(path, sheet)
        except EdgekitError as error:
            report("failed", 1.0)
            return Outcome(
                spec.target, spec.precision, path, evidence=evidence, error=error, doubt=doubt, advice=advice
            )
        kept.forget()
        report("done", 1.0)
        return Outcome(spec.target, spec.precision, path, bundle, evidence, doubt=doubt, advice=advice, sheet=drawn)

    def _best(self, spec: BundleSpec, staging: Staging, kept: KeptGraphs, report: Report) -> _Best:
        """The best build of the network, or the same with hard swish if that is faster and loses almost nothing."""
        if self._replaced is None or not spec.calibrated:
            return self._best_recipe(spec, staging, kept, report)
        stages, source = self._stages.with_hard_swish(), self._source_score
        if self._request.max_drop is not None and source is None:
            source = self._stages.measure(None, report)  # a budget is counted from the source, not from what is tried
        changed = BundleBuilder(stages, self._replaced.prepared, self._options, source, self._further)
        own, trial = self._candidate(spec, staging, kept, _within(report, 0.0, 0.5))
        try:
            other, other_trial = changed._candidate(spec, staging, kept, _within(report, 0.5, 1.0, "hard swish: "))
            timed = trial.evidence.word == "executed"
            speed = self._stages.time(other_trial.folder, trial.folder, report) if timed else None
            choice = choose_activation(trial, other_trial, speed, self._replaced, self._prepared.holdout_views)
        except (ConversionError, EngineError) as error:
            choice = Choice(False, f"kept: hard swish cannot be built ({error})")
        best, chosen = (other, other_trial) if choice.hard_swish else (own, trial)
        _move(chosen.folder, staging.folder)
        return replace(best, graphs=_reported(best.graphs, "SiLU", choice.why))

    def _candidate(self, spec: BundleSpec, staging: Staging, kept: KeptGraphs, report: Report) -> tuple[_Best, Trial]:
        """The best build in a folder of its own, compared with the source on the hold-out set."""
        place = Staging(staging.destination, self._workspace.fresh(spec.target, spec.precision))
        best = self._best_recipe(spec, place, kept, report)
        place.seal(self._manifest(spec, best.graphs))
        return best, Trial(place.folder, best.graphs, self._validate(spec, place.folder, report, holdout=True))

    def _best_recipe(self, spec: BundleSpec, staging: Staging, kept: KeptGraphs, report: Report) -> _Best:
        """Build with every recipe and keep the files of the best one, within the budget if there is one.

        Raises:
            ConversionError: no recipe gives a file.
        """
        offered = self.recipes(spec)
        found: dict[str, Trial] = {}
        errors = []
        for number, recipe in enumerate(offered if len(offered) > 1 else ()):
            step = _within(report, number / len(offered), (number + 1) / len(offered), f"{recipe}: ")
            try:
                found[recipe] = self._trial(spec, recipe, staging, kept, step)
            except (ConversionError, EngineError) as error:
                errors.append(error)
        if errors and not found:
            raise errors[0]
        best = choose(found, recipes.views_of_an_image(self._prepared)) if found else next(iter(offered), "")
        if offered and self._request.max_drop is not None:
            attempt, budget = self._keep_budget(spec, best, staging, kept, report)
            _move(attempt.folder, staging.folder)
            return _Best((attempt.graph,), best, found, budget)
        last = self._last_layer(spec, best) if offered else None
        if last is not None:
            graphs = self._with_last_layer(spec, best, found.get(best), last, staging, kept, report)
            return _Best(graphs, best, found)
        if not found:
            return _Best(self._parts(spec, best, staging.folder, kept, report), best, found)
        _move(found[best].folder, staging.folder)
        return _Best(found[best].graphs, best, found)

    def _variants(
        self, spec: BundleSpec, staging: Staging, manifest: Manifest, report: Report
    ) -> tuple[Variant, ...] | msgspec.UnsetType:
        """Prove every further batch and input size.

        Raises:
            GateError: one is outside its gate.
        """
        wanted = self._wanted(manifest.contract)
        if not wanted:
            return msgspec.UNSET
        proven = []
        for variant, stages in wanted.items():
            report(f"proving {variant}", 0.9)
            gate = gate_of(self._request, False, (spec.precision,))
            evidence = stages.validate(staging.folder, gate, report, batch=variant.batch)
            if not evidence.passed and self._request.gated:
                raise GateError(
                    f"{variant} is outside its gate, not written: {'; '.join(evidence.failures)} (--no-gate writes it "
                    "anyway); leave that batch or size out"
                )
            proven.append(msgspec.structs.replace(variant, evidence=evidence))
        return tuple(proven)

    def _wanted(self, contract: Contract) -> dict[Variant, Stages]:
        """The further batches and sizes of a bundle, and where the reference at each size is."""
        first = {Variant(batch=batch, size=contract.image.size): self._stages for batch in self._request.batches}
        others = {
            Variant(batch=batch, size=stages.request.size): stages
            for stages in self._further
            if stages.request.size is not None
            for batch in (1, *self._request.batches)
        }
        return {**first, **others}

    def _check_size(self, manifest: Manifest) -> None:
        """Refuse a bundle that is larger than what the user allows.

        Raises:
            GateError: it is; says what helps.
        """
        size, most = sum(file.bytes for file in manifest.files), self._request.max_size
        if size <= most:
            return
        last = "; ".join(
            f"last layer {graph.report['last layer']}" for graph in manifest.graphs if "last layer" in graph.report
        )
        smaller = "" if manifest.precision == "int8" else "; --precision int8 has about a quarter of fp32"
        raise GateError(
            f"{size / 1e6:.2f} MB, more than --max-size {most / 1e6:g}MB allows, not written"
            f"{'; ' if last else ''}{last}{smaller}"
        )

    def _last_layer(self, spec: BundleSpec, recipe: str) -> LastLayer | None:
        """A classifier's last layer that the plan keeps in float, where the target could have it in float."""
        if converters.target(spec.target).all_integers(recipe) or not (self._workspace.plan / plans.FILE).is_file():
            return None
        return plans.read_plan(self._workspace.plan).last_layer

    def _with_last_layer(
        self,
        spec: BundleSpec,
        recipe: str,
        floats: Trial | None,
        last: LastLayer,
        staging: Staging,
        kept: KeptGraphs,
        report: Report,
    ) -> Graphs:
        """Build with the last layer in float or in INT8, whichever is better; move it to the staging folder."""
        views = self._prepared.holdout_views
        if not views:
            int8 = last.lost <= HARMLESS
            integers = (last.name,) if int8 else ()
            graphs = self._parts(spec, recipe, staging.folder, kept, report, integers=integers)
            return _reported(graphs, "last layer", f"{'in int8' if int8 else 'kept in float'}; {last.sentence()}")
        floats = floats or self._trial(spec, recipe, staging, kept, report)
        try:
            step = _within(report, 0.5, 1.0, "last layer in int8: ")
            integers_trial = self._trial(spec, recipe, staging, kept, step, (last.name,))
        except (ConversionError, EngineError):
            decision = Decision(False, f"kept in float ({last.share:.0%} of the weights): the target takes no other")
        else:
            decision = decide(last, floats, integers_trial, views, self._request.max_size)
        chosen = integers_trial if decision.int8 else floats
        _move(chosen.folder, staging.folder)
        return _reported(chosen.graphs, "last layer", decision.why)

    def recipes(self, spec: BundleSpec) -> tuple[str, ...]:
        """The recipes to try: the one that was asked for, or all where there are images to compare them on."""
        if not spec.calibrated or self._prepared.written:
            return ()
        offered = converters.target(spec.target).recipes_of(spec.precision)
        if self._request.recipe != AUTO:
            return (self._request.recipe,)
        return offered if self._prepared.holdout_views else offered[:1]

    def _with_accuracy(self, evidence: Evidence, folder: Path, report: Report) -> Evidence:
        """The evidence with the bundle's accuracy on the labels, if there are some and something here can run it."""
        if self._source_score is None or evidence.compared == "nothing":
            return evidence
        measured, source = self._stages.measure(folder, report), self._source_score
        accuracy = Accuracy(measure=measured.by, source=source.score, bundle=measured.score)
        return msgspec.structs.replace(evidence, accuracy=accuracy)

    def _doubt(self, spec: BundleSpec, best: _Best) -> str:
        if not best.recipe or self._request.recipe != AUTO:
            return ""
        return recipes.doubt(
            converters.target(spec.target).recipes_of(spec.precision), best.recipe, best.trials, self._prepared
        )

    def _advice(self, failed: Evidence, spec: BundleSpec, best: _Best) -> str:
        """After a failed gate of a bundle that was quantised on images."""
        if not best.recipe:
            return ""
        target = converters.target(spec.target)
        finest = next((one for one in ("fp16", "fp32") if one in target.precisions and one != spec.precision), "")
        offered = target.recipes_of(spec.precision)
        return recipes.advice(failed, offered, best.recipe, best.trials, self._prepared, self._request, finest)

    def _trial(
        self,
        spec: BundleSpec,
        recipe: str,
        staging: Staging,
        kept: KeptGraphs,
        report: Report,
        integers: tuple[str, ...] = (),
    ) -> Trial:
        """Build with one recipe and compare it with the source on the hold-out set."""
        folder = self._workspace.fresh(spec.target, spec.precision)
        graphs = self._parts(spec, recipe, folder, kept, report, integers=integers)
        Staging(staging.destination, folder).seal(self._manifest(spec, graphs))
        return Trial(folder, graphs, self._validate(spec, folder, report, holdout=True))

    def _keep_budget(
        self, spec: BundleSpec, recipe: str, staging: Staging, kept: KeptGraphs, report: Report
    ) -> tuple[Attempt, Budget]:
        """Return the most sensitive layers to float until the budget holds."""
        integers = converters.target(spec.target).all_integers(recipe)
        order = [] if integers else worst_first(plans.read_plan(self._workspace.plan).mixed)

        def attempt(floats: tuple[str, ...]) -> Attempt:
            folder = self._workspace.fresh(spec.target, spec.precision)
            graphs = self._parts(spec, recipe, folder, kept, report, floats)
            Staging(staging.destination, folder).seal(self._manifest(spec, graphs))
            return Attempt(floats, folder, graphs[0], self._stages.measure(folder, report))

        source = self._source_score or self._stages.measure(None, report)
        return keep(self._request.max_drop or 0.0, source.score, order, attempt, source.by)

    def _parts(
        self,
        spec: BundleSpec,
        recipe: str,
        out: Path,
        kept: KeptGraphs,
        report: Report,
        floats: tuple[str, ...] = (),
        integers: tuple[str, ...] = (),
    ) -> Graphs:
        """Build every part into a folder, and write the files that all parts share."""
        parts, made = self._prepared.parts, []
        for number, part in enumerate(parts):
            step = _within(report, number / len(parts), (number + 1) / len(parts))
            if self._prepared.written:
                step(f"writing {part.name}", 0.0)
                graph = self._kept(spec, part, out, kept, step)
            else:
                graph = self._part(spec, part, out, step, recipe, floats, integers)
            made.append(graph)
        if self._prepared.written:
            write_companions(Path(self._prepared.written), out, [part.precision for part in spec.parts.values()])
        return tuple(made)

    def _part(
        self,
        spec: BundleSpec,
        part: Part,
        out: Path,
        report: Report,
        recipe: str = "",
        floats: tuple[str, ...] = (),
        integers: tuple[str, ...] = (),
    ) -> Graph:
        """Build a part with its own target; the graph names its engine where it is not the bundle's."""
        own = spec.parts[part.role]
        graph = self._stages.build(
            part.name,
            own.target,
            own.precision,
            self._options[own.target],
            out,
            report,
            recipe=recipe,
            floats=floats,
            integers=integers,
            written=bool(self._prepared.written),
        )
        engine = converters.target(own.target).engine
        return graph if engine == _engine(spec) else msgspec.structs.replace(graph, engine=engine)

    def _kept(self, spec: BundleSpec, part: Part, out: Path, kept: KeptGraphs, report: Report) -> Graph:
        """A part that is written tensor by tensor; the files of an interrupted run are reused."""
        own = spec.parts[part.role]
        options = self._options[own.target]
        observed = part.role == "language" and converters.target(own.target).observes(options)
        ranges, fitted = self._workspace.ranges, observed or read_part(own.precision).fitted
        depends = {
            "source": self._prepared.origin.sha256,
            "edgekit": edgekit.__version__,
            "target": own.target,
            "options": msgspec.to_builtins(options),
            "versions": converters.versions(converters.target(own.target)),
            "engine": _engine(spec),
            "graph": part.name,
            "precision": own.precision,
            "ranges": sha256(ranges) if part.role == "vision" and own.precision == "int8" else "",
            "fitted": (self._prepared.calibration, sha256(self._workspace.questions)) if fitted else (),
        }
        files, graph = kept.build(depends, Graph, lambda folder: self._part(spec, part, folder, report))
        for file in graph.files:
            link(files / file, out / file)
        return graph

    def _sheet(self, bundle: str) -> Path | None:
        """Where the contact sheet of a bundle is drawn, which is moved beside it once it is written."""
        request = self._request
        if not request.contact_sheet or not (request.data or request.proof_data) or self._prepared.written:
            return None
        return self._workspace.folder / f"{bundle}{SUFFIX}"

    def _golden(self, bundle: Path) -> Path | None:
        """Where the golden frames of a bundle are written: into it, where there are photographs."""
        request = self._request
        if not request.golden or not (request.data or request.proof_data) or self._prepared.written:
            return None
        return bundle / GOLDEN

    def _validate(
        self,
        spec: BundleSpec,
        folder: Path,
        report: Report,
        *,
        holdout: bool = False,
        sheet: Path | None = None,
        golden: Path | None = None,
    ) -> Evidence:
        report("comparing with the source", 0.0)
        words = tuple(part.precision for part in spec.parts.values())
        caches = tuple(converters.cache_of(self._options[target]) for target in spec.targets)
        gate = gate_of(self._request, bool(self._prepared.written), (*words, *filter(None, caches)))
        return self._stages.validate(folder, gate, report, holdout=holdout, sheet=sheet, golden=golden)

    def _manifest(self, spec: BundleSpec, graphs: Graphs) -> Manifest:
        prepared, targets = self._prepared, spec.targets
        versions = [converters.versions(converters.target(target)) for target in targets]
        return Manifest(
            edgekit=edgekit.__version__,
            name=prepared.name,
            target=spec.target,
            precision=spec.precision,
            engine=_engine(spec),
            graphs=graphs,
            contract=prepared.contract,
            origin=prepared.origin,
            toolchain={name: version for one in (prepared.versions, *versions) for name, version in one.items()},
            options=self._manifest_options(spec),
            calibration=prepared.calibration if spec.calibrated else None,
            variants=tuple(self._wanted(prepared.contract)) or msgspec.UNSET,
        )

    def _manifest_options(self, spec: BundleSpec) -> dict[str, object]:
        """The targets' own options; of a model of several parts the precision of each, and the target where they
        differ.
        """
        options = {
            name: value for target in spec.targets for name, value in msgspec.to_builtins(self._options[target]).items()
        }
        if not self._prepared.written:
            return options
        options["precision"] = ",".join(f"{name}={part.precision}" for name, part in spec.parts.items())
        if len(spec.targets) > 1:
            options["target"] = ",".join(f"{name}={part.target}" for name, part in spec.parts.items())
        return options


def _engine(spec: BundleSpec) -> str:
    """The engine of a bundle: that of its first part."""
    return converters.target(spec.targets[0]).engine


def _within(report: Report, begin: float, end: float, prefix: str = "") -> Report:
    """Map the progress of one step (0..1) to the range ``begin``..``end`` of the whole."""
    return lambda text, share: report(f"{prefix}{text}", begin + (end - begin) * share)


def _completed(evidence: Evidence, best: _Best) -> Evidence:
    """Evidence with how the bundle was quantised; a budget that is not kept is a failure."""
    broken = () if best.budget is None or best.budget.kept else (best.budget.sentence(),)
    return msgspec.structs.replace(
        evidence,
        recipe=best.recipe,
        recipes={recipe: trial.quality for recipe, trial in best.trials.items()},
        budget=best.budget,
        passed=evidence.passed and not broken,
        failures=(*evidence.failures, *broken),
    )


def _beside(bundle: Path, sheet: Path | None) -> Path | None:
    """Move a contact sheet beside its bundle; None where none was drawn."""
    if sheet is None or not sheet.exists():
        return None
    return Path(shutil.move(sheet, bundle.with_name(sheet.name)))


def _reported(graphs: Graphs, what: str, became: str) -> Graphs:
    """Graphs whose report says what became of a layer or an activation."""
    return tuple(msgspec.structs.replace(one, report={**one.report, what: became}) for one in graphs)


def _move(source: Path, destination: Path) -> None:
    for item in source.iterdir():
        shutil.move(item, destination / item.name)
