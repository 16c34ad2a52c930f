"""Time every INT8 bundle against the float bundle of its target, once all of them exist.

Only then is nothing else of the conversion running. A target that the host cannot run itself is not timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from edgekit.conversion.bundle_builder import Outcome
from edgekit.conversion.request import Request
from edgekit.conversion.stages import Stages
from edgekit.errors import BundleError, EngineError, GateError
from edgekit.progress import Progress, report_of
from edgekit.runtimes.bundle import manifest_file
from edgekit.runtimes.bundle.folder import Bundle, open_bundle, replace_manifest
from edgekit.runtimes.bundle.manifest import FLOATS, Manifest, Speed


def with_speeds(outcomes: Sequence[Outcome], stages: Stages, progress: Progress) -> tuple[Outcome, ...]:
    """Time every bundle that has a float partner in the same folder, and write that into its manifest.

    Where the request refuses slower bundles, those that are not faster for certain become failures; they stay where
    they are.
    """
    found = []
    for outcome in outcomes:
        bundle = outcome.bundle
        if bundle is None or not _compared(outcome) or stages.stop.pulled:
            found.append(outcome)
            continue
        partner = _partner(bundle, stages.request)
        if partner is not None and _runs_here(bundle) and not outcome.kept:
            outcome = _timed(outcome, bundle, partner, stages, progress)
        found.append(_judged(outcome, partner) if stages.request.fail_if_slower else outcome)
    return tuple(found)


def _compared(outcome: Outcome) -> bool:
    """Whether a bundle is one that should be faster than another: of one graph, and not itself in float."""
    manifest = outcome.bundle.manifest if outcome.bundle else None
    return manifest is not None and manifest.precision not in FLOATS and len(manifest.graphs) == 1


def _runs_here(bundle: Bundle) -> bool:
    """Whether the engine itself ran the bundle on this host: an emulator's time says nothing."""
    evidence = bundle.manifest.evidence
    return evidence is not None and evidence.word == "executed"


def _partner(bundle: Bundle, request: Request) -> Bundle | None:
    """The float bundle of the same source and target in the request's folder."""
    own = bundle.manifest
    for precision in FLOATS:
        try:
            other = open_bundle(request.out / f"{own.name}-{own.target}-{precision}")
        except BundleError:  # not there, or damaged
            continue
        theirs = other.manifest
        if theirs.origin.sha256 == own.origin.sha256 and theirs.contract.image.size == own.contract.image.size:
            return other
    return None


def _timed(outcome: Outcome, bundle: Bundle, partner: Bundle, stages: Stages, progress: Progress) -> Outcome:
    report = report_of(progress, f"timing {outcome.target} {outcome.precision}")
    try:
        speed = stages.time(bundle.path, partner.path, report)
    except EngineError as error:
        return dataclasses.replace(outcome, doubt=f"not timed beside {partner.manifest.precision}: {error}")
    report("done", 1.0)
    replace_manifest(bundle.path, manifest_file.encode(_with(bundle, speed)))
    return dataclasses.replace(outcome, bundle=open_bundle(bundle.path))


def _with(bundle: Bundle, speed: Speed) -> Manifest:
    """The manifest with the speed of its only graph."""
    graph = msgspec.structs.replace(bundle.manifest.graphs[0], speed=speed)
    return msgspec.structs.replace(bundle.manifest, graphs=(graph,))


def _judged(outcome: Outcome, partner: Bundle | None) -> Outcome:
    """An outcome that is a failure where its bundle is not faster."""
    bundle = outcome.bundle
    if bundle is None:
        return outcome
    manifest = bundle.manifest
    if not _runs_here(bundle):
        said = (
            f"--fail-if-slower: this host does not run {manifest.target} itself, so nothing was timed; leave it out, "
            "and time it on the device: edgekit profile --on NAME"
        )
    elif partner is None or manifest.speed is None:
        said = (
            f"--fail-if-slower: no float bundle of {manifest.name} for {manifest.target} to compare with; make one, "
            f"too: --precision fp32,{manifest.precision}"
        )
    elif manifest.speed.noisy:
        said = f"--fail-if-slower: {manifest.speed.sentence()}; try again when the machine does nothing else"
    elif manifest.speed.faster:
        return outcome
    else:
        said = f"--fail-if-slower: {manifest.speed.sentence()}"
    return dataclasses.replace(outcome, error=GateError(said))
