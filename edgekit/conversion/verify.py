"""``edgekit verify``: compare a finished bundle with its source again, on other images or another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.conversion.request import Request, check_options, gate_of, source_of
from edgekit.conversion.stages import Stages
from edgekit.conversion.texts import words_of
from edgekit.conversion.workspace import temporary_workspace
from edgekit.errors import UsageError
from edgekit.progress import Progress, report_of, silent
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Evidence, Gate, Manifest, Variant


@dataclass(frozen=True)
class Verified:
    """Fresh evidence of a bundle for one image at its first size, and of each further batch and size that it takes."""

    evidence: Evidence
    variants: tuple[Variant, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all of them are inside their gates."""
        return self.evidence.passed and all(one.evidence is not None and one.evidence.passed for one in self.variants)


def verify(
    bundle: str,
    source: str,
    data: str,
    *,
    contract: str = "",
    weights: str = "",
    seed: int = 0,
    trust: bool = False,
    imports: tuple[str, ...] = (),
    progress: Progress = silent,
) -> Verified:
    """Fresh evidence for a bundle, every batch and input size that it takes; nothing is written.

    Args:
        bundle: its folder.
        source: what it was made from, as given to ``edgekit convert``.
        data: images to compare on; those that the bundle was calibrated on are left out.
        contract: a contract file, where the bundle's own contract is not enough.
        weights: of a factory source.
        seed: of the choice of images.
        trust: allow unpickling the source.
        imports: modules that register decoders.
        progress: called as it goes on.

    Raises:
        BundleError, SourceError, UsageError, InputError: it cannot be begun.
        EngineError: the engine cannot run it.
    """
    manifest = open_bundle(bundle).manifest
    request = Request(
        source=source, data=data, contract=contract, weights=weights, seed=seed, trust=trust, imports=imports
    )
    found, written = source_of(request), manifest.contract.language is not None
    if found.written != written:
        made = "a vision-language model" if written else "one network"
        raise UsageError(f"{bundle} was made from {made}; {source} is {found.kind}")
    check_options(request, found)
    words = words_of(manifest) if written else (manifest.precision,)
    gate = manifest.evidence.gate if manifest.evidence else gate_of(request, written, words)
    path = Path(bundle).absolute()
    with temporary_workspace() as workspace:
        stages = Stages(request, workspace)
        stages.prepare(report_of(progress, "source"), calibrate=False, half=False, like=str(path))
        evidence = stages.validate(path, gate, report_of(progress, "bundle"))
        return Verified(evidence, _variants(stages, manifest, path, gate, progress))


def _variants(stages: Stages, manifest: Manifest, path: Path, gate: Gate, progress: Progress) -> tuple[Variant, ...]:
    """Each further batch and size with fresh evidence; the source is run once at each size."""
    at = {manifest.contract.image.size: stages}
    found = []
    for variant in manifest.variants or ():
        if variant.size not in at:
            at[variant.size] = stages.at_size(variant.size)
            told = report_of(progress, f"source {variant.size[0]}x{variant.size[1]}")
            at[variant.size].prepare(told, calibrate=False, half=False, like=str(path))
        told = report_of(progress, f"bundle, {variant}")
        evidence = at[variant.size].validate(path, gate, told, batch=variant.batch)
        found.append(msgspec.structs.replace(variant, evidence=evidence))
    return tuple(found)
