"""Files of a BLIP-2 bundle beside its graphs: the tokenizer and the token embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.contract import TOKENIZER
from edgekit.runtimes.language.parts import EMBEDDINGS


def write_companions(source: Path, out: Path, precisions: Sequence[str]) -> None:
    """Write the tokenizer, and the embeddings of tokens, which are gathered outside the graphs.

    Args:
        source: folder of the checkpoint.
        out: folder of the bundle.
        precisions: of vision, Q-Former and language; the embeddings are float32 only where the last one is.
    """
    shutil.copyfile(source / TOKENIZER, out / TOKENIZER)
    model = Blip2(source)
    if not model.retrieval:
        dtype = np.float32 if precisions[-1] == "fp32" else np.float16
        np.save(out / EMBEDDINGS, model.embeddings().astype(dtype))
