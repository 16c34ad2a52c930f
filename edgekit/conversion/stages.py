"""The stages of a conversion, each in a child process of its own, for one request in one workspace."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit import converters
from edgekit.calibration.plan import Plan
from edgekit.conversion import jobs
from edgekit.conversion.request import Request
from edgekit.conversion.runner import Stop, run, stage_of
from edgekit.conversion.workspace import Workspace
from edgekit.errors import ConversionError, EdgekitError
from edgekit.progress import Report
from edgekit.runtimes.bundle.manifest import Evidence, Gate, Graph, Record, Speed
from edgekit.sources import locate

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stages:
    """Runs stages. ``stop`` ends them from another thread; ``seconds`` has the time of each, added up by its name.

    Every method raises the error that its stage met, and a ConversionError where it crashed or was stopped.
    """

    request: Request
    workspace: Workspace
    stop: Stop = field(default_factory=Stop)
    seconds: dict[str, float] = field(default_factory=dict)

    def at_size(self, size: tuple[int, int]) -> Stages:
        """The stages of the same request at another input size, in a workspace below this one."""
        workspace = self.workspace.at_size(size)
        workspace.folder.mkdir()
        return replace(self, request=replace(self.request, size=size), workspace=workspace)

    def with_hard_swish(self) -> Stages:
        """The stages of the same request on the network with hard swish in place of SiLU."""
        return replace(self, workspace=self.workspace.hard_swish)

    def timed_apart(self) -> Stages:
        """The same with seconds of its own."""
        return replace(self, seconds={})

    def prepare(
        self, report: Report, *, calibrate: bool, half: bool, like: str = "", keep: bool = False
    ) -> jobs.Prepared:
        """Read the source, export it, choose images, run the source. A model of the Hugging Face hub is fetched first.

        Args:
            report: progress callback.
            calibrate: choose calibration images too.
            half: look for what float16 cannot hold.
            like: a bundle whose contract is taken, and whose calibration images are kept out of the proof.
            keep: keep what a large source gives beside the bundles, for another try.
        """
        request, located = self.request, locate(self.request.source)
        job = jobs.PrepareJob(
            folder=str(self.workspace.folder),
            source=located.spec,
            hub=located.name,
            weights=request.weights,
            contract=request.contract,
            like=like,
            size=request.size,
            name=request.name,
            data=request.data,
            proof_data=request.proof_data,
            prompts=request.prompts,
            calibrate=calibrate,
            choose=request.choose,
            half=half,
            kept=str(request.out.absolute()) if keep and not request.rebuild else "",
            seed=request.seed,
            trust=request.trust,
            threads=request.threads,
            imports=request.imports,
        )
        prepared = self._run(job, jobs.Prepared, report)
        self.workspace.write_prepared(prepared)
        report("done", 1.0)
        return prepared

    def replace_silu(self, report: Report) -> jobs.HardSwish:
        """Put hard swish in place of SiLU, for the stages `with_hard_swish`."""
        job = jobs.ReplaceSiluJob(
            folder=str(self.workspace.folder), threads=self.request.threads, imports=self.request.imports
        )
        done = self._run(job, jobs.HardSwish, report)
        self.workspace.hard_swish.write_prepared(done.prepared)
        report("done", 1.0)
        return done

    def calibrate(
        self,
        report: Report,
        *,
        plan: str = "",
        integer: bool = True,
        sensitivity: bool = False,
        ranges: bool = True,
        fitted: tuple[str, ...] = (),
    ) -> Plan | None:
        """Make the quantisation plan; None for a source whose parts are written tensor by tensor.

        Args:
            report: progress callback.
            plan: a plan to take over.
            integer: make the graph of targets that compute everything in integers too.
            sensitivity: measure the damage that each layer does.
            ranges: of parts, find the ranges of vision's activations.
            fitted: the parts whose weights are fitted to calibration data.
        """
        job = jobs.CalibrateJob(
            folder=str(self.workspace.folder),
            plan=plan,
            methods=self.request.methods,
            integer=integer,
            sensitivity=sensitivity,
            finetune=self.request.finetune,
            ranges=ranges,
            fitted=fitted,
            threads=self.request.threads,
            imports=self.request.imports,
        )
        # Each step of planning counts to 1 by itself.
        done = self._run(job, jobs.Calibrated, lambda text, share: report(text, min(share, 0.99)))
        report("done", 1.0)
        return done.plan

    def build(
        self,
        part: str,
        target: str,
        precision: str,
        options: Record,
        out: Path,
        report: Report,
        *,
        recipe: str = "",
        floats: tuple[str, ...] = (),
        integers: tuple[str, ...] = (),
        written: bool = False,
    ) -> Graph:
        """Make one target's files of a part, with the interpreter of its own toolchain where it has one.

        What is written from a checkpoint is written with this one: a toolchain cannot read checkpoints.
        """
        spec = converters.target(target)
        builder = "" if written else spec.builder
        job = jobs.BuildJob(
            folder=str(self.workspace.folder),
            part=part,
            target=target,
            precision=precision,
            out=str(out),
            recipe=recipe,
            floats=floats,
            integers=integers,
            batches=self.request.batches,
            sizes=self.request.sizes,
            threads=self.request.threads,
            options=msgspec.to_builtins(options),
            # The user's own decoders may import what an isolated environment does not have; it decodes nothing.
            imports=() if builder else self.request.imports,
        )
        return self._run(job, Graph, report, builder)

    def validate(
        self,
        bundle: Path,
        gate: Gate,
        report: Report,
        *,
        holdout: bool = False,
        sheet: Path | None = None,
        batch: int = 1,
        golden: Path | None = None,
    ) -> Evidence:
        """Compare a bundle with the source, on the proof images or on the ``holdout`` set, draw a contact sheet, and
        write the golden frames."""
        job = jobs.ValidateJob(
            folder=str(self.workspace.folder),
            bundle=str(bundle),
            gate=gate,
            holdout=holdout,
            sheet=str(sheet or ""),
            batch=batch,
            golden=str(golden or ""),
            threads=self.request.threads,
            imports=self.request.imports,
        )
        return self._run(job, Evidence, report)

    def measure(self, bundle: Path | None, report: Report) -> jobs.MeasuredScore:
        """Measure the score of an accuracy budget, for a bundle or for the float network."""
        job = jobs.MeasureJob(
            folder=str(self.workspace.folder),
            bundle=str(bundle or ""),
            labels=self.request.labels,
            threads=self.request.threads,
            imports=self.request.imports,
        )
        return self._run(job, jobs.MeasuredScore, report)

    def time(self, bundle: Path, partner: Path, report: Report) -> Speed:
        """Time a bundle beside a float one of the same target, both on one thread."""
        job = jobs.SpeedJob(folder=str(self.workspace.folder), bundle=str(bundle), partner=str(partner))
        return self._run(job, Speed, report)

    def _run(self, job: jobs.Job, result: type[Result], report: Report, toolchain: str = "") -> Result:
        began = time.monotonic()
        try:
            return run(job, result, report, toolchain=toolchain, stop=self.stop)
        except EdgekitError as error:
            if self.stop.pulled:
                raise ConversionError("cancelled") from error
            raise
        finally:
            stage = stage_of(job)
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - began, 3)
