"""A BLIP-2 that says the same and is hard to round to 4 bits: channels with large activations, as trained OPTs have.

Large OPTs have a few channels that are tens of times as large as the others (Dettmers et al. 2022, arXiv:2208.07339).
Small models that were trained for minutes have none. Here they are made without training: of what linear layers read,
some channels are multiplied by powers of two, where they are given, and their weights divided by as much. In floats
nothing changes, not a bit; in 4 bits the small weights of the large channels are lost.

    python benchmarks/blip2_outliers.py examples/blip2/opt FOLDER [--share 0.06 --seed 0]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.checkpoint import WEIGHTS
from edgekit.graph.blip2.folds import folds

SHARE = 0.06
"""Of the channels of each place, how many are large."""

FACTORS = (16.0, 32.0, 64.0)


def write(source: Path, folder: Path, share: float = SHARE, seed: int = 0, part: str = "language") -> Path:
    """Write the folder, with all weights in float32: small ones in float16 would lose bits.

    Args:
        source: a small BLIP-2 as Hugging Face saves it; all of it is in memory.
        folder: a new one.
        share: of the channels, at least one of each place.
        seed: of their choice.
        part: of the model, in which they are.
    """
    from safetensors.numpy import save_file

    model = Blip2(source)
    tensors = {name: model.checkpoint[name] for name in model.checkpoint.names}
    rng = np.random.default_rng(seed)
    for fold in folds(model, part):
        channels = tensors[fold.readers[0]].shape[1]
        factors = np.ones(channels, np.float32)
        chosen = rng.choice(channels, max(1, round(share * channels)), replace=False)
        factors[chosen] = rng.choice(FACTORS, len(chosen))
        for name in fold.givers:
            some = tensors[name][fold.first : fold.first + channels]
            some *= factors.reshape(-1, *[1] * (some.ndim - 1))
        for name in fold.readers:
            tensors[name] /= factors
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".json" and path.name != "model.safetensors.index.json":
            shutil.copyfile(path, folder / path.name)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def main() -> None:
    """Write the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.source, given.folder, given.share, given.seed)


if __name__ == "__main__":
    main()
