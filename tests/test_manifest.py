"""The manifest: a round trip that loses nothing, and refusals that say what is wrong."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bundles import EVIDENCE, sample_manifest

from edgekit.errors import BundleError
from edgekit.runtimes.bundle import manifest as structures
from edgekit.runtimes.bundle.manifest import (
    SCHEMA,
    Calibration,
    Contract,
    Decoder,
    File,
    Graph,
    ImageRule,
    Manifest,
    Origin,
    Output,
    Postprocess,
    Record,
    Tensor,
)
from edgekit.runtimes.bundle.manifest_file import decode, digest, encode, json_schema

texts = st.text(max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
shares = st.floats(0, 1)
several = {"min_size": 1, "max_size": 3}
tensors = st.builds(Tensor, name=texts, shape=st.lists(st.integers(-1, 9999), max_size=5).map(tuple))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
rules = st.builds(
    ImageRule,
    size=st.tuples(st.integers(1, 8000), st.integers(1, 8000)),
    scale=st.floats(1e-6, 1e6),
    mean=st.tuples(floats, floats, floats),
    std=st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    pad=st.integers(0, 255),
)
contracts = st.builds(
    Contract,
    task=texts,
    image=rules,
    classes=st.lists(texts, max_size=4).map(tuple),
    decoder=st.builds(Decoder, name=texts, options=st.dictionaries(texts, plain, max_size=3)),
    outputs=st.lists(st.builds(Output, name=texts, role=texts, level=counts), max_size=3).map(tuple),
    postprocess=st.builds(Postprocess, score=shares, iou=shares, max_detections=st.integers(1, 9)),
)
manifests_of_all_kinds = st.builds(
    Manifest,
    edgekit=texts,
    name=texts,
    target=texts,
    precision=texts,
    engine=texts,
    graphs=st.lists(
        st.builds(
            Graph,
            files=st.lists(texts, **several).map(tuple),
            inputs=st.lists(tensors, **several).map(tuple),
            outputs=st.lists(tensors, **several).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    contract=contracts,
    origin=st.builds(Origin, kind=texts, name=texts, sha256=texts, notes=st.lists(texts, max_size=2).map(tuple)),
    toolchain=st.dictionaries(texts, texts, max_size=3),
    calibration=st.none() | st.builds(Calibration, count=counts, method=texts, seed=counts, sha256=texts),
    evidence=st.none() | st.just(EVIDENCE),
    proven=st.booleans(),
    files=st.lists(st.builds(File, path=texts, bytes=counts, sha256=texts), max_size=3).map(tuple),
)


@given(manifests_of_all_kinds)
@settings(deadline=None)
def test_a_manifest_survives_its_file(manifest: Manifest) -> None:
    data = encode(manifest)
    read = decode(data, "here")
    assert msgspec.structs.replace(read, digest="") == manifest
    assert encode(read) == data
    assert json.loads(data)["digest"] == digest(manifest)
    validate(json.loads(data), json_schema())


def test_the_digest_is_the_hash_of_the_sorted_json_without_it() -> None:
    data = json.loads(encode(sample_manifest(toolchain={"b": "2", "a": "1"})))
    stated, data["digest"] = data["digest"], ""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == stated


def test_layout_of_the_json_does_not_matter_its_content_does() -> None:
    data = encode(sample_manifest())
    document = json.loads(data)
    shuffled = json.dumps(dict(reversed(document.items())), indent=7).encode()
    assert decode(shuffled, "here") == decode(data, "here")
    document["contract"]["classes"][0] = "blue"
    with pytest.raises(BundleError, match=r"here: the manifest was changed after it was written \(digest \w{12} does"):
        decode(json.dumps(document).encode(), "here")


@pytest.mark.parametrize("remove", ["evidence", "calibration", "proven"])
def test_a_removed_value_is_noticed_though_it_has_a_default(remove: str) -> None:
    document = json.loads(encode(sample_manifest()))
    del document[remove]
    with pytest.raises(BundleError, match="changed after it was written"):
        decode(json.dumps(document).encode(), "here")


def test_a_bundle_from_before_a_field_still_opens() -> None:
    """A later edgekit has fields that this manifest, written by an earlier one, could not count in its digest."""
    manifest = sample_manifest()
    document = json.loads(encode(manifest)) | {"digest": ""}
    assert document["contract"].pop("skeleton", "absent") is None
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["digest"] = hashlib.sha256(text.encode()).hexdigest()
    read = decode(json.dumps(document).encode(), "here")
    assert read.contract == manifest.contract
    document["contract"]["task"] = "pose"
    with pytest.raises(BundleError, match="was changed after it was written"):
        decode(json.dumps(document).encode(), "here")


def test_a_removed_digest_is_noticed() -> None:
    document = json.loads(encode(sample_manifest()))
    del document["digest"]
    with pytest.raises(BundleError, match="digest empty does not fit"):
        decode(json.dumps(document).encode(), "here")


@pytest.mark.parametrize("version", [SCHEMA + 1, 99, 0, -1])
def test_another_schema_version_is_named_before_anything_else(version: int) -> None:
    document = {"schema": version, "a key of the future": {}}
    with pytest.raises(BundleError, match=rf"here: manifest schema {version}, this edgekit reads up to {SCHEMA}; pip"):
        decode(json.dumps(document).encode(), "here")


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 64,
        b"not json",
        b"[]",
        b"null",
        b"{}",
        b'{"schema": "1"}',
        b'{"schema": 1.5}',
        b'{"schema": null}',
        b'{"schema": 1',
        b'{"schema": 1} trailing',
        b"\xff\xfe{\x00",
        b'{"schema": 1, "deep": ' + DEEP + b"}",
        DEEP,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"here: (not a readable manifest|the manifest is not valid) \(.+convert the"):
        decode(data, "here")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"name": "cells"', b'"name": "ce\xffls"'),
        (b'"name": "cells"', b'"name": 3'),
        (b'"reg_max": 1', b'"reg_max": ' + DEEP),
        (b'"name": "cells",', b""),
        (b'"name": "cells"', b'"name": "cells", "more": 1'),
        (b'"pad": 114', b'"pad": 256'),
        (b'"resize": "stretch"', b'"resize": "squeeze"'),
        (b'"cosine": 0.9999', b'"cosine": NaN'),
        (b'"word": "executed"', b'"word": "believed"'),
    ],
    ids=lambda part: repr(part[:30]),
)
def test_what_is_almost_a_manifest_is_refused(old: bytes, new: bytes) -> None:
    data = encode(sample_manifest())
    assert data.count(old) == 1
    with pytest.raises(BundleError, match=r"here: (not a readable manifest|the manifest is not valid) \(.+convert the"):
        decode(data.replace(old, new), "here")


@given(st.data())
@settings(deadline=None)
def test_any_changed_byte_is_either_noticed_or_says_the_same(draw: st.DataObject) -> None:
    data = encode(sample_manifest())
    place, byte = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 255))
    changed = data[:place] + bytes([byte]) + data[place + 1 :]
    try:
        read = decode(changed, "here")
    except BundleError:
        return
    assert read == decode(data, "here")  # white space, or e for E in a number


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageRule(size=(0, 5)), r"size must be two positive numbers \(height, width\), not \[0, 5\]"),
        (lambda: ImageRule(size=(5, 5), pad=300), r"pad must be 0..255, not 300"),
        (lambda: ImageRule(size=(5, 5), std=(1, 0, 1)), r"std must be positive, not \[1, 0, 1\]"),
        (lambda: Postprocess(score=1.5), r"score must be 0..1, not 1.5"),
        (lambda: Postprocess(iou=-0.1), r"iou must be 0..1, not -0.1"),
        (lambda: Postprocess(max_detections=0), r"max_detections must be at least 1, not 0"),
        (lambda: Graph(files=(), inputs=(), outputs=()), r"graph 'model' must have files, inputs and outputs"),
    ],
)
def test_values_out_of_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_structures_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        sample_manifest().name = "other"  # type: ignore[misc]


def test_the_json_schema_describes_every_structure() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert schema["$ref"] == "#/$defs/Manifest"
    records = {
        value.__name__: value
        for value in vars(structures).values()
        if isinstance(value, type) and issubclass(value, Record) and value is not Record
    }
    assert set(definitions) == set(records)
    for name, record in records.items():
        assert set(definitions[name]["properties"]) == set(record.__struct_encode_fields__)
        assert definitions[name]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "1"),
        (("contract", "image", "resize"), "squeeze"),
        (("contract", "image", "size"), [64]),
        (("contract", "image", "unknown"), 1),
        (("graphs", 0, "inputs", 0, "shape"), ["a"]),
        (("evidence", "passed"), None),
        (("calibration",), 5),
    ],
)
def test_the_json_schema_refuses_what_is_wrong(path: tuple[Any, ...], value: object) -> None:
    document = json.loads(encode(sample_manifest()))
    validate(document, json_schema())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(AssertionError):
        validate(document, json_schema())


def test_the_json_schema_is_one_for_other_tools_too() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs the optional package jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads(encode(sample_manifest())), json_schema())


KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def validate(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> None:
    """The part of JSON Schema 2020-12 that manifests use."""
    root = schema if root is None else root
    if "$ref" in schema:
        validate(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        assert any(_fits(value, choice, root) for choice in schema["anyOf"]), value
    if "enum" in schema:
        assert value in schema["enum"], value
    if "type" in schema:
        kind = schema["type"]
        assert isinstance(value, KINDS[kind]), (value, kind)
        assert kind == "boolean" or not isinstance(value, bool), (value, kind)
    if isinstance(value, dict):
        _validate_object(value, schema, root)
    if isinstance(value, list):
        fixed = schema.get("prefixItems", [])
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        for item, rule in zip(value, [*fixed, *[schema.get("items") or {}] * (len(value) - len(fixed))], strict=True):
            validate(item, rule, root)


def _validate_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> None:
    assert set(schema.get("required", [])) <= set(value)
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", {})
    for key, entry in value.items():
        assert key in properties or more is not False, key
        validate(entry, properties.get(key, more or {}), root)


def _fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    try:
        validate(value, schema, root)
    except AssertionError:
        return False
    return True


def test_a_graph_names_its_engine_only_where_it_is_another() -> None:
    """So bundles of one engine are what they were before graphs could name theirs, to the byte."""
    manifest = sample_manifest()
    (graph,) = manifest.graphs
    document = json.loads(encode(manifest))
    assert "engine" not in document["graphs"][0]
    assert manifest.engines == (manifest.engine,)
    other = msgspec.structs.replace(graph, name="second", engine="openvino")
    mixed = msgspec.structs.replace(manifest, graphs=(graph, other))
    read = decode(encode(mixed), "x")
    assert read.engines == (manifest.engine, "openvino")
    assert [read.engine_of(one) for one in read.graphs] == [manifest.engine, "openvino"]
