"""BLIP-2 as a source: checkpoints of transformers, and the model in PyTorch as the reference."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import SourceError
from edgekit.graph.blip2.blip2 import MODEL_TYPE, Blip2
from edgekit.graph.blip2.checkpoint import CONFIG, read_json
from edgekit.graph.blip2.contract import contract_of
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Origin
from edgekit.sources import Source, SourceRequest, WrittenModel, _hub


def matches(request: SourceRequest) -> bool:
    """Whether it is a folder with a BLIP-2, or a model of the Hugging Face hub: no other is taken from there."""
    if _hub.is_hub(request.spec):
        return True
    config = Path(request.spec) / CONFIG
    return config.is_file() and read_json(config).get("model_type") == MODEL_TYPE


def load(request: SourceRequest) -> WrittenModel:
    """Read the configuration and look at the checkpoint; no weight is read.

    Raises:
        SourceError: a BLIP-2 that is not known, or a missing or damaged file.
    """
    source = Blip2(Path(request.spec))
    try:
        contract = contract_of(source)
    except ValueError as error:  # a mean or deviation that no image rule can have
        raise SourceError(f"{source.folder}: its processor: {error}") from error
    return WrittenModel(
        name=source.folder.resolve().name,
        source=source,
        origin=Origin(kind="transformers", name=source.architecture, sha256=source.checkpoint.sha256()),
        contract=contract,
    )


SOURCE = Source(
    "a vision-language model (BLIP-2: a folder of transformers, or hf://OWNER/NAME)",
    matches,
    load,
    order=35,  # before transformers, whose folders look alike
    takes=frozenset({"prompts", "language_bits"}),
    refuses={"size": "its positions are learnt for one size"},
    parts=PART_NAMES,
)
