"""An engine and its parsers in a child process: a file that crashes them, or never ends, does not end the caller.

``edgekit.load(path, isolated=True)`` finds `ISOLATION` here (`edgekit.runtimes.engines.isolation`). `child` has the
sessions, networks, language models and tokenizers, `caller` what stands for them in the caller; `messages` is what the
two say to each other.
"""

from __future__ import annotations

from edgekit.isolation.caller import Isolated

ISOLATION = Isolated
"""Starts a child: called with the name of the bundle and the seconds that an answer may take."""
