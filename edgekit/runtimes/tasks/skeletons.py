"""Skeletons by name, for contracts that need not write them out."""

from __future__ import annotations

from edgekit.runtimes.bundle.manifest import Skeleton

COCO = Skeleton(
    names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    edges=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
)  # fmt: skip
"""The 17 keypoints of a person in COCO, with the spread its annotators were measured to have."""

SIGMA = 0.05
"""Spread of a keypoint whose annotators' is not known: about the mean of those of COCO's upper body."""


FACE5 = Skeleton(
    names=("left_eye", "right_eye", "nose", "left_mouth", "right_mouth"),
    edges=((0, 2), (1, 2), (2, 3), (2, 4), (3, 4)),
    sigmas=(SIGMA,) * 5,
)
"""Five landmarks of a face, left and right as one sees them in the picture (RetinaFace, SCRFD, YuNet, CenterFace). No
data set has measured their spread. COCO's for an eye, 0.025 of a person's size, is about 0.12 of a face's; `SIGMA` asks
for more: 1.4 cm on a real face."""


def numbered(keypoints: int) -> Skeleton:
    """A skeleton for a network that states only its number of keypoints: COCO's if the number matches."""
    if keypoints == len(COCO.names):
        return COCO
    return Skeleton(names=tuple(f"keypoint_{number}" for number in range(keypoints)))


def sigmas_of(skeleton: Skeleton) -> tuple[float, ...]:
    """The spread of every keypoint, `SIGMA` where the skeleton does not tell."""
    return skeleton.sigmas or (SIGMA,) * len(skeleton.names)


NAMED: dict[str, Skeleton] = {"coco": COCO, "face5": FACE5}
"""Names that a contract file may give instead of a skeleton."""
