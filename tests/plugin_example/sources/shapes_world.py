"""``shapes://detector``: the trained detector of shapes, with the decoder of this plugin."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from edgekit.runtimes.bundle.manifest import Contract, Decoder
from edgekit.sources import Source, SourceRequest, TrainedModel
from edgekit.sources.factory import SOURCE as FACTORY

SPEC = "shapes://detector"


def matches(request: SourceRequest) -> bool:
    """Whether it is spelled so."""
    return request.spec == SPEC


def load(request: SourceRequest) -> TrainedModel:
    """The detector as its factory makes it, under another decoder."""
    model = FACTORY.load(SourceRequest("edgekit.shapes.trained:detector", size=request.size))
    contract = model.module.contract
    assert isinstance(contract, Contract)
    own = Decoder(name="shapes_heads", options=contract.decoder.options)
    return replace(model, contract=msgspec.structs.replace(contract, decoder=own))


SOURCE = Source(SPEC, matches, load)
