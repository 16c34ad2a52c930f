"""Targets that convert badly on purpose: importing this package registers them beside the real ones.

They show that the proof can fail, and that adding a target takes one file.
"""

from __future__ import annotations

from pathlib import Path

from edgekit import converters, registry

converters.__path__.append(str(Path(__file__).parent))
registry.names.cache_clear()
