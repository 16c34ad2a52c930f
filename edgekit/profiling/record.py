"""DEVICE: what a profile says, as typed structures; one line of JSON each in a store of records.

Times are milliseconds unless a name says otherwise, sizes are bytes. Raw samples are kept by round, so that any two
records can be compared later; what is read most is summed up in `Distribution`.
"""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

from edgekit.runtimes.bundle.manifest import ProofWord, Record

SCHEMA = 1
"""Version of the layout of a record that this edgekit writes, and the newest that it reads."""

StageName = Literal["pre", "inference", "post", "track", "vision", "prefill", "decode"]
"""Parts of one call: of a vision model before, in and after the engine, and the tracker; of a vision-language model its
image, its prompt, and the tokens after the first."""

STAGES: tuple[StageName, ...] = ("pre", "vision", "prefill", "decode", "inference", "post", "track")
"""In the order that they happen in."""


class Distribution(Record, frozen=True, kw_only=True):
    """Times of the calls of all rounds once they had settled. Nothing is dropped: ``outliers`` are counted and stay in.

    An outlier lies further than three interquartile ranges above the third quartile (Tukey's "far out").
    """

    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    outliers: int


class Round(Record, frozen=True, kw_only=True):
    """One process that opened the bundle, warmed up and was measured.

    ``stages`` and ``total`` have one value for each call in order, warm-up included; ``total`` is the wall time around
    the call, measured by itself. The first ``warm_up`` calls are not part of any `Distribution`; ``settled`` is False
    where no steady state was found before the end.
    """

    total: tuple[float, ...]
    stages: dict[StageName, tuple[float, ...]]
    warm_up: int
    settled: bool = True


class Load(Record, frozen=True, kw_only=True):
    """From a fresh process to the first result: importing the engine, opening the file (an engine that compiles does
    so here), and the first call. ``cold`` with the bundle's files dropped from the page cache before, where the system
    allows it; ``build`` is an engine build ahead of that (TensorRT), 0 where there is none.
    """

    cold: bool
    imports: float
    open: float
    first: float
    build: float = 0.0

    @property
    def total(self) -> float:
        """Until the first result is there, in ms."""
        return self.imports + self.open + self.first + self.build


class Memory(Record, frozen=True, kw_only=True):
    """Resident set of the measured process in bytes: before the engine was imported, highest, and at the end.

    ``device`` is the highest memory of the accelerator, None where there is none or it cannot be asked.
    """

    before: int
    peak: int
    steady: int
    device: int | None = None


class Processor(Record, frozen=True, kw_only=True):
    """CPU milliseconds (user and system, all threads) of one call, cores in use on average, threads of the process."""

    milliseconds: float
    cores: float
    threads: int


class Throughput(Record, frozen=True, kw_only=True):
    """Several images at a time: ``count`` in one call (``batch``), or one in each of ``count`` sessions (``streams``).

    ``latency`` is the median of one call in ms, ``frames_per_second`` of all together.
    """

    kind: Literal["batch", "streams"]
    count: int
    latency: float
    frames_per_second: float


class Second(Record, frozen=True, kw_only=True):
    """About one second of sustained load: when (s), calls, their median in ms, and the machine's state."""

    at: float
    calls: int
    p50: float
    megahertz: float | None = None
    celsius: float | None = None


class Sustained(Record, frozen=True, kw_only=True):
    """Calls without a pause. ``burst`` is the median of the first seconds, ``steady`` of the last quarter;
    ``drift`` is steady / burst - 1 with its interval, ``throttled`` what the board said of itself, in words."""

    seconds: tuple[Second, ...]
    burst: float
    steady: float
    drift: float
    low: float
    high: float
    throttled: str = ""


class OperatorTime(Record, frozen=True, kw_only=True):
    """One operator of the engine's own graph: its median time, where it ran and in which arithmetic.

    ``kind`` is the engine's word for the operation (``Conv``, ``ConvolutionDepthWise``), ``unit`` the compute unit,
    provider, delegate or kernel that ran it, ``source`` the layers that were fused into it, where the engine says.
    """

    name: str
    kind: str
    milliseconds: float
    unit: str = "cpu"
    arithmetic: str = ""
    source: str = ""


class Operators(Record, frozen=True, kw_only=True):
    """Where the time goes, by the engine's own profiler, in the order of execution.

    ``measured`` is the median of a whole inference while it was profiled, which costs something itself; ``by`` names
    the profiler. ``units`` counts operators per compute unit; ``partitions`` is how many pieces the graph was cut into
    (1: nothing left its unit); ``fallbacks`` are the operators that did not run on the unit that was asked for.
    ``unavailable`` says why there are no times, empty when there are some.
    """

    by: str
    times: tuple[OperatorTime, ...] = ()
    measured: float = 0.0
    units: dict[str, int] = msgspec.field(default_factory=dict)
    partitions: int = 1
    fallbacks: tuple[str, ...] = ()
    unavailable: str = ""


class Roofline(Record, frozen=True, kw_only=True):
    """The graph's arithmetic and bytes against what the machine reached in the same session (Williams et al. 2009).

    ``operations`` are 2 x multiply-accumulates of one inference, ``bytes`` its weights and activations, each once.
    ``peak_operations`` (per second, float32 matrix product) and ``peak_bytes`` (per second, copying) were measured on
    this machine with the same number of threads. ``limit`` is the shortest time that these allow in ms, ``share`` that
    limit over the measured inference, ``bound`` which of the two it is.
    """

    operations: float
    bytes: float
    peak_operations: float
    peak_bytes: float
    limit: float
    share: float
    bound: Literal["arithmetic", "memory"]


class Machine(Record, frozen=True, kw_only=True):
    """The facts of a machine that stay during a profile. ``key`` names it in tables: the device's name, or its own."""

    key: str
    model: str
    soc: str
    system: str
    python: str
    cores: int
    memory: int
    accelerator: str = ""
    virtual: bool = False


class MachineState(Record, frozen=True, kw_only=True):
    """The state of a machine at one moment. None is what the system does not report."""

    governor: str | None = None
    megahertz: float | None = None
    megahertz_limit: float | None = None
    celsius: float | None = None
    power_mode: str | None = None
    throttled: str | None = None
    load: float | None = None
    free_memory: int | None = None


class Conditions(Record, frozen=True, kw_only=True):
    """Under which a profile was made. ``packages`` are the engine and what else takes part, with their versions."""

    machine: Machine
    packages: dict[str, str]
    before: MachineState
    after: MachineState


class Subject(Record, frozen=True, kw_only=True):
    """The bundle that was measured. ``sha256`` is the manifest's digest, which covers every file.

    ``size`` is (height, width) of the input; ``proof`` the evidence's word and ``agreement`` the share of the source's
    results that it finds too, None where the bundle has no evidence.
    """

    name: str
    path: str
    sha256: str
    source: str
    target: str
    precision: str
    engine: str
    task: str
    size: tuple[int, int]
    bytes: int
    proof: ProofWord | None = None
    agreement: float | None = None


class Accuracy(Record, frozen=True, kw_only=True):
    """The accuracy of the bundle, by ``edgekit evaluate``: main metric (``mAP50-95``, ``top-1``), value 0..1, data."""

    metric: str
    value: float
    data: str


class Settings(Record, frozen=True, kw_only=True):
    """How a profile is made.

    ``rounds`` fresh processes of at least ``seconds`` of calls each. ``data`` are images to use (a folder, files), and
    empty for a generated photograph of 1280 x 720 pixels; decoding files is never part of a time. ``batch`` and
    ``streams`` are counts to measure beside single images; ``sustain`` seconds without a pause. ``delay`` is added to
    every inference in per cent: a known slow-down, which shows that a comparison finds one. ``tokens`` is how many
    tokens a vision-language model generates, ``prompt`` what it is asked. ``size`` is the input size (height, width) of
    a bundle that takes several, its first where none is given.
    """

    threads: int = 0
    device: str = ""
    strict: bool = False
    rounds: int = 5
    seconds: float = 1.0
    data: str = ""
    tracker: str = ""
    batch: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()
    sustain: float = 0.0
    operators: bool = True
    tokens: int = 32
    prompt: str = ""
    seed: int = 0
    delay: float = 0.0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("rounds", 1), ("seconds", 0.0), ("sustain", 0.0), ("tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least:g}, not {getattr(self, name)}")
        for name in ("batch", "streams"):
            if any(count < 1 for count in getattr(self, name)):
                raise ValueError(f"{name} must be 1 or more, not {list(getattr(self, name))}")


class Profile(Record, frozen=True, kw_only=True):
    """One bundle, measured on one machine.

    ``session`` is shared by the bundles that were measured in turns: their rounds pair. ``stages`` and ``total`` sum up
    all rounds after the warm-up. ``spread`` is the noise of the machine: the standard deviation of the rounds' medians
    over their mean. ``frames_per_second`` is one image after the other, ``tokens_per_second`` of a vision-language
    model after the first token, whose time is ``first_token``. ``memory`` and ``processor``
    are None where a page or an app measured, which tells neither. ``notes`` are sentences for who reads the figures.
    """

    schema: int = SCHEMA
    id: str
    session: str
    time: str
    edgekit: str
    subject: Subject
    settings: Settings
    conditions: Conditions
    loads: tuple[Load, ...]
    rounds: tuple[Round, ...]
    total: Distribution
    stages: dict[StageName, Distribution]
    spread: float
    frames_per_second: float
    memory: Memory | None = None
    processor: Processor | None = None
    throughput: tuple[Throughput, ...] = ()
    sustained: Sustained | None = None
    operators: Operators | None = None
    roofline: Roofline | None = None
    accuracy: Accuracy | None = None
    first_token: Distribution | None = None
    tokens_per_second: float | None = None
    notes: tuple[str, ...] = ()

    def load(self, *, cold: bool) -> Load | None:
        """The cold load, or the median one of the warm loads; None where there is none."""
        some = sorted((one for one in self.loads if one.cold == cold), key=lambda one: one.total)
        return some[(len(some) - 1) // 2] if some else None

    @property
    def peak_memory(self) -> int | None:
        """The highest resident set in bytes, None where it is not known."""
        return self.memory.peak if self.memory else None

    @property
    def first_call(self) -> float | None:
        """The first call after a load in ms, the median of all loads."""
        return statistics.median(one.first for one in self.loads) if self.loads else None


def encode(profile: Profile) -> bytes:
    """A record as one line of JSON, with its end."""
    return msgspec.json.encode(profile) + b"\n"
