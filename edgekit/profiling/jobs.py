"""DEVICE: what a session asks of one of its processes, and what that answers (`edgekit.profiling.measuring`)."""

from __future__ import annotations

from edgekit.profiling.record import Load, Memory, Processor, Round, Second, Settings, Throughput
from edgekit.runtimes.bundle.manifest import Record


class RoundJob(Record, frozen=True, kw_only=True):
    """Open a bundle in a fresh process and measure calls; ``cold`` drops its files from the page cache first."""

    bundle: str
    engine: str
    settings: Settings
    device: str
    cold: bool


class ThroughputJob(Record, frozen=True, kw_only=True):
    """Measure batches and streams."""

    bundle: str
    settings: Settings
    device: str


class SustainJob(Record, frozen=True, kw_only=True):
    """Call without a pause for ``settings.sustain`` seconds."""

    bundle: str
    settings: Settings
    device: str


class OperatorsJob(Record, frozen=True, kw_only=True):
    """Profile the operators."""

    bundle: str
    settings: Settings
    device: str


Job = RoundJob | ThroughputJob | SustainJob | OperatorsJob


class RoundResult(Record, frozen=True, kw_only=True):
    """The results of a round."""

    round: Round
    load: Load
    memory: Memory | None = None
    processor: Processor | None = None


class Throughputs(Record, frozen=True, kw_only=True):
    """The results of batches and streams."""

    found: tuple[Throughput, ...]


class Lasting(Record, frozen=True, kw_only=True):
    """The results of sustained load: the seconds, and every call's time in ms."""

    seconds: tuple[Second, ...]
    times: tuple[float, ...]
    throttled: str
