"""What a conversion asks of its child processes, and what they give back."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.calibration.plan import Fp16Issue, Methods
from edgekit.runtimes.bundle.manifest import Calibration, Contract, Gate, Origin, Record


class PrepareJob(Record, frozen=True, kw_only=True, tag="prepare"):
    """Read the source, cut it, export it, choose the images, and run the source on the proof images.

    ``calibrate`` asks for calibration images (``choose``: so many, the most informative ones), ``half`` for the
    operators that float16 cannot compute. ``like`` is a bundle whose contract is used instead of a contract file, and
    whose calibration images are kept out of the proof. ``size`` is (height, width) of the input, where it shall be
    another than the source's own.
    """

    folder: str
    source: str
    weights: str = ""
    contract: str = ""
    like: str = ""
    size: tuple[int, int] | None = None
    name: str = ""
    data: str = ""
    proof_data: str = ""
    calibrate: bool = False
    choose: int = 0
    half: bool = False
    seed: int = 0
    trust: bool = False
    imports: tuple[str, ...] = ()


class CalibrateJob(Record, frozen=True, kw_only=True, tag="calibrate"):
    """Make the quantisation plan of a prepared folder, or take over the one in the folder ``plan``.

    ``integer`` asks for the graph of targets that compute everything in integers, ``sensitivity`` for the damage that
    each layer does, ``finetune`` for so many minutes of fine-tuning.
    """

    folder: str
    plan: str = ""
    methods: Methods = Methods()
    integer: bool = True
    sensitivity: bool = False
    finetune: float = 0.0
    threads: int = 2
    imports: tuple[str, ...] = ()


class BuildJob(Record, frozen=True, kw_only=True, tag="build"):
    """Make one target's files in one precision, by one of the target's recipes for it.

    ``floats`` names layers that go back to float, besides those that the plan leaves there.
    """

    folder: str
    target: str
    precision: str
    out: str
    recipe: str = ""
    floats: tuple[str, ...] = ()
    threads: int = 2
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    imports: tuple[str, ...] = ()


class ProveJob(Record, frozen=True, kw_only=True, tag="prove"):
    """Open a bundle with its own engine, or what stands in for it here, and compare it with the source.

    ``held``: on the calibration images that were held back, not on the proof images.
    """

    folder: str
    bundle: str
    gate: Gate
    held: bool = False
    threads: int = 2
    imports: tuple[str, ...] = ()


class MeasureJob(Record, frozen=True, kw_only=True, tag="measure"):
    """Measure what a budget is kept by: the main figure on ``labels``, else agreement on the images held back.

    ``bundle`` is empty for the float graph.
    """

    folder: str
    bundle: str = ""
    labels: str = ""
    threads: int = 2
    imports: tuple[str, ...] = ()


class PrepareTextsJob(Record, frozen=True, kw_only=True, tag="prepare texts"):
    """Read a vision-language source, choose images and prompts, and run the source on them.

    ``prompts`` is a file with a prompt on each line. ``calibrate`` asks for the ranges of vision's activations.
    ``like`` is a bundle whose calibration images are kept out of the proof. ``hub`` is the model's address and commit
    where it came from the Hugging Face hub.
    """

    folder: str
    source: str
    hub: str = ""
    name: str = ""
    data: str = ""
    proof_data: str = ""
    prompts: str = ""
    calibrate: bool = False
    seed: int = 0
    threads: int = 2
    like: str = ""


class BuildPartJob(Record, frozen=True, kw_only=True, tag="build part"):
    """Write one graph of a vision-language source in the precision of its part, for one target."""

    folder: str
    source: str
    graph: str
    target: str
    word: str
    block: int
    out: str
    threads: int = 2


class ProveTextsJob(Record, frozen=True, kw_only=True, tag="prove texts"):
    """Open a vision-language bundle with its engine and compare it with the source."""

    folder: str
    bundle: str
    gate: Gate
    threads: int = 2


Job = PrepareJob | CalibrateJob | BuildJob | ProveJob | MeasureJob | PrepareTextsJob | BuildPartJob | ProveTextsJob


class Measured(Record, frozen=True, kw_only=True):
    """A score (0..1), what it is called (``mAP``, ``top-1``, ``agreement``...), and the median latency of inference."""

    score: float
    by: str
    milliseconds: float


class Prepared(Record, frozen=True, kw_only=True):
    """What a prepared folder holds: ``graph.onnx``, ``graph.pt2``, ``calibration.npy``, ``proof.npy``, the source's
    raw outputs as ``reference-<output>.npy`` and its detections as ``reference.npz``. The folder ``held`` has the same
    for the calibration images that were held back (``held_views`` of them), to compare recipes on.

    ``operators`` are the ONNX operator types of the graph, each with the name of one of its nodes. ``half`` names
    operators that float16 cannot compute.
    """

    name: str
    contract: Contract
    origin: Origin
    shapes: dict[str, tuple[int, ...]]
    operators: dict[str, str]
    calibration: Calibration | None
    proof_sha256: str
    proof_views: int
    photographs: int
    held_views: int = 0
    half: tuple[Fp16Issue, ...] = ()
    reference: str
    versions: dict[str, str]
