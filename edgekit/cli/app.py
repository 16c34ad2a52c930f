"""``edgekit app``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli._terminal import say


@click.group(short_help="Write an app around a bundle: a web page with a camera.")
def command() -> None:
    """Projects around a bundle, which run as they are and are yours to change."""


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The folder to make. [default: NAME-app]")
@click.option("--serve", is_flag=True, help="Serve it on this machine alone, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Of --serve; 0 for any.")
def web(bundle: Path, out: Path | None, serve: bool, port: int) -> None:
    """Write a static web page around BUNDLE (of the targets web and onnx), which any web server serves.

    It shows what the model finds in a camera or a picture, and writes records of its self-check and its benchmark,
    which edgekit evidence add and edgekit profile import read. docs/WEB.md says more.
    """
    from edgekit.apps import web as app

    folder = app.write_app(bundle, out or Path(f"{bundle.resolve().name}-app"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{folder}: {size / 1e6:.1f} MB; open it from any web server (cameras need HTTPS or localhost)")
    if serve:
        app.serve(folder, port, lambda address: say(f"serving {address} until Ctrl-C"))
