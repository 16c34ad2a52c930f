"""Changes to files and to trees of JSON, from a seed: what broken copies, other versions and attackers would make."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

Path = tuple[Any, ...]

NUMBERS = (0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**9, 10**30, -(2**63), 0.5, -0.0, 1e-300, 1e308)
TEXTS = ("", "x", "x" * 5000, "../secret", "/etc/passwd", "\0", "\x1b[2J", "é\u202e", "🙂", "nan", "=1+1", "%s%n")


def change_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    """Data with some bytes changed, cut out or put in, mostly where headers are; and what was done."""
    found, did = bytearray(data), list[str]()
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(min(len(found), random.choice((32, 64, 200, 1 << 30))) or 1)
        did.append(_CHANGES[random.randrange(len(_CHANGES))](found, place, random))
        found = found or bytearray(b"\0")
    return bytes(found), ", ".join(did)


def change_gently(data: bytes, random: Random) -> tuple[bytes, str]:
    """Data of the same length with one or two changes anywhere, which parsers take more often; and what was done."""
    found, did = bytearray(data), list[str]()
    for _ in range(random.choice((1, 1, 1, 2))):
        did.append(random.choice((_flip, _flip, _set, _word))(found, random.randrange(len(found) or 1), random))
    return bytes(found[: len(data)]), ", ".join(did)


def _set(found: bytearray, place: int, random: Random) -> str:
    value = random.choice((0, 127, 128, 255, random.randrange(256)))
    found[place : place + 1] = bytes([value])
    return f"byte {place} is {value}"


def _flip(found: bytearray, place: int, random: Random) -> str:
    place, bit = random.randrange(len(found)), random.randrange(8)
    found[place] ^= 1 << bit
    return f"bit {bit} of byte {place} flipped"


def _word(found: bytearray, place: int, random: Random) -> str:
    place -= random.choice((0, place % 4))
    value = random.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\0\x40\0\0", b"\1\0\0\0"))
    found[place : place + 4] = value
    return f"word {place} is {value.hex()}"


def _cut(found: bytearray, place: int, random: Random) -> str:
    length = random.randrange(1, 40)
    del found[place : place + length]
    return f"{length} bytes cut at {place}"


def _put(found: bytearray, place: int, random: Random) -> str:
    added = random.randbytes(random.randrange(1, 20))
    found[place:place] = added
    return f"{added.hex()} put in at {place}"


def _again(found: bytearray, place: int, random: Random) -> str:
    source, length = random.randrange(len(found)), random.randrange(1, 64)
    found[place : place + length] = found[source : source + length]
    return f"{length} bytes of {source} at {place}"


def _end(found: bytearray, place: int, random: Random) -> str:
    del found[max(1, place) :]
    return f"ends after {max(1, place)} bytes"


_CHANGES = (_set, _set, _set, _flip, _word, _word, _cut, _put, _again, _end)


def change_tree(tree: Any, random: Random) -> tuple[Any, str]:
    """A tree of dicts, lists and values with some nodes changed; and what was done."""
    changed, did = copy.deepcopy(tree), list[str]()
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        paths = list(_paths(changed))
        if not paths:
            break
        path = random.choice(paths)
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        did.append(f"{'.'.join(map(str, path))} {_change_node(parent, path[-1], random)}")
    return changed, "; ".join(did)


def _paths(tree: Any, here: Path = ()) -> Any:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*here, key)
        yield from _paths(value, (*here, key))


def _change_node(parent: Any, key: Any, random: Random) -> str:
    value, what = parent[key], random.randrange(10)
    if what == 0:
        del parent[key]
        return "left out"
    if what == 1 and isinstance(parent, list):
        many = random.choice((1, 2, 1000))
        parent[key:key] = [copy.deepcopy(value) for _ in range(many)]
        return f"{many} times more"
    if what == 1:
        parent[random.choice(("new", f"{key}_", "", "__class__"))] = value
        return "under another key too"
    if what == 2 and isinstance(value, list):
        random.shuffle(value)
        return "shuffled"
    if what == 3:
        others = [other for other in (parent if isinstance(parent, list) else parent.values()) if other is not value]
        parent[key] = copy.deepcopy(random.choice(others)) if others else None
        return "is what its neighbour is"
    new = _value(value, random)
    parent[key] = new
    return f"is {repr(new)[:60]}"


def _value(old: Any, random: Random) -> Any:
    """Most often of the same type, which comes further."""
    if random.random() < 0.25:
        return random.choice((None, True, False, [], {}, [[]], {"a": 1}, 7, "seven", [old], *NUMBERS[:4]))
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return random.choice((old + 1, old - 1, -old, old * 2, old * 1000, *NUMBERS))
    if isinstance(old, float):
        return random.choice((-old, old * 1e6, old + 1, *NUMBERS))
    if isinstance(old, str):
        return random.choice((old + "x", old[:-1], old.upper(), old * 2, *TEXTS))
    return random.choice((None, [], {}, "", 0))
