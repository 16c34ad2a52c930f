"""Puts the runtimes of other platforms and the projects of their apps into wheels: edgekit app copies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KOTLIN = ("core", "onnx", "litert", "camerax")
"""Modules of the Kotlin runtime, whose tests and stubs stay behind."""

# fmt: off
PACKAGED = {
    "web/app": "web_page",
    "web/dist": "web_runtime",  # where it was built
    "swift/app": "ios_project",
    "swift/Sources": "swift_runtime",
    "kotlin/app": "android_project",
    **{
        f"kotlin/{module}/{name}": f"kotlin_runtime/{module}/{name}"
        for module in KOTLIN for name in ("src/main", "build.gradle.kts")
    },
    "../LICENSE": "LICENSE",
}
# fmt: on
"""Places in ``platforms`` and their names in ``edgekit/apps``."""


class PlatformsHook(BuildHookInterface):
    """Adds folders of platforms to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Editable installations find them in the repository."""
        if version == "editable":
            return
        for name, packaged in PACKAGED.items():
            place = (Path(self.root) / "platforms" / name).resolve()
            if place.exists():
                build_data["force_include"][str(place)] = f"edgekit/apps/{packaged}"
