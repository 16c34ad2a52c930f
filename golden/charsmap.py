"""Tables of replacements as SentencePiece has them: a double array over UTF-8 bytes, then the replacements."""

from __future__ import annotations

import struct
from collections.abc import Mapping

LEAF = 1 << 31


def charsmap(replacements: Mapping[str, str]) -> bytes:
    """The bytes of a ``precompiled_charsmap``: size of the array, its units of 32 bits, texts that end in 0.

    A unit is its letter, a bit for a value (8) and the distance to its children (from bit 10), which lie at ``place ^
    distance ^ letter``; the value, where the replacement begins, lies at ``place ^ distance``. No two units
    share the place of their children.
    """
    texts, values = b"", {}
    for key, text in replacements.items():
        values[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    units = _units(values)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


def _units(values: Mapping[bytes, int]) -> list[int]:
    units, taken, bases = [0], {0}, {0}
    waiting = [(0, b"")]
    while waiting:
        place, prefix = waiting.pop(0)
        letters = sorted({key[len(prefix)] for key in values if key.startswith(prefix) and len(key) > len(prefix)})
        wanted = [0, *letters] if prefix in values else letters
        if not wanted:
            continue
        base = next(one for one in range(1, 1 << 20) if one not in bases and not {one ^ c for c in wanted} & taken)
        bases.add(base)
        taken |= {base ^ c for c in wanted}
        units += [0] * (max(taken) + 1 - len(units))
        units[place] |= (prefix in values) << 8 | (place ^ base) << 10
        if prefix in values:
            units[base] = LEAF | values[prefix]
        for letter in letters:
            units[base ^ letter] = letter
            waiting.append((base ^ letter, prefix + bytes([letter])))
    return units + [0] * (-len(units) % 256)
