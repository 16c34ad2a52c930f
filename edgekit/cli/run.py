"""``edgekit run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._options import engine_options, import_modules, imports_option, json_option

if TYPE_CHECKING:
    from edgekit.images import Image
    from edgekit.results import Detections


@click.command(short_help="Run a bundle on images, folders, videos or a camera.")
@click.argument("bundle")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--conf", type=click.FloatRange(0, 1), help="Least score. [default: the contract's]")
@click.option("--iou", type=click.FloatRange(0, 1), help="IoU above which NMS drops a box. [default: the contract's]")
@click.option("--save", type=click.Path(path_type=Path), help="Folder for the images with the results drawn in.")
@engine_options
@imports_option
@json_option
def command(bundle: str, inputs: tuple[str, ...], conf: float | None, iou: float | None, **given: Any) -> None:
    """Run BUNDLE on INPUTS: images, folders, globs, videos, camera:0.

    With --json, one line per image: {"image", "detections": [{"box", "score", "class_id", "name"}]}.
    """
    from edgekit.model import load

    import_modules(given["imports"])
    model = load(bundle, threads=given["threads"], device=given["device"], strict=given["strict"])
    for source in inputs:
        for image, result in model.stream_with_images(source, score=conf, iou=iou):
            _show(result, given["as_json"])
            if given["save"]:
                _save(image, result, given["save"])


def _show(result: Detections, as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(result.to_dict(classes=False)))
        return
    timings = result.timings
    spent = f"  {timings.pre:.1f} + {timings.inference:.1f} + {timings.post:.1f} ms" if timings else ""
    click.echo(f"{result!r}{spent}")


def _save(image: Image, result: Detections, folder: Path) -> None:
    """Write one drawn image; frames of a video (``street.mp4#12``) get their number in the name."""
    import cv2

    from edgekit.errors import InputError

    name = Path(result.source.replace("#", "-")).name or "image"
    path = folder / (name if Path(name).suffix in {".jpg", ".jpeg", ".png"} else f"{name}.jpg")
    if path.exists() and Path(result.source).exists() and path.samefile(result.source):
        raise InputError(f"--save {folder}: would overwrite the image {result.source}; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, result.draw(image))[1].tobytes())
    except OSError as error:
        raise InputError(f"--save {path}: cannot be written: {error.strerror}") from error
