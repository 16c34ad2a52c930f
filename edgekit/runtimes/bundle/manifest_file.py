"""``manifest.json``: the structures of `bundle.manifest` as JSON with a digest, checked when read.

The digest is a checksum. It tells accidents, and no attack: anyone can compute it anew. See `bundle.folder.Verify`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from edgekit.errors import BundleError
from edgekit.runtimes.bundle.manifest import SCHEMA, Manifest
from edgekit.structures import from_json


class _SchemaOnly(msgspec.Struct):
    schema: int


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec: not JSON or not valid, text that is not UTF-8, brackets nested without end."""


def digest(document: Manifest | dict[str, Any]) -> str:
    """SHA-256 of a manifest with its own ``digest`` left empty.

    Of a document as it was read, only what it says counts: fields that came later, and have defaults, do not.
    """
    bare = document | {"digest": ""} if isinstance(document, dict) else msgspec.structs.replace(document, digest="")
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """A manifest as readable JSON, with its digest."""
    whole = msgspec.structs.replace(manifest, digest=digest(manifest))
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def decode(data: bytes, origin: str) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        BundleError: not JSON, written by a newer edgekit, not valid, or changed after it was written.
    """
    try:
        version = from_json(data, _SchemaOnly).schema
    except _UNREADABLE as error:
        raise BundleError(f"{origin}: not a readable manifest ({error}); convert the model again") from error
    if not 1 <= version <= SCHEMA:
        raise BundleError(
            f"{origin}: manifest schema {version}, this edgekit reads up to {SCHEMA}; pip install --upgrade edgekit"
        )
    try:
        manifest = from_json(data, Manifest)
    except _UNREADABLE as error:
        raise BundleError(f"{origin}: the manifest is not valid ({error}); convert the model again") from error
    if manifest.digest != digest(from_json(data, dict[str, Any])):
        raise BundleError(
            f"{origin}: the manifest was changed after it was written (digest {manifest.digest[:12] or 'empty'!s} does "
            "not fit); restore the original or convert the model again"
        )
    return manifest


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of ``manifest.json``, generated from these classes."""
    return msgspec.json.schema(Manifest)
