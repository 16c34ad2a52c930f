"""The first stage, in a child process: read and export the source, split the images, run the source on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from edgekit.calibration.half import fp16_issues
from edgekit.calibration.plan import Fp16Issue
from edgekit.calibration.split import Split, split, store
from edgekit.conversion.comparison import ReferenceSource
from edgekit.conversion.decoded import DecodedSource
from edgekit.conversion.jobs import Prepared, PrepareJob
from edgekit.conversion.texts import TextSource
from edgekit.conversion.workspace import Workspace
from edgekit.errors import ConversionError, UsageError
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Calibration, Contract
from edgekit.sources import SourceRequest, WrittenModel, find

SYNTHETIC = 24
"""Generated scenes that serve as proof images when the user gives none."""


def work(job: PrepareJob, report: Report) -> Prepared:
    """Prepare one source for all of its targets.

    Raises:
        SourceError, ContractError, UsageError, InputError: what was given cannot be used.
        ConversionError: there is not enough memory.
    """
    with _enough_memory():
        return _prepared(job, report)


def _prepared(job: PrepareJob, report: Report) -> Prepared:
    import torch

    torch.set_num_threads(job.threads)
    workspace = Workspace(Path(job.folder))
    report("reading the source", 0.0)
    source = _read(job)
    report("exporting", 0.2)
    exported = source.export(workspace)
    report("decoding images", 0.4)
    chosen = _images(job, source, workspace)
    report("running the source", 0.5)
    reference = source.run(chosen.proof, workspace, lambda text, share: report(text, 0.5 + 0.2 * share))
    report("trying other image rules on the source", 0.7)
    reference = msgspec.structs.replace(reference, doubts=(*reference.doubts, *source.doubts(chosen.judged)))
    holdout = chosen.holdout if source.has_recipes else None
    if holdout is not None:
        source.run(holdout, workspace.holdout, lambda text, share: report(text, 0.75))
    return Prepared(
        name=source.name,
        parts=source.parts,
        written=source.written,
        contract=source.contract,
        origin=source.origin,
        shapes=exported.shapes,
        operators=exported.operators,
        layers=exported.layers,
        calibration=_calibration_of(job.seed, chosen),
        proof_sha256=chosen.proof.sha256(),
        proof_views=len(chosen.proof),
        photographs=chosen.photographs if source.most_images is None else len(chosen.proof),
        holdout_views=len(holdout) if holdout else 0,
        reference=reference,
        half=_half(job, chosen, workspace, report),
        versions={name: metadata.version(name) for name in source.packages},
    )


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Say what helps where memory ran out, which torch and whoever catches its errors say in many ways.

    Raises:
        ConversionError: it did.
    """
    try:
        yield
    except Exception as error:
        if any(isinstance(one, MemoryError) or "allocate memory" in str(one) for one in _causes(error)):
            raise ConversionError(
                "not enough memory to prepare the source; give a smaller input (--size), end other programs, or raise "
                "the limit of this process (ulimit -v)"
            ) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _read(job: PrepareJob) -> ReferenceSource:
    """Load the source."""
    request = SourceRequest(job.source)
    source = find(request)
    model = source.load(request) if source.written else None
    return TextSource(job, model) if isinstance(model, WrittenModel) else DecodedSource(job)


def _images(job: PrepareJob, source: ReferenceSource, workspace: Workspace) -> Split:
    """The image sets of a conversion, with at most as many proof images as the source is run on."""
    chosen = _split(job, source.contract, workspace)
    if job.calibrate and chosen.calibration is None:
        raise UsageError("int8 needs calibration images like those the device will see: give --data FOLDER")
    if source.most_images is not None and len(chosen.proof) > source.most_images:
        kept = np.array(chosen.proof.images[: source.most_images])
        np.save(chosen.proof.path, kept)
    return chosen


def _split(job: PrepareJob, contract: Contract, workspace: Workspace) -> Split:
    """The user's images, or generated scenes as proof images if there are none."""
    if job.data or job.proof_data:
        return split(
            job.data or job.proof_data,
            contract.image,
            workspace.folder,
            seed=job.seed,
            calibrate=job.calibrate,
            proof_data=job.proof_data,
            choose=job.choose,
            refuse=_calibrated_on(job.like),
        )
    from edgekit.runtimes.inputs.media import references
    from edgekit.shapes import scene

    # No data: generated scenes still show whether the arithmetic survived, on anchors if not on detections.
    scenes = np.stack([scene(900_000 + seed).image for seed in range(SYNTHETIC)])
    samples = store(references(scenes), contract.image, workspace.proof)
    return Split(None, samples, len(samples), False, "generated scenes")


def _half(job: PrepareJob, chosen: Split, workspace: Workspace, report: Report) -> tuple[Fp16Issue, ...]:
    if not job.half:
        return ()
    report("looking for what float16 cannot hold", 0.9)
    return fp16_issues(workspace.onnx, chosen.calibration or chosen.proof, job.threads)


def _calibrated_on(bundle: str) -> frozenset[str]:
    calibration = open_bundle(bundle).manifest.calibration if bundle else None
    return frozenset(calibration.images if calibration else ())


def _calibration_of(seed: int, chosen: Split) -> Calibration | None:
    """The manifest's entry on the calibration images."""
    if chosen.calibration is None:
        return None
    samples = chosen.calibration
    return Calibration(
        count=len(samples),
        method=chosen.method,
        seed=seed,
        sha256=samples.sha256(),
        held=chosen.held,
        images=chosen.digests,
    )
