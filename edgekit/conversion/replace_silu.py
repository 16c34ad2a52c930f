"""``--replace-silu``: a second workspace whose network has hard swish in place of SiLU, in a child process; and whether
an INT8 bundle of it is kept.

Everything in that workspace but the network is the source's own: its images, and its results, which every bundle is
compared with.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.calibration.split import CALIBRATION, HELD, PROOF
from edgekit.conversion.jobs import HardSwish, Prepared, ReplaceSiluJob
from edgekit.conversion.last_layer import HARMLESS
from edgekit.conversion.recipes import Trial
from edgekit.conversion.workspace import Workspace
from edgekit.errors import UsageError
from edgekit.graph.exchange import operators, write_exchange
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import FASTER, Speed

if TYPE_CHECKING:
    from torch import fx

MINUTES = 5.0
"""After which the layers that are left are not fitted any more."""


def work(job: ReplaceSiluJob, report: Report) -> HardSwish:
    """Fit the network with hard swish, and write its workspace.

    Raises:
        UsageError: the network has no SiLU, or there are no calibration images.
    """
    import torch

    from edgekit.calibration.hard_swish import with_hard_swish

    torch.set_num_threads(job.threads)
    workspace = Workspace(Path(job.folder))
    prepared = workspace.read_prepared()
    samples = workspace.calibration_images(prepared.contract.image)
    if samples is None:
        raise UsageError("--replace-silu needs calibration images: give --data with a folder of photographs")
    program: fx.GraphModule = torch.export.load(workspace.program).module()
    network, fitted = with_hard_swish(program, samples, minutes=MINUTES, progress=report)
    report("exporting", 0.95)
    place = workspace.hard_swish
    _share(workspace.folder, place.folder, tuple(Path(one).stem for one in (CALIBRATION, PROOF, HELD, "reference")))
    names = tuple(output.name for output in prepared.contract.outputs)
    write_exchange(network, torch.zeros(1, 3, *prepared.contract.image.size), names, place.folder)
    return HardSwish(
        prepared=_prepared(prepared, place, job.threads),
        silus=fitted.silus,
        layers=fitted.layers,
        views=fitted.views,
        seconds=fitted.seconds,
    )


def _prepared(prepared: Prepared, place: Workspace, threads: int) -> Prepared:
    """The results of the first stage for the changed network."""
    from edgekit.calibration.half import fp16_issues

    images = place.calibration_images(prepared.contract.image)
    return msgspec.structs.replace(
        prepared,
        operators=operators(place.onnx),
        half=fp16_issues(place.onnx, images, threads) if prepared.half and images is not None else (),
    )


def _share(source: Path, destination: Path, beginnings: tuple[str, ...]) -> None:
    """Link the files of a workspace whose names begin so into another one."""
    for path in sorted(source.iterdir()):
        if not path.name.startswith(beginnings):
            continue
        if path.is_dir():
            shutil.copytree(path, destination / path.name, copy_function=_link)
        else:
            destination.mkdir(exist_ok=True)
            _link(path, destination / path.name)


def _link(source: str | Path, destination: str | Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # a file system without links
        shutil.copyfile(source, destination)


@dataclass(frozen=True)
class Choice:
    """Whether a bundle has hard swish, and why, for its report."""

    hard_swish: bool
    why: str


def choose(own: Trial, other: Trial, speed: Speed | None, fitted: HardSwish, views: int) -> Choice:
    """Hard swish stays where nothing measurable is lost, and where it is faster.

    Args:
        own: the INT8 bundle of the source's network.
        other: that of the network with hard swish; both compared with the source on the hold-out set.
        speed: time of ``other`` beside ``own``; None where the host cannot run them.
        fitted: how it was made.
        views: size of the hold-out set.
    """
    compared = f"quality {other.quality:.4f}, with SiLU {own.quality:.4f}, on {views} hold-out views"
    time = (
        "not timed here" if speed is None else f"{speed.ratio:.2f} times the time ({speed.low:.2f} to {speed.high:.2f})"
    )
    said = f"{compared}; {time}; {fitted.layers} layers fitted on {fitted.views} views in {fitted.seconds:.0f} s"
    if own.evidence.passed and not other.evidence.passed:
        return Choice(False, f"kept: hard swish is outside the gate: {'; '.join(other.evidence.failures)} ({said})")
    if own.quality - other.quality > HARMLESS:
        return Choice(False, f"kept: hard swish loses {own.quality - other.quality:.4f} ({said})")
    if speed is not None and speed.noisy:
        return Choice(False, f"kept: the machine is too busy to tell whether hard swish is faster ({said})")
    if speed is not None and not (speed.high < 1 and speed.ratio < FASTER):
        return Choice(False, f"kept: hard swish is not faster ({said})")
    return Choice(True, f"{fitted.silus} replaced by hard swish ({said})")
