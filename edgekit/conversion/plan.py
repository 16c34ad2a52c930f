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
from edgekit.conversion.runner import Stop, run
from edgekit.errors import EdgekitError, GateError, UsageError, choices
from edgekit.evaluation.agreement import GATES
from edgekit.manifest import Evidence, Gate, Graph, Manifest


@dataclass(frozen=True)
class Conversion:
    """What to convert, to what, judged on what.

    ``source`` and ``weights``, ``contract``, ``data`` are as on the command line. ``gates`` overrides the bounds of a
    precision; without ``gated`` a bundle outside its gate is written all the same and marked unproven.
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
    """Everything that one call of `convert` gave."""

    prepared: jobs.Prepared
    outcomes: tuple[Outcome, ...]

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
    wanted = pairs(conversion)
    with workspace.open_workspace(conversion.out) as folder:
        prepared = run(
            prepare_job(conversion, folder), jobs.Prepared, lambda text, share: watch("prepare", text, share)
        )
        (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))
        lanes: dict[str, list[str]] = {}
        for target, precision in wanted:
            lanes.setdefault(target, []).append(precision)
        stop = Stop()

        def lane(target: str) -> list[Outcome]:
            # Precisions of one target go one after another: they share its float file.
            return [
                _one(conversion, prepared, folder, target, precision, watch, stop)
                for precision in lanes[target]
                if not stop.pulled
            ]

        with ThreadPoolExecutor(max_workers=max(1, conversion.jobs)) as pool:
            try:
                done = [outcome for outcomes in pool.map(lane, lanes) for outcome in outcomes]
            except BaseException:
                stop.pull()
                raise
    return Conversions(prepared, tuple(done))


def pairs(conversion: Conversion) -> list[tuple[str, str]]:
    """The (target, precision) pairs that a conversion asks for, checked before anything starts.

    Raises:
        UsageError: an unknown name, a precision no chosen target has, int8 without data, a toolchain that is missing.
    """
    everything = conversion.targets == ("all",)
    names = converters.target_names() if everything else conversion.targets
    known = sorted(
        {precision for name in converters.target_names() for precision in converters.target(name).precisions}
    )
    for precision in conversion.precisions:
        if precision not in known:
            raise UsageError(f"--precision {choices(precision, known)}")
    found = []
    for name in names:
        spec = converters.target(name)
        if spec.missing and everything:
            continue
        if spec.missing:
            raise UsageError(f"target {name} needs {', '.join(spec.missing)}: pip install edgekit[{spec.extra}]")
        offered = [precision for precision in conversion.precisions if precision in spec.precisions]
        if not offered:
            raise UsageError(
                f"target {name} has no {', '.join(conversion.precisions)}; it has: {', '.join(spec.precisions)}"
            )
        found += [(name, precision) for precision in offered]
    if not found:
        raise UsageError("no target is available here; see: edgekit targets")
    if any(precision == "int8" for _, precision in found) and not conversion.data:
        raise UsageError("int8 needs calibration images like those the device will see: give --data FOLDER")
    return found


def prepare_job(conversion: Conversion, folder: Path) -> jobs.PrepareJob:
    """The first stage of a conversion."""
    return jobs.PrepareJob(
        folder=str(folder),
        source=conversion.source,
        weights=conversion.weights,
        contract=conversion.contract,
        name=conversion.name,
        data=conversion.data,
        proof_data=conversion.proof_data,
        calibrate="int8" in conversion.precisions,
        seed=conversion.seed,
        trust=conversion.trust,
        imports=conversion.imports,
    )


def _one(
    conversion: Conversion,
    prepared: jobs.Prepared,
    folder: Path,
    target: str,
    precision: str,
    watch: Watch,
    stop: Stop,
) -> Outcome:
    """Build, prove and commit one bundle; errors become part of the outcome."""
    path = conversion.out / f"{prepared.name}-{target}-{precision}"
    what = f"{target} {precision}"
    evidence: Evidence | None = None
    try:
        with stage(path) as staging:
            graph = run(
                jobs.BuildJob(
                    folder=str(folder),
                    target=target,
                    precision=precision,
                    out=str(staging.folder),
                    threads=conversion.threads,
                    imports=conversion.imports,
                ),
                Graph,
                lambda text, share: watch(what, text, 0.7 * share),
                stop=stop,
            )
            manifest = staging.seal(_manifest(prepared, target, precision, graph))
            evidence = run(
                jobs.ProveJob(
                    folder=str(folder),
                    bundle=str(staging.folder),
                    gate=conversion.gates.get(precision, GATES[precision]),
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
        return Outcome(target, precision, path, evidence=evidence, error=error)
    watch(what, "done", 1.0)
    return Outcome(target, precision, path, bundle=bundle, evidence=evidence)


def _commit(staging: Staging, manifest: Manifest, evidence: Evidence) -> Bundle:
    staging.seal(msgspec.structs.replace(manifest, evidence=evidence, proven=evidence.passed))
    return staging.commit()


def _manifest(prepared: jobs.Prepared, target: str, precision: str, graph: Graph) -> Manifest:
    spec = converters.target(target)
    return Manifest(
        edgekit=edgekit.__version__,
        name=prepared.name,
        target=target,
        precision=precision,
        engine=spec.engine,
        graphs=(graph,),
        contract=prepared.contract,
        origin=prepared.origin,
        toolchain={**prepared.versions, **converters.versions(spec)},
        calibration=prepared.calibration if precision == "int8" else None,
    )
