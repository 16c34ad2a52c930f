"""Which bundles of an earlier run a conversion keeps: those of the same request."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

import edgekit
from edgekit import converters
from edgekit.conversion.jobs import Prepared
from edgekit.conversion.request import Request
from edgekit.conversion.selection import BundleSpec
from edgekit.errors import BundleError
from edgekit.runtimes.bundle.folder import Bundle, open_bundle, sha256
from edgekit.runtimes.bundle.manifest import MANIFEST, Record

FILE = ".request"
"""The hash of the request that made a bundle, in its folder. Runtimes do not read it."""

_ELSEWHERE = frozenset(
    {"source", "targets", "precisions", "options", "data", "proof_data", "contract", "weights", "size", "name"}
)
"""Fields of a request that the key has in another form: as what was read of the source, or of the bundle alone."""

_WITHOUT_EFFECT = frozenset({"out", "jobs", "threads", "contact_sheet", "trust", "rebuild", "fail_if_slower"})
"""Fields that change nothing in a bundle."""

_FILES = ("labels", "prompts", "plan")
"""Fields that name files or folders: their content counts."""


def request_key(request: Request, prepared: Prepared, options: Mapping[str, Record], spec: BundleSpec) -> str:
    """SHA-256 of all that a bundle depends on: source, contract, images, options, and the versions of the tools."""
    fields = {
        one.name: getattr(request, one.name)
        for one in dataclasses.fields(request)
        if one.name not in _ELSEWHERE | _WITHOUT_EFFECT
    }
    fields |= {name: _content(Path(fields[name])) if fields[name] else "" for name in _FILES}
    fields["imports"] = [(name, _code(name)) for name in request.imports]
    depends = {
        "edgekit": edgekit.__version__,
        "request": fields,
        "target": spec.target,
        "precision": spec.precision,
        "parts": {name: (part.target, part.precision) for name, part in spec.parts.items()},
        "options": {name: msgspec.to_builtins(options[name]) for name in spec.targets},
        "versions": [prepared.versions, *(converters.versions(converters.target(name)) for name in spec.targets)],
        "name": prepared.name,
        "origin": prepared.origin,
        "contract": prepared.contract,
        "shapes": prepared.shapes,
        "proof": (prepared.proof_sha256, prepared.proof_views, prepared.holdout_views),
        "calibration": prepared.calibration if spec.calibrated else None,
        "half": prepared.half if spec.precision == "fp16" else (),
    }
    return hashlib.sha256(msgspec.json.encode(depends, order="sorted", enc_hook=str)).hexdigest()


def write_key(folder: Path, key: str) -> None:
    """Leave the key of its request in the folder of a finished bundle."""
    (folder / FILE).write_text(key + "\n", encoding="ascii")


def kept(path: Path, key: str) -> Bundle | None:
    """The whole bundle that the same request left at ``path``; None where there is none."""
    try:
        if (path / FILE).read_text(encoding="ascii").strip() != key:
            return None
        return open_bundle(path)
    except (OSError, UnicodeDecodeError, BundleError):  # missing or damaged: it is made again
        return None


def since(bundle: Bundle) -> str:
    """When a bundle that is kept was made."""
    made = time.localtime((bundle.path / MANIFEST).stat().st_mtime)
    amended = ", amended since" if bundle.manifest.amendments else ""
    return f"made by the same request at {time.strftime('%Y-%m-%d %H:%M', made)}{amended}"


def _content(path: Path) -> str:
    """A hash of a file's content, or of the names, sizes and times in a folder; empty where there is neither."""
    if path.is_file():
        return sha256(path)
    found = [(str(one.relative_to(path)), one.stat()) for one in sorted(path.rglob("*")) if one.is_file()]
    return str([(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]) if found else ""


def _code(module: str) -> str:
    """A hash of the file of a module that the user named."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    file = Path(found.origin) if found is not None and found.origin else None
    return sha256(file) if file is not None and file.is_file() else ""
