"""HOST: benchmarks of browsers and phones, as the apps of ``edgekit app`` write them, become profiles.

The record has every sample; what is warm-up and what it all sums up to is found here, as for any other profile. It says
itself what it was measured on and is signed by nobody: it is worth what the way it came by is worth.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgekit.errors import InputError
from edgekit.profiling.jobs import RoundResult
from edgekit.profiling.record import (
    Conditions,
    Load,
    Machine,
    MachineState,
    Profile,
    Round,
    Settings,
    StageName,
    Subject,
)
from edgekit.profiling.statistics import warm_up
from edgekit.profiling.summary import MeasuredBundle, profile_of
from edgekit.runtimes.bundle.manifest import ProofWord, Record
from edgekit.runtimes.inputs.files import read_file
from edgekit.structures import from_json

SCHEMA = 1

MOST_BYTES = 16 << 20
"""The most bytes of a record: one of a thousand calls has 100 kB."""

Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e7)]
Samples = Annotated[tuple[Milliseconds, ...], msgspec.Meta(min_length=2, max_length=100_000)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class MeasuredRound(Record, frozen=True, kw_only=True):
    """The bundle opened anew, its first call, and calls in order, all in ms."""

    open: Milliseconds
    first: Milliseconds
    total: Samples
    pre: Samples
    inference: Samples
    post: Samples

    def __post_init__(self) -> None:
        if len({len(self.total), len(self.pre), len(self.inference), len(self.post)}) != 1:
            raise ValueError("total, pre, inference and post must have a value for each call")
        if not all(self.total):
            raise ValueError("a call of 0 ms: the device's clock is too coarse")


class BundleFacts(Record, frozen=True, kw_only=True):
    """The app's description of its bundle, from the manifest."""

    name: Text
    digest: Text
    target: Text
    precision: Text
    engine: Text
    task: Text
    size: tuple[Count, Count]
    bytes: Count
    proof: ProofWord | None = None
    agreement: Share | None = None


class Benchmark(Record, frozen=True, kw_only=True):
    """The fields of all records. ``device`` is what the engine ran on (``wasm``, ``gpu``), ``frame`` its pixels."""

    schema: int
    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    time: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    edgekit: Text
    engine: Text
    device: Text
    cores: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    frame: tuple[Count, Count]
    bundle: BundleFacts
    rounds: Annotated[tuple[MeasuredRound, ...], msgspec.Meta(min_length=1, max_length=1000)]


class BrowserBenchmark(Benchmark, frozen=True, kw_only=True, tag_field="kind", tag="edgekit browser benchmark"):
    """The record of a page. ``browser`` is its user agent."""

    browser: Text

    def machine(self, on: str) -> Machine:
        """The browser, as the machine that it is to the bundle."""
        name = browser_name(self.browser)
        return Machine(key=on or name, model=name, soc="", system=self.browser, python="", cores=self.cores, memory=0)

    def states(self) -> tuple[MachineState, MachineState]:
        """Before and after: a browser tells nothing."""
        return MachineState(), MachineState()


class AppBenchmark(Benchmark, frozen=True, kw_only=True, tag_field="kind", tag="edgekit app benchmark"):
    """The record of an app on a phone. ``model`` is what its maker calls it, ``thermal`` its state before and after."""

    platform: Literal["swift", "kotlin"]
    model: Text
    system: Text
    memory: Count
    thermal: tuple[Text, Text]

    def machine(self, on: str) -> Machine:
        """The phone."""
        name = f"{self.model}, {self.system}"
        return Machine(
            key=on or name,
            model=self.model,
            soc="",
            system=self.system,
            python="",
            cores=self.cores,
            memory=self.memory,
        )

    def states(self) -> tuple[MachineState, MachineState]:
        """Before and after, with the thermal state where it is not that of a cool phone."""
        before, after = (
            MachineState(throttled=None if word in COOL else f"thermal state {word}") for word in self.thermal
        )
        return before, after


COOL = {"nominal", "none", "unknown"}
"""What iOS and Android call the thermal state of a phone that is not warm, and what one says that does not know."""


def read_benchmark(path: str | os.PathLike[str], *, on: str = "") -> Profile:
    """The profile that the benchmark of a browser or a phone comes to.

    Args:
        path: what the app's benchmark button saved.
        on: what tables call the device; browser or phone, and system, when empty.

    Raises:
        InputError: the file cannot be read, or is no such record.
    """
    data = read_file(Path(path), MOST_BYTES)
    try:
        found: BrowserBenchmark | AppBenchmark = from_json(data, BrowserBenchmark | AppBenchmark)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)}: not a record of the benchmark button of edgekit app ({error})") from error
    if found.schema != SCHEMA:
        raise InputError(
            f"{os.fspath(path)}: a record of schema {found.schema}, and this edgekit reads {SCHEMA}; upgrade it"
        )
    profile = profile_of(
        MeasuredBundle(
            session=found.id,
            time=found.time,
            subject=_subject(found.bundle),
            settings=Settings(device=found.device, rounds=len(found.rounds), data="x".join(map(str, found.frame))),
            conditions=_conditions(found, on),
            rounds=[_round(one) for one in found.rounds],
        )
    )
    return msgspec.structs.replace(profile, id=found.id, edgekit=found.edgekit)


def _subject(bundle: BundleFacts) -> Subject:
    return Subject(
        name=f"{bundle.name}-{bundle.target}-{bundle.precision}",
        path="",
        sha256=bundle.digest,
        source=bundle.name,
        target=bundle.target,
        precision=bundle.precision,
        engine=bundle.engine,
        task=bundle.task,
        size=bundle.size,
        bytes=bundle.bytes,
        proof=bundle.proof,
        agreement=bundle.agreement,
    )


def _round(one: MeasuredRound) -> RoundResult:
    count, settled = warm_up(one.total)
    stages: dict[StageName, tuple[float, ...]] = {"pre": one.pre, "inference": one.inference, "post": one.post}
    return RoundResult(
        round=Round(total=one.total, stages=stages, warm_up=count, settled=settled),
        load=Load(cold=False, imports=0.0, open=one.open, first=one.first),
    )


def _conditions(found: BrowserBenchmark | AppBenchmark, on: str) -> Conditions:
    engine, _, version = found.engine.partition(" ")
    before, after = found.states()
    return Conditions(machine=found.machine(on), packages={engine: version}, before=before, after=after)


# fmt: off
_BROWSERS = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Version", "Safari"))
_SYSTEMS = (
    ("Android", "Android"), ("iPhone", "iOS"), ("iPad", "iPadOS"), ("Windows", "Windows"), ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"), ("Linux", "Linux"),
)
# fmt: on
"""Marks of user agents and what they mean; browsers name those that they take after, too: the first one counts."""


def browser_name(agent: str) -> str:
    """A user agent in short: ``Chrome 156, Linux``; the agent's beginning where it is of no known browser."""
    for mark, name in _BROWSERS:
        if version := re.search(rf"{mark}/(\d+)", agent):
            system = next((told for word, told in _SYSTEMS if word in agent), "")
            return ", ".join(part for part in (f"{name} {version[1]}", system) if part)
    return agent[:40]
