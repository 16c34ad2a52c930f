"""Bundles good and bad: what a runtime says when it opens them, each bad one with the error's kind."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import BundleError
from edgekit.runtimes.bundle import manifest_file
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import (
    Amendment,
    Calibration,
    Change,
    Evidence,
    File,
    Gate,
    Graph,
    Manifest,
    Origin,
    Tensor,
    Variant,
)
from golden.cases import Case, Planned, Tree
from golden.closeness import apart
from golden.contracts import ARROW, contract

KINDS = {
    "no bundle there": "no-manifest",
    "not a readable manifest": "not-json",
    "manifest schema": "newer-schema",
    "the manifest is not valid": "invalid",
    "was changed after it was written": "bad-digest",
    "leaves the bundle": "unsafe-path",
    "more than once": "named-twice",
    "missing from the bundle": "missing-file",
    "truncated or replaced": "wrong-size",
    "hash differs": "hash-differs",
    "does not list": "unguarded",
}
"""The error's kind by words of Python's message. Checks are made in this order."""

MODEL = bytes(range(200))
FILES = {"model.bin": MODEL, "parts/weights.bin": b"weights"}


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    yield from _good()
    yield from _unreadable()
    yield from _invalid()
    yield from _damaged()
    yield from _controls()


def _manifest(**changes: Any) -> Manifest:
    """A small manifest of `FILES`."""
    rule = contract("anchor_free", {"strides": [8, 16], "reg_max": 1}, ("boxes", "classes"), levels=2)
    fields: dict[str, Any] = {
        "edgekit": "0.1.0",
        "name": "golden",
        "target": "litert",
        "precision": "fp32",
        "engine": "litert",
        "contract": rule,
        "graphs": (
            Graph(
                files=("model.bin", "parts/weights.bin"),
                inputs=(Tensor(name="image", shape=(1, 64, 96, 3), layout="nhwc"),),
                outputs=tuple(
                    Tensor(name=output.name, shape=(1, 4, 8 >> output.level, 12 >> output.level))
                    for output in rule.outputs
                ),
            ),
        ),
        "origin": Origin(kind="torch", name="golden", sha256="ab" * 32),
        "toolchain": {"torch": "2.13.0"},
        "files": _listed(FILES),
    }
    return Manifest(**{**fields, **changes})


def _listed(files: dict[str, bytes]) -> tuple[File, ...]:
    return tuple(File(path=name, bytes=len(data), sha256=sha256(data).hexdigest()) for name, data in files.items())


def _document(manifest: Manifest) -> Tree:
    found: Tree = json.loads(manifest_file.encode(manifest))
    return found


def _signed(document: Tree) -> bytes:
    """A document with its digest, as a manifest."""
    whole = document | {"digest": manifest_file.digest(document)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)


def _case(
    name: str, about: str, manifest: bytes | None, expected: Tree | None, files: dict[str, bytes] | None = None
) -> Planned:
    there = {f"bundle/{path}": data for path, data in (FILES if files is None else files).items()}
    given = {"manifest": "bundle/manifest.json", "files": sorted(there)}
    if manifest is not None:
        there["bundle/manifest.json"] = manifest
    return Planned(name, about, given, expected=expected, files=there)


def _good() -> Iterator[Planned]:
    small = _manifest()
    yield _case("good", "a small bundle", manifest_file.encode(small), None)
    compact = json.dumps(json.loads(manifest_file.encode(small)), sort_keys=True).encode()
    yield _case("good-reordered", "other order of keys, other spaces, the same digest", compact, None)
    more = {**FILES, "README.txt": b"not named"}
    yield _case("good-more-files", "a file that the manifest does not name", manifest_file.encode(small), None, more)
    evidence = Evidence(
        word="compiled",
        engine="litert",
        images=0,
        views=0,
        images_sha256="",
        reference="the source",
        compared="nothing",
        decoded=None,
        outputs=(),
        gate=Gate(iou=0.5, matched=0.9, score_drift=0.06),
        passed=False,
        failures=("nothing ran",),
    )
    pose = contract(
        "anchor_free",
        {"strides": [8], "reg_max": 1, "keypoint_offset": 0.5},
        ("boxes", "classes", "keypoints"),
        task="pose",
        classes=("flèche", "矢", 'quoted "arrow"', "tab\there"),
        skeleton=ARROW,
        image={"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "scale": 1.0, "pad": (1, 2, 3)},
    )
    full = _manifest(
        contract=msgspec.structs.replace(pose, tracker_options={"high_score": 0.5, "class_aware": True}),
        evidence=evidence,
        calibration=Calibration(count=8, method="random", seed=1, sha256="cd" * 32),
        variants=(Variant(batch=4, size=(64, 96)), Variant(batch=1, size=(128, 192), evidence=evidence)),
        amendments=(Amendment(time="2026-11-29T12:00:00Z", changes=(Change(name="iou", before=0.45, after=0.6),)),),
        options={"small": 1e-7, "large": 1e22, "whole": 1.0, "nested": {"b": [1, 2.5], "a": None}, "empty": {}},
    )
    yield _case(
        "good-full", "everything that a manifest may have, numbers of every form", manifest_file.encode(full), None
    )


def _unreadable() -> Iterator[Planned]:
    whole = manifest_file.encode(_manifest())
    refused = {"error": "not-json"}
    yield _case("no-manifest", "a folder without a manifest", None, {"error": "no-manifest"})
    yield _case("json-empty", "an empty file", b"", refused)
    yield _case("json-cut", "a file cut short", whole[: len(whole) // 2], refused)
    yield _case("json-array", "an array", b"[]", refused)
    yield _case("json-nested", "brackets nested without end", b'{"schema":' + b"[" * 20_000, refused)
    text = _case("json-utf8", "text that is not UTF-8", b'{"schema": 1, "name": "\xff\xfe"}', refused)
    yield dataclasses.replace(text, tolerance={"error": ["invalid"]})
    yield _case("json-no-schema", "another program's manifest", b'{"manifest_version": 3}', refused)
    yield _case("json-text-schema", "a schema that is no number", b'{"schema": "1"}', refused)
    for schema in (0, 2, 1000):
        document = _document(_manifest()) | {"schema": schema}
        yield _case(f"schema-{schema}", f"schema {schema}", _signed(document), {"error": "newer-schema"})
    later = b'{"schema": 2, "edgekit": "9.0", "everything": "is different"}'
    yield _case("schema-later", "a newer manifest that has nothing of this one", later, {"error": "newer-schema"})


def _set(*path: str | int, to: Any) -> Callable[[Tree], None]:
    def change(document: Tree) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


def _without(*path: str) -> Callable[[Tree], None]:
    def change(document: Tree) -> None:
        place = document
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


INVALID: dict[str, Callable[[Tree], None]] = {
    "missing-contract": _without("contract"),
    "missing-size": _without("contract", "image", "size"),
    "unknown-key": _set("nonsense", to=1),
    "unknown-key-inside": _set("contract", "image", "sized", to=1),
    "text-for-number": _set("contract", "image", "scale", to="1"),
    "number-for-text": _set("name", to=7),
    "size-zero": _set("contract", "image", "size", to=[0, 96]),
    "size-three": _set("contract", "image", "size", to=[64, 96, 3]),
    "size-fraction": _set("contract", "image", "size", to=[64.5, 96]),
    "size-huge": _set("contract", "image", "size", to=[16384, 16384]),
    "std-zero": _set("contract", "image", "std", to=[1.0, 0.0, 1.0]),
    "scale-negative": _set("contract", "image", "scale", to=-1.0),
    "pad-300": _set("contract", "image", "pad", to=300),
    "resize-word": _set("contract", "image", "resize", to="squash"),
    "crop-without": _set("contract", "image", "crop", to=0.5),
    "iou-two": _set("contract", "postprocess", "iou_threshold", to=2.0),
    "detections-none": _set("contract", "postprocess", "max_detections", to=0),
    "skeleton-empty": _set("contract", "skeleton", to={"names": []}),
    "skeleton-edge": _set("contract", "skeleton", to={"names": ["a", "b"], "edges": [[0, 2]]}),
    "skeleton-sigmas": _set("contract", "skeleton", to={"names": ["a", "b"], "sigmas": [0.1]}),
    "graph-no-outputs": _set("graphs", 0, "outputs", to=[]),
    "layout-word": _set("graphs", 0, "inputs", 0, "layout", to="nwhc"),
    "variant-huge": _set("variants", to=[{"batch": 1024, "size": [4096, 4096]}]),
    "digest-number": _set("digest", to=1),
}


def _invalid() -> Iterator[Planned]:
    for name, change in INVALID.items():
        document = _document(_manifest())
        change(document)
        data = json.dumps(document).encode() if name == "digest-number" else _signed(document)
        yield _case(f"invalid-{name}", f"not valid: {name}", data, {"error": "invalid"})


def _damaged() -> Iterator[Planned]:
    whole = manifest_file.encode(_manifest())
    digest = {"error": "bad-digest"}
    yield _case("digest-class", "a class renamed by hand", whole.replace(b'"bicycle"', b'"tricycle"'), digest)
    document = _document(_manifest())
    yield _case("digest-empty", "no digest", json.dumps(document | {"digest": ""}).encode(), digest)
    yield _case("missing-file", "a file is missing", whole, {"error": "missing-file"}, {"model.bin": MODEL})
    cut = {**FILES, "model.bin": MODEL[:-1]}
    yield _case("wrong-size", "a file cut short", whole, {"error": "wrong-size"}, cut)
    flipped = {**FILES, "model.bin": MODEL[:99] + bytes([MODEL[99] ^ 1]) + MODEL[100:]}
    yield _case("hash-differs", "one bit flipped", whole, {"error": "hash-differs"}, flipped)
    names = {
        "parent": "../model.bin", "root": "/model.bin", "inside": "parts/../../model.bin", "empty": "",
        "windows": "parts\\weights.bin", "drive": "C:model.bin",
    }  # fmt: skip
    for name, path in names.items():
        files = (*_listed(FILES), File(path=path, bytes=len(MODEL), sha256=sha256(MODEL).hexdigest()))
        bad = manifest_file.encode(_manifest(files=files))
        yield _case(f"unsafe-{name}", f"a file name that leaves the bundle: {path!r}", bad, {"error": "unsafe-path"})
    twice = (*_listed(FILES), *_listed({"./model.bin": MODEL}))
    bad = manifest_file.encode(_manifest(files=twice))
    yield _case("named-twice", "two names of one file", bad, {"error": "named-twice"})
    less = manifest_file.encode(_manifest(files=_listed({"model.bin": MODEL})))
    yield _case("unguarded", "a graph uses a file that is not in files", less, {"error": "unguarded"})
    yield _external()


def _external() -> Planned:
    """An ONNX file that keeps weights in a file that the manifest does not name."""
    entry = _field(1, b"location") + _field(2, b"weights.bin")
    tensor = b"\x08\x01\x10\x01" + _field(8, b"w") + _field(13, entry) + b"\x70\x01"
    files = {"model.onnx": b"\x08\x09" + _field(7, _field(5, tensor))}
    graph = msgspec.structs.replace(_manifest().graphs[0], files=("model.onnx",))
    bad = manifest_file.encode(_manifest(graphs=(graph,), files=_listed(files), engine="onnxruntime", target="onnx"))
    there = {**files, "weights.bin": b"\0\0\x80?"}
    return _case("unguarded-weights", "ONNX weights in a file that is not in files", bad, {"error": "unguarded"}, there)


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes in protobuf's encoding, of less than 128 bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


def _controls() -> Iterator[Planned]:
    plans = {plan.name: plan for plan in (*_good(), *_damaged())}

    def fine(expected: Tree) -> None:
        expected.clear()
        expected.update({"ok": True})

    def missing(expected: Tree) -> None:
        expected["error"] = "missing-file"

    def proven(expected: Tree) -> None:
        expected["proven"] = True

    for name, source, spoil in (
        ("opened", "hash-differs", fine),
        ("other-kind", "hash-differs", missing),
        ("proven", "good", proven),
    ):
        plan = plans[source]
        expected = copy.deepcopy(plan.expected)
        yield dataclasses.replace(
            plan, name=f"must-fail-{name}", about=f"planted: {name}", expected=expected, spoil=spoil
        )


def answer(given: Tree, folder: Path) -> Tree:
    """What is in the bundle, or the kind of the error."""
    try:
        bundle = open_bundle((folder / given["manifest"]).parent)
    except BundleError as error:
        (kind,) = {kind for words, kind in KINDS.items() if re.search(words, str(error))}
        return {"error": kind}
    manifest = bundle.manifest
    return {
        "ok": True,
        "name": manifest.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "engines": list(manifest.engines),
        "task": manifest.contract.task,
        "classes": list(manifest.contract.classes),
        "size": list(manifest.contract.image.size),
        "proven": manifest.proven,
        "bytes": bundle.bytes,
    }


def differences(case: Case, answered: Tree) -> list[str]:
    """Another error (than those that are as good), or another summary."""
    if answered.get("error") in case.tolerance.get("error", ()):
        return []
    return apart(case.expected, answered, {})
