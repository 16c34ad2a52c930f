"""A quantisation plan without any bundle: what ``edgekit calibrate`` makes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.calibration.plan import Plan, check_place
from edgekit.conversion import jobs
from edgekit.conversion.build import PLAN, PREPARED
from edgekit.conversion.convert import Conversion
from edgekit.conversion.runner import run
from edgekit.runtimes.bundle.folder import writing

Watch = Callable[[str, str, float], None]


def calibrate(
    conversion: Conversion,
    out: Path,
    *,
    sensitivity: bool = False,
    watch: Watch = lambda what, text, share: None,
) -> Plan:
    """Make a plan and leave it in a folder, replacing an older plan there.

    Args:
        conversion: the source, the images, the methods; its targets and precisions do not matter.
        out: the folder for the plan.
        sensitivity: measure what each layer alone costs.
        watch: told of progress.

    Raises:
        UsageError: ``out`` holds something else than a plan.
        SourceError, ContractError, InputError, ConversionError: the model or the images cannot be used.
    """
    check_place(out)
    with tempfile.TemporaryDirectory(prefix="edgekit-calibrate-") as name:
        folder = Path(name)
        prepare = jobs.PrepareJob(
            folder=name,
            source=conversion.source,
            weights=conversion.weights,
            contract=conversion.contract,
            data=conversion.data,
            proof_data=conversion.proof_data,
            calibrate=True,
            choose=conversion.choose,
            half=True,
            seed=conversion.seed,
            trust=conversion.trust,
            imports=conversion.imports,
        )
        prepared = run(prepare, jobs.Prepared, lambda text, share: watch("prepare", text, share))
        (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))
        job = jobs.CalibrateJob(
            folder=name,
            methods=conversion.methods,
            sensitivity=sensitivity,
            finetune=conversion.finetune,
            threads=conversion.threads,
            imports=conversion.imports,
        )
        plan = run(job, Plan, lambda text, share: watch("calibrate", text, share))
        with writing(out):
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder / PLAN, out)
    return plan
