"""How bundles, evidence and progress look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.cli._options import console
from edgekit.cli._terminal import shown

if TYPE_CHECKING:
    from edgekit.conversion.bundle_builder import Outcome
    from edgekit.conversion.selection import Skipped
    from edgekit.runtimes.bundle.manifest import Accuracy, Evidence, TextAgreement, Variant


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print one table to stdout; the columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        drawn.add_row(*map(shown, row))
    console().print(drawn)


def escape(text: str) -> str:
    """Text as it is, where square brackets would be read as markup."""
    return text.replace("[", "\\[")


def megabytes(count: int) -> str:
    """A size in MB."""
    return f"{count / 1e6:.2f} MB"


def outcome_row(outcome: Outcome) -> list[str]:
    """target, precision, size, proof, matched, score drift, result."""
    size = megabytes(outcome.bundle.bytes) if outcome.bundle else "-"
    evidence = outcome.evidence
    proof = _proof(evidence) if evidence else "-"
    matched = drift = "-"
    if evidence and evidence.agreement:
        agreement = evidence.agreement
        matched = _nothing_found(evidence) or f"{agreement.matched:.1%} {agreement.counted}{_small(evidence)}"
        drift = f"{evidence.agreement.score_drift:.4f}"
    if outcome.bundle and outcome.bundle.manifest.proven:
        anchors = evidence is not None and evidence.compared == "candidates"
        result = "[green]proven[/green]" + (" on raw outputs alone" if anchors else "")
    else:
        result = "[yellow]unproven[/yellow]" if outcome.bundle else "[red]failed[/red]"
    if outcome.kept:
        result += " (kept)"
    if outcome.bundle and (speed := outcome.bundle.manifest.speed):
        result += f", {speed.short}"
    if evidence and evidence.accuracy:
        result += f", {_accuracy(evidence.accuracy)}"
    return [outcome.target, outcome.precision, size, proof, matched, drift, result]


def _proof(evidence: Evidence) -> str:
    """How strong a proof is, and who computed it where that was not the engine."""
    from edgekit.emulators import computed_by

    by = computed_by(evidence.engine, evidence.word)
    return f"{evidence.word} ({by})" if by else evidence.word


def _accuracy(measured: Accuracy) -> str:
    return f"{measured.measure} {measured.bundle:.4f} (source {measured.source:.4f})"


def _nothing_found(evidence: Evidence) -> str:
    """The text instead of a share of detections, if the source has none, or too few."""
    if evidence.compared != "candidates" or evidence.decoded is None:
        return ""
    return "few detections" if evidence.decoded.top_score_source > evidence.decoded.score_floor else "no detections"


def _small(evidence: Evidence) -> str:
    """The share of the smallest objects, which conversions lose first, where there are enough of them to tell."""
    from edgekit.evaluation.object_sizes import ENOUGH_OF_A_SIZE

    small = (evidence.decoded.by_size or {}).get("small") if evidence.decoded else None
    return (
        f", small {small.matched:.1%} of {small.detections}" if small and small.detections >= ENOUGH_OF_A_SIZE else ""
    )


def outcomes_table(outcomes: Sequence[Outcome], skipped: Sequence[Skipped] = ()) -> None:
    """Print what became of every target."""
    columns = ("target", "precision", "size", "proof", "matched", "score drift", "result")
    rows = [outcome_row(outcome) for outcome in outcomes]
    rows += [[one.target, "-", "-", "-", "-", "-", f"[dim]{escape(one.reason)}[/dim]"] for one in skipped]
    table(columns, sorted(rows, key=lambda row: row[0]), right=("size", "score drift"))


def evidence_lines(evidence: Evidence) -> list[str]:
    """Evidence as a few readable lines."""
    from edgekit.emulators import computed

    decoded = evidence.decoded
    if evidence.texts is not None:
        return _texts_lines(evidence, evidence.texts)
    if decoded is None:
        return [f"{evidence.word} for {evidence.engine}: not compared", f"FAILED: {'; '.join(evidence.failures)}"]
    shown = f"{evidence.images} images" + (", each also mirrored" if evidence.views > evidence.images else "")
    what = "detections" if decoded.measure else "classifications"
    what = what if decoded.pixels is msgspec.UNSET else "regions"
    what = what if evidence.compared == "detections" else "best anchors (too few detections to compare)"
    at = ", ".join(f"{_counted(share, decoded.detections)} at {iou}" for iou, share in decoded.matched_at.items())
    at = at if decoded.measure else _counted(decoded.matched, decoded.detections)
    lines = [
        f"{computed(evidence.engine, evidence.word)} on {shown}, against {evidence.reference}",
        f"{decoded.detections} {what}: matched {at}",
        f"score drift {decoded.score_drift:.4f} (largest {decoded.score_drift_max:.3f}), "
        f"class flips {decoded.class_flips}, extra {decoded.extra:.1%}, "
        f"top score {decoded.top_score:.3f} (source {decoded.top_score_source:.3f})",
    ]
    if decoded.by_size:
        shares = ", ".join(
            f"{name} {one.matched:.1%} ({one.found} of {one.detections})" for name, one in decoded.by_size.items()
        )
        lines.append(f"by size: {shares}")
    if decoded.pixels is not msgspec.UNSET:
        lines.append(f"cells with the same class {decoded.pixels:.2%}, mIoU with the source {decoded.miou:.4f}")
    if decoded.angle is not msgspec.UNSET:
        lines.append(f"angle between boxes {decoded.angle:.2f} degrees on average")
    lines += _drift_lines(evidence)
    if evidence.placement:
        lines.append(f"operators: {', '.join(f'{count} on {unit}' for unit, count in evidence.placement.items())}")
    if evidence.recipe:
        tried = ", ".join(f"{name} {value:.4f}" for name, value in evidence.recipes.items())
        lines.append(f"quantised by: {evidence.recipe}" + (f" (quality on the hold-out set: {tried})" if tried else ""))
    if evidence.budget is not None:
        lines.append(f"budget: {evidence.budget.sentence()}")
    if evidence.accuracy:
        lines.append(f"on the labels: {_accuracy(evidence.accuracy)}")
    gate = evidence.gate
    bounds = f"matched >= {gate.matched:g} {decoded.bound}, drift <= {gate.score_drift:g}, extra <= {gate.extra:g}"
    bounds += "".join(f", {name} >= {bound:g}" for name, bound in gate.by_size.items())
    bounds += "" if decoded.pixels is msgspec.UNSET else f", cells >= {gate.matched:g}"
    bounds += "" if gate.angle is msgspec.UNSET else f", angle <= {gate.angle:g} degrees"
    verdict = "passed" if evidence.passed else "FAILED: " + "; ".join(evidence.failures)
    return [*lines, f"gate ({bounds}): {verdict}", *_control_lines(evidence)]


def _control_lines(evidence: Evidence) -> list[str]:
    """The result of the negative control, if there is one."""
    if not (control := evidence.control):
        return []
    return [f"negative control ({control.damage}): failed as it must, {control.failures[0]}"]


def variant_lines(variants: Sequence[Variant]) -> list[str]:
    """Evidence of further batches and sizes, indented below what they are."""
    lines = []
    for variant in variants:
        lines.append(f"{variant}:")
        lines += [f"  {line}" for line in evidence_lines(variant.evidence)] if variant.evidence else ["  no evidence"]
    return lines


def _counted(share: float, of: int) -> str:
    return f"{share:.1%} ({round(share * of)})"


def _drift_lines(evidence: Evidence) -> list[str]:
    return [
        f"output {drift.name}: cosine {drift.cosine:.5f}, largest error {drift.max_error:.4g}"
        for drift in evidence.outputs
    ]


def _texts_lines(evidence: Evidence, texts: TextAgreement) -> list[str]:
    """Evidence of a vision-language model."""
    tokens, gate = texts.measure == "tokens", evidence.gate
    what = "the likeliest token is the source's" if tokens else "both say match, or both do not"
    whole = "answers token for token" if tokens else "images with the same most similar text"
    drift = "log-probability" if tokens else "probability"
    verdict = "passed" if evidence.passed else "FAILED: " + "; ".join(evidence.failures)
    return [
        f"{evidence.word} by {evidence.engine} on {evidence.images} images, against {evidence.reference}",
        f"{texts.positions} {'positions' if tokens else 'pairs'}: {what} in {texts.matched:.1%}",
        f"{drift} drift {texts.score_drift:.4f} (largest {texts.score_drift_max:.3f})",
        f"{texts.identical:.1%} of {texts.answers} {whole}",
        *_drift_lines(evidence),
        f"gate (matched >= {gate.matched:g}, drift <= {gate.score_drift:g}): {verdict}",
        *_control_lines(evidence),
    ]


def outcome_data(outcome: Outcome) -> dict[str, Any]:
    """One entry of ``convert --json``."""
    data: dict[str, Any] = {
        "path": str(outcome.path),
        "target": outcome.target,
        "precision": outcome.precision,
        "ok": outcome.ok,
        "evidence": msgspec.to_builtins(outcome.evidence),
        "seconds": dict(outcome.seconds),
    }
    if outcome.kept:
        data["kept"] = outcome.kept
    if outcome.bundle:
        data["bytes"] = outcome.bundle.bytes
        data["speed"] = msgspec.to_builtins(outcome.bundle.manifest.speed)
    if outcome.sheet:
        data["contact_sheet"] = str(outcome.sheet)
    if outcome.error:
        data["error"] = str(outcome.error)
    return data
