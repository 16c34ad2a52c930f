"""HOST: an Xcode project around a bundle: the app, the Swift package and the bundle in one folder.

Nothing is downloaded, here or by the project: the Swift package (`Package.swift`) is copied into it. Xcode builds it;
docs/SWIFT.md says what edgekit's tests can run of it.
"""

from __future__ import annotations

import os
import shutil
from html import escape
from pathlib import Path

from edgekit.apps._project import Platform, copy_bundle, fill, part, written
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.folder import open_bundle

PLATFORM = Platform(
    runtime="Swift runtime",
    engines=("coreml", "onnxruntime", "web"),
    runs="an iOS app runs Core ML and ONNX files",
    convert="--target coreml (or onnx)",
    decoders="platforms/swift/Sources/EdgeKit/Decoders",
    speaks=("onnxruntime", "web"),
)

ONNX = {"EdgeKitCoreML": "EdgeKitONNX", "CoreMLEngine": "ONNXRuntime"}
"""Replacements for Core ML's names in the project of an ONNX bundle."""

SCREENS = {"ModelScreen": "LanguageScreen"}
"""Replacements for the camera's screen in the app of a BLIP-2."""

MODULES = ("EdgeKit", "EdgeKitUI", "EdgeKitCoreML", "EdgeKitONNX")


def write_app(
    bundle: str | os.PathLike[str], out: str | os.PathLike[str], *, package: str | os.PathLike[str] | None = None
) -> Path:
    """Write an Xcode project with a screen for the bundle's task, and the bundle inside.

    The screen has a camera and pictures, or for a BLIP-2 a picture, its caption and questions.

    Args:
        bundle: a folder of the targets ``coreml``, ``onnx`` or ``web``.
        out: the folder to make; it appears when it is whole.
        package: the folder of edgekit's ``Package.swift``, to refer to in place of a copy.

    Returns:
        The folder.

    Raises:
        BundleError: the bundle cannot be opened.
        UsageError: ``out`` exists, the app could not run the bundle's engine, task or decoder, or ``package`` has no
            ``Package.swift``, or cannot give an app ONNX Runtime.
        ToolchainError: files of the project are missing.
    """
    opened = open_bundle(bundle)
    PLATFORM.refuse(opened)
    is_onnx = "coreml" not in opened.manifest.engines
    if package is not None and not (Path(package) / "Package.swift").is_file():
        raise UsageError(
            f"{os.fspath(package)}: has no Package.swift; name edgekit's repository, or leave --package out"
        )
    if package is not None and is_onnx:
        raise UsageError(
            "--package: the package there takes ONNX Runtime from the system, which iOS does not have; leave it out, "
            "or convert the model with --target coreml"
        )
    template = part("ios_project", "swift/app", "ios")
    with written(out) as app:
        shutil.copytree(template, app, dirs_exist_ok=True)
        shutil.copyfile(part("LICENSE", "../LICENSE", "ios"), app / "APACHE-2.0.txt")
        copy_bundle(opened, app / "model")
        project, tests = app / "EdgeApp.xcodeproj" / "project.pbxproj", app / "EdgeAppTests"
        if opened.manifest.contract.language is None:
            (tests / "language.swift").unlink()
        else:
            fill(app / "EdgeApp" / "EdgeApp.swift", SCREENS)
            (tests / "language.swift").replace(tests / "EdgeAppTests.swift")
        if is_onnx:
            for file in (project, app / "EdgeApp" / "EdgeApp.swift", tests / "EdgeAppTests.swift"):
                fill(file, ONNX)
        if package is None:
            _package(app / "EdgeKit", is_onnx)
        else:
            shutil.rmtree(app / "EdgeKit")
            fill(project, {"relativePath = EdgeKit;": f'relativePath = "{_reference(package, out)}";'})
        fill(app / "EdgeApp" / "Info.plist", {"EDGEKIT_NAME": escape(opened.manifest.name)})
    return Path(out)


def _package(folder: Path, is_onnx: bool) -> None:
    """The Swift package with the one engine that the app has; of the two manifests in the folder the other one goes."""
    sources = part("swift_runtime", "swift/Sources", "ios")
    modules = [module for module in MODULES if module != ("EdgeKitCoreML" if is_onnx else "EdgeKitONNX")]
    for module in modules:
        shutil.copytree(sources / module, folder / "Sources" / module)
    if is_onnx:
        (folder / "onnx.swift").replace(folder / "Package.swift")
        shutil.copyfile(sources / "COnnxRuntime" / "shim.h", folder / "COnnxRuntime" / "include" / "shim.h")
    else:
        (folder / "onnx.swift").unlink()
        shutil.rmtree(folder / "COnnxRuntime")


def _reference(package: str | os.PathLike[str], out: str | os.PathLike[str]) -> str:
    """The package's folder as seen from the project's, so that both can move together."""
    return os.path.relpath(Path(package).resolve(), Path(out).resolve()).replace("\\", "/").replace('"', '\\"')
