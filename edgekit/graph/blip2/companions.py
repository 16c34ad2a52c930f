"""Files of a BLIP-2 bundle beside its graphs: the tokenizer and the token embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.contract import TOKENIZER
from edgekit.runtimes.language.parts import EMBEDDINGS
from edgekit.runtimes.language.text import STATE, without_state


def write_companions(source: Path, out: Path, precisions: Sequence[str]) -> None:
    """Write the tokenizer, and the embeddings of tokens, which are gathered outside the graphs.

    Args:
        source: folder of the checkpoint.
        out: folder of the bundle.
        precisions: of vision, Q-Former and language; the embeddings are float32 only where the last one is.
    """
    content = (source / TOKENIZER).read_text(encoding="utf-8")
    kept = any(json.loads(content).get(name) is not None for name in STATE)
    (out / TOKENIZER).write_text(without_state(content) if kept else content, encoding="utf-8")
    model = Blip2(source)
    if not model.retrieval:
        dtype = np.float32 if precisions[-1] == "fp32" else np.float16
        np.save(out / EMBEDDINGS, model.embeddings().astype(dtype))
