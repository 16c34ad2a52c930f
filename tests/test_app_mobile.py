"""``edgekit app ios`` and ``android``: the projects they write, read by parsers, and what they refuse.

What Linux can compile of them is compiled by test_platform_swift.py and test_platform_kotlin.py.
"""

from __future__ import annotations

import plistlib
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from conftest import ROOT
from pbxproj import Project, faults, parsed
from tiny_onnx import write_tiny_bundle

from edgekit import registry
from edgekit.apps import _project, android, ios
from edgekit.cli import main
from edgekit.cli.app import command
from edgekit.errors import BundleError, ToolchainError, UsageError
from edgekit.runtimes.bundle import manifest_file
from edgekit.runtimes.bundle.folder import open_bundle, replace_manifest
from edgekit.runtimes.bundle.manifest import Language, Tensor

KINDS = {"ios": (ios, "coreml"), "android": (android, "litert")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def changed(bundle: Path, **changes: Any) -> Path:
    """The bundle with another manifest, sealed again: entries of the manifest, or of its contract as ``contract``."""
    manifest = open_bundle(bundle).manifest
    contract = msgspec.structs.replace(manifest.contract, **changes.pop("contract", {}))
    manifest = msgspec.structs.replace(manifest, contract=contract, digest="", **changes)
    replace_manifest(bundle, manifest_file.encode(manifest))
    return bundle


def spoken(bundle: Path, family: Literal["opt", "t5", "retrieval"] = "opt") -> Path:
    """The bundle as one of a vision-language model, as far as an app looks at it."""
    return changed(bundle, contract={"language": Language(family=family, queries=4)})


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def toml(path: Path) -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


ADDRESS = re.compile(r"(?:https?|wss?|git|ssh)://[^\s\"'<>)]+")


def addresses(app: Path, model: str) -> set[tuple[str, str]]:
    """Every address in the project's own files; licences and the bundle may name what they like."""
    found = set()
    for name in sorted(files(app)):
        if not name.startswith(model) and Path(name).suffix not in {".txt", ".c", ".h"}:
            found |= {(name, address) for address in ADDRESS.findall((app / name).read_text(encoding="utf-8"))}
    return found


# iOS


def project_of(app: Path) -> Project:
    return parsed((app / "EdgeApp.xcodeproj" / "project.pbxproj").read_text(encoding="utf-8"))


def test_the_xcode_project_is_whole_and_has_the_bundle_as_a_folder(bundle: Path, tmp_path: Path) -> None:
    app = ios.write_app(changed(bundle, engine="coreml", name="Cats & <dogs>"), tmp_path / "new" / "app")
    project = project_of(app)
    assert faults(project, app) == []
    (model,) = (one for one in project.objects.values() if one.get("path") == "model")
    assert model["lastKnownFileType"] == "folder"
    phases = {one["isa"]: one for one in project.objects.values() if one["isa"].endswith("BuildPhase")}
    resources = [project[project[file]["fileRef"]]["path"] for file in phases["PBXResourcesBuildPhase"]["files"]]
    assert resources == ["PrivacyInfo.xcprivacy", "model", "LICENCES.txt", "APACHE-2.0.txt"]
    assert open_bundle(app / "model").manifest == open_bundle(bundle).manifest
    products = [
        one["productName"] for one in project.objects.values() if one["isa"] == "XCSwiftPackageProductDependency"
    ]
    assert sorted(products) == ["EdgeKit", "EdgeKitCoreML", "EdgeKitUI"]
    manifest = (app / "EdgeKit" / "Package.swift").read_text()
    for product in products:
        assert f'.library(name: "{product}", targets: ["{product}"])' in manifest
        original = ROOT / "platforms" / "swift" / "Sources" / product
        assert files(app / "EdgeKit" / "Sources" / product) == files(original)
    assert not [
        name for name in files(app) if "ONNXRuntime" in name or "COnnxRuntime" in name or name.endswith("onnx.swift")
    ]
    assert [path.name for path in app.parent.iterdir()] == ["app"]


def test_the_app_asks_for_the_camera_and_for_nothing_else(bundle: Path, tmp_path: Path) -> None:
    app = ios.write_app(changed(bundle, engine="coreml", name="Cats & <dogs>"), tmp_path / "app")
    info = plistlib.loads((app / "EdgeApp" / "Info.plist").read_bytes())
    assert info["CFBundleDisplayName"] == "Cats & <dogs>"
    assert [key for key in info if key.endswith("UsageDescription")] == ["NSCameraUsageDescription"]
    assert "NSAppTransportSecurity" not in info
    assert len(info["UISupportedInterfaceOrientations~ipad"]) == 4
    privacy = plistlib.loads((app / "EdgeApp" / "PrivacyInfo.xcprivacy").read_bytes())
    assert (privacy["NSPrivacyTracking"], privacy["NSPrivacyCollectedDataTypes"]) == (False, [])
    assert {address for _, address in addresses(app, "model/")} == {"http://www.apple.com/DTDs/PropertyList-1.0.dtd"}
    for source in app.rglob("*.swift"):
        assert not re.search(r"URLSession|NWConnection|import Network\b", source.read_text()), source
    scheme = ElementTree.parse(app / "EdgeApp.xcodeproj" / "xcshareddata" / "xcschemes" / "EdgeApp.xcscheme")
    project = project_of(app)
    for one in scheme.iter("BuildableReference"):
        assert project[one.attrib["BlueprintIdentifier"]]["name"] == one.attrib["BlueprintName"]
    import yaml

    (job,) = yaml.safe_load((app / ".github" / "workflows" / "app.yml").read_text())["jobs"].values()
    assert "xcodebuild test" in job["steps"][-1]["run"]
    assert "ONNX Runtime" in (app / "LICENCES.txt").read_text()
    assert (app / "APACHE-2.0.txt").read_text() == (ROOT / "LICENSE").read_text()


def test_an_onnx_bundle_brings_its_engine(bundle: Path, tmp_path: Path) -> None:
    app = ios.write_app(bundle, tmp_path / "app")
    assert faults(project_of(app), app) == []
    for name in ("EdgeApp/EdgeApp.swift", "EdgeAppTests/EdgeAppTests.swift"):
        text = (app / name).read_text()
        assert "import EdgeKitONNX" in text
        assert "ONNXRuntime()" in text
    assert not [path for path in (app / "EdgeApp").rglob("*.swift") if "CoreML" in path.read_text()]
    package = app / "EdgeKit"
    assert (
        'binaryTarget(name: "onnxruntime", path: "onnxruntime.xcframework")' in (package / "Package.swift").read_text()
    )
    assert (package / "COnnxRuntime" / "include" / "shim.h").is_file()
    assert not (package / "Sources" / "EdgeKitCoreML").exists()
    assert not (package / "onnx.swift").exists()


def test_a_vision_language_model_gets_its_screen_and_its_tests(bundle: Path, tmp_path: Path) -> None:
    seen = ios.write_app(bundle, tmp_path / "seen")
    app = ios.write_app(spoken(bundle), tmp_path / "app")
    assert faults(project_of(app), app) == []
    for root, screen, opened in (
        (app, "LanguageScreen", "VisionLanguage.open"),
        (seen, "ModelScreen", "EdgeModel.open"),
    ):
        text = (root / "EdgeApp" / "EdgeApp.swift").read_text()
        assert f"WindowGroup {{ {screen}(bundle: EdgeApp.model, engine: ONNXRuntime()) }}" in text
        assert opened in (root / "EdgeAppTests" / "EdgeAppTests.swift").read_text()
        assert files(root / "EdgeAppTests") == {"EdgeAppTests.swift"}
        assert (root / "EdgeKit" / "Sources" / "EdgeKitUI" / "Apple" / f"{screen}.swift").is_file()


def test_a_package_can_be_referred_to(bundle: Path, tmp_path: Path) -> None:
    app = ios.write_app(changed(bundle, engine="coreml"), tmp_path / "app", package=ROOT)
    project = project_of(app)
    (reference,) = (one for one in project.objects.values() if one["isa"] == "XCLocalSwiftPackageReference")
    assert (app / reference["relativePath"] / "Package.swift").resolve() == (ROOT / "Package.swift").resolve()
    assert faults(project, app) == []
    assert not (app / "EdgeKit").exists()
    with pytest.raises(UsageError, match=r"has no Package\.swift; name edgekit's repository, or leave --package out"):
        ios.write_app(bundle, tmp_path / "other", package=tmp_path)
    with pytest.raises(UsageError, match=r"--package: .* which iOS does not have; .* --target coreml"):
        ios.write_app(changed(bundle, engine="onnxruntime"), tmp_path / "other", package=ROOT)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("found", "put", "said"),
    [
        ("path = EdgeApp.swift;", "path = Missing.swift;", "EdgeApp/Missing.swift: no such file"),
        (
            "fileRef = ED6E00000000000000000005",
            "fileRef = ED6E000000000000000000AA",
            "ED6E000000000000000000AA: no such object",
        ),
        ("mainGroup = ED6E00000000000000000030;", "", "PBXProject without mainGroup"),
        ("relativePath = EdgeKit;", "relativePath = Nowhere;", "Nowhere: no Package.swift"),
        ("productName = EdgeKitUI;", "productName = EdgeKitVR;", "EdgeKitVR: no product of the package"),
        ("INFOPLIST_FILE = EdgeApp/Info.plist;", "INFOPLIST_FILE = Info.plist;", "Info.plist: no such file"),
        (
            "rootObject = ED6E000000000000000000FF;",
            "rootObject = ED6E00000000000000000010;",
            "the root is no PBXProject",
        ),
    ],
)
def test_the_check_of_projects_finds_what_is_broken(
    found: str, put: str, said: str, bundle: Path, tmp_path: Path
) -> None:
    """Negative control: each planted fault is told."""
    app = ios.write_app(changed(bundle, engine="coreml"), tmp_path / "app")
    text = (app / "EdgeApp.xcodeproj" / "project.pbxproj").read_text()
    assert found in text
    assert said in faults(parsed(text.replace(found, put)), app)


def test_a_project_that_is_no_property_list_is_not_read() -> None:
    for text in ("{ a = b }", "{ a = ( b c ); }", "{ a = b;", "{ a = b; } more", '{ a = "b; }'):
        with pytest.raises(ValueError, match=r"expected|ends"):
            parsed(text)


# Android

NAMESPACE = "{http://schemas.android.com/apk/res/android}"
TOOLS = "{http://schemas.android.com/tools}"
MAIN = Path("app") / "src" / "main"


def test_the_android_project_is_whole_and_has_the_bundle_in_its_assets(bundle: Path, tmp_path: Path) -> None:
    app = android.write_app(changed(bundle, engine="litert"), tmp_path / "new" / "app")
    assert open_bundle(app / MAIN / "assets" / "model").manifest == open_bundle(bundle).manifest
    settings = (app / "settings.gradle.kts").read_text()
    assert re.findall(r'"(\w+)"', settings.split("listOf(")[1].split(")")[0]) == ["core", "camerax", "litert"]
    for module in ("core", "camerax", "litert"):
        copied, original = app / "edgekit" / module, ROOT / "platforms" / "kotlin" / module
        assert files(copied / "src") == {f"main/{name}" for name in files(original / "src" / "main")}
        assert (copied / "build.gradle.kts").read_text() == (original / "build.gradle.kts").read_text()
    assert sorted(path.name for path in (app / "edgekit").iterdir()) == ["camerax", "core", "litert"]
    assert set(re.findall(r'project\(":(\w+)"\)', (app / "app" / "build.gradle.kts").read_text())) == {
        "core",
        "camerax",
        "litert",
    }
    assert (
        'consumerProguardFiles("src/main/consumer-rules.pro")'
        in (app / "edgekit" / "litert" / "build.gradle.kts").read_text()
    )
    assert (
        "com.google.ai.edge.litert" in (app / "edgekit" / "litert" / "src" / "main" / "consumer-rules.pro").read_text()
    )
    assert (app / "APACHE-2.0.txt").read_text() == (ROOT / "LICENSE").read_text()
    assert "ONNX Runtime" in (app / "LICENCES.txt").read_text()
    assert [path.name for path in app.parent.iterdir()] == ["app"]


def test_every_library_and_plugin_is_in_the_version_catalog(bundle: Path, tmp_path: Path) -> None:
    catalog = toml(ROOT / "platforms" / "kotlin" / "app" / "gradle" / "libs.versions.toml")
    for entry in (*catalog["libraries"].values(), *catalog["plugins"].values()):
        assert entry["version"]["ref"] in catalog["versions"], entry
    app = android.write_app(bundle, tmp_path / "app")
    used = set()
    for name in ("build.gradle.kts", "app/build.gradle.kts"):
        text = (app / name).read_text()
        used |= {name.replace(".", "-") for name in re.findall(r"\(libs\.([\w.]+)\)", text)}
        assert text.count("{") == text.count("}")
    known = {*catalog["libraries"], *(f"plugins-{name}" for name in catalog["plugins"])}
    assert used == known
    # The modules, whose own build fixes them, have the same versions.
    for module in ("core", "camerax", "onnx"):
        for library, version in re.findall(
            r'\("([\w.:-]+):([\d.]+)"\)', (ROOT / "platforms" / "kotlin" / module / "build.gradle.kts").read_text()
        ):
            own = {one["module"]: catalog["versions"][one["version"]["ref"]] for one in catalog["libraries"].values()}
            prefix = library.rsplit("-", 1)[0]
            assert {number for name, number in own.items() if name.startswith(prefix)} <= {version}, library
    plugins = (ROOT / "platforms" / "kotlin" / "build.gradle.kts").read_text()
    assert re.findall(r'version "([\d.]+)"', plugins) == [
        catalog["versions"][name] for name in ("android", "kotlin", "kotlin")
    ]


def resources(app: Path) -> tuple[str, set[str], dict[str, str | None]]:
    """The app's one layout, its ids, and the texts: each of them is used, and what the sources name is there."""
    strings = [one for path in (app / MAIN / "res" / "values").glob("*.xml") for one in ElementTree.parse(path).iter()]
    names = {one.attrib["name"]: one.text for one in strings if one.tag == "string"}
    (path,) = (app / MAIN / "res" / "layout").iterdir()
    ids = {one.get(f"{NAMESPACE}id", "").removeprefix("@+id/") for one in ElementTree.parse(path).iter()} - {""}
    said = set(re.findall(r"@string/(\w+)", path.read_text() + (app / MAIN / "AndroidManifest.xml").read_text()))
    sources = "\n".join(path.read_text() for path in (app / MAIN / "kotlin").rglob("*.kt"))
    assert set(re.findall(r"R\.id\.(\w+)", sources)) <= ids
    assert set(re.findall(r"(?<!android\.)R\.layout\.(\w+)", sources)) == {path.stem}
    assert said | set(re.findall(r"(?<!android\.)R\.string\.(\w+)", sources)) == set(names)
    return path.stem, ids, names


def test_the_manifest_asks_for_the_camera_and_keeps_the_network_out(bundle: Path, tmp_path: Path) -> None:
    app = android.write_app(changed(bundle, engine="litert", name="@Cats & 'dogs'"), tmp_path / "app")
    manifest = ElementTree.parse(app / MAIN / "AndroidManifest.xml")
    asked = {one.get(f"{NAMESPACE}name"): one.get(f"{TOOLS}node") for one in manifest.iter("uses-permission")}
    kept = {name for name, node in asked.items() if node != "remove"}
    assert kept == {"android.permission.CAMERA"}
    assert asked["android.permission.INTERNET"] == "remove"
    addressed = {address for _, address in addresses(app, "app/src/main/assets/model/")}
    assert {address for address in addressed if not address.startswith("http://schemas.android.com/")} == set()
    for source in app.rglob("*.kt"):
        assert not re.search(r"java\.net\.|HttpURLConnection|okhttp", source.read_text()), source
    layout, ids, names = resources(app)
    assert names["app_name"] == "\\@Cats & \\'dogs\\'"
    assert layout == "main"
    # The stub that the sources are compiled against has the same names as the two kinds of screens.
    other, more, others = resources(
        android.write_app(spoken(changed(bundle, engine="onnxruntime")), tmp_path / "other")
    )
    stub = (ROOT / "platforms" / "kotlin" / "stubs" / "com" / "example" / "edgeapp" / "R.java").read_text()
    assert set(re.findall(r"static final int (\w+) =", stub)) == ids | more | set(names) | set(others) | {layout, other}
    import yaml

    (job,) = yaml.safe_load((app / ".github" / "workflows" / "app.yml").read_text())["jobs"].values()
    wrapper = (app / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text()
    assert f"gradle-{job['steps'][2]['with']['gradle-version']}-bin.zip" in wrapper


def test_an_onnx_bundle_has_its_module(bundle: Path, tmp_path: Path) -> None:
    app = android.write_app(bundle, tmp_path / "app")
    assert sorted(path.name for path in (app / "edgekit").iterdir()) == ["camerax", "core", "onnx"]
    build = (app / "app" / "build.gradle.kts").read_text()
    assert 'project(":onnx")' in build
    assert "libs.onnxruntime" in build
    assert 'listOf("core", "camerax", "onnx")' in (app / "settings.gradle.kts").read_text()
    engine = (app / android.ENGINE).read_text()
    assert "import edgekit.onnx.OnnxRuntime" in engine
    assert "= OnnxRuntime()" in engine
    assert not [path for path in app.rglob("*.kt*") if re.search(r"edgekit\.litert|:litert", path.read_text())]
    # Negative control: each word that is replaced is there.
    template = ROOT / "platforms" / "kotlin" / "app"
    for file, words in (*android.ONNX.items(), *android.LANGUAGE.items()):
        for word in words:
            assert word in (template / file).read_text(), (file, word)


def test_a_vision_language_model_gets_an_activity_of_its_own(bundle: Path, tmp_path: Path) -> None:
    app = android.write_app(spoken(bundle), tmp_path / "app")
    manifest = (app / MAIN / "AndroidManifest.xml").read_text()
    assert 'android:name=".LanguageActivity"' in manifest
    kept = {one.get(f"{NAMESPACE}name") for one in ElementTree.fromstring(manifest).iter("uses-permission")}
    assert "android.permission.CAMERA" not in kept
    names = {Path(name).name for name in files(app / android.SOURCES)}
    assert names == {"Assets.kt", "Engine.kt", "LanguageActivity.kt", "Pictures.kt"}
    assert "fun engine(context: Context): NetworkEngine = OnnxRuntime()" in (app / android.ENGINE).read_text()


# Both


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_already_stays(kind: str, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    module, engine = KINDS[kind]
    changed(bundle, engine=engine)
    (tmp_path / "app").mkdir()
    with pytest.raises(UsageError, match=r"app: is there already, .* delete it, or name another folder with -o"):
        module.write_app(bundle, tmp_path / "app")
    with pytest.raises(SystemExit, match="2"):
        main(["app", kind, str(bundle), "-o", str(tmp_path / "app")])
    assert "is there already" in capsys.readouterr().err
    assert not list((tmp_path / "app").iterdir())
    with pytest.raises(SystemExit, match="0"):
        main(["app", kind, str(bundle), "-o", str(tmp_path / "other")])
    assert f"{tmp_path / 'other'}: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_bundles_that_the_app_cannot_run_are_refused(kind: str, bundle: Path, tmp_path: Path) -> None:
    module, engine = KINDS[kind]
    out = tmp_path / "app"
    with pytest.raises(
        UsageError, match=rf"is for ncnn, and an .* app runs .*; convert .* --target {engine} \(or onnx\)"
    ):
        module.write_app(changed(bundle, engine="ncnn"), out)
    decoder = msgspec.structs.replace(open_bundle(bundle).manifest.contract.decoder, name="mine")
    with pytest.raises(
        UsageError, match=r"its decoder 'mine' is not one of the (Swift|Kotlin) runtime's: anchor_free, "
    ):
        module.write_app(changed(bundle, engine=engine, contract={"decoder": decoder}), out)
    (bundle / "model.onnx").write_bytes(b"x" + (bundle / "model.onnx").read_bytes()[1:])
    with pytest.raises(BundleError, match="hash differs"):
        module.write_app(bundle, out)
    with pytest.raises(BundleError, match="no-such-bundle"):
        module.write_app(tmp_path / "no-such-bundle", out)
    assert not out.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vision_language_model_of_another_engine_is_refused(kind: str, bundle: Path, tmp_path: Path) -> None:
    module, engine = KINDS[kind]
    said = rf"is a vision-language model for {engine}, .* a screen for those of onnxruntime, web; .* --target onnx"
    with pytest.raises(UsageError, match=said):
        module.write_app(spoken(changed(bundle, engine=engine), "retrieval"), tmp_path / "app")
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vision_language_model_with_a_cache_in_8_bits_is_refused(kind: str, bundle: Path, tmp_path: Path) -> None:
    graph = open_bundle(bundle).manifest.graphs[0]
    past = Tensor(name="past.0.key", shape=(-1, 2, -1, 8), dtype="int8")
    small = changed(bundle, graphs=(msgspec.structs.replace(graph, inputs=(*graph.inputs, past)),))
    with pytest.raises(UsageError, match=r"keeps its cache in int8, .*; convert the model without kv_cache=int8"):
        KINDS[kind][0].write_app(spoken(small, "retrieval"), tmp_path / "app")
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_or_full_leaves_nothing(
    kind: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = KINDS[kind][0]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UsageError, match=r"app: cannot be written \(.*No space left on device\)"):
        module.write_app(bundle, tmp_path / "out" / "app")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr(_project, "PLATFORMS", tmp_path)
    with pytest.raises(ToolchainError, match=f"the files of edgekit app {kind} are missing from this installation"):
        module.write_app(bundle, tmp_path / "app")


def test_every_kind_is_a_command_and_the_decoders_are_those_of_the_runtimes() -> None:
    assert set(command.commands) == set(registry.names("edgekit.apps"))
    for place, pattern in (
        ("swift/Sources/EdgeKit/Decoders", r'package static let name = "(\w+)"'),
        ("kotlin/core/src/main/kotlin/edgekit/decoders", r'companion object : Family\(\s*"(\w+)"'),
    ):
        sources = (ROOT / "platforms" / place).rglob("*.*t")
        found = {name for path in sources for name in re.findall(pattern, path.read_text(encoding="utf-8"))}
        assert found == set(_project.DECODERS), place
