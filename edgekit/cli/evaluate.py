"""``edgekit evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._command import UNIT, Command, tell
from edgekit.cli._options import TrackerName, engine_options, imports_option, json_option, read_values, track_option
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.evaluation.comparison import Candidate, Evaluation, MeasuredModel, ModelComparison, Watch
    from edgekit.runtimes.bundle.folder import Bundle


ALIASES = ("val",)

GROUPS = {
    "Images": ("labels", "data", "limit"),
    "Tracks": ("tracker", "track_options", "fps", "classes"),
    "Sources": ("contract", "weights", "trust", "imports"),
    "Engine": ("threads", "unit", "strict"),
    "Output": ("html", "as_json"),
}


@dataclass(frozen=True)
class _Opening:
    """How each model is opened: a bundle by its engine, a source by what is stated of it."""

    threads: int
    unit: str
    strict: bool
    contract: str
    weights: str
    trust: bool


@click.command(
    cls=Command,
    groups=GROUPS,
    renamed={**UNIT, "--images": "--data"},
    short_help="Measure the accuracy of bundles, and of their source, on labelled images.",
)
@click.argument("models", nargs=-1, required=True, metavar="BUNDLE...")
@click.option(
    "--labels",
    default="",
    help="COCO, YOLO, Pascal VOC; folder or csv of classes or label maps; with --track a MOT file (docs/TASKS.md).",
)
@click.option("--data", multiple=True, help="Folder of the images, or the video. [default: beside the labels]")
@click.option(
    "--track", "tracker", default="", type=TrackerName(), help="Measure the tracks of this tracker: HOTA, IDF1, MOTA."
)
@track_option
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    default=25.0,
    show_default=True,
    help="Frame rate of --track images.",
)
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Class of the tracks. [default: all]")
@click.option("--limit", type=click.IntRange(0), default=0, help="BLIP-2: number of images, from the first; 0 is all.")
@click.option("--html", type=click.Path(path_type=Path), help="Write an HTML page: accuracy against latency and size.")
@click.option("--contract", default="", help="Contract file, when BUNDLE is a source.")
@click.option("--weights", default="", help="Weights, when BUNDLE is a source that is built by name.")
@click.option("--trust", is_flag=True, help="Allow unpickling a source.")
@engine_options
@imports_option
@json_option
def command(
    models: tuple[str, ...],
    labels: str,
    data: tuple[str, ...],
    tracker: str,
    track_options: tuple[str, ...],
    fps: float,
    classes: tuple[str, ...],
    limit: int,
    html: Path | None,
    contract: str,
    weights: str,
    trust: bool,
    threads: int,
    unit: str,
    strict: bool,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run each BUNDLE (or source, in PyTorch) on labelled images and print its accuracy.

    The task decides the measures: mAP of boxes, and of masks or keypoints; top-1 and top-5 of classes; mIoU of label
    maps; for BLIP-2 VQA accuracy, captions and recall, by the captions and questions in --labels. For several models,
    the table has the differences to the first source among them, or else to the first model.
    """
    import json

    from edgekit.cli._profiles import check_html
    from edgekit.cli._progress import progress_bars

    check_html(html)
    options = _tracker_options(models[0], tracker, track_options)
    labels, images = _labels_and_images(labels, data)
    opening = _Opening(threads, unit, strict, contract, weights, trust)
    candidates = [_candidate(spec, name, opening) for spec, name in zip(models, _names(models), strict=True)]
    with progress_bars() as watch:

        def told(name: str, done: int, total: int) -> None:
            watch(name, f"{done}/{total or '?'} images", done / max(total, done, 1))

        if candidates[0].task.startswith("vision-language"):
            _refuse_tracks(tracker, classes)
            comparison = _texts(candidates, labels, images, limit, told)
        else:
            comparison = _figures(
                candidates, _evaluation(labels, images, (tracker, options), fps, classes), limit, tracker, told
            )
    if html is not None:
        from edgekit.report.evaluation import write_evaluation

        write_evaluation(comparison, labels, html)
    if as_json:
        say(json.dumps(_document(models, comparison), indent=2))
    elif len(models) == 1:
        _print_one(comparison)
    else:
        _print_several(comparison)


def _labels_and_images(labels: str, data: tuple[str, ...]) -> tuple[str, str | None]:
    """The annotations, and where the images are; ``--data`` meant the annotations before there was ``--labels``."""
    from edgekit.errors import UsageError

    if not labels and data:
        tell("--data ANNOTATIONS is called --labels ANNOTATIONS now; --data is the folder of the images")
        labels, data = data[0], data[1:]
    if not labels:
        raise UsageError(
            "evaluate needs --labels: COCO json, a YOLO data.yaml, a Pascal VOC folder, a folder or csv of classes, or "
            "a MOT file with --track"
        )
    if len(data) > 1:
        raise UsageError(f"--data {data[1]}: the images are in one place; give --data once")
    return labels, data[0] if data else None


def _refuse_tracks(tracker: str, classes: tuple[str, ...]) -> None:
    from edgekit.errors import UsageError

    for name, said in (("--track", tracker), ("--class", classes)):
        if said:
            raise UsageError(f"{name} does not apply to a vision-language model; leave it out")


def _texts(
    candidates: Sequence[Candidate], labels: str, images: str | None, limit: int, watch: Watch
) -> ModelComparison:
    """Measure vision-language models."""
    from edgekit.evaluation.described import read_described
    from edgekit.evaluation.vision_language import compare_texts

    described = read_described(labels, images, limit)
    return compare_texts(candidates, described, candidates[0].task.split()[-1], watch)


def _figures(
    candidates: Sequence[Candidate], evaluation: Evaluation, limit: int, tracker: str, watch: Watch
) -> ModelComparison:
    """Measure models of images."""
    from edgekit.errors import UsageError
    from edgekit.evaluation.coco import SCORE_THRESHOLD
    from edgekit.evaluation.comparison import compare

    if limit:
        task = candidates[0].task
        raise UsageError(f"--limit is for vision-language models; this is a {task} model, give smaller --labels")
    return compare(candidates, evaluation, watch, None if tracker else SCORE_THRESHOLD)


def _evaluation(
    labels: str,
    images: str | None,
    tracking: tuple[str, dict[str, Any]],
    fps: float,
    classes: tuple[str, ...],
) -> Evaluation:
    """The measurement of each model: labelled images, or a video with a tracker and its options."""
    tracker, options = tracking
    if not tracker:
        from edgekit.evaluation.labelled import evaluate

        return lambda model, progress: evaluate(model, labels, images, progress)
    from edgekit.errors import UsageError
    from edgekit.evaluation.tracks import evaluate_tracks
    from edgekit.runtimes.tracking import open_tracker

    if images is None:
        raise UsageError("--track needs the video, or the folder of its frames: give it with --data")
    return lambda model, progress: (
        evaluate_tracks(
            model, open_tracker(tracker, **options), labels, images, progress=progress, fps=fps, classes=classes
        ),
    )


def _tracker_options(spec: str, tracker: str, given: tuple[str, ...]) -> dict[str, Any]:
    """The options of the tracker, the same for all models: those of the first bundle, and the given ones."""
    from edgekit.errors import UsageError
    from edgekit.runtimes.bundle.folder import open_bundle
    from edgekit.runtimes.bundle.manifest import MANIFEST
    from edgekit.runtimes.tracking import trackers
    from edgekit.runtimes.tracking.fitting import known_to

    options: dict[str, Any] = read_values(given, "--track-option")
    if options and not tracker:
        raise UsageError("--track-option goes with --track NAME")
    if tracker not in trackers() or not (Path(spec) / MANIFEST).is_file():
        return options
    return {**known_to(trackers()[tracker].Options, open_bundle(spec).manifest.contract.trackers), **options}


def _names(specs: Sequence[str]) -> list[str]:
    """The names of models in tables: the last part of a path, or all of it if two would have the same name."""
    short = [Path(spec).name or spec for spec in specs]
    return [name if short.count(name) == 1 else spec for spec, name in zip(specs, short, strict=True)]


def _candidate(spec: str, name: str, opening: _Opening) -> Candidate:
    """A bundle, or a source run by PyTorch; both are read and checked here, before anything is measured."""
    from edgekit.runtimes.bundle.manifest import MANIFEST
    from edgekit.sources import SourceRequest, find
    from edgekit.sources.transformers import CONFIG

    path = Path(spec)
    bundled = path.name == MANIFEST or (path / MANIFEST).exists()
    if bundled or (path.is_dir() and not (path / CONFIG).is_file()):
        return _bundle(path, name, opening)
    return (_source_of_texts if find(SourceRequest(spec)).written else _source)(spec, name, opening)


def _bundle(path: Path, name: str, opening: _Opening) -> Candidate:
    from edgekit.emulators import proof_device
    from edgekit.evaluation.comparison import Candidate
    from edgekit.runtimes.bundle.folder import open_bundle

    bundle = open_bundle(path)
    manifest = bundle.manifest
    task, language = manifest.contract.task, manifest.contract.language
    if language is not None:
        task = _task_of_texts(language.family)
    unit = opening.unit or proof_device(manifest.engine, manifest.graphs[0])
    proof = manifest.evidence.word if manifest.evidence else ""
    return Candidate(name, task, bundle.bytes, lambda: _opened(bundle, unit, opening), proof=proof)


def _opened(bundle: Bundle, unit: str, opening: _Opening) -> Any:
    from edgekit.runtimes.load import load

    return load(bundle, threads=opening.threads, unit=unit, strict=opening.strict)


def _source(spec: str, name: str, opening: _Opening) -> Candidate:
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source
    from edgekit.evaluation.comparison import Candidate
    from edgekit.runtimes.model import Model
    from edgekit.sources.session import TorchSession

    job = PrepareJob(folder="", source=spec, contract=opening.contract, weights=opening.weights, trust=opening.trust)
    read = read_source(job)
    size = sum(value.numel() * value.element_size() for value in read.heads.parameters())
    task = read.contract.task
    return Candidate(name, task, size, lambda: Model(read.contract, TorchSession(read.heads)), source=True)


def _source_of_texts(spec: str, name: str, opening: _Opening) -> Candidate:
    from edgekit.evaluation.comparison import Candidate
    from edgekit.graph.blip2.blip2 import Blip2
    from edgekit.sources import locate
    from edgekit.sources.blip2.reference import open_source, parameter_bytes

    folder = Path(locate(spec).spec)
    source = Blip2(folder)
    task = _task_of_texts(source.family)
    return Candidate(name, task, parameter_bytes(source), lambda: open_source(folder, opening.threads), source=True)


def _task_of_texts(family: str) -> str:
    """The task with the kind of model: what can generate is not compared with what can retrieve."""
    return f"vision-language {'retrieval' if family == 'retrieval' else 'generation'}"


def _data(spec: str, one: MeasuredModel) -> dict[str, Any]:
    """The main metrics of a model, ``others`` that it was measured by, and what it costs."""
    import msgspec

    main, *others = (msgspec.to_builtins(metrics) for metrics in one.report)
    cost = {"latency_ms": one.inference, "total_ms": one.total, "bytes": one.candidate.bytes}
    return {"bundle": spec, **main, "main": one.main, "others": others, **cost}


def _document(specs: Sequence[str], comparison: ModelComparison) -> dict[str, Any]:
    """One model as it is; several with what they lose against the reference."""
    rows = [_data(spec, one) for spec, one in zip(specs, comparison.measured, strict=True)]
    if len(rows) == 1:
        return rows[0]
    for row, one in zip(rows, comparison.measured, strict=True):
        row["difference"] = comparison.difference(one)
    place = next(i for i, one in enumerate(comparison.measured) if one is comparison.reference)
    return {"reference": specs[place], "models": rows}


def _print_one(comparison: ModelComparison) -> None:
    from edgekit.cli._reports import escape, megabytes, table

    one = comparison.reference
    for metrics in one.report:
        told = "  ".join(f"{name} {value:.4f}" for name, value in metrics.figures.items())
        say(f"{told}  on {metrics.images} images")
    words, size = comparison.latencies, megabytes(one.candidate.bytes)
    say(f"{one.inference:.2f} ms {words.inference}, {one.total:.2f} ms {words.total}, {size}")
    first, main = one.report[0], next(iter(one.figures)).replace("mAP", "AP")
    what = "question" if first.kind == "answers" else "class"
    if first.per_class:
        rows = [[escape(name), f"{value:.3f}"] for name, value in first.per_class.items()]
        table((what, main), rows, right=(main,))


def _print_several(comparison: ModelComparison) -> None:
    from edgekit.cli._reports import escape, megabytes, table

    reference = comparison.reference
    main, *others = reference.figures
    columns = ("model", main, "difference", *others, "ms", "size")
    rows = []
    for one in comparison.measured:
        change = comparison.difference(one)
        figures = [f"{one.figures[name]:.4f}" for name in (main, *others)]
        shown = "" if change is None else f"{change:+.4f}"
        size = megabytes(one.candidate.bytes)
        rows.append([escape(one.candidate.name), figures[0], shown, *figures[1:], f"{one.inference:.2f}", size])
    table(columns, rows, right=columns[1:])
    say(
        f"on {reference.report[0].images} images; difference to {reference.candidate.name}; "
        f"ms: {comparison.latencies.note}"
    )
