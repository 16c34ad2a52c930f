"""Puts the web page, and the web runtime where it was built, into wheels: edgekit app web copies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WebHook(BuildHookInterface):
    """Adds folders of platforms/web to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Editable installations find them in the repository."""
        if version == "editable":
            return
        for name, packaged in (("app", "web_page"), ("dist", "web_runtime")):
            folder = Path(self.root) / "platforms" / "web" / name
            if folder.is_dir():
                build_data["force_include"][str(folder)] = f"edgekit/apps/{packaged}"
