"""A fourteenth target: one converter and one engine. Importing this package puts the two files beside edgekit's own.

In the repository they would lie in ``edgekit/converters`` and ``edgekit/runtimes``, and nothing else would change.
"""

from __future__ import annotations

from pathlib import Path

from edgekit import converters, registry
from edgekit.runtimes import engines as runtimes

for package in (converters, runtimes):
    package.__path__.append(str(Path(__file__).parent / package.__name__.rpartition(".")[2]))
registry.names.cache_clear()
