"""DEVICE: vision-language bundles (BLIP-2), opened and ready: captions, answers, vectors and matches, without torch.

blip2 = edgekit.load("out/blip2-onnx-int4")
blip2.caption("photo.jpg", beams=5).text
"""

from __future__ import annotations

from edgekit.vision_language.index import ImageIndex as ImageIndex
from edgekit.vision_language.model import VisionLanguage as VisionLanguage
from edgekit.vision_language.model import open_vision_language as open_vision_language
