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
    from edgekit.profiling.record import Profile as Profile
    from edgekit.profiling.records.making import profile as profile
    from edgekit.runtimes.bundle.manifest import Contract as Contract
    from edgekit.runtimes.bundle.manifest import Manifest as Manifest
    from edgekit.runtimes.language.index import ImageIndex as ImageIndex
    from edgekit.runtimes.language.vision_language import VisionLanguage as VisionLanguage
    from edgekit.runtimes.load import load as load
    from edgekit.runtimes.model import Model as Model
    from edgekit.runtimes.results import Classification as Classification
    from edgekit.runtimes.results import Detections as Detections
    from edgekit.runtimes.results import Embedding as Embedding
    from edgekit.runtimes.results import Instances as Instances
    from edgekit.runtimes.results import Masks as Masks
    from edgekit.runtimes.results import Match as Match
    from edgekit.runtimes.results import Poses as Poses
    from edgekit.runtimes.results import Text as Text
    from edgekit.runtimes.top_down import pipeline as pipeline

_WHERE = {
    "load": "edgekit.runtimes.load",
    "Model": "edgekit.runtimes.model",
    "convert": "edgekit.conversion.convert",
    "Conversion": "edgekit.conversion.convert",
    "Contract": "edgekit.runtimes.bundle.manifest",
    "Manifest": "edgekit.runtimes.bundle.manifest",
    "Classification": "edgekit.runtimes.results",
    "Detections": "edgekit.runtimes.results",
    "Embedding": "edgekit.runtimes.results",
    "Instances": "edgekit.runtimes.results",
    "ImageIndex": "edgekit.runtimes.language.index",
    "Masks": "edgekit.runtimes.results",
    "Match": "edgekit.runtimes.results",
    "Poses": "edgekit.runtimes.results",
    "Profile": "edgekit.profiling.record",
    "profile": "edgekit.profiling.records.making",
    "Text": "edgekit.runtimes.results",
    "VisionLanguage": "edgekit.runtimes.language.vision_language",
    "EdgekitError": "edgekit.errors",
    "pipeline": "edgekit.runtimes.top_down",
}

__all__ = sorted(["__version__", *_WHERE])


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
