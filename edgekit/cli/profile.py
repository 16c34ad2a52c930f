"""``edgekit profile``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._command import ON, Command
from edgekit.cli._options import imports_option, json_option
from edgekit.cli._profiles import bundle_folders, check_html, document, show, store_option, told, write
from edgekit.cli._quantities import INPUT_SIZE, SECONDS, SHARE, Counts
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.profiling.record import Profile, Settings
    from edgekit.profiling.records.comparison import ProfileComparison
    from edgekit.profiling.records.making import Made, ProfileRequest
    from edgekit.profiling.records.store import Store


ALIASES = ("benchmark",)


class _Measuring(click.Group):
    """``edgekit profile BUNDLE...`` measures; ``compare``, ``history`` and ``import`` are commands of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and args[0] in self.commands
        return super().parse_args(ctx, args if named or args[:1] in (["-h"], ["--help"]) else ["measure", *args])

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Measuring is what the command does by itself."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] BUNDLE...")
        formatter.write_usage(ctx.command_path, "compare [OPTIONS] CANDIDATE BASELINE")
        formatter.write_usage(ctx.command_path, "history [OPTIONS]")
        formatter.write_usage(ctx.command_path, "import [OPTIONS] RECORD...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of measuring."""
        self.commands["measure"].format_options(ctx, formatter)


@click.group(
    cls=_Measuring,
    short_help="Measure latency, memory and operators of bundles, here or on a device.",
    no_args_is_help=True,
)
def command() -> None:
    """Measure each BUNDLE (a folder, or a pattern such as out/*) in turns, each round in a fresh process.

    A store keeps the records; compare says whether one bundle is slower than another, history shows them, import adds
    those of a browser or phone. Exit code 1 if nothing could be measured. docs/PROFILING.md explains the figures.
    """


GROUPS = {
    "Where": ("on", "unit", "threads", "strict"),
    "Rounds": ("rounds", "seconds", "seed", "sustain", "batch", "streams", "operators"),
    "Input": ("data", "size", "tracker", "tokens", "prompt", "imports"),
    "Accuracy": ("labels", "images"),
    "Output": ("csv", "html", "keep", "store", "as_json"),
}


@command.command(cls=Command, groups=GROUPS, renamed=ON)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--on", default="", metavar="NAME", help="A host of edgekit device list. [default: this machine]")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds: fresh processes of each bundle."
)
@click.option("--seconds", type=SECONDS, default="1s", show_default=True, help="Minimum time of calls in each round.")
@click.option(
    "--threads", type=Counts(0), default="0", help="CPU threads, or several to try: 1,2,4. [default: the engine's]"
)
@click.option("--unit", default="", help="Unit of the engine: cpu, cuda, gpu, npu. [default: its first]")
@click.option("--strict", is_flag=True, help="Fail when an operator leaves that unit.")
@click.option("--data", default="", help="Images to show: folder, files or video. [default: a generated photograph]")
@click.option("--size", type=INPUT_SIZE, help="Input size, of bundles with several. [default: the first]")
@click.option("--track", "tracker", default="", metavar="NAME", help="Tracker behind the model: bytetrack, ...")
@click.option("--batch", type=Counts(), default="", help="Also measure several images per call: 4,8.")
@click.option(
    "--streams", type=Counts(), default="", help="Also measure several streams at a time, with a session each: 2,4."
)
@click.option("--sustain", type=SECONDS, default="0s", help="Also measure this long without a pause: 60s.")
@click.option("--operators/--no-operators", default=True, help="Time the operators. [default: yes]")
@click.option("--tokens", type=click.IntRange(2), default=32, show_default=True, help="BLIP-2: tokens to generate.")
@click.option("--prompt", default="", help="BLIP-2: prompt. [default: its usual one]")
@click.option("--labels", default="", help="Annotations (as for evaluate --labels), to measure the accuracy too.")
@click.option("--images", default="", help="Folder of the labelled images. [default: beside the labels]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the order in a round, and of the photograph."
)
@click.option("--delay", type=float, default=0.0, hidden=True, help="Slow every inference down, in per cent.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write the table as CSV.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write an HTML page with distributions, stages and operators."
)
@click.option("--keep/--no-keep", default=True, help="Add the records to the store. [default: yes]")
@imports_option
@store_option
@json_option
def measure(
    bundles: tuple[str, ...],
    on: str,
    threads: tuple[int, ...],
    labels: str,
    images: str,
    csv: Path | None,
    html: Path | None,
    keep: bool,
    imports: tuple[str, ...],
    store: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure bundles, as edgekit profile BUNDLE... does."""
    from edgekit.profiling.records.making import ProfileRequest
    from edgekit.profiling.records.store import Store, default_store

    check_html(html)
    records = Store(store or default_store())
    counts = threads or (0,)
    each = [(path, _settings(threads=count, **settings)) for path in bundle_folders(bundles) for count in counts]
    request = ProfileRequest(
        bundles=tuple(path for path, _ in each),
        settings=_settings(threads=counts[0], **settings),
        each=tuple(one for _, one in each) if len(counts) > 1 else (),
        on=on,
        labels=labels,
        images=images,
        imports=imports,
    )
    made = _made(request, records)
    if keep:
        records.add(made.profiles)
    write(made.profiles, csv, html)
    if as_json:
        say(document(made.profiles, made))
    else:
        show(made)
        if keep and made.profiles:
            say(f"kept in {records.path}")
    click.get_current_context().exit(0 if made.profiles else 1)


@command.command(cls=Command, renamed=ON)
@click.argument("candidate")
@click.argument("baseline")
@click.option(
    "--fail-if-slower",
    type=SHARE,
    metavar="SHARE",
    help="Exit code 1 if it is slower by more than this, for example 10%.",
)
@click.option("--on", default="", metavar="NAME", help="Bundles: a host to compare them on. [default: here]")
@click.option(
    "--rounds", type=click.IntRange(2), default=8, show_default=True, help="Bundles: rounds of each, in turns."
)
@click.option(
    "--seconds", type=SECONDS, default="0.5s", show_default=True, help="Bundles: time of calls in each round."
)
@click.option("--threads", type=click.IntRange(0), default=0, help="Bundles: CPU threads, 0 for the engine's choice.")
@click.option("--data", default="", help="Bundles: images to show. [default: a generated photograph]")
@imports_option
@store_option
@json_option
def compare(
    candidate: str,
    baseline: str,
    fail_if_slower: float | None,
    on: str,
    rounds: int,
    seconds: float,
    threads: int,
    data: str,
    imports: tuple[str, ...],
    store: Path | None,
    as_json: bool,
) -> None:
    """Say whether CANDIDATE is slower or faster than BASELINE, only where a 99 % interval holds.

    Each is a bundle, which is measured now (two bundles in turns), or a record: its id, a file of edgekit profile
    --json, or the name of a bundle in the store, whose last record is taken.
    """
    from edgekit.profiling.record import Settings
    from edgekit.profiling.records.comparison import compare as compared
    from edgekit.profiling.records.store import Store, default_store

    records = Store(store or default_store())
    history = records.read()
    settings = Settings(rounds=rounds, seconds=seconds, threads=threads, data=data, operators=False)
    ours, theirs = _pair((candidate, baseline), settings, on, imports, records, history)
    found = compared(ours, theirs, history)
    failed = fail_if_slower is not None and found.slower_than(fail_if_slower)
    if as_json:
        say(_verdict(found, failed))
    else:
        say("\n".join([found.sentence, *(f"not alike: {remark}" for remark in found.remarks)]))
        if fail_if_slower is not None and not failed and found.interval.high > 1 + fail_if_slower:
            say(f"a slow-down of {100 * fail_if_slower:g} % cannot be ruled out: profile with more --rounds")
    click.get_current_context().exit(1 if failed else 0)


@command.command(cls=Command, renamed=ON)
@click.option("--csv", type=click.Path(path_type=Path), help="Write the table as CSV.")
@click.option("--html", type=click.Path(path_type=Path), help="Write an HTML page of these records.")
@click.option("--on", default="", metavar="NAME", help="Only records of this machine.")
@click.option("--name", default="", help="Only records of bundles with this name.")
@click.option("--last", is_flag=True, help="Only the last record of each bundle, machine and setting.")
@store_option
@json_option
def history(
    csv: Path | None, html: Path | None, on: str, name: str, last: bool, store: Path | None, as_json: bool
) -> None:
    """Show the records of the store."""
    from edgekit.profiling.records.choosing import latest
    from edgekit.profiling.records.store import Store, default_store

    found = [
        one
        for one in Store(store or default_store()).read()
        if on in ("", one.conditions.machine.key) and name in ("", one.subject.name)
    ]
    found = latest(found) if last else found
    write(found, csv, html)
    if as_json:
        say(document(found))
        return
    from edgekit.cli._reports import escape, table

    rows = [
        [
            one.id[:8],
            one.time[:16],
            escape(one.subject.name),
            escape(one.conditions.machine.key),
            f"{one.total.p50:.2f}",
        ]
        for one in found
    ]
    table(("id", "time", "bundle", "machine", "p50 ms"), rows, right=("p50 ms",))


@command.command("import", cls=Command, renamed=ON)
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORD...")
@click.option(
    "--on", default="", metavar="NAME", help="Name of the device in tables. [default: browser or phone, and system]"
)
@store_option
@json_option
def import_records(records: tuple[Path, ...], on: str, store: Path | None, as_json: bool) -> None:
    """Add records that the benchmark button of an edgekit app saved to the store, as profiles like any other."""
    from edgekit.errors import UsageError
    from edgekit.profiling.records.importing import read_benchmark
    from edgekit.profiling.records.making import Made
    from edgekit.profiling.records.store import Store, default_store

    kept = Store(store or default_store())
    profiles = [read_benchmark(path, on=on) for path in records]
    known = {one.id for one in kept.read()}
    for path, one in zip(records, profiles, strict=True):
        if one.id in known:
            raise UsageError(f"{path}: is in {kept.path} already")
        known.add(one.id)
    kept.add(profiles)
    if as_json:
        say(document(profiles))
    else:
        show(Made(tuple(profiles), ()))
        say(f"kept in {kept.path}")


def _settings(*, unit: str, **given: Any) -> Settings:
    """Settings of a profile, in which the unit is called device."""
    import msgspec

    from edgekit.errors import UsageError
    from edgekit.profiling.record import Settings
    from edgekit.structures import from_builtins

    try:
        return from_builtins({**given, "device": unit}, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def _made(request: ProfileRequest, store: Store) -> Made:
    from edgekit.profiling.records.making import make

    with told() as report:
        return make(request, report, store.read() if request.labels else ())


def _pair(
    named: Sequence[str], settings: Settings, on: str, imports: tuple[str, ...], store: Store, history: list[Profile]
) -> list[Profile]:
    """The two records, measured now where bundles are given."""
    from edgekit.errors import EngineError
    from edgekit.profiling.records.making import ProfileRequest
    from edgekit.runtimes.bundle.manifest import MANIFEST

    bundles = [Path(text) for text in named if (Path(text) / MANIFEST).is_file()]
    found: list[Profile] = []
    if bundles:
        made = _made(ProfileRequest(bundles=tuple(bundles), settings=settings, on=on, imports=imports), store)
        if made.skipped:
            raise EngineError(f"{made.skipped[0].bundle}: {made.skipped[0].reason}")
        found = list(made.profiles)
        store.add(found)
    taken = iter(found)
    return [next(taken) if (Path(text) / MANIFEST).is_file() else _record(text, history) for text in named]


def _record(text: str, history: Sequence[Profile]) -> Profile:
    from edgekit.errors import UsageError
    from edgekit.profiling.records.store import read_records

    if Path(text).is_file():
        return read_records(Path(text))[-1]
    matching = [one for one in history if one.id.startswith(text) or one.subject.name == text]
    if not matching:
        raise UsageError(
            f"{text}: neither a bundle, nor a file of records, nor the id or name of one in the store "
            f"({len(history)} records); see edgekit profile history"
        )
    return matching[-1]


def _verdict(found: ProfileComparison, failed: bool) -> str:
    import dataclasses
    import json

    return json.dumps(
        {
            "candidate": found.candidate.id,
            "baseline": found.baseline.id,
            "verdict": found.verdict,
            **dataclasses.asdict(found.interval),
            "paired": found.paired,
            "remarks": found.remarks,
            "failed": failed,
        },
        indent=2,
    )
