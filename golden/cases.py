"""A case on disk: ``KIND/NAME/case.json`` and files beside it, written from and read into arrays and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent
CASE = "case.json"
INLINE = 64
"""Arrays of at most so many numbers stand in the JSON file itself."""

Tree = dict[str, Any]
"""A JSON object whose leaves may also be arrays and the classes below."""


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the case; uint8 (height, width, 3) BGR in memory, as the runtime takes it."""

    name: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Content:
    """Any other file beside the case; stands in the JSON as its name."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Recurrence:
    """A float32 array that is computed, not stored.

    ``x[0] = seed``, ``x[n + 1] = (1664525 x[n] + 1013904223) mod 2^32``; element n, counted in C order, is
    ``offset + scale * floor(x[n + 1] / 256) / 2^24`` in float64, rounded to float32. Then each (index, value) of
    ``set`` is written, in order.
    """

    shape: tuple[int, ...]
    seed: int
    offset: float
    scale: float
    set: tuple[tuple[int, float], ...] = ()

    def array(self) -> NDArray[np.float32]:
        """The numbers."""
        count = int(np.prod(self.shape))
        states = np.array([(1664525 * self.seed + 1013904223) % (1 << 32)], np.uint64)
        factor, term = 1664525, 1013904223
        while len(states) < count:  # twice as many: x[n + k] from x[n] by the recurrence applied k times
            states = np.concatenate([states, (states * np.uint64(factor) + np.uint64(term)) % np.uint64(1 << 32)])
            factor, term = factor * factor % (1 << 32), (factor * term + term) % (1 << 32)
        whole = (states[:count] >> np.uint64(8)).astype(np.float64)
        values = (self.offset + self.scale * whole / 2**24).astype(np.float32)
        for index, value in self.set:
            values[index] = value
        return values.reshape(self.shape)

    def document(self) -> Tree:
        """As JSON."""
        rule = {"seed": self.seed, "offset": self.offset, "scale": self.scale}
        return {"dtype": "float32", "shape": list(self.shape), "recurrence": rule, "set": [list(p) for p in self.set]}


@dataclass(frozen=True)
class Planned:
    """A case before it is written.

    Attributes:
        expected: what is known beforehand; None where the runtime's answer is what is expected.
        spoil: plants an error in what is expected, which makes the case a negative control.
        files: further files beside the case, by relative path.
    """

    name: str
    about: str
    given: Tree
    tolerance: Tree = field(default_factory=dict)
    expected: Tree | None = None
    spoil: Callable[[Tree], None] | None = None
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A case as it was read, with arrays and pictures in place of their files."""

    kind: str
    name: str
    folder: Path
    about: str
    must_fail: bool
    given: Tree
    expected: Tree
    tolerance: Tree


def stored(kind: str, root: Path = ROOT) -> list[Case]:
    """All cases of a kind, by name."""
    return [read(path.parent) for path in sorted((root / kind).glob(f"*/{CASE}"))]


def read(folder: Path) -> Case:
    """One case."""
    document = json.loads((folder / CASE).read_text(encoding="utf-8"))
    return Case(
        document["kind"],
        folder.name,
        folder,
        document["about"],
        document["must_fail"],
        _loaded(document["given"], folder),
        _loaded(document["expected"], folder),
        document["tolerance"],
    )


def save(folder: Path, kind: str, plan: Planned, answer: Callable[[Tree, Path], Tree]) -> None:
    """Write a case; what it expects is asked of ``answer``, which is given what a reader will read."""
    folder.mkdir(parents=True)
    for name, data in plan.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    given = _saved(plan.given, folder, "given")
    expected = answer(_loaded(given, folder), folder) if plan.expected is None else plan.expected
    if plan.spoil is not None:
        plan.spoil(expected)
    document = {
        "kind": kind,
        "about": plan.about,
        "must_fail": plan.spoil is not None,
        "given": given,
        "expected": _saved(expected, folder, "expected"),
        "tolerance": plan.tolerance,
    }
    (folder / CASE).write_text(_text(document) + "\n", encoding="utf-8")


def _saved(value: Any, folder: Path, name: str) -> Any:
    """A tree as JSON; large arrays and pictures go into files named after their place."""
    if isinstance(value, dict):
        return {key: _saved(one, folder, f"{name}-{key}") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_saved(one, folder, f"{name}-{index}") for index, one in enumerate(value)]
    if isinstance(value, Picture):
        import cv2

        (folder / value.name).write_bytes(cv2.imencode(".png", value.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])
        return value.name
    if isinstance(value, Content):
        (folder / value.name).write_bytes(value.data)
        return value.name
    if isinstance(value, Recurrence):
        return value.document()
    if isinstance(value, np.ndarray):
        return _array(value, folder, name)
    return float(str(value)) if isinstance(value, np.floating) else value


def _array(value: NDArray[Any], folder: Path, name: str) -> Tree:
    kept = value.astype({"i": np.int32, "f": np.float32, "u": np.uint8}[value.dtype.kind])
    head = {"dtype": kept.dtype.name, "shape": list(kept.shape)}
    if kept.size <= INLINE and np.isfinite(kept).all():
        return {"values": [shortest(one) for one in kept.ravel()], **head}
    (folder / f"{name}.bin").write_bytes(kept.astype(kept.dtype.newbyteorder("<")).tobytes())
    return {"file": f"{name}.bin", **head}


def shortest(value: Any) -> int | float:
    """A number as the shortest decimal that reads back as the same float32, or as a whole number."""
    return float(str(np.float32(value))) if np.issubdtype(type(value), np.floating) else int(value)


def _loaded(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and value.endswith(".png"):
        import cv2

        pixels = cv2.imread(str(folder / value), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return Picture(value, np.asarray(pixels, np.uint8))
    if isinstance(value, list):
        return [_loaded(one, folder) for one in value]
    if not isinstance(value, dict):
        return value
    if "recurrence" in value:
        pairs = tuple((index, number) for index, number in value["set"])
        return Recurrence(tuple(value["shape"]), **value["recurrence"], set=pairs).array()
    if "dtype" in value and "shape" in value:
        dtype = np.dtype(value["dtype"])
        if "file" in value:
            numbers = np.frombuffer((folder / value["file"]).read_bytes(), dtype.newbyteorder("<")).astype(dtype)
        else:
            numbers = np.array(value["values"], dtype)
        return numbers.reshape(value["shape"])
    return {key: _loaded(one, folder) for key, one in value.items()}


def _text(value: Any, depth: int = 0) -> str:
    """JSON that a person can read: a line for each entry of the outer objects, numbers side by side."""
    if isinstance(value, dict) and value and depth < 3 and "dtype" not in value:
        lines = [f"{' ' * (depth + 1)}{json.dumps(key)}: {_text(one, depth + 1)}" for key, one in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict) and depth < 3:
        lines = [f"{' ' * (depth + 1)}{_text(one, 3)}" for one in value]
        return "[\n" + ",\n".join(lines) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
