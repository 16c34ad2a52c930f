"""The shape of the house: what may import what, how large a file may be, and what every name must say of itself."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "edgekit"
EVERY = sorted(PACKAGE.rglob("*.py"))
DEVICE = sorted((PACKAGE / "runtimes").rglob("*.py"))
BELOW = ("edgekit.runtimes", "edgekit.errors", "edgekit.arrays", "edgekit.registry", "edgekit.structures")
"""All that device code may import of edgekit."""
# fmt: off
HEAVY = (
    "_tools", "ai_edge_litert", "ai_edge_quantizer", "coremltools", "cv2", "datasets", "ethosu", "executorch",
    "litert_torch", "MNN", "model_compression_toolkit", "ncnn", "nncf", "onnx", "onnxruntime", "onnxscript", "onnxslim",
    "openvino", "picamera2", "PIL", "pnnx", "pycocotools", "rknn", "rknnlite", "safetensors", "supervision",
    "tensorflow", "tensorrt", "tflite_runtime", "torch", "torchao", "torchvision", "ultralytics",
)
# fmt: on
HOST = tuple(
    path.parent.name
    for path in PACKAGE.glob("*/__init__.py")
    if path.parent.name not in ("cli", "isolation", "profiling", "runtimes", "worker")
)
"""Folders that no device has to load."""


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def is_helper(path: Path) -> bool:
    """Whether a file is imported where it is used: it has an underscore, or lies in one target's, source's or engine's
    own folder."""
    own = path.parent.parent.name in ("converters", "sources", "engines", "emulators") and path.stem != "__init__"
    return own or (path.stem.startswith("_") and not path.stem.startswith("__"))


# Modules that are found by their names have to be cheap to import. So are the networks of the shapes world not, whose
# classes are torch classes.
REGISTERED = [path for path in EVERY if not is_helper(path)]
TORCH_CLASSES = {PACKAGE / f"shapes/{name}.py" for name in ("detector", "oriented", "semantic", "tasks")}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def executed(node: ast.AST, *, functions: bool, types: bool = False) -> Iterator[ast.AST]:
    """Every node that runs: functions and what is only for type checkers are left out where that is asked for."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child) and not types:
            yield from (part for other in child.orelse for part in (other, *executed(other, functions=functions)))
            continue
        if not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from executed(child, functions=functions, types=types)


def imported(path: Path, code: ast.Module, *, functions: bool, types: bool = False) -> set[str]:
    """Absolute names of the modules (and names in them) that a file imports."""
    package = ("edgekit", *path.relative_to(PACKAGE).parent.parts) if path.is_relative_to(PACKAGE) else ()
    found = set[str]()
    for node in executed(code, functions=functions, types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module or ""]
            module = ".".join(part for part in base if part)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "registry.module"):
            found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def reaches_out(names: set[str]) -> set[str]:
    """Names of edgekit's own modules that device code must not import."""
    return {
        name
        for name in names
        if f"{name}.".startswith("edgekit.") and name != "edgekit" and not name.startswith(tuple(BELOW))
    }


def test_device_code_imports_device_code_alone() -> None:
    found = {named(path): reaches_out(imported(path, tree(path), functions=True, types=True)) for path in DEVICE}
    assert not {name: outside for name, outside in found.items() if outside}


HOOKS = [("runtimes/engines/__init__.py", name) for name in ("edgekit.emulators", "edgekit.isolation")]
"""The one place where device code names what is above it, to look up an emulator or the isolation of an engine."""


def test_device_code_names_host_code_in_one_place() -> None:
    found = [
        (named(path), node.value)
        for path in DEVICE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"edgekit(\.\w+)+", node.value) and reaches_out({node.value})
    ]
    assert found == HOOKS


def test_nothing_heavy_is_imported_with_a_module() -> None:
    found = {}
    for path in sorted({*REGISTERED, *DEVICE} - TORCH_CLASSES):
        roots = {name.partition(".")[0] for name in imported(path, tree(path), functions=False)}
        found[named(path)] = roots & set(HEAVY)
    assert not {name: heavy for name, heavy in found.items() if heavy}


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
        ("from edgekit.runtimes.bundle.manifest import Contract", set()),
        ("from edgekit.errors import EngineError", set()),
        ("import sources", set()),
    ],
)
def test_the_check_itself_sees_every_way_to_import(source: str, expected: set[str]) -> None:
    code = ast.parse(source)
    assert reaches_out(imported(PACKAGE / "runtimes" / "x.py", code, functions=True)) == expected


def circles() -> list[list[str]]:
    """Files of the package that import each other in a loop, whether at the top or in a function."""
    files = {("edgekit." + named(path)[:-3].replace("/", ".")).removesuffix(".__init__"): path for path in EVERY}
    graph = {
        name: {other for other in imported(path, tree(path), functions=True) if other in files and other != name}
        # A module's own package is loaded with it; that alone is no arrow.
        - {name.rpartition(".")[0]}
        for name, path in files.items()
    }
    loops = []
    for group in strongly_connected(graph):
        if len(group) > 1:
            loops.append(sorted(group))
    return loops


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach each other (by two searches, after Kosaraju)."""
    order: list[str] = []
    seen = set[str]()

    def walk(node: str, edges: dict[str, set[str]], into: list[str]) -> None:
        stack = [(node, iter(edges[node]))]
        seen.add(node)
        while stack:
            at, rest = stack[-1]
            following = next((other for other in rest if other not in seen), None)
            if following is None:
                into.append(at)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(edges[following])))

    for node in graph:
        if node not in seen:
            walk(node, graph, order)
    back: dict[str, set[str]] = {node: set() for node in graph}
    for node, others in graph.items():
        for other in others:
            back[other].add(node)
    seen.clear()
    groups = []
    for node in reversed(order):
        if node not in seen:
            group: list[str] = []
            walk(node, back, group)
            groups.append(set(group))
    return groups


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circles()


def test_a_circle_would_be_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert {"a", "b", "c"} in strongly_connected(graph)


def floors() -> dict[str, int]:
    """The floor of each folder and file, as the table of the architecture page has it."""
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", names)}


def rooms(names: set[str]) -> set[str]:
    """The folders and files at the top of the package that these modules are in."""
    return {name.split(".")[1] for name in names if name.startswith("edgekit.")}


def test_arrows_only_go_down_the_floors_of_the_architecture_page() -> None:
    known, upward = floors(), []
    for path in EVERY:
        room = rooms({f"edgekit.{named(path).removesuffix('.py').replace('/', '.')}"}).pop()
        others = rooms(imported(path, tree(path), functions=True, types=True)) - {room}
        if room in known:
            upward += [(named(path), other) for other in others & set(known) if known[other] <= known[room]]
    assert max(known.values()) <= 11
    assert not upward


def public(node: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) or child.name.startswith("_"):
            continue
        overload = any(ast.unparse(mark).endswith("overload") for mark in child.decorator_list)
        if not overload:
            yield child
        if isinstance(child, ast.ClassDef):
            yield from public(child)


def undocumented(path: Path) -> set[str]:
    """Public names of a file without a docstring, and ``module`` where the file itself has none."""
    code = tree(path)
    # What overrides a method is documented where the method is declared: a session's run by its Protocol.
    overriding = {
        item.name
        for node in ast.walk(code)
        if isinstance(node, ast.ClassDef) and ("engines" in path.parts or "emulators" in path.parts or node.bases)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name in ("run", "list_commands", "get_command", "forward")
    }
    silent = {node.name for node in public(code) if not ast.get_docstring(node)} - overriding
    return silent if ast.get_docstring(code) else {"module", *silent}


def test_everything_public_says_what_it_is() -> None:
    assert not {named(path): silent for path in REGISTERED if (silent := undocumented(path))}


def offenders(wrong: Callable[[Path, ast.AST], bool]) -> list[str]:
    """Where in the package a rule is broken, as ``file:line``."""
    return [
        f"{named(path)}:{getattr(node, 'lineno', 0)}"
        for path in EVERY
        for node in ast.walk(tree(path))
        if wrong(path, node)
    ]


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_library_code_neither_prints_nor_asserts() -> None:
    assert not offenders(lambda _, node: isinstance(node, ast.Assert) or called(node) in ("print", "breakpoint"))


INSTALLER = "conversion/installation.py"
SETS_UP = "profiling/devices/environment.py"
"""Installs too, on a device and not here: for ``edgekit device setup`` alone."""


def test_only_the_toolchain_command_reaches_what_installs() -> None:
    code = {named(path): imported(path, tree(path), functions=True) for path in EVERY}
    assert [name for name in code if "edgekit.conversion.installation" in code[name]] == ["cli/toolchain.py"]
    calling = [name for name in code if "edgekit.profiling.devices.environment.setup" in code[name]]
    assert calling == ["cli/device.py"]


def test_nothing_is_installed_but_by_the_installers() -> None:
    def installs(path: Path, node: ast.AST) -> bool:
        names = isinstance(node, ast.Constant) and node.value in ("pip", "ensurepip")
        return names and named(path) not in (INSTALLER, SETS_UP)

    assert not offenders(installs)


def unsafe(path: Path, node: ast.AST) -> bool:
    """Whether a call executes or unpickles what the user did not vouch for."""
    function = called(node)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords} if isinstance(node, ast.Call) else {}
    if function == "torch.load" and named(path) != "sources/ultralytics/pickle.py":  # it has an unpickler of its own
        return given.get("weights_only") not in ("True", "not trust")
    if function == "np.load":
        return given.get("allow_pickle", "False") != "False"
    return function in ("eval", "exec", "os.system", "pickle.load", "pickle.loads")


def test_nothing_is_unpickled_or_executed_without_trust() -> None:
    assert not offenders(unsafe)


@pytest.mark.parametrize(
    "call",
    ["eval('1')", "pickle.loads(b'')", "torch.load(path)", "np.load(path, allow_pickle=True)", "os.system('ls')"],
)
def test_that_rule_sees_what_it_forbids(call: str) -> None:
    assert unsafe(PACKAGE / "x.py", ast.parse(call, mode="eval").body)


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


def test_whatever_registers_has_the_name_of_its_file() -> None:
    from edgekit import registry

    for package, attribute, named_by in (
        ("converters", "TARGET", "name"),
        ("runtimes.engines", "ENGINE", "name"),
        ("emulators", "EMULATOR", "engine"),
    ):
        declared = registry.declared(f"edgekit.{package}", attribute)
        assert [getattr(getattr(module, attribute), named_by) for module in declared.values()] == list(declared)
    engines = registry.declared("edgekit.runtimes.engines", "ENGINE")
    assert set(registry.declared("edgekit.emulators", "EMULATOR")) < set(engines)
    assert set(registry.declared("edgekit.profiling.engines", "measure")) < set(engines)


@pytest.mark.parametrize("name", ["converters", "runtimes", "calibration"])
def test_the_three_folders_are_linked_at_the_root(name: str) -> None:
    assert (ROOT / name).resolve() == PACKAGE / name
