"""The second stage, in a child process: make the quantisation plan, or find ranges of activations."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.arrays import Floats
from edgekit.calibration.plan import MIXED, Plan, read_plan, write_plan
from edgekit.calibration.planning import PlanRequest, Streams, make_plan
from edgekit.calibration.samples import Samples
from edgekit.calibration.sensitivity import MOST_IMAGES, Judge, measure_sensitivity, outputs_of
from edgekit.conversion.jobs import Calibrated, CalibrateJob, Prepared
from edgekit.conversion.last_layer import measure_last_layer
from edgekit.conversion.layer_inputs import observe_inputs
from edgekit.conversion.ranges import observe, write_ranges
from edgekit.conversion.reference import add_anchors, are_enough, detections
from edgekit.conversion.source_texts import Asked
from edgekit.conversion.workspace import Workspace
from edgekit.errors import UsageError
from edgekit.evaluation.agreement import Tally, quality
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.exchange import ONNX, write_exchange
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.tasks import open_task
from edgekit.structures import from_json

SCORES = frozenset({"classes", "objectness", "scores"})
"""Roles of outputs that are logits."""

COORDINATES = frozenset({"keypoints", "angles"})
"""Roles of outputs that are coordinates in the image, in strides, or angles."""

if TYPE_CHECKING:
    from torch import fx


def work(job: CalibrateJob, report: Report) -> Calibrated:
    """Make the plan of a prepared network, or take over one that was made before; of parts that are written tensor by
    tensor, find the ranges of activations, or what their layers read.

    Raises:
        UsageError: the given plan is of another model, or there are too few images to fine-tune.
        InputError: it cannot be read.
        ConversionError: the network cannot be calibrated.
    """
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(job.threads)
    workspace = Workspace(Path(job.folder))
    prepared = workspace.read_prepared()
    if prepared.written:
        _observe(job, prepared, workspace, report)
        return Calibrated()
    return Calibrated(plan=_plan(job, prepared, workspace, report))


def _observe(job: CalibrateJob, prepared: Prepared, workspace: Workspace, report: Report) -> None:
    source, samples = Blip2(Path(prepared.written)), Samples(workspace.calibration, prepared.contract.image)
    if job.ranges:
        report("observing the vision tower", 0.1)
        write_ranges(workspace.ranges, observe(source, samples))
    if job.fitted:
        prompts = from_json(workspace.questions.read_bytes(), Asked).prompts
        observe_inputs(source, prepared.contract, samples, prompts, job.fitted, workspace.inputs, report)


def _plan(job: CalibrateJob, prepared: Prepared, workspace: Workspace, report: Report) -> Plan:
    if job.finetune and not prepared.holdout_views:
        raise UsageError(
            "--finetune needs more images in --data: from ten calibration images on some form the hold-out set"
        )
    if job.plan:
        plan = _taken_over(Path(job.plan), workspace)
    else:
        workspace.plan.mkdir()
        plan = _made(job, prepared, workspace, report)
    if job.sensitivity and any(layer.sensitivity is None for layer in plan.mixed.layers if not layer.float_reason):
        plan = _with_sensitivity(plan, prepared, workspace, job.threads, report)
    return plan


def _made(job: CalibrateJob, prepared: Prepared, workspace: Workspace, report: Report) -> Plan:
    import torch

    example = torch.zeros(1, 3, *prepared.contract.image.size)
    names = tuple(output.name for output in prepared.contract.outputs)
    rule = prepared.contract.image

    def of_roles(roles: frozenset[str]) -> frozenset[str]:
        return frozenset(output.name for output in prepared.contract.outputs if output.role in roles)

    def write(module: fx.GraphModule, place: Path) -> None:
        write_exchange(module, example, names, place)

    plan = make_plan(
        workspace.program,
        workspace.onnx,
        Streams(
            calibration=Samples(workspace.calibration, rule),
            holdout=workspace.holdout.proof_images(rule) if prepared.holdout_views else None,
        ),
        workspace.plan,
        PlanRequest(
            methods=job.methods,
            integer=job.integer,
            threads=job.threads,
            finetune=job.finetune,
            score_outputs=of_roles(SCORES),
            coordinate_outputs=of_roles(COORDINATES),
        ),
        write,
        report,
    )
    plan = msgspec.structs.replace(plan, fp16_issues=prepared.half, name=prepared.name, layer_names=prepared.layers)
    report("measuring the last layer", 0.95)

    def judge_of(images: list[Floats]) -> Judge:
        return _judge(prepared.contract, outputs_of(workspace.onnx.read_bytes(), images, job.threads))

    plan = measure_last_layer(plan, prepared, workspace, job.threads, judge_of)
    write_plan(plan, workspace.plan)
    return plan


def _with_sensitivity(plan: Plan, prepared: Prepared, workspace: Workspace, threads: int, report: Report) -> Plan:
    """The plan with each layer's sensitivity, measured on the hold-out set or else on the first calibration images."""
    path = workspace.holdout.proof if prepared.holdout_views else workspace.calibration
    images = list(itertools.islice(Samples(path, prepared.contract.image), MOST_IMAGES))
    judge = _judge(prepared.contract, outputs_of(workspace.onnx.read_bytes(), images, threads))
    mixed = measure_sensitivity(workspace.plan / MIXED / ONNX, plan.mixed, images, judge, threads, report)
    plan = msgspec.structs.replace(plan, mixed=mixed)
    write_plan(plan, workspace.plan)
    return plan


def _judge(contract: Contract, source: Iterable[Sequence[Floats]]) -> Judge:
    """Agreement of decoded results with those of the source's outputs."""
    task = open_task(contract)
    raws = [list(outputs) for outputs in source]
    references = [detections(task, outputs) for outputs in raws]
    enough = are_enough(references)

    def judge(outputs: Iterable[Sequence[Floats]]) -> float:
        tally = Tally.of(task, 0.5)
        for found, raw, one in zip(references, raws, outputs, strict=True):
            if enough:
                tally.add_detections(found, detections(task, one))
            else:
                add_anchors(tally, task, raw, task, one)
        return quality(tally.agreement())

    return judge


def _taken_over(given: Path, workspace: Workspace) -> Plan:
    plan = read_plan(given)
    model = hashlib.sha256(workspace.onnx.read_bytes()).hexdigest()
    if plan.model != model:
        raise UsageError(
            f"{given} is the plan of another model ({plan.model[:12]}, this one is {model[:12]}); make one with: "
            "edgekit calibrate SOURCE --data DIR -o PLAN"
        )
    shutil.copytree(given, workspace.plan)
    return plan
