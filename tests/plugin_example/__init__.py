"""A target, an engine, a source, a decoder, a tracker and a command from outside the package.

Importing this module (``--import plugin_example``) puts its files beside edgekit's own. In the repository they would
lie in the folders of the same names, and nothing else would change.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.registry import add_folder

add_folder(Path(__file__).parent)
