"""Time a bundle beside a float bundle of the same target, in a child process."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats
from edgekit.conversion.jobs import SpeedJob
from edgekit.conversion.workspace import Workspace
from edgekit.emulators import proof_device
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.runtimes.bundle.manifest import Speed
from edgekit.runtimes.engines import Session, SessionOptions, open_session
from edgekit.timing import Ratio, in_turns, versioned

IMAGES = 4
"""Images that are shown in turns: the time of some operators depends on what they see."""


def work(job: SpeedJob, report: Report) -> Speed:
    """Time both bundles on proof images.

    Raises:
        EngineError: the engine cannot run one of them.
    """
    report("in turns with the float bundle", 0.0)
    bundle, partner = open_bundle(job.bundle), open_bundle(job.partner)
    images = Workspace(Path(job.folder)).proof_images(bundle.manifest.contract.image)
    ratio = time_ratio(bundle, partner, list(itertools.islice(images, IMAGES)), threads=job.threads)
    return ratio.speed(versioned(bundle.manifest.engine), of=partner.manifest.precision, threads=job.threads)


def time_ratio(bundle: Bundle, partner: Bundle, images: list[Floats], *, threads: int = 1) -> Ratio:
    """How long the inference of a bundle of one graph takes beside another's, in turns.

    Args:
        bundle: the one in question.
        partner: the one that it is compared with.
        images: (1, 3, height, width) float32, at least one; shown in turns.
        threads: of the CPU, of each.

    Raises:
        EngineError: the engine cannot run one of them.
    """
    calls = [functools.partial(_run, _opened(one, threads), itertools.cycle(images)) for one in (partner, bundle)]
    return in_turns(calls[0], {"": calls[1]})[""]


def _run(session: Session, images: itertools.cycle[Floats]) -> None:
    session.run([np.ascontiguousarray(next(images))])


def _opened(bundle: Bundle, threads: int) -> Session:
    name, graph = bundle.manifest.engine, bundle.manifest.graphs[0]
    return open_session(name, bundle.path, graph, SessionOptions(threads=threads, device=proof_device(name, graph)))
