"""Evidence: what a comparison measured, with which engine, and on which images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from edgekit.conversion.jobs import Prepared
from edgekit.runtimes.bundle.manifest import (
    Agreement,
    Evidence,
    Gate,
    Manifest,
    NegativeControl,
    OutputDrift,
    ProofWord,
    TextAgreement,
)
from edgekit.runtimes.engines import Placement

_STRENGTH: tuple[ProofWord, ...] = get_args(ProofWord)
"""From the strongest word to the weakest."""


def evidence_of(
    manifest: Manifest,
    prepared: Prepared,
    placements: Sequence[Placement],
    gate: Gate,
    compared: Literal["detections", "candidates", "texts", "nothing"],
    failures: tuple[str, ...],
    *,
    decoded: Agreement | None = None,
    texts: TextAgreement | None = None,
    outputs: tuple[OutputDrift, ...] = (),
    control: NegativeControl | msgspec.UnsetType = msgspec.UNSET,
) -> Evidence:
    """The evidence of a bundle. Its word is that of the weakest part."""
    return Evidence(
        word=max((placement.word for placement in placements), key=_STRENGTH.index),
        engine="+".join(manifest.engines),
        images=prepared.photographs,
        views=prepared.proof_views,
        images_sha256=prepared.proof_sha256,
        reference=str(prepared.reference),
        compared=compared,
        decoded=decoded,
        outputs=outputs,
        gate=gate,
        passed=not failures,
        failures=failures,
        placement=placements[0].operators if len(placements) == 1 else {},
        texts=texts,
        control=control,
    )
