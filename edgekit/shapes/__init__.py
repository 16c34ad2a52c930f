"""A seeded world of shapes with truth for everything, and a small detector trained on it. HOST code.

Scenes carry exact boxes, masks, keypoints, colours, captions and questions; moving scenes carry track ids.
"""

from __future__ import annotations

from edgekit.shapes.dataset import coco_dataset, write_coco, write_label_maps, write_scenes
from edgekit.shapes.language import Question, captions, questions
from edgekit.shapes.motion import MovingScene, moving_scene
from edgekit.shapes.outlines import CLASSES, KEYPOINTS, SKELETON
from edgekit.shapes.types import BACKGROUNDS, COLOURS, Scene, SceneObject, SceneOptions
from edgekit.shapes.world import FIRST_TRAINING_SEED, scene

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLOURS",
    "FIRST_TRAINING_SEED",
    "KEYPOINTS",
    "SKELETON",
    "MovingScene",
    "Question",
    "Scene",
    "SceneObject",
    "SceneOptions",
    "captions",
    "coco_dataset",
    "moving_scene",
    "questions",
    "scene",
    "write_coco",
    "write_label_maps",
    "write_scenes",
]
