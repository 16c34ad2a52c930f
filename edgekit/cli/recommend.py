"""``edgekit recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._command import ON, Command
from edgekit.cli._options import imports_option, json_option, split_names
from edgekit.cli._profiles import bundle_folders, store_option, told
from edgekit.cli._quantities import BYTES, INPUT_SIZE, MILLISECONDS, SECONDS, SHARE, Counts
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.profiling.records.choosing import Choice, Preference, Recommendation


GROUPS = {
    "Where": ("on", "threads", "imports"),
    "Bounds": ("latency", "accuracy", "agreement", "size", "memory", "prefer"),
    "Accuracy": ("labels", "images"),
    "Search": ("budget", "source", "targets", "precisions", "sizes", "data", "out"),
    "Output": ("store", "as_json"),
}


@click.command(
    cls=Command, groups=GROUPS, renamed=ON, short_help="Choose target, precision, threads and input size for a device."
)
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option("--on", default="", metavar="NAME", help="A host of edgekit device list. [default: this machine]")
@click.option("--max-latency", "latency", type=MILLISECONDS, help="Maximum latency (p95), end to end: 50ms.")
@click.option("--min-map", "--min-accuracy", "accuracy", type=SHARE, help="Minimum accuracy on --labels: 0.88 or 88%.")
@click.option("--min-agreement", "agreement", type=SHARE, help="Minimum share of the source's results: 99%.")
@click.option("--max-size", "size", type=BYTES, help="Maximum size of the bundle: 4MB.")
@click.option("--max-memory", "memory", type=BYTES, help="Maximum memory, peak of the process: 200MB.")
@click.option(
    "--prefer",
    type=click.Choice(["latency", "accuracy", "size", "memory"]),
    help="What to choose by within the bounds. [default: latency if accuracy has a bound, else accuracy]",
)
@click.option(
    "--threads", type=Counts(0), default="0", help="CPU threads to try: 1,2,4. [default: the engine's choice]"
)
@click.option("--labels", default="", help="Annotations (as for evaluate --labels), for --min-map.")
@click.option("--images", default="", help="Folder of the labelled images. [default: beside the labels]")
@click.option("--budget", type=SECONDS, default="0s", help="Search within this time: 10min. [default: none]")
@click.option("--source", default="", help="Search: a source to convert.")
@click.option("--target", "targets", default="onnx", show_default=True, help="Search: targets of --source.")
@click.option("--precision", "precisions", default="fp32", show_default=True, help="Search: precisions of --source.")
@click.option(
    "--size", "sizes", multiple=True, type=INPUT_SIZE, help="Search: an input size of --source. May be repeated."
)
@click.option("--data", default="", help="Search: images for conversions, as for convert --data.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Search: output folder.",
)
@imports_option
@store_option
@json_option
def command(
    bundles: tuple[str, ...],
    on: str,
    latency: float | None,
    accuracy: float | None,
    agreement: float | None,
    size: float | None,
    memory: float | None,
    prefer: Preference | None,
    threads: tuple[int, ...],
    labels: str,
    images: str,
    budget: float,
    source: str,
    targets: str,
    precisions: str,
    sizes: tuple[tuple[int, int], ...],
    data: str,
    out: Path,
    imports: tuple[str, ...],
    store: Path | None,
    as_json: bool,
) -> None:
    """Say which BUNDLE to ship, and why.

    It chooses from the records of the store, and first measures each BUNDLE without a record on the device. --budget
    also tries numbers of threads, and conversions of --source. Exit code 1 if nothing is within the bounds.
    """
    from edgekit.profiling.records.choosing import Bounds
    from edgekit.profiling.records.recommending import ConversionChoices, RecommendRequest, recommend
    from edgekit.profiling.records.store import Store, default_store

    bounds = Bounds(latency=latency, accuracy=accuracy, agreement=agreement, size=size, memory=memory)
    conversions = ConversionChoices(
        source=source,
        targets=split_names(targets),
        precisions=split_names(precisions),
        sizes=sizes or (None,),
        data=data,
        out=out,
    )
    question = RecommendRequest(
        bounds=bounds,
        prefer=prefer or ("accuracy" if accuracy is None and agreement is None else "latency"),
        bundles=bundle_folders(bundles),
        on=on,
        threads=threads or (0,),
        labels=labels,
        images=images,
        budget=budget,
        conversions=conversions if source else None,
        imports=imports,
    )
    with told() as report:
        found = recommend(question, Store(store or default_store()), report)
    say(_document(found)) if as_json else _print(found)
    click.get_current_context().exit(0 if found.best else 1)


def _print(found: Recommendation) -> None:
    from edgekit.cli._reports import escape, table

    if found.best is not None:
        say(f"{_named(found.fitting[0])}\n{found.best.subject.path}")
        runner_up = found.fitting[1:2]
        if runner_up:
            say(_against(found, runner_up[0]))
    else:
        say("nothing is within these bounds; the nearest is first")
    rows = [
        [escape(_named(one)), *_figures(one), "; ".join(one.violations) or "fits"]
        for one in (*found.fitting, *found.others)
    ]
    columns = ("bundle", "p50 ms", "p95 ms", "MB", "peak MB", "worth", "bounds")
    table(columns, rows, right=columns[1:-1])


def _named(choice: Choice) -> str:
    one = choice.profile
    size = "x".join(str(side) for side in one.subject.size)
    threads = "1 thread" if one.settings.threads == 1 else f"{one.settings.threads or 'all'} threads"
    return f"{one.subject.target} {one.subject.precision}, {size}, {threads}"


def _figures(choice: Choice) -> list[str]:
    one = choice.profile
    worth = f"{one.accuracy.metric} {one.accuracy.value:.4f}" if one.accuracy else ""
    if not worth and one.subject.agreement is not None:
        worth = f"finds {100 * one.subject.agreement:.1f} %"
    peaks = (one.subject.bytes, one.peak_memory)
    return [
        f"{one.total.p50:.2f}",
        f"{one.total.p95:.2f}",
        *("-" if value is None else f"{value / 1e6:.1f}" for value in peaks),
        worth,
    ]


def _against(found: Recommendation, other: Choice) -> str:
    """How sure it is that the best is faster than the next one."""
    from edgekit.errors import InputError
    from edgekit.profiling.records.comparison import compare

    if found.best is None:
        return ""
    try:
        return compare(found.best, other.profile).between(_named(found.fitting[0]), _named(other))
    except InputError:  # a record of a single round
        return ""


def _document(found: Recommendation) -> str:
    import json

    import msgspec

    def told_of(choice: Choice) -> dict[str, Any]:
        return {"profile": msgspec.to_builtins(choice.profile), "violations": choice.violations}

    return json.dumps(
        {
            "best": found.best.id if found.best else None,
            "prefer": found.prefer,
            "choices": [told_of(choice) for choice in (*found.fitting, *found.others)],
        },
        indent=2,
    )
