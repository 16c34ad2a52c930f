"""edgekit converts trained PyTorch models to edge targets, and proves that they still work there.

Importing this package imports no engine, no OpenCV and no torch; each name below is resolved on first use. The names in
``__all__``, and those of `edgekit.results`, `edgekit.tracking`, `edgekit.decoders` and `edgekit.errors`, are the public
interface (docs/API.md); every other module is private and may change in any version.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime sends telemetry from native code, about ten seconds after its import, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgekit.conversion.api import convert as convert
    from edgekit.conversion.api import inspect as inspect
    from edgekit.conversion.bundle_builder import Outcome as Outcome
    from edgekit.conversion.convert import Conversions as Conversions
    from edgekit.conversion.convert import Planned as Planned
    from edgekit.conversion.inspect import Inspected as Inspected
    from edgekit.errors import EdgekitError as EdgekitError
    from edgekit.profiling.record import Profile as Profile
    from edgekit.profiling.records.making import profile as profile
    from edgekit.progress import ProgressEvent as ProgressEvent
    from edgekit.runtimes.amend import amend as amend
    from edgekit.runtimes.bundle.manifest import Contract as Contract
    from edgekit.runtimes.bundle.manifest import Decoder as Decoder
    from edgekit.runtimes.bundle.manifest import ImageRule as ImageRule
    from edgekit.runtimes.bundle.manifest import Manifest as Manifest
    from edgekit.runtimes.bundle.manifest import Output as Output
    from edgekit.runtimes.bundle.manifest import Postprocess as Postprocess
    from edgekit.runtimes.bundle.manifest import Skeleton as Skeleton
    from edgekit.runtimes.language.index import ImageIndex as ImageIndex
    from edgekit.runtimes.language.vision_language import VisionLanguage as VisionLanguage
    from edgekit.runtimes.load import load as load
    from edgekit.runtimes.model import Model as Model
    from edgekit.runtimes.pool import ModelPool as ModelPool
    from edgekit.runtimes.results import Classification as Classification
    from edgekit.runtimes.results import Detections as Detections
    from edgekit.runtimes.results import Embedding as Embedding
    from edgekit.runtimes.results import Instances as Instances
    from edgekit.runtimes.results import LabelMap as LabelMap
    from edgekit.runtimes.results import Masks as Masks
    from edgekit.runtimes.results import Match as Match
    from edgekit.runtimes.results import OrientedBoxes as OrientedBoxes
    from edgekit.runtimes.results import Poses as Poses
    from edgekit.runtimes.results import Text as Text
    from edgekit.runtimes.smoothing import OneEuro as OneEuro
    from edgekit.runtimes.top_down import pipeline as pipeline
    from edgekit.runtimes.top_down import top_down as top_down
    from edgekit.worker.process import Stop as Stop

_MODULES = {
    "conversion.api": "convert inspect",
    "conversion.convert": "Conversions Planned",
    "conversion.inspect": "Inspected",
    "conversion.bundle_builder": "Outcome",
    "worker.process": "Stop",
    "errors": "EdgekitError",
    "progress": "ProgressEvent",
    "profiling.record": "Profile",
    "profiling.records.making": "profile",
    "runtimes.amend": "amend",
    "runtimes.bundle.manifest": "Contract Decoder ImageRule Manifest Output Postprocess Skeleton",
    "runtimes.language.index": "ImageIndex",
    "runtimes.language.vision_language": "VisionLanguage",
    "runtimes.load": "load",
    "runtimes.model": "Model",
    "runtimes.pool": "ModelPool",
    "runtimes.results": "Classification Detections Embedding Instances LabelMap Masks Match OrientedBoxes Poses Text",
    "runtimes.smoothing": "OneEuro",
    "runtimes.top_down": "pipeline top_down",
}
_WHERE = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(["__version__", *_WHERE])


def __getattr__(name: str) -> Any:
    if name == "Conversion":
        raise ImportError(
            "edgekit.Conversion was removed: write edgekit.convert(model, target=..., precision=..., data=..., out=...)"
        )
    if name not in _WHERE:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
