"""Comparing a finished bundle with its source again, on other images or another machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.conversion import jobs, vision_language
from edgekit.conversion.build import PREPARED
from edgekit.conversion.runner import run
from edgekit.errors import UsageError
from edgekit.evaluation.agreement import GATES
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Evidence


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
    watch: Callable[[str, str, float], None] = lambda what, text, share: None,
) -> Evidence:
    """Fresh evidence for a bundle; nothing is written.

    Args:
        bundle: its folder.
        source: what it was made from, as given to ``edgekit convert``.
        data: images to compare on; those that the bundle was calibrated on are left out.
        contract: a contract file, where the bundle's own contract is not enough.
        weights: of a factory source.
        seed: of the choice of images.
        trust: allow unpickling the source.
        imports: modules that register decoders.
        watch: told of progress.

    Raises:
        BundleError, SourceError, UsageError, InputError: it cannot be begun.
        EngineError: the engine cannot run it.
    """
    manifest = open_bundle(bundle).manifest
    if manifest.contract.language is not None:
        if contract or weights:
            raise UsageError("--contract and --weights are of no use for a vision-language model; leave them out")
        return vision_language.verify(bundle, manifest, source, data, seed=seed, watch=watch)
    gate = manifest.evidence.gate if manifest.evidence else GATES[manifest.precision]
    with tempfile.TemporaryDirectory(prefix="edgekit-verify-") as name:
        folder = Path(name)
        job = jobs.PrepareJob(
            folder=name,
            source=source,
            weights=weights,
            contract=contract,
            like=str(bundle),
            data=data,
            seed=seed,
            trust=trust,
            imports=imports,
        )
        prepared = run(job, jobs.Prepared, lambda text, share: watch("source", text, share))
        (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))
        prove = jobs.ProveJob(folder=name, bundle=str(bundle), gate=gate, imports=imports)
        return run(prove, Evidence, lambda text, share: watch("bundle", text, share))
