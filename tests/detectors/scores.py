"""mAP of a bundle, or of a source in PyTorch, on scenes that no training saw.

python -m tests.detectors.scores out/relu.onnx.int8.edgekit      # a bundle
python -m tests.detectors.scores tests.detectors.relu:detector   # the float source
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.evaluation import labelled
from edgekit.evaluation.coco import SCORE_THRESHOLD, Metrics, evaluate
from edgekit.runtimes.model import Model, load
from edgekit.shapes import write_coco
from edgekit.shapes.dataset import ANNOTATIONS

if TYPE_CHECKING:
    from torch import nn

FIRST_SEED = 500_000
COUNT = 300


def held_out(folder: Path, count: int = COUNT) -> Path:
    """Render the held-out scenes (seeds from 500 000, 256x256 pixels) into a folder, once; returns annotations.json.

    Processes may ask at the same time: each renders into a folder of its own, and the first to finish is kept.
    """
    place = folder / f"held-out-{count}"
    if not (place / ANNOTATIONS).is_file():
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=".held-out-"))
        write_coco(partial, range(FIRST_SEED, FIRST_SEED + count))
        try:
            partial.rename(place)
        except OSError:  # another process was first
            if not (place / ANNOTATIONS).is_file():
                raise
    return place / ANNOTATIONS


def score_bundle(bundle: str | os.PathLike[str], annotations: Path, threads: int = 1) -> Metrics:
    """mAP of a bundle on the engine that it names."""
    return score_model(load(bundle, threads=threads), annotations)


def score_network(network: nn.Module, annotations: Path) -> Metrics:
    """mAP of a network that has a ``contract`` and returns raw heads, in PyTorch."""
    from edgekit.runtimes.bundle.manifest import Contract
    from edgekit.sources.session import TorchSession

    contract = network.contract
    if not isinstance(contract, Contract):
        raise TypeError(f"the network's contract is a {type(contract).__name__}")
    return score_model(Model(contract, TorchSession(network.eval())), annotations)


def score_source(spec: str, annotations: Path) -> Metrics:
    """mAP of the float source ``module:factory``, in PyTorch."""
    return score_model(opened_source(spec), annotations)


def score_model(model: Model, annotations: Path) -> Metrics:
    """mAP of an opened model as ``edgekit evaluate`` measures it: every score counts, the model's own NMS."""
    return evaluate(lambda image: model.predict(image, score=SCORE_THRESHOLD), annotations)


def main_figures(model: Model, annotations: Path) -> dict[str, float]:
    """The main figure of every kind that an opened model of any task can be measured by, by name."""
    report = labelled.evaluate(lambda image: model.predict(image, score=SCORE_THRESHOLD), annotations)
    return {next(iter(metrics.figures)): metrics.main for metrics in report}


def opened_source(spec: str) -> Model:
    """The float source ``module:factory``, run by PyTorch."""
    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source
    from edgekit.sources.session import TorchSession

    read = read_source(PrepareJob(folder="", source=spec))
    return Model(read.contract, TorchSession(read.heads))


def main() -> None:
    """Score what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="bundles or module:factory sources")
    parser.add_argument("--count", type=int, default=COUNT, help="scenes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where scenes are kept")
    given = parser.parse_args()
    annotations = held_out(given.folder, given.count)
    for what in given.what:
        measured = score_bundle(what, annotations) if Path(what).is_dir() else score_source(what, annotations)
        print(json.dumps({"model": what, **msgspec.to_builtins(measured)}))


if __name__ == "__main__":
    main()
