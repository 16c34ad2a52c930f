"""Models of the Hugging Face hub: a folder of the local cache, fetched only because the user named the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import SourceError

PREFIX = "hf://"
FORM = "hf://OWNER/NAME[@REVISION]"

TAKEN = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Configurations, weights, vocabularies; no pickles, no code."""


@dataclass(frozen=True)
class Snapshot:
    """Where a source is, and of a model of the hub its ``name`` at one commit, ``hf://OWNER/NAME@COMMIT``, which gives
    the same again next year.
    """

    spec: str
    name: str


def is_hub(source: str) -> bool:
    """Whether a source names a model of the hub."""
    return source.startswith(PREFIX)


def fetch(source: str) -> Snapshot:
    """Fetch the files of a model, or find them in the cache.

    Raises:
        SourceError: not of the form, no such model or revision, or the hub cannot be reached.
    """
    named = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if not named:
        raise SourceError(f"{source!r}: not the address of a model; the form is {FORM}")
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise SourceError(f"{source}: needs the package huggingface_hub: pip install huggingface_hub") from error
    try:
        folder = snapshot_download(named[1], revision=named[2], allow_patterns=list(TAKEN))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"{source}: cannot be fetched ({reason}); give a folder that has it") from error
    return Snapshot(folder, f"{PREFIX}{named[1]}@{Path(folder).name}")
