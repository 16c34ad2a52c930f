"""``edgekit evaluate``."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli._options import engine_options, import_modules, imports_option, json_option


@click.command(short_help="Measure mAP of a bundle, or of its source, on labelled images.")
@click.argument("bundle")
@click.option("--data", required=True, help="Annotations in COCO json.")
@click.option("--images", default=None, help="Folder of the images. [default: beside the annotations]")
@click.option("--contract", default="", help="Contract file, when BUNDLE is a source.")
@click.option("--weights", default="", help="Weights, when BUNDLE is a module:factory source.")
@click.option("--trust", is_flag=True, help="Allow unpickling a source.")
@engine_options
@imports_option
@json_option
def command(bundle: str, data: str, images: str | None, as_json: bool, **given: Any) -> None:
    """Run BUNDLE (or a source, in PyTorch) over labelled images and print mAP, mAP50 and the AP of every class."""
    import json

    import msgspec

    from edgekit.cli._reports import progress_bars, table
    from edgekit.evaluation.coco import SCORE_THRESHOLD, evaluate

    import_modules(given["imports"])
    model = _open(bundle, given)
    with progress_bars() as watch:
        metrics = evaluate(
            lambda image: model.predict(image, score=SCORE_THRESHOLD),
            data,
            images,
            lambda done, total: watch("evaluate", f"{done}/{total} images", done / max(total, 1)),
        )
    if as_json:
        click.echo(json.dumps({"bundle": bundle, **msgspec.to_builtins(metrics)}, indent=2))
        return
    click.echo(
        f"mAP {metrics.map:.4f}  mAP50 {metrics.map50:.4f}  mAP75 {metrics.map75:.4f}  on {metrics.images} images"
    )
    table(("class", "AP"), [[name, f"{value:.3f}"] for name, value in metrics.per_class.items()], right=("AP",))


def _open(spec: str, given: dict[str, Any]) -> Any:
    """A bundle, or a source run by PyTorch."""
    from pathlib import Path

    from edgekit.manifest import MANIFEST
    from edgekit.model import Model, load

    path = Path(spec)
    if path.is_dir() or path.name == MANIFEST:
        return load(spec, threads=given["threads"], device=given["device"], strict=given["strict"])
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.prepare import read_source
    from edgekit.sources.session import TorchSession

    job = PrepareJob(folder="", source=spec, contract=given["contract"], weights=given["weights"], trust=given["trust"])
    read = read_source(job)
    return Model(read.contract, TorchSession(read.heads))
