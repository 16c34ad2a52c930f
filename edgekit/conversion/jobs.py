"""Messages between a conversion and its child processes: jobs and results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgekit.calibration.plan import Fp16Issue, Methods, Plan
from edgekit.runtimes.bundle.manifest import Calibration, Contract, Gate, Origin, Record


class Part(Record, frozen=True, kw_only=True):
    """One network of a model. ``role`` is the user's name for it when choosing its target and precision."""

    name: str
    role: str


class PrepareJob(Record, frozen=True, kw_only=True, tag="prepare"):
    """Read the source, bring its parts into exchange form, choose the images, and run the source on the proof images.

    Attributes:
        folder: the workspace.
        hub: address and commit of a model from the Hugging Face hub.
        like: a bundle whose contract is used instead of a contract file, and whose calibration images are kept out of
            the proof images.
        size: (height, width) of the input, if not the source's own.
        prompts: a file with one prompt per line, for a model that generates text.
        calibrate: choose calibration images too.
        choose: number of calibration images, the most informative ones; 0 for all.
        half: find the operators that float16 cannot compute.
        kept: a folder, beside whose bundles the results of a large source are kept until those are there.
    """

    folder: str
    source: str
    hub: str = ""
    weights: str = ""
    contract: str = ""
    like: str = ""
    size: tuple[int, int] | None = None
    name: str = ""
    data: str = ""
    proof_data: str = ""
    prompts: str = ""
    calibrate: bool = False
    choose: int = 0
    half: bool = False
    kept: str = ""
    seed: int = 0
    trust: bool = False
    threads: int = 2
    imports: tuple[str, ...] = ()


class CalibrateJob(Record, frozen=True, kw_only=True, tag="calibrate"):
    """Make or reuse the quantisation plan of a prepared workspace; for parts that are written tensor by tensor, find
    their activation ranges.

    Attributes:
        plan: folder of a plan to reuse; empty to make one.
        integer: make the graph of integer-only targets too.
        sensitivity: measure the sensitivity of each layer.
        finetune: minutes of fine-tuning, 0 for none.
        ranges: of parts that are written tensor by tensor, find the ranges of vision's activations.
        fitted: the parts whose weights are fitted to what their layers read.
    """

    folder: str
    plan: str = ""
    methods: Methods = Methods()
    integer: bool = True
    sensitivity: bool = False
    finetune: float = 0.0
    ranges: bool = True
    fitted: tuple[str, ...] = ()
    threads: int = 2
    imports: tuple[str, ...] = ()


class ReplaceSiluJob(Record, frozen=True, kw_only=True, tag="replace_silu"):
    """Put hard swish in place of SiLU in a prepared network and fit its layers to the source, in a workspace below."""

    folder: str
    threads: int = 2
    imports: tuple[str, ...] = ()


class BuildJob(Record, frozen=True, kw_only=True, tag="build"):
    """Make one target's files of one part in one precision, by one of the target's recipes for it.

    ``floats`` names layers that go back to float, besides those that the plan leaves there; ``integers`` those that
    become INT8 though the plan leaves them in float. One of them is empty. ``batches`` and ``sizes``: what the files
    take besides one image at the contract's size.
    """

    folder: str
    part: str
    target: str
    precision: str
    out: str
    recipe: str = ""
    floats: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    threads: int = 2
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    imports: tuple[str, ...] = ()


class ValidateJob(Record, frozen=True, kw_only=True, tag="validate"):
    """Open a bundle with its engine, or with the engine's emulator, and compare it with the source.

    ``holdout``: compare on the hold-out set instead of the proof images. ``sheet``: file for a contact sheet of both
    results, empty for none; models that write texts have none. ``batch``: images in each run.
    ``golden``: folder for the bundle's golden frames, empty for none; models that write texts have none.
    """

    folder: str
    bundle: str
    gate: Gate
    holdout: bool = False
    sheet: str = ""
    batch: int = 1
    golden: str = ""
    threads: int = 2
    imports: tuple[str, ...] = ()


class MeasureJob(Record, frozen=True, kw_only=True, tag="measure"):
    """Measure the score of an accuracy budget: the main figure on ``labels``, or agreement on the hold-out set.

    ``bundle`` is empty for the float graph.
    """

    folder: str
    bundle: str = ""
    labels: str = ""
    threads: int = 2
    imports: tuple[str, ...] = ()


class SpeedJob(Record, frozen=True, kw_only=True, tag="speed"):
    """Time a bundle beside ``partner``, a float bundle of the same target."""

    folder: str
    bundle: str
    partner: str
    threads: int = 1


class InspectJob(Record, frozen=True, kw_only=True, tag="inspect"):
    """Inspect a source, and the results of a contract on an image.

    Attributes:
        folder: for the contract that is tried.
        name: what the user calls the source.
        image: a photograph to try the contract on; empty for none.
        drawn: where the photograph with what was found goes; empty for nowhere.
    """

    folder: str
    source: str
    name: str = ""
    hub: str = ""
    weights: str = ""
    size: tuple[int, int] | None = None
    image: str = ""
    drawn: str = ""
    trust: bool = False
    threads: int = 2
    imports: tuple[str, ...] = ()


Job = InspectJob | PrepareJob | ReplaceSiluJob | CalibrateJob | BuildJob | ValidateJob | MeasureJob | SpeedJob


class Calibrated(Record, frozen=True, kw_only=True):
    """The quantisation plan of an exported network; None for a model written tensor by tensor."""

    plan: Plan | None = None


class MeasuredScore(Record, frozen=True, kw_only=True):
    """A score (0..1), its name (``mAP``, ``top-1``, ``agreement``...), and the median latency of inference."""

    score: float
    by: str
    milliseconds: float


@dataclass(frozen=True)
class Exported:
    """Shapes of the outputs of a network in exchange form, by name, its ONNX operator types, each with a node, and what
    its layers are called in the ONNX file that it came from, if it did."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    operators: dict[str, str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)


class Reference(Record, frozen=True, kw_only=True):
    """How reference results were obtained, in words, and the doubts that weaken a proof with them.

    ``kept`` names them in the cache of `edgekit.conversion.kept_graphs`.
    """

    how: str
    doubts: tuple[str, ...] = ()
    kept: str = ""

    def __str__(self) -> str:
        return "; ".join((self.how, *self.doubts))


class Prepared(Record, frozen=True, kw_only=True):
    """Results of the first stage; the `edgekit.conversion.workspace.Workspace` has the files.

    Attributes:
        written: the folder of a source whose parts are written tensor by tensor; empty for a model of one network.
        shapes: of the exported network's outputs, by name.
        operators: ONNX operator types of the exported network, each with the name of one of its nodes.
        layers: what layers are called in the ONNX file that the network came from, by their names in exchange form.
        half: operators that float16 cannot compute.
        holdout_views: number of images in the hold-out set, on which recipes are compared.
        photographs: number of different images behind the proof images.
        reference: how the reference results were obtained.
    """

    name: str
    parts: tuple[Part, ...]
    written: str = ""
    contract: Contract
    origin: Origin
    shapes: dict[str, tuple[int, ...]]
    operators: dict[str, str]
    layers: dict[str, str] = msgspec.field(default_factory=dict)
    calibration: Calibration | None
    proof_sha256: str
    proof_views: int
    photographs: int
    holdout_views: int = 0
    half: tuple[Fp16Issue, ...] = ()
    reference: Reference
    versions: dict[str, str]


class HardSwish(Record, frozen=True, kw_only=True):
    """A network with hard swish in place of SiLU: what the first stage would say of it, SiLUs replaced, layers fitted,
    views that they were fitted on, seconds taken."""

    prepared: Prepared
    silus: int
    layers: int
    views: int
    seconds: float
