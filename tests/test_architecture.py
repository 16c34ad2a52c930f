"""The shape of the house: what may import what, how large a file may be, and what every name must say of itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "edgekit"
HOST = (
    "sources", "graphs", "converters", "calibration", "evaluation", "conversion", "shapes", "devices", "records",
)  # fmt: skip
DEVICE_FOLDERS = ("drawing", "language", "profiling", "results", "runtimes", "tasks", "tracking", "vision_language")
# fmt: off
DEVICE_FILES = (
    "__init__.py", "bundle.py", "errors.py", "huggingface.py", "images.py", "loading.py", "manifest.py",
    "manifest_file.py", "media.py", "model.py", "reader.py", "registry.py", "report_charts.py", "report_page.py",
    "resampling.py", "smoothing.py", "stacks.py", "toolchains.py", "top_down.py", "tracked.py", "video.py",
    "video_writer.py", "cli/_drawn.py", "cli/_generation.py", "cli/_options.py", "cli/ask.py", "cli/build.py",
    "cli/caption.py", "cli/embed.py", "cli/index.py", "cli/info.py", "cli/match.py", "cli/run.py", "cli/search.py",
)
HEAVY = (
    "_tools", "ai_edge_litert", "ai_edge_quantizer", "coremltools", "cv2", "datasets", "ethosu", "executorch",
    "litert_torch", "MNN", "model_compression_toolkit", "ncnn", "nncf", "onnx", "onnxruntime", "onnxscript", "onnxslim",
    "openvino", "optuna", "picamera2", "PIL", "pnnx", "pycocotools", "rknn", "rknnlite", "safetensors", "supervision",
    "tensorflow", "tensorrt", "tflite_runtime", "torch", "torchao", "torchvision", "ultralytics",
)
# fmt: on
EVERY = sorted(PACKAGE.rglob("*.py"))
DEVICE = sorted(
    {PACKAGE / name for name in DEVICE_FILES}
    | {path for folder in DEVICE_FOLDERS for path in (PACKAGE / folder).rglob("*.py")}
)


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


every_file = pytest.mark.parametrize("path", EVERY, ids=named)
# Modules that are found by their names have to be cheap to import. A module with an underscore is imported where it is
# used, and so are the networks of the shapes world, whose classes are torch classes.
REGISTERED = [path for path in EVERY if not path.stem.startswith("_") or path.stem.startswith("__")]
registered_file = pytest.mark.parametrize(
    "path", sorted({*REGISTERED, *DEVICE} - {PACKAGE / "shapes/detector.py", PACKAGE / "shapes/tasks.py"}), ids=named
)
device_file = pytest.mark.parametrize("path", DEVICE, ids=named)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def executed(node: ast.AST, *, functions: bool) -> Iterator[ast.AST]:
    """Every node that runs: what is only for type checkers is left out, functions where that is asked for."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            yield from (part for other in child.orelse for part in (other, *executed(other, functions=functions)))
            continue
        if not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from executed(child, functions=functions)


def imported(path: Path, code: ast.Module, *, functions: bool) -> set[str]:
    """Absolute names of the modules (and names in them) that a file imports."""
    package = ("edgekit", *path.relative_to(PACKAGE).parent.parts) if path.is_relative_to(PACKAGE) else ()
    found = set[str]()
    for node in executed(code, functions=functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module or ""]
            module = ".".join(part for part in base if part)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "registry.module"):
            found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def reaches_host(names: set[str]) -> set[str]:
    return {name for name in names for host in HOST if f"{name}.".startswith(f"edgekit.{host}.")}


@device_file
def test_device_code_never_imports_host_code(path: Path) -> None:
    assert not reaches_host(imported(path, tree(path), functions=True))


# But for the package's own __init__, which names the whole API for type checkers; nothing of that runs.
@pytest.mark.parametrize("path", [path for path in DEVICE if path != PACKAGE / "__init__.py"], ids=named)
def test_device_code_needs_no_host_types_either(path: Path) -> None:
    froms = {node.module or "" for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)}
    assert not reaches_host(froms)


@registered_file
def test_nothing_heavy_is_imported_with_a_module(path: Path) -> None:
    roots = {name.partition(".")[0] for name in imported(path, tree(path), functions=False)}
    assert not roots & set(HEAVY)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    from edgekit.sources import load", {"edgekit.sources", "edgekit.sources.load"}),
        ("from edgekit import converters", {"edgekit.converters"}),
        ("import edgekit.shapes.world as w", {"edgekit.shapes.world"}),
        ("from ..evaluation import coco", {"edgekit.evaluation", "edgekit.evaluation.coco"}),
        (
            "if TYPE_CHECKING:\n    import x\nelse:\n    import edgekit.conversion.convert",
            {"edgekit.conversion.convert"},
        ),
        ("importlib.import_module('edgekit.calibration')", {"edgekit.calibration"}),
        ("from edgekit.manifest import Contract", set()),
        ("import edgekit.sources_of_light", set()),
    ],
)
def test_the_check_itself_sees_every_way_to_import(source: str, expected: set[str]) -> None:
    code = ast.parse(source)
    assert reaches_host(imported(PACKAGE / "tasks" / "x.py", code, functions=True)) == expected


def test_the_lists_of_this_test_are_complete() -> None:
    assert all(path.is_file() for path in DEVICE)
    known = {*HOST, *DEVICE_FOLDERS, "cli"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= known
    top = {name for name in DEVICE_FILES if "/" not in name}
    assert {path.name for path in PACKAGE.glob("*.py")} == {*top, "__main__.py"}


@every_file
def test_files_fit_a_reader(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def public(node: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) or child.name.startswith("_"):
            continue
        overload = any(ast.unparse(mark).endswith("overload") for mark in child.decorator_list)
        if not overload:
            yield child
        if isinstance(child, ast.ClassDef):
            yield from public(child)


@pytest.mark.parametrize("path", REGISTERED, ids=named)
def test_everything_public_says_what_it_is(path: Path) -> None:
    code = tree(path)
    assert ast.get_docstring(code), "the module"
    # What overrides a method is documented where the method is declared: a session's run by its Protocol.
    overriding = {
        item.name
        for node in ast.walk(code)
        if isinstance(node, ast.ClassDef) and (path.parent.name == "runtimes" or node.bases)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name in ("run", "list_commands", "get_command", "forward")
    }
    assert not {node.name for node in public(code) if not ast.get_docstring(node)} - overriding


@every_file
def test_library_code_neither_prints_nor_asserts(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), node.lineno
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "breakpoint"), node.lineno


INSTALLER = "conversion/installation.py"
SETS_UP = "devices/environment.py"
"""Installs too, on a device and not here: for ``edgekit device setup`` alone."""


def test_only_the_toolchain_command_reaches_what_installs() -> None:
    code = {named(path): imported(path, tree(path), functions=True) for path in EVERY}
    assert [name for name in code if "edgekit.conversion.installation" in code[name]] == ["cli/toolchain.py"]
    calling = [name for name in code if "edgekit.devices.environment.setup" in code[name]]
    assert calling == ["cli/device.py"]


@every_file
def test_nothing_is_unpickled_without_trust_or_installed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if named(path) not in (INSTALLER, SETS_UP):
            assert not (isinstance(node, ast.Constant) and node.value in ("pip", "ensurepip")), node.lineno
        if not isinstance(node, ast.Call):
            continue
        function, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert function not in ("eval", "exec", "os.system"), node.lineno
        assert function not in ("pickle.load", "pickle.loads"), node.lineno
        if (
            function == "torch.load" and named(path) != "sources/_ultralytics_pickle.py"
        ):  # it has an unpickler of its own
            assert given.get("weights_only") in ("True", "not trust"), node.lineno
        if function == "np.load":
            assert given.get("allow_pickle", "False") == "False", node.lineno


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_edgekit_loads_nothing_heavy() -> None:
    assert not loaded_after("import edgekit") & {*HEAVY, "rich", "click", "yaml", "msgspec", "numpy"}


def test_naming_load_and_the_contract_loads_no_engine() -> None:
    loaded = loaded_after("import edgekit; edgekit.load; edgekit.Contract; edgekit.Detections; edgekit.EdgekitError")
    assert not loaded & {*HEAVY, "rich", "click", "yaml"}


def test_naming_convert_loads_no_toolchain() -> None:
    assert not loaded_after("import edgekit; edgekit.convert") & {*HEAVY, "rich", "click", "yaml"}


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["run", "--help"], ["targets", "--json"]])
def test_the_command_line_answers_without_engines(arguments: list[str]) -> None:
    statement = f"from edgekit.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
    assert not loaded_after(statement) & {*HEAVY, "yaml"}


def test_running_a_bundle_loads_its_engine_and_no_host_code(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    pytest.importorskip("onnx", reason="needs onnx to write a model")
    from tiny_onnx import write_tiny_bundle

    bundle = write_tiny_bundle(tmp_path / "tiny")
    statement = (
        f"import sys, numpy as np, edgekit; model = edgekit.load({str(bundle)!r})\n"
        "model(np.zeros((5, 7, 3), np.uint8))\n"
        f"assert not [name for name in sys.modules for host in {HOST!r} if name.startswith('edgekit.' + host)]"
    )
    assert loaded_after(statement) & set(HEAVY) == {"cv2", "onnxruntime"}


def test_the_public_names_resolve() -> None:
    import edgekit

    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    assert set(dir(edgekit)) == set(edgekit.__all__)
    with pytest.raises(AttributeError, match="module 'edgekit' has no attribute 'nothing'"):
        edgekit.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["converters", "runtimes", "calibration"])
def test_the_three_folders_are_linked_at_the_root(name: str) -> None:
    assert (ROOT / name).resolve() == PACKAGE / name
