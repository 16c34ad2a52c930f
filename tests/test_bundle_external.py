"""Nothing is read that the manifest does not list, and a check of one's own is asked first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT
from sample_bundles import forge, write_bundle
from tiny_onnx import write_model

import edgekit
from edgekit.errors import BundleError, EngineError, UsageError
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import MANIFEST, Graph
from edgekit.runtimes.bundle.onnx_external import named_files

onnx = pytest.importorskip("onnx", reason="needs onnx to write models")

OLD = ROOT / "tests" / "old_bundles"
UNGUARDED = r"keeps weights in '{}', which the manifest does not list; do not use this bundle"


def model(path: Path, place: str = "", location: str = "weights.data") -> Path:
    """A model with one tensor kept outside: an initializer, or one somewhere else."""
    write_model(path)
    loaded = onnx.load(path)
    tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), "outside")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    helper = onnx.helper
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", 1, None)])
    if place == "initializer":
        loaded.graph.initializer.append(tensor)
    elif place == "attribute":
        loaded.graph.node.append(constant)
    elif place == "subgraph":
        loaded.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    elif place == "function":
        operators = [helper.make_opsetid("", 17)]
        loaded.functions.append(helper.make_function("own", "F", [], ["c"], [constant], operators))
    elif place == "sparse":
        loaded.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, tensor, [4]))
    elif place == "context":
        node = helper.make_node("EPContext", [], ["c"], embed_mode=0, ep_cache_context=location)
        loaded.graph.node.append(node)
    path.write_bytes(loaded.SerializeToString())
    return path


PLACES = ("initializer", "attribute", "subgraph", "function", "sparse", "context")


@pytest.mark.parametrize("place", PLACES)
def test_every_place_that_names_a_file_is_found(tmp_path: Path, place: str) -> None:
    assert named_files(model(tmp_path / "m.onnx", place)) == {"weights.data"}
    assert named_files(model(tmp_path / "m.onnx")) == set()


def test_a_context_that_is_embedded_and_a_word_by_chance_name_nothing(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    loaded = onnx.load(path)
    node = onnx.helper.make_node("EPContext", [], ["c"], embed_mode=1, ep_cache_context=b"location of the NPU")
    loaded.graph.node.append(node)
    loaded.doc_string = "location"
    path.write_bytes(loaded.SerializeToString())
    assert named_files(path) == set()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["weights.data", "../secret", "*/_ORT_MEM_ADDR_/*", "/etc/passwd"])
def test_weights_that_the_manifest_does_not_guard_are_refused(tmp_path: Path, place: str, location: str) -> None:
    content = model(tmp_path / "m.onnx", place, location).read_bytes()
    bundle = tmp_path / "bundle"
    with pytest.raises(BundleError, match=r"which the manifest does not list"):
        write_bundle(bundle, {"model.bin": b"x", "model.onnx": content})


def test_weights_that_it_guards_are_fine_in_a_subfolder_too(tmp_path: Path) -> None:
    content = model(tmp_path / "m.onnx", "initializer").read_bytes()
    files = {"model.bin": b"x", "parts/model.onnx": content, "parts/weights.data": b"x"}
    write_bundle(tmp_path / "bundle", files)
    with pytest.raises(BundleError, match=UNGUARDED.format("weights.data")):
        write_bundle(tmp_path / "other", {"model.bin": b"x", "parts/model.onnx": content, "weights.data": b"x"})


def test_an_entry_taken_out_of_a_real_bundle_is_noticed(tmp_path: Path) -> None:
    old = OLD / "opt-onnx-int8"
    manifest = open_bundle(old).manifest
    files = tuple(file for file in manifest.files if file.path != "vision.onnx.data")
    graphs = tuple(
        msgspec.structs.replace(graph, files=tuple(name for name in graph.files if name != "vision.onnx.data"))
        for graph in manifest.graphs
    )
    with pytest.raises(BundleError, match="vision.onnx: " + UNGUARDED.format("vision.onnx.data")):
        open_bundle(forge(old, tmp_path / "forged", files=files, graphs=graphs))


def test_a_link_to_an_onnx_file_has_its_weights_guarded_at_both_ends(tmp_path: Path) -> None:
    content = model(tmp_path / "m.onnx", "initializer").read_bytes()
    files = {"model.bin": b"x", "parts/model.onnx": content, "parts/weights.data": b"x", "weights.data": b"x"}
    whole = write_bundle(tmp_path / "bundle", files)
    entries = {file.path: file for file in whole.manifest.files}
    link = msgspec.structs.replace(entries["parts/model.onnx"], path="model.onnx")
    forged = forge(whole.path, tmp_path / "forged", files=(*entries.values(), link))
    (forged / "model.onnx").symlink_to("parts/model.onnx")
    open_bundle(forged)
    del entries["weights.data"], entries["parts/model.onnx"]
    link_alone = forge(whole.path, tmp_path / "alone", files=(*entries.values(), link))
    (link_alone / "model.onnx").symlink_to("parts/model.onnx")
    with pytest.raises(BundleError, match=UNGUARDED.format("weights.data")):
        open_bundle(link_alone)


@pytest.mark.parametrize("damage", ["cut", "wire", "deep"])
def test_a_damaged_onnx_file_is_a_bundle_error(tmp_path: Path, damage: str) -> None:
    content = model(tmp_path / "m.onnx", "initializer").read_bytes()
    if damage == "cut":
        content = content[:-3]
    elif damage == "wire":
        content = b"\x3b" + content
    else:
        content = b"location"
        for _ in range(60):  # an attribute's graph's node's attribute ...
            for tag in (0x32, 0x2A, 0x0A):
                size = len(content)
                content = bytes([tag, size & 127 | 128, size >> 7]) + content
        size = len(content)
        content = bytes([0x3A, size & 127 | 128, size >> 7]) + content
    with pytest.raises(BundleError, match=r"model.onnx: not a whole ONNX file \(.+\); convert the model again"):
        write_bundle(tmp_path / "bundle", {"model.bin": b"x", "model.onnx": content})


def graph_of(bundle: Path) -> Graph:
    (graph,) = open_bundle(bundle).manifest.graphs
    return graph


def test_an_engine_opens_no_other_format(tmp_path: Path) -> None:
    """ONNX Runtime reads an .ort file by other rules; what is in an .onnx file was looked at."""
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    copy = tmp_path / "copy"
    shutil.copytree(OLD / "detector-onnx-int8", copy)
    (copy / "model.onnx").rename(copy / "model.ort")
    manifest = open_bundle(OLD / "detector-onnx-int8").manifest
    files = tuple(msgspec.structs.replace(file, path="model.ort") for file in manifest.files)
    graph = msgspec.structs.replace(manifest.graphs[0], files=("model.ort",))
    with pytest.raises(EngineError, match=r"model.ort: the engine opens .onnx files; convert the model again"):
        edgekit.load(forge(copy, tmp_path / "forged", files=files, graphs=(graph,)))


def test_openvino_takes_no_weights_but_those_of_the_manifest(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    old = OLD / "detector-openvino-fp32"
    graph = msgspec.structs.replace(graph_of(old), files=("model.xml",))
    with pytest.raises(EngineError, match=r"an OpenVINO graph has an .xml and a .bin, not \['model.xml'\]"):
        edgekit.load(forge(old, tmp_path / "forged", graphs=(graph,)))


def test_a_coreml_package_has_no_file_that_is_not_guarded(tmp_path: Path) -> None:
    from edgekit.runtimes.engines.coreml import package_of

    graph = msgspec.structs.replace(graph_of(OLD / "detector-onnx-int8"), files=("m.mlpackage/Manifest.json",))
    (tmp_path / "m.mlpackage").mkdir()
    (tmp_path / "m.mlpackage" / "Manifest.json").touch()
    assert package_of(tmp_path, graph) == tmp_path / "m.mlpackage"
    (tmp_path / "m.mlpackage" / "more.bin").touch()
    with pytest.raises(EngineError, match=r"more.bin: a file that the manifest does not list; do not use"):
        package_of(tmp_path, graph)


# ---- a check of one's own ----


def test_a_check_of_ones_own_sees_the_manifest_before_it_is_believed() -> None:
    seen = list[tuple[Path, bytes]]()
    old = OLD / "detector-onnx-int8"
    open_bundle(old, verify=lambda folder, manifest: seen.append((folder, manifest)))
    assert seen == [(old, (old / MANIFEST).read_bytes())]


def refuse(folder: Path, manifest: bytes) -> None:
    raise BundleError(f"{folder}: signed by nobody we know")


@pytest.mark.parametrize("opened", [open_bundle, edgekit.load])
def test_a_check_of_ones_own_refuses_even_what_is_no_manifest(tmp_path: Path, opened: Any) -> None:
    (tmp_path / MANIFEST).write_bytes(b"not even JSON")
    with pytest.raises(BundleError, match="signed by nobody we know"):
        opened(tmp_path, verify=refuse)


def test_a_bundle_that_is_open_already_cannot_be_checked_again() -> None:
    with pytest.raises(UsageError, match=r"verify= goes with a path: .* open_bundle\(path, verify=\.\.\.\)"):
        edgekit.load(open_bundle(OLD / "detector-onnx-int8"), verify=refuse)
