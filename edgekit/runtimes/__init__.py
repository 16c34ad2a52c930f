"""DEVICE: everything that runs on a device: bundles opened and run with numpy and one engine.

Nothing here imports from elsewhere in edgekit but `edgekit.errors`, `edgekit.arrays`, `edgekit.registry` and
`edgekit.structures`.
"""
