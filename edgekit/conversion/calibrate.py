"""Between the first and the second stage, in a child process: the quantisation plan that all targets lower."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.calibration.plan import Plan, read_plan
from edgekit.calibration.planning import Wish, make_plan
from edgekit.calibration.samples import Samples
from edgekit.conversion.build import PLAN, PREPARED
from edgekit.conversion.jobs import CalibrateJob, Prepared
from edgekit.converters import Report
from edgekit.errors import UsageError
from edgekit.sources.exchange import write_exchange

if TYPE_CHECKING:
    from torch import fx


def work(job: CalibrateJob, report: Report) -> Plan:
    """Make the plan of a prepared folder, or take over one that was made before.

    Raises:
        UsageError: the given plan is of another model.
        InputError: it cannot be read.
        ConversionError: the network cannot be calibrated.
    """
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(job.threads)
    folder = Path(job.folder)
    prepared = msgspec.json.decode((folder / PREPARED).read_bytes(), type=Prepared)
    if job.plan:
        return _taken_over(Path(job.plan), folder)
    example = torch.zeros(1, 3, *prepared.contract.image.size)
    names = tuple(output.name for output in prepared.contract.outputs)

    def write(module: fx.GraphModule, place: Path) -> None:
        write_exchange(module, example, names, place)

    (folder / PLAN).mkdir()
    return make_plan(
        folder / "graph.pt2",
        folder / "graph.onnx",
        Samples(folder / "calibration.npy", prepared.contract.image),
        folder / PLAN,
        Wish(methods=job.methods, integer=job.integer, threads=job.threads),
        write,
        report,
    )


def _taken_over(given: Path, folder: Path) -> Plan:
    plan = read_plan(given)
    model = hashlib.sha256((folder / "graph.onnx").read_bytes()).hexdigest()
    if plan.model != model:
        raise UsageError(
            f"{given} is the plan of another model ({plan.model[:12]}, this one is {model[:12]}); make one with: "
            "edgekit calibrate SOURCE --data DIR -o PLAN"
        )
    shutil.copytree(given, folder / PLAN)
    return plan
