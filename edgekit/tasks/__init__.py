"""One file per task: raw outputs of a graph become results. A task registers by declaring ``TASK``."""
