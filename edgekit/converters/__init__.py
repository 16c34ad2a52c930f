"""One file per target. A target registers by declaring ``TARGET`` and a function ``convert``.

``convert(job: Job, report: Report) -> Graph`` runs in a child process: it reads the exchange files, writes the
target's files into ``job.out`` and returns the graph entry of the manifest. It imports its toolchain inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgekit import registry
from edgekit.calibration.samples import Samples
from edgekit.errors import ConversionError
from edgekit.manifest import Contract, Graph, ProofWord, Tensor
from edgekit.runtimes import importable
from edgekit.sources.exchange import INPUT

Report = Callable[[str, float], None]
"""Told a short text of what is being done and the share (0..1) that is done."""


@dataclass(frozen=True)
class Target:
    """What a target is: everything the command line and the documentation say of it comes from here.

    ``requires`` are importable packages of the toolchain, ``distributions`` their pip names (recorded with their
    versions in the manifest). ``proof`` is the strongest word that the check on this host deserves.
    """

    name: str
    summary: str
    engine: str
    precisions: tuple[str, ...]
    requires: tuple[str, ...]
    distributions: tuple[str, ...]
    extra: str = "convert"
    proof: ProofWord = "executed"

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages of the toolchain that are not installed here."""
        return tuple(package for package in self.requires if not importable(package))


@dataclass(frozen=True)
class Job:
    """One conversion: a graph in exchange form, a precision, and where to put what.

    ``onnx`` and ``program`` are the same float32 graph with batch size 1, NCHW input and raw heads: as ONNX and as
    a torch.export program. ``work`` is shared by the precisions of one target, for intermediate files.
    """

    onnx: Path
    program: Path
    contract: Contract
    shapes: dict[str, tuple[int, ...]]
    precision: str
    samples: Samples | None
    out: Path
    work: Path
    threads: int = 2

    def graph(self, *files: str) -> Graph:
        """The manifest entry of files that keep the names and shapes of the exchange graph; the first is opened."""
        return Graph(
            files=files,
            inputs=(Tensor(name=INPUT, shape=(1, 3, *self.contract.image.size)),),
            outputs=tuple(Tensor(name=output.name, shape=self.shapes[output.name]) for output in self.contract.outputs),
        )

    def calibration(self) -> Samples:
        """The calibration stream.

        Raises:
            ConversionError: the job has none (the planner refuses int8 without data before it comes to this).
        """
        if self.samples is None:
            raise ConversionError("int8 needs calibration images: give --data with a folder of photographs")
        return self.samples


def target_names() -> tuple[str, ...]:
    """Names of all targets, available here or not."""
    return registry.names(__name__)


def target(name: str) -> Target:
    """The declaration of one target.

    Raises:
        UsageError: no such target.
    """
    declared: Target = registry.lookup(__name__, name, "TARGET", "target")
    return declared


def versions(spec: Target) -> dict[str, str]:
    """Installed versions of a target's toolchain, by distribution name."""
    found = {}
    for distribution in spec.distributions:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found
