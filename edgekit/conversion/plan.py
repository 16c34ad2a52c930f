"""Converting: one source to many proven bundles, targets side by side, each step in a child process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

import edgekit
from edgekit import converters
from edgekit.bundle import Bundle, Staging, stage
from edgekit.conversion import jobs, workspace
from edgekit.conversion.build import PREPARED
from edgekit.conversion.runner import Report, Stop, run
from edgekit.conversion.selection import Selection, Skipped, refuse, select
from edgekit.errors import EdgekitError, GateError
from edgekit.evaluation.agreement import GATES
from edgekit.manifest import Evidence, Gate, Graph, Manifest, Record


@dataclass(frozen=True)
class Conversion:
    """What to convert, to what, judged on what.

    ``source`` and ``weights``, ``contract``, ``data`` are as on the command line. ``gates`` overrides the bounds of a
    precision; without ``gated`` a bundle outside its gate is written all the same and marked unproven. ``options`` are
    options of the targets' own by target, as text.
    """

    source: str
    targets: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    out: Path = Path("out")
    data: str = ""
    proof_data: str = ""
    contract: str = ""
    weights: str = ""
    name: str = ""
    seed: int = 0
    trust: bool = False
    gated: bool = True
    gates: dict[str, Gate] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 2
    imports: tuple[str, ...] = ()
    options: dict[str, dict[str, str]] = field(default_factory=dict)


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


Watch = Callable[[str, str, float], None]
"""Told of progress: what (``prepare`` or ``target precision``), what it is doing, share done (0..1)."""


@dataclass(frozen=True)
class Conversions:
    """Everything that one call of `convert` gave; ``skipped`` are targets that ``all`` cannot have here."""

    prepared: jobs.Prepared
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every bundle that was asked for is there and proven."""
        return all(outcome.ok for outcome in self.outcomes)


def convert(conversion: Conversion, watch: Watch = lambda what, text, share: None) -> Conversions:
    """Convert a trained model; one failing target does not stop the others.

    Args:
        conversion: what to do.
        watch: told of progress, from several threads.

    Returns:
        The bundles and the failures, in the order of targets and precisions.

    Raises:
        UsageError, SourceError, ContractError, InputError: nothing can be begun with what was given.
    """
    selection = select(conversion.targets, conversion.precisions, conversion.options, conversion.data)
    with workspace.open_workspace(conversion.out) as folder:
        prepared = run(
            prepare_job(conversion, selection, folder), jobs.Prepared, lambda text, share: watch("prepare", text, share)
        )
        (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))
        lanes: dict[str, list[str]] = {}
        for target, precision in selection.pairs:
            lanes.setdefault(target, []).append(precision)
        stop = Stop()

        def lane(target: str) -> list[Outcome]:
            # Precisions of one target go one after another: they share its float file.
            return [
                _one(conversion, _Work(prepared, folder, target, precision, selection.options[target]), watch, stop)
                for precision in lanes[target]
                if not stop.pulled
            ]

        with ThreadPoolExecutor(max_workers=max(1, conversion.jobs)) as pool:
            try:
                done = [outcome for outcomes in pool.map(lane, lanes) for outcome in outcomes]
            except BaseException:
                stop.pull()
                raise
    return Conversions(prepared, tuple(done), selection.skipped)


def prepare_job(conversion: Conversion, selection: Selection, folder: Path) -> jobs.PrepareJob:
    """The first stage of a conversion."""
    return jobs.PrepareJob(
        folder=str(folder),
        source=conversion.source,
        weights=conversion.weights,
        contract=conversion.contract,
        name=conversion.name,
        data=conversion.data,
        proof_data=conversion.proof_data,
        calibrate=selection.calibrated,
        seed=conversion.seed,
        trust=conversion.trust,
        imports=conversion.imports,
    )


@dataclass(frozen=True)
class _Work:
    """One bundle that is to be made."""

    prepared: jobs.Prepared
    folder: Path
    target: str
    precision: str
    options: Record


def _one(conversion: Conversion, work: _Work, watch: Watch, stop: Stop) -> Outcome:
    """Build, prove and commit one bundle; errors become part of the outcome."""
    path = conversion.out / f"{work.prepared.name}-{work.target}-{work.precision}"
    what = f"{work.target} {work.precision}"
    evidence: Evidence | None = None
    try:
        with stage(path) as staging:
            graph = _build(conversion, work, staging, lambda text, share: watch(what, text, 0.7 * share), stop)
            manifest = staging.seal(_manifest(work, graph))
            evidence = run(
                jobs.ProveJob(
                    folder=str(work.folder),
                    bundle=str(staging.folder),
                    gate=conversion.gates.get(work.precision, GATES[work.precision]),
                    threads=conversion.threads,
                    imports=conversion.imports,
                ),
                Evidence,
                lambda text, share: watch(what, text, 0.7 + 0.3 * share),
                stop=stop,
            )
            if not evidence.passed and conversion.gated:
                raise GateError(
                    f"outside its gate, not written: {'; '.join(evidence.failures)} (--no-gate writes it all the same)"
                )
            bundle = _commit(staging, manifest, evidence)
    except EdgekitError as error:
        watch(what, "failed", 1.0)
        return Outcome(work.target, work.precision, path, evidence=evidence, error=error)
    watch(what, "done", 1.0)
    return Outcome(work.target, work.precision, path, bundle=bundle, evidence=evidence)


def _build(conversion: Conversion, work: _Work, staging: Staging, report: Report, stop: Stop) -> Graph:
    """Make the target's files, with the interpreter of its own toolchain where it has one."""
    spec = converters.target(work.target)
    refuse(spec, work.prepared.operators)
    job = jobs.BuildJob(
        folder=str(work.folder),
        target=work.target,
        precision=work.precision,
        out=str(staging.folder),
        threads=conversion.threads,
        options=msgspec.to_builtins(work.options),
        # The user's own decoders may import what an isolated environment does not have; it decodes nothing.
        imports=() if spec.builder else conversion.imports,
    )
    return run(job, Graph, report, toolchain=spec.builder, stop=stop)


def _commit(staging: Staging, manifest: Manifest, evidence: Evidence) -> Bundle:
    staging.seal(msgspec.structs.replace(manifest, evidence=evidence, proven=evidence.passed))
    return staging.commit()


def _manifest(work: _Work, graph: Graph) -> Manifest:
    spec, prepared = converters.target(work.target), work.prepared
    return Manifest(
        edgekit=edgekit.__version__,
        name=prepared.name,
        target=work.target,
        precision=work.precision,
        engine=spec.engine,
        graphs=(graph,),
        contract=prepared.contract,
        origin=prepared.origin,
        toolchain={**prepared.versions, **converters.versions(spec)},
        options=msgspec.to_builtins(work.options),
        calibration=prepared.calibration if work.precision in spec.calibrated else None,
    )
