"""The golden set: what Python's device runtime gives for known inputs, as files that runtimes in any language read.

``python -m golden.write`` writes it, README.md beside this file says what is in it.
"""
