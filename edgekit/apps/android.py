"""HOST: an Android project around a bundle: the app, the Kotlin runtime and the bundle in one folder.

Nothing is downloaded here: modules of the Kotlin runtime are copied into the project. Gradle, in Android Studio,
fetches the libraries that it names; docs/KOTLIN.md says what edgekit's tests can compile and run of it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from xml.sax.saxutils import escape

from edgekit.apps._project import Platform, copy_bundle, fill, part, written
from edgekit.runtimes.bundle.folder import open_bundle

PLATFORM = Platform(
    runtime="Kotlin runtime",
    engines=("litert", "onnxruntime", "web"),
    runs="an Android app runs LiteRT and ONNX files",
    convert="--target litert (or onnx)",
    decoders="platforms/kotlin/core/src/main/kotlin/edgekit/decoders",
    speaks=("onnxruntime", "web"),
)

BUILD = Path("app") / "build.gradle.kts"
MAIN = Path("app") / "src" / "main"
SOURCES = MAIN / "kotlin" / "com" / "example" / "edgeapp"
ENGINE = SOURCES / "Engine.kt"

ONNX = {
    Path("settings.gradle.kts"): {'"litert"': '"onnx"'},
    BUILD: {
        'project(":litert")': 'project(":onnx")',
        "(libs.lifecycle)": "(libs.lifecycle)\n    implementation(libs.onnxruntime)",
    },
    ENGINE: {"edgekit.litert.LiteRt": "edgekit.onnx.OnnxRuntime", "LiteRt(context)": "OnnxRuntime()"},
}
"""Replacements for LiteRT's names in the project of an ONNX bundle."""

CAMERA_SCREEN = (
    SOURCES / "MainActivity.kt",
    SOURCES / "OverlayView.kt",
    SOURCES / "Camera.kt",
    SOURCES / "Phone.kt",
    MAIN / "res" / "layout" / "main.xml",
    MAIN / "res" / "values" / "camera.xml",
)
LANGUAGE_SCREEN = (
    SOURCES / "LanguageActivity.kt",
    MAIN / "res" / "layout" / "language.xml",
    MAIN / "res" / "values" / "language.xml",
)
"""Files of the screen that are there for one kind of bundle alone."""

LANGUAGE = {
    MAIN / "AndroidManifest.xml": {
        "MainActivity": "LanguageActivity",
        "<!-- The camera is all that this app asks for. INTERNET": "<!-- This app asks for nothing. INTERNET",
        '    <uses-permission android:name="android.permission.CAMERA" />\n': "",
        '    <uses-feature android:name="android.hardware.camera.any" android:required="false" />\n': "",
    },
    ENGINE: {"edgekit.Engine": "edgekit.NetworkEngine", "): Engine": "): NetworkEngine"},
}
"""Replacements for the camera's screen in the project of a BLIP-2."""


def write_app(bundle: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write an Android project with a screen for the bundle's task, and the bundle in its assets.

    The screen has a camera and pictures, or for a BLIP-2 a picture, its caption and questions.

    Args:
        bundle: a folder of the targets ``litert``, ``onnx`` or ``web``.
        out: the folder to make; it appears when it is whole.

    Returns:
        The folder.

    Raises:
        BundleError: the bundle cannot be opened.
        UsageError: ``out`` exists, or the app could not run the bundle's engine, task or decoder.
        ToolchainError: files of the project are missing.
    """
    opened = open_bundle(bundle)
    PLATFORM.refuse(opened)
    engine = "litert" if "litert" in opened.manifest.engines else "onnx"
    template = part("android_project", "kotlin/app", "android")
    with written(out) as app:
        shutil.copytree(template, app, dirs_exist_ok=True)
        shutil.copyfile(part("LICENSE", "../LICENSE", "android"), app / "APACHE-2.0.txt")
        for module in ("core", "camerax", engine):
            for name in ("build.gradle.kts", "src/main"):
                _copy(
                    part(f"kotlin_runtime/{module}/{name}", f"kotlin/{module}/{name}", "android"),
                    app / "edgekit" / module / name,
                )
        speaks = opened.manifest.contract.language is not None
        for other in CAMERA_SCREEN if speaks else LANGUAGE_SCREEN:
            (app / other).unlink()
        for words_of in ([ONNX] if engine == "onnx" else []) + ([LANGUAGE] if speaks else []):
            for file, words in words_of.items():
                fill(app / file, words)
        main = app / MAIN
        copy_bundle(opened, main / "assets" / "model")
        fill(main / "res" / "values" / "strings.xml", {"EDGEKIT_NAME": _text(opened.manifest.name)})
    return Path(out)


def _copy(place: Path, to: Path) -> None:
    """A file or a folder."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.copytree(place, to)
    else:
        shutil.copyfile(place, to)


def _text(name: str) -> str:
    """A name as the text of an Android resource: quotes, backslashes, and ``@`` or ``?`` in front are escaped."""
    quoted = name.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"')
    return escape("\\" + quoted if quoted[:1] in {"@", "?"} else quoted)
