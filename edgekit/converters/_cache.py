"""Caches of language models in 8 bits."""

from __future__ import annotations

from edgekit.converters import CacheOptions, WrittenJob
from edgekit.errors import ConversionError


def cache_in_int8(job: WrittenJob, target: str) -> bool:
    """Whether a model's cache is to be kept in 8 bits.

    Raises:
        ConversionError: it is, and the model has none.
    """
    small = job.chosen(CacheOptions).kv_cache == "int8"
    if small and job.part.source.retrieval:
        raise ConversionError(
            f"{target}.kv_cache=int8: a model for retrieval writes no text and has no cache; leave the option out"
        )
    return small
