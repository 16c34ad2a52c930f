"""How much is attacked: the one place that says it.

``make test`` opens `SHORT` mutants of each kind, ``make test-all`` `LONG`; ``EDGEKIT_ATTACK_TIMES=5`` opens five times
as many of the latter, ``EDGEKIT_ATTACK_SEED=1`` others. ``EDGEKIT_SOAK_MINUTES=60`` is the long soak.
"""

from __future__ import annotations

import os

SHORT = {
    "bundle-onnx": 60,
    "bundle-litert": 60,
    "bundle-ncnn": 60,
    "bundle-openvino": 15,
    "bundle-mnn": 60,
    "bundle-blip2": 30,
    "image": 500,
    "media": 150,
    "contract": 100,
    "source-onnx": 20,
    "device": 25,
}
LONG = {
    "bundle-onnx": 1200,
    "bundle-litert": 1200,
    "bundle-ncnn": 800,
    "bundle-openvino": 300,
    "bundle-mnn": 800,
    "bundle-blip2": 800,
    "image": 5000,
    "media": 1500,
    "contract": 800,
    "source-onnx": 400,
    "source-pt2": 300,
    "source-weights": 200,
    "source-safetensors": 150,
    "source-ultralytics": 200,
    "source-transformers": 100,
    "source-blip2": 80,
    "device": 500,
}
"""Over 10,000 in all."""

ISOLATED = 25
"""One bundle in so many is opened in isolated mode at once; the others where they end their process."""

TIMES = int(os.environ.get("EDGEKIT_ATTACK_TIMES", "1"))
SEED = int(os.environ.get("EDGEKIT_ATTACK_SEED", "0"))
SOAK_MINUTES = float(os.environ.get("EDGEKIT_SOAK_MINUTES", "1"))
KILLS = 200 * TIMES
