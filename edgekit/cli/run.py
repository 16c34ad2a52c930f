"""``edgekit run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgekit.cli._command import UNIT, Command, tell
from edgekit.cli._options import TrackerName, engine_options, imports_option, json_option, read_values, track_option
from edgekit.cli._quantities import SECONDS, BundleSize
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.runtimes.results import Result
    from edgekit.runtimes.tracking import Tracker


ALIASES = ("predict",)


@click.command(
    cls=Command,
    renamed={**UNIT, "--conf": "--score"},
    short_help="Run a bundle on images, folders, videos or a camera.",
)
@click.argument("bundle")
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "--size",
    type=BundleSize(),
    help="Input size, of a bundle with several: 320, 160x224 or nearest (the smallest that shows all).",
)
@click.option("--score", type=click.FloatRange(0, 1), help="Minimum score. [default: the contract's]")
@click.option("--iou", type=click.FloatRange(0, 1), help="IoU above which NMS drops a box. [default: the contract's]")
@click.option("--track", type=TrackerName(), help="Follow objects with this tracker (docs/TRACKING.md).")
@track_option
@click.option(
    "--every", type=click.IntRange(1), default=1, help="With --track: run every n-th frame, predict the rest."
)
@click.option("--appearance", metavar="BUNDLE", help="With --track botsort: embedding model to tell objects apart by.")
@click.option(
    "--reconnect", type=SECONDS, default=0.0, help="Time to wait for a stopped camera or stream. [default: 0]"
)
@click.option("--silence", type=SECONDS, help="Time without a frame after which a stream has stopped. [default: 10s]")
@click.option("--save", type=click.Path(path_type=Path), help="Folder for the images with the results drawn in.")
@click.option("--video", type=click.Path(path_type=Path), help="Video file with the results drawn in.")
@click.option("--mot", type=click.Path(path_type=Path), help="With --track: file of all tracks, in MOT format.")
@engine_options
@imports_option
@json_option
def command(
    bundle: str,
    inputs: tuple[str, ...],
    size: tuple[int, int] | Literal["nearest"] | None,
    score: float | None,
    iou: float | None,
    track: str | None,
    track_options: tuple[str, ...],
    every: int,
    appearance: str | None,
    reconnect: float,
    silence: float | None,
    save: Path | None,
    video: Path | None,
    mot: Path | None,
    threads: int,
    unit: str,
    strict: bool,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run BUNDLE on INPUTS: images, folders, globs, videos, camera:0, rtsp://... Ctrl-C ends a camera.

    With --json, one line per image: {"image", "detections": [{"box", "score", "class_id", "name"}]}; poses also have
    "keypoints", instances "mask" (COCO run lengths), oriented boxes "oriented" (centre, width, height,
    angle), tracks "track_id"; a classification has "top" and "scores", a label map "class_ids" and "lengths" of runs of
    equal pixels, row after row.
    """
    from edgekit.cli._drawn import Drawn
    from edgekit.errors import UsageError
    from edgekit.runtimes.model import load
    from edgekit.runtimes.track import tracker_of

    for name, given in (
        ("mot", mot is not None),
        ("every", every != 1),
        ("appearance", appearance is not None),
        ("track-option", bool(track_options)),
    ):
        if given and not track:
            raise UsageError(f"--{name} goes with --track NAME")
    options = read_values(track_options, "--track-option")
    model = load(bundle, threads=threads, unit=unit, strict=strict, size=size)
    if size is None and model.manifest is not None and model.manifest.size_note:
        tell(f"runs {model.manifest.size_note}")
    looks = load(appearance, threads=threads, unit=unit, strict=strict) if appearance else None
    with Drawn(save, video, mot) as drawn:
        for source in inputs:
            live: dict[str, Any] = {"reconnect": reconnect, "silence": silence}
            tracker = tracker_of(track, options, model.contract) if track else None
            stream = (
                model.track_with_images(source, tracker, every=every, score=score, iou=iou, appearance=looks, **live)
                if tracker
                else model.stream_with_images(source, score=score, iou=iou, **live)
            )
            try:
                for image, result in stream:
                    _show(result, as_json)
                    drawn.add(image, result)
            except KeyboardInterrupt:  # how a camera is ended: what was written so far stays whole
                break
            if tracker and track:
                _tell_discarded(tracker, track, model.contract.postprocess.score if score is None else score, bundle)


def _tell_discarded(tracker: Tracker, name: str, score: float, bundle: str) -> None:
    """Say on stderr where the tracker's threshold discarded most of what was found, and what to do."""
    from edgekit.runtimes.track import discarded

    text, options = discarded(tracker, name, score)
    if not text:
        return
    pairs = [f"{option}={value:g}" for option, value in options.items()]
    here, kept = (" ".join(f"--{option} {pair}" for pair in pairs) for option in ("track-option", "tracker-option"))
    advice = f"; try {here}, or keep that in the bundle: edgekit amend {bundle} {kept}" if pairs else ""
    tell(f"{text}{advice}")


def _show(result: Result, as_json: bool) -> None:
    import json

    if as_json:
        say(json.dumps(result.to_dict(classes=False)))
        return
    timings = result.timings
    spent = f"  {timings.pre:.1f} + {timings.inference:.1f} + {timings.post:.1f} ms" if timings else ""
    say(f"{result!r}{spent}")
