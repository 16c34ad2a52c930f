"""edgekit: trained PyTorch models to the edge, with proof that they still work there.

Importing this package imports no engine, no OpenCV and no torch; each name below is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit.conversion.convert import Conversion as Conversion
    from edgekit.conversion.convert import convert as convert
    from edgekit.errors import EdgekitError as EdgekitError
    from edgekit.loading import load as load
    from edgekit.manifest import Contract as Contract
    from edgekit.manifest import Manifest as Manifest
    from edgekit.model import Model as Model
    from edgekit.profiling.record import Profile as Profile
    from edgekit.records.making import profile as profile
    from edgekit.results import Classification as Classification
    from edgekit.results import Detections as Detections
    from edgekit.results import Embedding as Embedding
    from edgekit.results import Instances as Instances
    from edgekit.results import Masks as Masks
    from edgekit.results import Match as Match
    from edgekit.results import Poses as Poses
    from edgekit.results import Text as Text
    from edgekit.top_down import pipeline as pipeline
    from edgekit.vision_language import VisionLanguage as VisionLanguage
    from edgekit.vision_language.index import ImageIndex as ImageIndex

_WHERE = {
    "load": "edgekit.loading",
    "Model": "edgekit.model",
    "convert": "edgekit.conversion.convert",
    "Conversion": "edgekit.conversion.convert",
    "Contract": "edgekit.manifest",
    "Manifest": "edgekit.manifest",
    "Classification": "edgekit.results",
    "Detections": "edgekit.results",
    "Embedding": "edgekit.results",
    "Instances": "edgekit.results",
    "ImageIndex": "edgekit.vision_language.index",
    "Masks": "edgekit.results",
    "Match": "edgekit.results",
    "Poses": "edgekit.results",
    "Profile": "edgekit.profiling.record",
    "profile": "edgekit.records.making",
    "Text": "edgekit.results",
    "VisionLanguage": "edgekit.vision_language",
    "EdgekitError": "edgekit.errors",
    "pipeline": "edgekit.top_down",
}

__all__ = [
    "Classification",
    "Contract",
    "Conversion",
    "Detections",
    "EdgekitError",
    "Embedding",
    "ImageIndex",
    "Instances",
    "Manifest",
    "Masks",
    "Match",
    "Model",
    "Poses",
    "Profile",
    "Text",
    "VisionLanguage",
    "__version__",
    "convert",
    "load",
    "pipeline",
    "profile",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
