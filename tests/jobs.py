"""Conversion jobs made from small modules, for the tests of the converters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Image
from edgekit.calibration.plan import FILE, MIXED, PlannedGraph, read_plan
from edgekit.calibration.planning import PlanRequest, Streams, make_plan
from edgekit.calibration.samples import Samples
from edgekit.converters import Job
from edgekit.graph.exchange import Exchange, write_exchange
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output

if TYPE_CHECKING:
    import torch
    from torch import nn


CALIBRATED = ("int8", "w8a8", "w8a32")


def make_job(
    module: nn.Module,
    example: torch.Tensor,
    outputs: tuple[str, ...],
    folder: Path,
    precision: str,
    images: Image | None = None,
) -> Job:
    """The job that converts ``module`` at ``precision``, with files below ``folder``.

    The exchange and the work folder are shared by all jobs of one folder; each precision has its own ``out``.
    ``images`` are calibration images, uint8 (n, height, width, 3) BGR of the size of ``example``.
    """
    exchange_folder, work, out = folder / "exchange", folder / "work", folder / precision
    for path in (exchange_folder, work, out):
        path.mkdir(parents=True, exist_ok=True)
    exchange = write_exchange(module.eval(), example, outputs, exchange_folder)
    height, width = (int(size) for size in example.shape[2:])
    contract = Contract(
        image=ImageRule(size=(height, width), resize="stretch"),
        classes=("thing",),
        decoder=Decoder(name="boxes"),
        outputs=tuple(Output(name=name, role=name) for name in outputs),
    )
    samples, plan = None, None
    if images is not None:
        np.save(folder / "samples.npy", images)
        samples = Samples(folder / "samples.npy", contract.image)
    if samples is not None and len(samples) and precision in CALIBRATED:
        exchange, plan = _planned(exchange, samples, folder / "plan", example, outputs)
        work = folder / "work-planned"
        work.mkdir(exist_ok=True)
    return Job(
        onnx=exchange.onnx,
        program=exchange.program,
        contract=contract,
        shapes=exchange.shapes,
        precision=precision,
        samples=samples,
        out=out,
        work=work,
        plan=plan,
    )


def _planned(
    exchange: Exchange, samples: Samples, folder: Path, example: torch.Tensor, outputs: tuple[str, ...]
) -> tuple[Exchange, PlannedGraph]:
    """The exchange files of a plan's mixed graph, made once in a folder."""
    if not (folder / FILE).is_file():
        folder.mkdir()
        request = PlanRequest(integer=False)

        def write(module: Any, place: Path) -> None:
            write_exchange(module, example, outputs, place)

        make_plan(exchange.program, exchange.onnx, Streams(samples), folder, request, write, lambda text, share: None)
    mixed = folder / MIXED
    return Exchange(mixed / "graph.onnx", mixed / "graph.pt2", exchange.shapes), read_plan(folder).mixed
