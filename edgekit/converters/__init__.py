"""One file per target. A target registers by declaring ``TARGET`` and a function ``convert``.

``convert(job: Job, report: Report) -> Graph`` runs in a child process: it reads the exchange files, writes the
target's files into ``job.out`` and returns the graph entry of the manifest. It imports its toolchain inside. A target
that takes parts of large models too names them in ``TARGET.parts`` and has a function
``convert_written(job: WrittenJob, report: Report) -> Graph``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from edgekit import registry
from edgekit.calibration.plan import Fp16Issue, PlannedGraph
from edgekit.calibration.samples import Samples
from edgekit.emulators import emulator
from edgekit.errors import ConversionError, UsageError, choices
from edgekit.graph.blip2.blip2 import WrittenPart
from edgekit.graph.blip2.rounding import Grid
from edgekit.graph.exchange import INPUT
from edgekit.graph.open_shapes import open_shapes, opened
from edgekit.progress import Report as Report
from edgekit.runtimes.bundle.manifest import Contract, Graph, ProofWord, Record, Tensor
from edgekit.runtimes.engines import host, importable
from edgekit.sources import WHOLE
from edgekit.structures import from_builtins
from edgekit.worker.toolchains import Toolchain

Options = TypeVar("Options", bound=Record)


class NoTargetOptions(Record, frozen=True):
    """The options of a target that has none."""


class CacheOptions(Record, frozen=True, omit_defaults=True):
    """The options of a target whose engine can keep a language model's cache in 8 bits.

    ``kv_cache`` is what keys and values of earlier tokens are kept in.
    """

    kv_cache: Literal["fp32", "int8"] = "fp32"


def cache_of(options: Record) -> str:
    """The precision of a language model's cache that a target's options ask for, empty where they have no say."""
    return options.kv_cache if isinstance(options, CacheOptions) else ""


PLAN = "plan"
"""The recipe that takes ranges and layers from the quantisation plan."""

CONVOLUTIONS = "convolutions in integers"
"""In the report of an INT8 graph: how many of its convolutions the engine computes in integers, ``67 of 76``."""


@dataclass(frozen=True)
class Target:
    """Declaration of a target; the command line and the documentation are generated from it.

    Attributes:
        requires: importable packages of the main environment.
        distributions: their pip names, recorded in the manifest with their versions.
        extra: the extra of edgekit that installs them.
        calibrated: the precisions that need images.
        half_precisions: the precisions that compute in float16, wholly or in part.
        options: structure of the target's own options.
        refuses: ONNX operators that the target cannot take, with the reason.
        hosts: platforms on which it can be converted, as prefixes of `edgekit.runtimes.engines.host`; empty for all.
        toolchains: isolated environments for packages that conflict with the main environment.
        builder: the toolchain whose interpreter runs ``convert``; empty for this interpreter.
        recipes: its ways of quantising on images.
        one_recipe: those of the calibrated precisions that the first recipe alone makes.
        integer_only: it computes everything in integers, so that no layer can stay in float.
        mixed_recipes: those of its recipes that leave layers in float all the same.
        wide: an integer-only one that has activations of 16 bits too, for layers that 8 bits do not do for.
        parts: the parts of models that it takes; `edgekit.sources.WHOLE` is a model of one network.
        part_precisions: the precisions that parts of large models have, without their blocks.
        grid: where the integers of a block lie that it makes of a part's weights; None where its own tools round them.
        part_notes: what should be known of a precision of parts before it is chosen.
        megabytes: what its devices have for a network with its activations, where that is too little for any part.
        several: whether one file takes several batches and input sizes.
        static_cache: whether a cache in 8 bits has scales that are found on calibration data.
    """

    name: str
    summary: str
    engine: str
    precisions: tuple[str, ...]
    requires: tuple[str, ...]
    distributions: tuple[str, ...]
    extra: str = "convert"
    calibrated: tuple[str, ...] = ("int8",)
    half_precisions: tuple[str, ...] = ("fp16",)
    options: type[Record] = NoTargetOptions
    refuses: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    toolchains: tuple[Toolchain, ...] = ()
    builder: str = ""
    recipes: tuple[str, ...] = (PLAN,)
    one_recipe: tuple[str, ...] = ()
    integer_only: bool = False
    mixed_recipes: tuple[str, ...] = ()
    wide: bool = False
    parts: tuple[str, ...] = (WHOLE,)
    part_precisions: tuple[str, ...] = ("fp32", "fp16", "int8", "int4")
    grid: Grid | None = None
    part_notes: Mapping[str, str] = field(default_factory=dict)
    megabytes: int = 0
    several: bool = False
    static_cache: bool = False

    def observes(self, options: Record) -> bool:
        """Whether the scales of a language model's cache are found on calibration data, with these options."""
        return self.static_cache and cache_of(options) == "int8"

    def recipes_of(self, precision: str) -> tuple[str, ...]:
        """The ways of quantising on images that a precision has."""
        if precision not in self.calibrated:
            return ()
        return self.recipes[:1] if precision in self.one_recipe else self.recipes

    def all_integers(self, recipe: str) -> bool:
        """Whether a recipe leaves no layer in float."""
        return self.integer_only and recipe not in self.mixed_recipes

    @property
    def takes_equalized(self) -> bool:
        """Whether its graph is the plan's ``integer`` one: channels are evened out where it can do nothing else."""
        return self.integer_only and not self.wide

    @property
    def missing(self) -> str:
        """Why the target cannot be made here and what to do about it, empty when it can."""
        if self.hosts and not host().startswith(self.hosts):
            return f"not possible on this host: needs {' or '.join(self.hosts)}, this is {host()}"
        absent = [package for package in self.requires if not importable(package)]
        if absent:
            return f"missing {', '.join(absent)}: pip install edgekit[{self.extra}]"
        for toolchain in self.toolchains:
            if toolchain.state != "installed":
                size = f"{toolchain.megabytes} MB"
                return f"toolchain {toolchain.state}: edgekit toolchain install {toolchain.name} ({size})"
        other = emulator(self.engine)
        if other is not None and other.needed(None) and other.missing:
            return f"nothing to check it with: {other.missing}"
        return ""

    @property
    def proof(self) -> ProofWord:
        """The strongest evidence word that validation on this host can give."""
        other = emulator(self.engine)
        return other.word if other is not None and other.needed(None) else "executed"


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """The inputs of every conversion of a part: folders, threads and the target's options.

    ``out`` takes the files, ``work`` is for intermediate ones. ``options`` are of the type that the `Target` names.
    """

    out: Path
    work: Path
    threads: int = 2
    options: Record = field(default_factory=NoTargetOptions)

    def chosen(self, kind: type[Options]) -> Options:
        """The target's own options, typed.

        Raises:
            ConversionError: the job was made for another target.
        """
        if not isinstance(self.options, kind):
            raise ConversionError(f"the job holds {type(self.options).__name__}, the converter takes {kind.__name__}")
        return self.options


@dataclass(frozen=True, kw_only=True)
class WrittenJob(PartJob):
    """Conversion of a part that is written tensor by tensor."""

    part: WrittenPart


@dataclass(frozen=True, kw_only=True)
class Job(PartJob):
    """Conversion of an exchange graph to one precision.

    ``onnx`` and ``program`` are the same float32 graph with batch size 1, NCHW input and raw heads: as ONNX and as
    a torch.export program. ``work`` is shared by the precisions of one target.

    For a calibrated precision the two forms are those of the quantisation plan: equalized, with weights that lie on the
    symmetric 8-bit grid of their output channel. ``plan`` holds ranges and the layers that stay in float; ``recipe`` is
    one of those that the target names. ``half`` are operators that fp16 has to leave in float32. ``originals`` is the
    file of the weights from before rounding. ``batches`` and ``sizes`` (height, width) are what the file is to take
    besides one image at the contract's size, of targets with ``several``.
    """

    onnx: Path
    program: Path
    contract: Contract
    shapes: dict[str, tuple[int, ...]]
    precision: str
    samples: Samples | None
    plan: PlannedGraph | None = None
    half: tuple[Fp16Issue, ...] = ()
    recipe: str = PLAN
    originals: Path | None = None
    batches: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def open_batch(self) -> bool:
        """Whether the file takes several batches."""
        return bool(self.batches)

    @property
    def open_size(self) -> bool:
        """Whether the file takes several input sizes."""
        return bool(self.sizes)

    @property
    def inputs(self) -> tuple[tuple[int, int, int, int], ...]:
        """Each shape of the input (NCHW) that the file is to take, that of one image at the contract's size first."""
        return tuple(
            (batch, 3, *size) for size in (self.contract.image.size, *self.sizes) for batch in (1, *self.batches)
        )

    def graph(self, *files: str) -> Graph:
        """The manifest entry of files that keep the names and shapes of the exchange graph; the first is opened."""
        size = (-1, -1) if self.open_size else self.contract.image.size
        shapes = {
            name: opened(shape, batch=self.open_batch, size=self.open_size) for name, shape in self.shapes.items()
        }
        return Graph(
            files=files,
            inputs=(Tensor(name=INPUT, shape=(-1 if self.open_batch else 1, 3, *size)),),
            outputs=tuple(Tensor(name=output.name, shape=shapes[output.name]) for output in self.contract.outputs),
        )

    def open(self, source: Path, destination: Path) -> None:
        """Leave the batch or the size of an ONNX file open, as the job says; the two may be one file.

        Raises:
            ConversionError: its constants hold them.
        """
        import onnx

        onnx.save_model(open_shapes(onnx.load(source), batch=self.open_batch, size=self.open_size), destination)

    def planned(self) -> PlannedGraph:
        """The quantisation plan.

        Raises:
            ConversionError: the job has none.
        """
        if self.plan is None:
            raise ConversionError(
                f"{self.precision} needs a quantisation plan: give --data with a folder of photographs"
            )
        return self.plan

    def calibration(self) -> Samples:
        """The calibration stream.

        Raises:
            ConversionError: the job has none (the planner refuses int8 without data before it comes to this).
        """
        if self.samples is None:
            raise ConversionError(
                f"{self.precision} needs calibration images: give --data with a folder of photographs"
            )
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
    """Versions of a target's toolchain by distribution name, as installed here.

    What its own environments pin is named ``ENVIRONMENT/DISTRIBUTION``: two of them may hold one package twice.
    """
    found = {}
    for toolchain in spec.toolchains:
        for pin in (*toolchain.requirements, *toolchain.without_dependencies, *toolchain.npm):
            name, _, version = pin.replace("==", "@").rpartition("@")
            found[f"{toolchain.name}/{name}"] = version
    for distribution in spec.distributions:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_options(spec: Target, given: Mapping[str, str]) -> Record:
    """Read a target's options from the text of the command line.

    Raises:
        UsageError: no such option, or a value that it does not take.
    """
    known = spec.options.__struct_fields__
    for name in given:
        if name not in known:
            raise UsageError(f"option of target {spec.name} {choices(name, known)}")
    try:
        return from_builtins(dict(given), spec.options, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"option of target {spec.name}: {error}") from error
