"""Writing held-out scenes that the small BLIP-2 models are measured on, with captions and questions.

python -m edgekit.shapes.talk_dataset FOLDER --scenes 300
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from edgekit.shapes.dataset import write_scenes
from edgekit.shapes.language import Question
from edgekit.shapes.talk import FIRST_EVALUATION_SEED, Talked, balanced, talked
from edgekit.shapes.types import Scene


def write_talk(folder: str | Path, count: int, first_seed: int = FIRST_EVALUATION_SEED) -> Path:
    """Write scenes as PNG images with annotations.json, which `edgekit evaluate` takes; return that file's path.

    Each scene has all its captions, and at most one question of each kind (`edgekit.shapes.talk.balanced`). Scenes
    without shapes are passed over.

    Args:
        folder: is made.
        count: of scenes.
        first_seed: of the scenes; models were not trained on those from the default on.
    """
    asked: dict[int, tuple[Question, ...]] = {}

    def scenes() -> Iterator[tuple[str, Scene]]:
        seed, written = first_seed, 0
        while written < count:
            given: Talked = talked(seed)
            if given.captions and given.scene.objects:
                asked[seed] = balanced(given)
                written += 1
                yield f"{seed:08d}.png", given.scene
            seed += 1

    return write_scenes(Path(folder), scenes(), ask=lambda scene: asked[scene.seed])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--scenes", "count", type=click.IntRange(1), default=300, show_default=True, help="How many.")
@click.option("--first-seed", type=int, default=FIRST_EVALUATION_SEED, show_default=True, help="Of the first scene.")
def command(folder: Path, count: int, first_seed: int) -> None:
    """Write held-out scenes of shapes with captions and questions into FOLDER."""
    click.echo(write_talk(folder, count, first_seed))


if __name__ == "__main__":
    command()
