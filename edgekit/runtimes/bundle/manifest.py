"""The manifest of a bundle as validated types: contract, origin, calibration, evidence, files.

Everything here is an immutable, validated structure. ``manifest.json`` is `Manifest` as JSON
(`edgekit.runtimes.bundle.manifest_file`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

SCHEMA = 1
"""Version of the manifest layout that this edgekit writes, and the newest that it reads."""

MANIFEST = "manifest.json"

GOLDEN = "golden"
"""Folder of a bundle with its golden frames (`edgekit.runtimes.golden_frames`)."""

ProofWord = Literal["executed", "emulated", "interpreted", "reference", "compiled"]
"""How strong a proof is: the device's engine ran the file; a vendor's simulator did; the file was read and computed by
an interpreter; the same arithmetic ran on another engine; a compiler accepted it and nothing ran."""

Align = Literal["center", "corner"]
"""Where a letterboxed image lies on the input: in the middle, or in the top-left corner."""


LARGEST, MOST_PIXELS = 1 << 14, 1 << 26
"""The longest side of an input in pixels, and the most pixels: buffers of that size take 1 GB."""

# Bounds for numbers that somebody else wrote: far above any network's, and low enough for the memory that they take.
Classes = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1000)], ...], msgspec.Meta(max_length=1 << 17)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Token = Number
UpTo1024 = Annotated[int, msgspec.Meta(ge=0, le=1 << 10)]
UpTo65536 = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]

CACHE = 1 << 22
"""The most numbers that a language model's cache has for a token, keys and values counted once."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all manifest structures: immutable, no unknown keys."""


class ImageRule(Record, frozen=True, kw_only=True):
    """How a photograph becomes the input tensor: ``(pixel * scale - mean) / std`` after resizing to ``size``.

    ``size`` is (height, width) in pixels. ``mean`` and ``std`` are per channel in the model's ``color`` order,
    in units after ``scale``. ``pad`` is the grey level (0..255) around a letterboxed image, or its level per channel in
    the same order, ``align`` where that image lies: in the center, or in the top-left corner with all of the padding
    right and below (YOLOX, RTMDet). ``crop`` is the share of the scaled image's shorter side that a crop keeps: 0.875
    where a classifier takes 224 of 256 pixels.
    ``interpolation`` is OpenCV's ``linear``, or Pillow's ``bilinear`` or ``bicubic`` (see `inputs.resampling`), which
    average over all pixels when an image shrinks, and take longer.
    """

    size: tuple[int, int]
    resize: Literal["letterbox", "stretch", "crop"] = "letterbox"
    color: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: int | tuple[int, int, int] = 114
    crop: float = 1.0
    interpolation: Literal["linear", "bilinear", "bicubic"] = "linear"
    align: Align = "center"

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be two positive numbers (height, width), not {list(self.size)}")
        if max(self.size) > LARGEST or self.size[0] * self.size[1] > MOST_PIXELS:
            raise ValueError(
                f"size must be at most {LARGEST} a side and {MOST_PIXELS} pixels in all, not {list(self.size)}"
            )
        if not all(0 <= level <= 255 for level in self.padding):
            raise ValueError(f"pad must be 0..255, not {self.pad}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {list(self.std)}")
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, not {self.scale}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be above 0 and at most 1, not {self.crop}")
        if self.crop < 1 and self.resize != "crop":
            raise ValueError(f"crop must be 1 with resize: {self.resize}, not {self.crop}")
        if self.align != "center" and self.resize != "letterbox":
            raise ValueError(
                f"align must be left out with resize: {self.resize}, not {self.align}: only a letterbox has padding "
                "(center, corner)"
            )

    @property
    def padding(self) -> tuple[int, int, int]:
        """The levels around a letterboxed image as BGR, the order of images in memory."""
        first, second, third = (self.pad,) * 3 if isinstance(self.pad, int) else self.pad
        return (first, second, third) if self.color == "bgr" else (third, second, first)


class Decoder(Record, frozen=True, kw_only=True):
    """Which registered decoder turns raw heads into candidates, with its numbers."""

    name: str
    options: dict[str, Any] = {}


class Output(Record, frozen=True, kw_only=True):
    """One output of the graph: ``role`` is the decoder's word for it, ``level`` counts strides from the finest."""

    name: str
    role: str
    level: int = 0


class Postprocess(Record, frozen=True, kw_only=True):
    """Defaults for thresholds and NMS; a call may override the thresholds.

    ``score`` is the least score, ``iou`` the IoU above which NMS drops a box; in the manifest they are called
    ``score_threshold`` and ``iou_threshold``. ``nms`` is off for one-to-one heads, which give each object once (YOLO26,
    YOLOv10).
    """

    score: float = msgspec.field(default=0.25, name="score_threshold")
    iou: float = msgspec.field(default=0.45, name="iou_threshold")
    max_detections: int = 300
    class_agnostic: bool = False
    nms: bool = True

    def __post_init__(self) -> None:
        for name in ("score", "iou"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0..1, not {getattr(self, name)}")
        if self.max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, not {self.max_detections}")
        if self.max_detections > 1_000_000:
            raise ValueError(f"max_detections must be at most 1000000, not {self.max_detections}")


class Skeleton(Record, frozen=True, kw_only=True):
    """The keypoints of a pose: their names, the pairs that are joined by a line, and how exactly each can be placed.

    ``sigmas`` are the per-keypoint standard deviations of annotators, relative to the object's scale, that object
    keypoint similarity divides by (https://cocodataset.org/#keypoints-eval).
    """

    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=1 << 10)]
    edges: Annotated[tuple[tuple[int, int], ...], msgspec.Meta(max_length=1 << 16)] = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names must name at least one keypoint")
        for edge in self.edges:
            if not (min(edge) >= 0 and max(edge) < len(self.names) and edge[0] != edge[1]):
                raise ValueError(f"edges must be pairs of keypoints 0..{len(self.names) - 1}, not {list(edge)}")
        if self.sigmas and (len(self.sigmas) != len(self.names) or min(self.sigmas) <= 0):
            raise ValueError(f"sigmas must be {len(self.names)} positive numbers, not {list(self.sigmas)}")


class Language(Record, frozen=True, kw_only=True):
    """The contract of a vision-language model beyond its image rule; see `edgekit.runtimes.language.vision_language`.

    ``family`` names the language model: ``opt`` is decoder-only, ``t5`` an encoder with a decoder, ``retrieval`` has
    none (BLIP-2's image-text matching). Token ids: ``image`` stands ``queries`` times for the image in front of every
    prompt, ``start`` is what an encoder-decoder begins its answer with. ``layers``, ``heads`` and ``head_size`` are of
    the decoder's cache, ``width`` of its embeddings; ``positions`` is the most tokens it can see, 0 for any number.
    ``prompts`` are texts by use, in which ``{}`` stands for the question; ``generation`` are defaults of
    `edgekit.runtimes.language.GenerationOptions`.
    """

    family: Literal["opt", "t5", "retrieval"]
    queries: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    image: Token = 0
    pad: Token = 0
    eos: Annotated[tuple[Token, ...], msgspec.Meta(max_length=1 << 10)] = ()
    start: Token = 0
    layers: UpTo1024 = 0
    heads: UpTo65536 = 0
    head_size: UpTo65536 = 0
    width: UpTo65536 = 0
    positions: Number = 0
    prompts: dict[str, str] = {}
    generation: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.layers * self.heads * self.head_size > CACHE:
            raise ValueError(
                f"layers, heads and head_size make {self.layers * self.heads * self.head_size} numbers a token, "
                f"above the {CACHE} that a cache may have"
            )


class Contract(Record, frozen=True, kw_only=True):
    """The inputs and outputs of a graph, complete enough to run it without the source.

    ``skeleton`` names the keypoints of a pose task. ``language`` is there for a vision-language model, which has
    several graphs with named inputs and outputs, and neither classes nor a decoder. ``tracker_options`` are
    thresholds of trackers that fit its scores. They are not written where the papers' do: older edgekits read on.
    """

    task: str = "detect"
    image: ImageRule
    classes: Classes = ()
    decoder: Decoder = Decoder(name="")
    outputs: tuple[Output, ...] = ()
    postprocess: Postprocess = Postprocess()
    skeleton: Skeleton | None = None
    language: Language | None = None
    tracker_options: dict[str, bool | int | float | str] | msgspec.UnsetType = msgspec.UNSET

    @property
    def trackers(self) -> dict[str, bool | int | float | str]:
        """Options of trackers for this model, empty where they are the papers'."""
        return self.tracker_options or {}


class Tensor(Record, frozen=True, kw_only=True):
    """An input or output of a converted file. ``shape`` is as the file has it, -1 where any size goes.

    ``layout`` says how to read four-dimensional shapes; the runtime hands NCHW to the decoder either way. Of an integer
    tensor a value is ``(integer - zero_point) * scale``; others do not have the two.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: float | msgspec.UnsetType = msgspec.UNSET
    zero_point: int | msgspec.UnsetType = msgspec.UNSET


FLOATS = ("fp32", "fp16")
"""The precisions that all others should be faster than, the better one to compare with first."""


class Speed(Record, frozen=True, kw_only=True):
    """The time of an inference over that of the float form of the same target, measured in turns where both were made.

    Attributes:
        ratio: the median; above 1 this bundle is slower.
        low, high: the interval of the median, confidence 95 %.
        of: the precision that it is compared with.
        rounds, threads: of the measurement.
        instructions: the instruction set of the machine, as far as integer arithmetic depends on it (``avx2``).
        engine: with its version.
    """

    ratio: Annotated[float, msgspec.Meta(gt=0)]
    low: float
    high: float
    of: str
    rounds: int
    threads: int
    instructions: str
    engine: str

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy to tell."""
        return self.high - self.low > NOISY * self.ratio

    @property
    def faster(self) -> bool:
        """Whether it certainly is."""
        return not self.noisy and self.high < 1 and self.ratio < FASTER

    @property
    def short(self) -> str:
        """The verdict, in a few words: ``0.68x``, ``smaller, not faster (1.21x)``."""
        times = f"{self.ratio:.2f}x"
        if self.noisy:
            return f"speed not certain ({times})"
        return times if self.faster else f"smaller, not faster ({times})"

    def sentence(self) -> str:
        """The measurement, in words."""
        times = f"{self.ratio:.2f} times the time of {self.of} ({self.low:.2f} to {self.high:.2f})"
        where = f"{self.engine}, {self.instructions}, {self.threads} thread{'s' * (self.threads > 1)}"
        said = f"{times} on {where}"
        if self.noisy:
            return f"too noisy here to tell whether it is faster: {said}"
        return said if self.faster else f"smaller, not faster: {said}"


NOISY = 0.25
"""An interval as wide as this share of the ratio tells nothing."""

FASTER = 0.97
"""A bundle that takes more than this share of the time is not called faster: on another machine it may be slower."""


class Graph(Record, frozen=True, kw_only=True):
    """One network of a bundle: its files (the first is the one an engine opens), inputs and outputs.

    The order of ``outputs`` is the order of the contract's outputs. ``report`` is what the toolchain said of the file:
    operators per unit, memory, cycles. ``engine`` opens it where it is another one than the manifest's, and is absent
    otherwise; so is ``speed`` where none was measured.
    """

    name: str = "model"
    files: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    report: dict[str, str | int | float] = {}
    engine: str | msgspec.UnsetType = msgspec.UNSET
    speed: Speed | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not (self.files and self.inputs and self.outputs):
            raise ValueError(f"graph {self.name!r} must have files, inputs and outputs")


class Origin(Record, frozen=True, kw_only=True):
    """Where the trained model came from, what was noted while reading it, and the tensors it was cut at, if any.

    ``rewrites`` counts the exact rewrites that all targets started from, by kind; absent where there were none.
    """

    kind: str
    name: str
    sha256: str
    notes: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    rewrites: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class Calibration(Record, frozen=True, kw_only=True):
    """The data INT8 was calibrated on.

    Attributes:
        count: number of calibration images.
        method: how they were chosen.
        sha256: of their pixels, in order.
        held: number of images in the hold-out set, on which recipes are compared.
        images: first 16 hex digits of the SHA-256 of each image of both sets, so that a later check can leave them out.
    """

    count: int
    method: str
    seed: int
    sha256: str
    held: int = 0
    images: tuple[str, ...] = ()


class OutputDrift(Record, frozen=True, kw_only=True):
    """How far one raw output is from the source's, over all proof images."""

    name: str
    cosine: float
    max_error: float
    mean_error: float


class SizeAgreement(Record, frozen=True, kw_only=True):
    """The source's detections of one size, and the share of them that the bundle finds too."""

    detections: Number
    matched: float

    @property
    def found(self) -> int:
        """How many were found again."""
        return round(self.matched * self.detections)


class Agreement(Record, frozen=True, kw_only=True):
    """Decoded results of the bundle against the source's, same class, over the proof images.

    ``matched`` is the share of the source's detections (score > ``score_floor``) that have a partner of the same
    class at IoU >= ``iou``; ``matched_at`` the same at further IoUs. ``score_drift`` is the mean absolute score
    difference of matched pairs; ``class_flips`` counts partners found only under another class; ``extra`` is the
    share of the bundle's detections that the source does not have. ``measure`` is what stands for IoU in all of this:
    IoU of boxes, mask IoU, OKS of poses; empty for classes of a whole image, which agree or do not. Of label maps,
    whose "detections" are the regions of each class, ``pixels`` is the share of cells with the same class, and ``miou``
    the mean over classes of the IoU of all their cells; both are absent elsewhere. ``by_size`` has ``matched`` for
    ``small``, ``medium`` and ``large`` boxes, from areas of 32 x 32 and 96 x 96 pixels of the input on; it is absent
    where no boxes were compared, and in bundles of older edgekits. Of oriented
    boxes ``angle`` is the mean angle between matched pairs in degrees.
    """

    score_floor: float
    iou: float
    detections: int
    matched: float
    matched_at: dict[str, float]
    score_drift: float
    score_drift_max: float
    class_flips: int
    extra: float
    top_score: float
    top_score_source: float
    measure: str = "IoU"
    pixels: float | msgspec.UnsetType = msgspec.UNSET
    miou: float | msgspec.UnsetType = msgspec.UNSET
    by_size: dict[str, SizeAgreement] | msgspec.UnsetType = msgspec.UNSET
    angle: float | msgspec.UnsetType = msgspec.UNSET

    @property
    def counted(self) -> str:
        """The total that ``matched`` is a share of, and the criterion, in words."""
        return f"of {self.detections} {self.bound}"

    @property
    def bound(self) -> str:
        """The matching criterion, in words."""
        return f"at {self.measure} {self.iou:g}" if self.measure else "by class"


class TextAgreement(Record, frozen=True, kw_only=True):
    """Results of a vision-language bundle against the source's, from the pixels on.

    Of a model that generates (``measure`` "tokens"): ``positions`` tokens that follow the source's own text,
    ``matched`` is the share whose likeliest token is the source's, ``score_drift`` the mean absolute difference of the
    log-probability of the source's token; ``identical`` is the share of ``answers`` that are the source's token for
    token when each goes its own way. Of a model for retrieval ("decisions"): ``positions`` pairs of an image and a
    text, ``matched`` is the share that both call a match or both do not, ``score_drift`` is of the probability;
    ``identical`` is the share of ``answers``, one an image, that name the same text as the most similar.
    """

    measure: Literal["tokens", "decisions"]
    positions: int
    matched: float
    score_drift: float
    score_drift_max: float
    answers: int
    identical: float

    @property
    def counted(self) -> str:
        """The total that ``matched`` is a share of, in words."""
        return f"of {self.positions} {self.measure}"


class Gate(Record, frozen=True, kw_only=True):
    """Bounds a conversion has to keep. See ``docs/EVIDENCE.md``.

    ``small``, ``medium`` and ``large`` are of ``matched`` among boxes of that size; absent where none is asked for.
    ``angle``, in degrees, is of oriented boxes alone.
    """

    iou: float
    matched: float
    score_drift: float
    extra: float = 1.0
    small: float | msgspec.UnsetType = msgspec.UNSET
    medium: float | msgspec.UnsetType = msgspec.UNSET
    large: float | msgspec.UnsetType = msgspec.UNSET
    angle: float | msgspec.UnsetType = msgspec.UNSET

    @property
    def by_size(self) -> dict[str, float]:
        """The bounds by size that there are."""
        bounds = {"small": self.small, "medium": self.medium, "large": self.large}
        return {name: bound for name, bound in bounds.items() if bound is not msgspec.UNSET}


class Budget(Record, frozen=True, kw_only=True):
    """The accuracy that a conversion could lose, and what was done to stay within it.

    Losses are differences to the float source, ``by`` mAP on labelled images or by decoded agreement: the share of the
    source's detections found again, or of detections that the source has too, whichever is lower. ``before`` and the
    ``_before`` figures are of the build without any layer of ``floats`` back in float; latencies are medians on the
    host that converted.
    """

    max_drop: float
    by: str
    before: float
    drop: float
    kept: bool
    floats: tuple[str, ...]
    bytes_before: int
    bytes: int
    milliseconds_before: float
    milliseconds: float

    def sentence(self) -> str:
        """The outcome, in words."""
        cost = (
            f"{self.bytes_before / 1e6:.2f} -> {self.bytes / 1e6:.2f} MB, "
            f"{self.milliseconds_before:.1f} -> {self.milliseconds:.1f} ms"
        )
        done = f"{len(self.floats)} layer(s) back in float" if self.floats else "no layer had to go back to float"
        if self.kept:
            return f"{self.by} drop {self.drop:.4f}, within {self.max_drop:g}: {done} ({cost})"
        left = done if self.floats else "layers back in float do not help, or are not possible"
        return (
            f"{self.by} drop {self.drop:.4f} cannot be brought within {self.max_drop:g}: {left} ({cost}); "
            "try --finetune 10min, more calibration images, or fp16"
        )


class Accuracy(Record, frozen=True, kw_only=True):
    """The main figure (0..1) of the source and of the bundle on labelled images, and its name (``mAP``...)."""

    measure: str
    source: float
    bundle: float


class NegativeControl(Record, frozen=True, kw_only=True):
    """The same comparison on results that were damaged on purpose: it must have at least one failure."""

    damage: str
    failures: tuple[str, ...]


class Evidence(Record, frozen=True, kw_only=True):
    """The measured evidence that a bundle reproduces the source's results.

    ``images`` photographs were compared, in ``views`` (more when each is shown mirrored too). ``word`` is the strength
    of the proof; ``compared`` says what the decoded comparison was made on:
    ``detections`` after NMS, ``candidates`` (the source's best anchors) when the source finds too little, or
    ``texts`` of a vision-language model, which are in ``texts`` in place of ``decoded``, or ``nothing`` where the file
    could only be compiled; then both are None and the evidence does not pass.
    ``recipe`` says how it was quantised, and ``recipes`` how good each way that was tried was on calibration images
    that had been held back (`edgekit.evaluation.agreement.quality`). ``budget`` tells what was done to keep one.
    ``accuracy`` is on labels, where some were given; else it is not written, and edgekits that do not know it read on.
    ``control`` shows that the comparison can fail; it is absent in bundles of older edgekits, and where nothing ran.
    """

    word: ProofWord
    engine: str
    images: int
    views: int
    images_sha256: str
    reference: str
    compared: Literal["detections", "candidates", "texts", "nothing"]
    decoded: Agreement | None
    outputs: tuple[OutputDrift, ...]
    gate: Gate
    passed: bool
    failures: tuple[str, ...] = ()
    placement: dict[str, int] = {}
    recipe: str = ""
    recipes: dict[str, float] = {}
    budget: Budget | None = None
    texts: TextAgreement | None = None
    accuracy: Accuracy | msgspec.UnsetType = msgspec.UNSET
    control: NegativeControl | msgspec.UnsetType = msgspec.UNSET

    @property
    def agreement(self) -> Agreement | TextAgreement | None:
        """Of detections or of texts, whichever were compared."""
        return self.decoded or self.texts


class Change(Record, frozen=True, kw_only=True):
    """One value of a contract that was changed after the conversion; ``before`` is None where there was none."""

    name: str
    before: bool | int | float | str | None
    after: bool | int | float | str


class Amendment(Record, frozen=True, kw_only=True):
    """The changes to a bundle after its conversion, at one time (UTC, ISO 8601). See `edgekit.runtimes.amend`."""

    time: str
    changes: tuple[Change, ...]


class Execution(Record, frozen=True, kw_only=True):
    """A device that replayed the bundle's golden frames with results that agree (``edgekit evidence add``).

    Attributes:
        time: of the run there, UTC, ISO 8601.
        platform: which of edgekit's runtimes it was: ``python``, ``swift``, ``kotlin``, ``web``.
        machine: in words, as the device says.
        frames: how many.
        compared: with what the ``bundle`` found when it was converted, or with its ``source``.
    """

    time: str
    platform: str
    machine: str
    engine: str
    word: ProofWord
    frames: Number
    compared: str

    def sentence(self) -> str:
        """The self-check, in words."""
        truth = "its conversion" if self.compared == "bundle" else "its source"
        how = f"{self.word} by {self.engine} ({self.platform}) on {self.machine}, {self.time}"
        return f"{how}: {self.frames} golden frames agree with {truth}"


class File(Record, frozen=True, kw_only=True):
    """A file of a bundle: relative path with forward slashes, size in bytes, SHA-256."""

    path: str
    bytes: int
    sha256: str


class Variant(Record, frozen=True, kw_only=True):
    """Another batch and input size (height, width) that a bundle takes, with a proof of its own.

    The first, with one image at the contract's size, has its evidence in the manifest itself.
    """

    batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 10)]
    size: tuple[int, int]
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1 or max(self.size) > LARGEST or self.batch * self.size[0] * self.size[1] > MOST_PIXELS:
            raise ValueError(
                f"a batch of {self.batch} at {list(self.size)} must have at most {MOST_PIXELS} pixels in all"
            )

    def __str__(self) -> str:
        return f"batch {self.batch} at {self.size[0]}x{self.size[1]}"


class Manifest(Record, frozen=True, kw_only=True):
    """Everything a bundle says about itself. ``digest`` is the checksum of this file, ``files`` has the others'.

    ``options`` are the target's own options as they were used. ``amendments`` are there only where the contract was
    changed after the conversion; the evidence was measured before.
    ``variants`` are further batches and sizes; without any it is not written. Nor are ``executions``, the devices that
    replayed the golden frames.
    """

    schema: int = SCHEMA
    edgekit: str
    name: str
    target: str
    precision: str
    engine: str
    graphs: tuple[Graph, ...]
    contract: Contract
    origin: Origin
    toolchain: dict[str, str]
    options: dict[str, Any] = {}
    calibration: Calibration | None = None
    evidence: Evidence | None = None
    proven: bool = False
    variants: tuple[Variant, ...] | msgspec.UnsetType = msgspec.UNSET
    files: tuple[File, ...] = ()
    digest: str = ""
    amendments: tuple[Amendment, ...] | msgspec.UnsetType = msgspec.UNSET
    executions: tuple[Execution, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def summary(self) -> str:
        """A summary: ``shapes litert int8, detect, 7 classes, 256x256, proven``."""
        contract = self.contract
        classes = f"{len(contract.classes)} classes, " if contract.classes else ""
        size, proof = "x".join(map(str, contract.image.size)), "proven" if self.proven else "unproven"
        return f"{self.name} {self.target} {self.precision}, {contract.task}, {classes}{size}, {proof}"

    @property
    def speed(self) -> Speed | None:
        """How fast it is beside the float form, where that was measured; never of several graphs."""
        return (self.graphs[0].speed or None) if len(self.graphs) == 1 else None

    @property
    def batches(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """The batches that the bundle takes at each input size, in rising order; the contract's size comes first."""
        found: dict[tuple[int, int], set[int]] = {self.contract.image.size: {1}}
        for variant in self.variants or ():
            found.setdefault(variant.size, set()).add(variant.batch)
        return {size: tuple(sorted(batches)) for size, batches in found.items()}

    @property
    def size_note(self) -> str:
        """A note that the first of several input sizes is used; empty if there is only one."""
        sizes = [f"{height}x{width}" for height, width in self.batches]
        return f"at {sizes[0]}, the first of {', '.join(sizes)} (--size)" if len(sizes) > 1 else ""

    def engine_of(self, graph: Graph) -> str:
        """The engine that opens a graph."""
        return graph.engine or self.engine

    @property
    def engines(self) -> tuple[str, ...]:
        """Each engine that a graph needs, once, in the order of the graphs."""
        return tuple(dict.fromkeys(self.engine_of(graph) for graph in self.graphs))
