"""One file per engine that can tell the time of each operator, named like the engine."""
