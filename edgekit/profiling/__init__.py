"""DEVICE: what a user feels of a bundle on this machine, measured the same way for every target.

`edgekit.profiling.session.run_session` measures bundles in turns, each round in a fresh process, and gives one
`edgekit.profiling.record.Profile` for each. ``python -m edgekit.profiling`` is the same for a host that asks over SSH.
"""
