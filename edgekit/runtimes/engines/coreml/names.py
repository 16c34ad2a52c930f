"""Names of tensors as a Core ML file can have them."""

from __future__ import annotations

PREFILL, DECODE = "prefill", "decode"
"""Functions of a language model: for a piece of the prompt, and for a single token."""


def port_name(name: str) -> str:
    """The name in a file: letters, digits and underscores. ``past.0.key`` is ``past_0_key`` there."""
    return "".join(one if one.isascii() and one.isalnum() else "_" for one in name)
