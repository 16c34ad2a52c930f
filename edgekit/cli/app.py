"""``edgekit app``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from edgekit.cli._terminal import say


@click.group(short_help="Write an app around a bundle: an Xcode project, an Android project or a web page.")
def command() -> None:
    """Write a project around a bundle. It runs as it is, and you may change it.

    The app runs on a camera and on pictures, tracks, and writes records of its self-check and benchmark for edgekit
    evidence add and edgekit profile import. The app of a BLIP-2 has captions and questions instead. No app opens a
    connection.
    """


def _kind(run: Callable[..., None]) -> click.Command:
    """A command with what every kind of app is told: the bundle and the folder to make."""
    options = (
        click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to create. [default: NAME-app]"),
        click.argument("bundle", type=click.Path(path_type=Path)),
    )
    for option in options:
        run = option(run)
    return command.command()(run)


def _folder(bundle: Path, out: Path | None) -> Path:
    return out or Path(f"{bundle.resolve().name}-app")


def _tell(folder: Path, what_next: str) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{folder}: {size / 1e6:.1f} MB; {what_next}")


@_kind
@click.option(
    "--package",
    type=click.Path(path_type=Path),
    help="edgekit's repository: the project refers to it instead of a copy of the package.",
)
def ios(bundle: Path, out: Path | None, package: Path | None) -> None:
    """Write an Xcode project around BUNDLE (of the targets coreml, onnx and web). docs/SWIFT.md says more."""
    from edgekit.apps import ios as app

    folder = app.write_app(bundle, _folder(bundle, out), package=package)
    _tell(folder, f"open {folder / 'EdgeApp.xcodeproj'} in Xcode; README.md says what an ONNX bundle needs")


@_kind
def android(bundle: Path, out: Path | None) -> None:
    """Write an Android project around BUNDLE (of the targets litert, onnx and web). docs/KOTLIN.md says more."""
    from edgekit.apps import android as app

    _tell(app.write_app(bundle, _folder(bundle, out)), "open it in Android Studio")


@_kind
@click.option("--serve", is_flag=True, help="Serve it on this machine only, until Ctrl-C.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port of --serve; 0 for any."
)
def web(bundle: Path, out: Path | None, serve: bool, port: int) -> None:
    """Write a static web page around BUNDLE (of the targets web and onnx), which any web server serves.

    docs/WEB.md says more.
    """
    from edgekit.apps import web as app

    folder = app.write_app(bundle, _folder(bundle, out))
    _tell(folder, "open it from any web server (cameras need HTTPS or localhost)")
    if serve:
        app.serve(folder, port, lambda address: say(f"serving {address} until Ctrl-C"))
