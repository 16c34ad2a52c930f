"""From a template to a file: one HTML page that needs no network.

Everything is escaped unless it is `markupsafe.Markup`, so no name of a layer or file can become markup. A page allows
itself no connection and no script but its own (Content-Security-Policy), and is complete without that script, which
sorts and filters.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from functools import cache
from pathlib import Path

from edgekit import __version__
from edgekit.errors import UsageError
from edgekit.report.numbers import count, duration, number, percent

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
except ImportError as error:
    raise UsageError("an HTML report needs the package jinja2: pip install 'edgekit[report]'") from error

TEMPLATES = Path(__file__).with_name("templates")
STYLE = TEMPLATES / "page.css"
SCRIPT = TEMPLATES / "page.js"

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that neither HTML nor XML may hold, not even as an entity."""


def sort_value(value: float | str | None) -> float | str:
    """The value that a cell is sorted by: the script reads neither ``inf`` nor ``nan``; what is unknown is last."""
    if isinstance(value, float):
        return "" if math.isnan(value) else max(min(value, 1e300), -1e300)
    return "" if value is None else value


@cache
def _environment() -> Environment:
    files, strict = FileSystemLoader(TEMPLATES), StrictUndefined
    environment = Environment(loader=files, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, percent=percent, count=count, duration=duration, sorts=sort_value)
    return environment


def write_page(template: str, path: Path, **given: object) -> None:
    """Write a page; its folder is made.

    Args:
        template: in `TEMPLATES`; it extends ``page.html.j2``.
        path: of the file.
        given: what the template shows.

    Raises:
        UsageError: the file cannot be written.
    """
    style, script = STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    frame = {"style": style, "script": script, "policy": policy, "version": __version__}
    write_text(_environment().get_template(template).render(**frame, **given) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a report's file and make its folder.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_ILLEGAL.sub("\ufffd", text), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give another path for the report") from error
