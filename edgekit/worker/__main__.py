"""``python -m edgekit.worker``: one call on stdin, events on stdout."""

from edgekit.worker.child import main

main()
