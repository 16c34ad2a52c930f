"""``python -m edgekit.shapes FOLDER``: pictures to try things on, with truth for everything."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.shapes.dataset import write_scenes
from edgekit.shapes.world import scene

FIRST_SEED = 330_000
"""No model that comes with edgekit was trained on scenes from here on."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--scenes", "count", type=click.IntRange(1), default=40, show_default=True, help="How many.")
@click.option("--first-seed", type=int, default=FIRST_SEED, show_default=True, help="Of the first scene.")
def command(folder: Path, count: int, first_seed: int) -> None:
    """Write scenes of shapes into FOLDER as 1.png, 2.png ... with COCO annotations (annotations.json)."""
    click.echo(write_scenes(folder, ((f"{number + 1}.png", scene(first_seed + number)) for number in range(count))))


if __name__ == "__main__":
    command()
