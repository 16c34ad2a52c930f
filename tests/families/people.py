"""The parts of photographs that people are in: what the pose model of a top-down pair sees on a device."""

from __future__ import annotations

from pathlib import Path

from edgekit.runtimes.inputs.media import frames
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections, Result
from edgekit.runtimes.top_down import TopDown

EXAMPLES = Path(__file__).parents[2] / "examples"
SURE, TALL = 0.45, 90
"""The score and the height in pixels of people who are looked at."""


def source_of(program: Path, named: str) -> Model[Result]:
    """A torch.export program in PyTorch, by the contract file of that name in examples/."""
    import torch

    from edgekit.conversion.jobs import PrepareJob
    from edgekit.conversion.reading import read_source
    from edgekit.sources.session import TorchSession

    torch.set_num_threads(1)
    read = read_source(PrepareJob(folder="", source=str(program), contract=str(EXAMPLES / f"{named}.yaml")))
    return Model(read.contract, TorchSession(read.heads))


def write_people(folder: Path, data: Path) -> Path:
    """Write what MoveNet sees of the people that FastestDet finds in two folders of photographs; return the folder."""
    import cv2

    unfinished = folder.with_name(f"{folder.name}.part")
    unfinished.mkdir(exist_ok=True)
    finder = source_of(data / "models" / "fastestdet_coco.pt2", "fastestdet")
    both = TopDown(finder, source_of(data / "models" / "movenet_lightning.pt2", "movenet"))
    for number, frame in enumerate([*frames(data / "voc50" / "images"), *frames(data / "calibration")]):
        found = finder.predict(frame.image, score=SURE)
        if not isinstance(found, Detections):
            raise TypeError(f"FastestDet gives {type(found).__name__}")
        people = found.filter(classes=["person"])
        for row, crop in enumerate(both.crops(frame.image, people[people.boxes[:, 3] - people.boxes[:, 1] > TALL])):
            cv2.imwrite(str(unfinished / f"{number:03}-{row}.png"), crop)
    return unfinished.rename(folder)
