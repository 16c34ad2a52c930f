"""Converting a BLIP-2: several graphs, each in a precision of its own, to bundles whose texts are proven."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

import edgekit
from edgekit import converters
from edgekit.conversion import jobs, workspace
from edgekit.conversion.build import PREPARED
from edgekit.conversion.kept_graphs import KeptGraphs
from edgekit.conversion.making import Outcome
from edgekit.conversion.ranges_file import RANGES
from edgekit.conversion.runner import Stop, run
from edgekit.conversion.selection import Skipped
from edgekit.errors import EdgekitError, GateError, UsageError
from edgekit.evaluation.texts import GATES
from edgekit.graph.blip2.blip2 import MODEL_TYPE, Blip2
from edgekit.graph.blip2.checkpoint import CONFIG, read_json
from edgekit.graph.blip2.contract import TOKENIZER
from edgekit.graph.blip2.precision import Precision, read_precisions
from edgekit.runtimes.bundle.folder import Staging, sha256, stage
from edgekit.runtimes.bundle.manifest import Evidence, Gate, Graph, Manifest
from edgekit.runtimes.language.parts import EMBEDDINGS
from edgekit.sources import _hub

if TYPE_CHECKING:
    from edgekit.conversion.convert import Conversion

Report = Callable[[str, float], None]
Watch = Callable[[str, str, float], None]


def is_vision_language(source: str) -> bool:
    """Whether a source is a folder with a BLIP-2, or a model of the Hugging Face hub: no other is taken from there."""
    return _hub.is_hub(source) or (
        (Path(source) / CONFIG).is_file() and read_json(Path(source) / CONFIG).get("model_type") == MODEL_TYPE
    )


def convert(
    conversion: Conversion, watch: Watch, stop: Stop
) -> tuple[jobs.Prepared, tuple[Outcome, ...], tuple[Skipped, ...]]:
    """Convert a BLIP-2 for every target in every precision; one that fails does not stop the others.

    Raises:
        UsageError, SourceError, InputError: nothing can be begun with what was given.
    """
    precisions = read_precisions(conversion.precisions)
    targets, skipped = _targets(conversion.targets)
    _refuse_options(conversion)
    calibrated = any(precision.calibrated for precision in precisions)
    if calibrated and not conversion.data:
        raise UsageError(
            "vision in int8 needs calibration images like those the device will see: give --data FOLDER, or another "
            "precision for it (--precision vision=fp16,qformer=int8,language=int4)"
        )
    located = _located(conversion.source)
    with workspace.open_workspace(conversion.out) as folder:
        job = jobs.PrepareTextsJob(
            folder=str(folder),
            source=str(located.folder),
            hub=located.name,
            name=conversion.name,
            data=conversion.data,
            proof_data=conversion.proof_data,
            prompts=conversion.prompts,
            calibrate=calibrated,
            seed=conversion.seed,
            threads=conversion.threads,
        )
        prepared = run(job, jobs.Prepared, partial(watch, "prepare"), stop=stop)
        (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))
        maker = _Maker(conversion, prepared, located.folder, folder, stop)
        done = []
        for target in targets:
            for precision in precisions if not stop.pulled else ():
                done.append(maker.make(target, precision, partial(watch, f"{target} {precision.name}")))
    return prepared, tuple(done), skipped


def verify(bundle: str, manifest: Manifest, source: str, data: str, *, seed: int, watch: Watch) -> Evidence:
    """Fresh evidence for a bundle, on images that it was not calibrated on; nothing is written.

    Raises:
        SourceError, UsageError, InputError: it cannot be begun.
        EngineError: the engine cannot run it.
    """
    precision = read_precisions(manifest.options["precision"].split(","))[0]
    gate = manifest.evidence.gate if manifest.evidence else gate_for(precision, {})
    with tempfile.TemporaryDirectory(prefix="edgekit-verify-") as name:
        job = jobs.PrepareTextsJob(
            folder=name, source=str(_located(source).folder), data=data, seed=seed, like=str(Path(bundle).absolute())
        )
        prepared = run(job, jobs.Prepared, lambda text, share: watch("source", text, share))
        (Path(name) / PREPARED).write_bytes(msgspec.json.encode(prepared))
        prove = jobs.ProveTextsJob(folder=name, bundle=str(Path(bundle).absolute()), gate=gate)
        return run(prove, Evidence, lambda text, share: watch("bundle", text, share))


def gate_for(precision: Precision, changes: dict[str, float]) -> Gate:
    """The bounds of a precision: those of its roughest part, with single ones replaced."""
    return msgspec.structs.replace(GATES[precision.roughest], **changes)


def _located(source: str) -> _hub.Snapshot:
    """Where a source is on this machine."""
    return _hub.fetch(source) if _hub.is_hub(source) else _hub.Snapshot(Path(source).absolute(), "")


def _targets(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """The targets to convert to, and those that ``all`` leaves out."""
    taking = [name for name in converters.target_names() if converters.takes_parts(name)]
    if names != ("all",):
        for name in names:
            spec = converters.target(name)
            if name not in taking:
                raise UsageError(f"target {name} takes no vision-language models; these do: {', '.join(taking)}")
            if spec.missing:
                raise UsageError(f"target {name}: {spec.missing}")
        return names, ()
    reasons = {name: converters.target(name).missing for name in taking}
    skipped = tuple(Skipped(name, reason) for name, reason in reasons.items() if reason)
    return tuple(name for name in taking if not reasons[name]), skipped


def _refuse_options(conversion: Conversion) -> None:
    """What is said for detectors alone is refused rather than ignored."""
    said = {
        "--contract": conversion.contract,
        "--weights": conversion.weights,
        "--plan": conversion.plan,
        "--max-drop": conversion.max_drop is not None,
        "--labels": conversion.labels,
        "--finetune": conversion.finetune,
        "--choose": conversion.choose,
        "--option": conversion.options,
    }
    for name, given in said.items():
        if given:
            raise UsageError(f"{name} is of no use for a vision-language model; leave it out")


class _Maker:
    """Makes the bundles of one prepared folder."""

    def __init__(self, conversion: Conversion, prepared: jobs.Prepared, source: Path, folder: Path, stop: Stop) -> None:
        self._conversion, self._prepared, self._folder = conversion, prepared, folder
        self._source = Blip2(source)
        self._stop = stop

    def make(self, target: str, precision: Precision, report: Report) -> Outcome:
        """Build, prove and commit one bundle; errors become part of the outcome."""
        path = self._conversion.out / f"{self._prepared.name}-{target}-{precision.name}"
        evidence: Evidence | None = None
        kept = KeptGraphs(self._conversion.out)
        try:
            with stage(path.absolute()) as staging:
                graphs = self._graphs(target, precision, staging, kept, report)
                self._write_texts(precision, staging)
                manifest = staging.seal(self._manifest(target, precision, graphs))
                report("comparing with the source", 0.7)
                evidence = self._prove(precision, staging, lambda text, share: report(text, 0.7 + 0.3 * share))
                if not evidence.passed and self._conversion.gated:
                    raise GateError(
                        f"outside its gate, not written: {'; '.join(evidence.failures)} (--no-gate writes it all the "
                        "same)"
                    )
                staging.seal(msgspec.structs.replace(manifest, evidence=evidence, proven=evidence.passed))
                bundle = staging.commit()
        except EdgekitError as error:
            report("failed", 1.0)
            return Outcome(target, precision.name, path, evidence=evidence, error=error)
        kept.forget()
        report("done", 1.0)
        return Outcome(target, precision.name, path, bundle=bundle, evidence=evidence)

    def _graphs(
        self, target: str, precision: Precision, staging: Staging, kept: KeptGraphs, report: Report
    ) -> tuple[Graph, ...]:
        """Every graph, linked or copied into the bundle; what an earlier run had finished is taken over."""
        names, made = self._source.graphs, []
        ranges = self._folder / RANGES
        for number, name in enumerate(names):
            report(f"writing {name}", 0.7 * number / len(names))
            part = precision.of(name)
            depends = {
                "source": self._prepared.origin.sha256,
                "edgekit": edgekit.__version__,
                "target": target,
                "versions": converters.versions(converters.target(target)),
                "graph": name,
                "precision": str(part),
                "ranges": sha256(ranges) if name == "vision" and part.word == "int8" else "",
            }

            def write(out: Path, name: str = name) -> Graph:
                job = jobs.BuildPartJob(
                    folder=str(self._folder),
                    source=str(self._source.folder),
                    graph=name,
                    target=target,
                    word=precision.of(name).word,
                    block=precision.of(name).block,
                    out=str(out),
                    threads=self._conversion.threads,
                )
                return run(job, Graph, lambda text, share: None, stop=self._stop)

            files, graph = kept.build(depends, write)
            for file in graph.files:
                _link(files / file, staging.folder / file)
            made.append(graph)
        return tuple(made)

    def _write_texts(self, precision: Precision, staging: Staging) -> None:
        """The tokenizer, and the embeddings of tokens, which are gathered outside the graphs."""
        shutil.copyfile(self._source.folder / TOKENIZER, staging.folder / TOKENIZER)
        if not self._source.retrieval:
            dtype = np.float32 if precision.language.word == "fp32" else np.float16
            np.save(staging.folder / EMBEDDINGS, self._source.embeddings().astype(dtype))

    def _prove(self, precision: Precision, staging: Staging, report: Report) -> Evidence:
        job = jobs.ProveTextsJob(
            folder=str(self._folder),
            bundle=str(staging.folder),
            gate=gate_for(precision, self._conversion.bounds),
            threads=self._conversion.threads,
        )
        return run(job, Evidence, report, stop=self._stop)

    def _manifest(self, target: str, precision: Precision, graphs: tuple[Graph, ...]) -> Manifest:
        spec, prepared = converters.target(target), self._prepared
        parts = {"vision": precision.vision, "qformer": precision.qformer, "language": precision.language}
        return Manifest(
            edgekit=edgekit.__version__,
            name=prepared.name,
            target=target,
            precision=precision.name,
            engine=spec.engine,
            graphs=graphs,
            contract=prepared.contract,
            origin=prepared.origin,
            toolchain={**prepared.versions, **converters.versions(spec)},
            options={"precision": ",".join(f"{part}={word}" for part, word in parts.items())},
            calibration=prepared.calibration if precision.calibrated else None,
        )


def _link(source: Path, destination: Path) -> None:
    """The same file in a second place, without another copy where the disk can do that."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
