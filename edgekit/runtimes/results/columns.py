"""Columns: arrays of a result with one entry per detection; each kind is checked, selected, compared and written alike.

A column is a dataclass field with a `Column` in its metadata. Results treat all columns alike, so a new kind of column
is a subclass of `Column` and nothing else.
"""

from __future__ import annotations

import dataclasses
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from edgekit.errors import InputError, UsageError

Selector = SupportsIndex | slice | ArrayLike
"""A selection of entries: a position, a slice, a boolean mask (n,), or an index array."""

Size = tuple[int, int]
"""(width, height) of the original image in pixels."""


@dataclass(frozen=True)
class Column(ABC):
    """One kind of column: ``key`` is the name of one row's entry in JSON.

    An optional column may be None for the whole result; it then is None when selected, and absent from JSON.
    """

    key: str
    optional: bool = False

    @abstractmethod
    def checked(self, name: str, value: Any, count: int, size: Size) -> Any:
        """The value as the field called ``name`` keeps it, for ``count`` rows.

        Raises:
            UsageError: it is not such a column, or not of that length.
        """

    @abstractmethod
    def blank(self, size: Size) -> Any:
        """The column of no rows."""

    @abstractmethod
    def same(self, one: Any, other: Any) -> bool:
        """Whether two values hold exactly the same."""

    @abstractmethod
    def written(self, value: Any) -> Sequence[Any]:
        """One plain Python value per row, for JSON."""

    @abstractmethod
    def read(self, entries: list[Any], size: Size) -> Any:
        """The inverse of `written`.

        Raises:
            ValueError, TypeError, OverflowError, InputError: not what `written` gives.
        """

    def select(self, value: Any, chosen: slice | NDArray[Any]) -> Any:
        """The chosen rows, in their order."""
        return None if value is None else value[chosen]

    def gathered(self, rows: list[dict[str, Any]], size: Size) -> Any:
        """The column from the rows of a document.

        Raises:
            InputError: a row lacks its entry, or has one that cannot be read.
        """
        if self.optional and not any(self.key in row for row in rows):
            return None
        if not rows:
            return self.blank(size)
        try:
            return self.read([row[self.key] for row in rows], size)
        except KeyError as error:
            raise InputError(f"not a result that edgekit wrote: a detection without {self.key!r}") from error
        except (TypeError, ValueError, OverflowError, InputError) as error:
            raise InputError(f"not a result that edgekit wrote: {self.key!r} cannot be read ({error})") from error


@dataclass(frozen=True)
class ArrayColumn(Column):
    """An array; ``shape`` is that of one entry, with -1 for what is free but the same in all rows (a number of points).

    Without rows a free dimension is 0.
    """

    dtype: DTypeLike = np.float32
    shape: tuple[int, ...] = ()

    def checked(self, name: str, value: Any, count: int, size: Size) -> NDArray[Any] | None:
        """The array in this dtype, not copied where it has it already; floats have to be finite."""
        if value is None and self.optional:
            return None
        try:
            array = np.asarray(value, self.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"{name} must be an array of {np.dtype(self.dtype)}, one entry per row: {error}"
            ) from error
        if array.size == 0 and count == 0:
            array = array.reshape(0, *self._smallest())
        if len(array.shape) == 0 or array.shape[0] != count or not self._fits(array.shape[1:]):
            expected = str((count, *self.shape)).replace("-1", "any")
            raise UsageError(f"{name} must have the shape {expected}, one entry per row, not {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"{name} must be finite numbers, not {array[~np.isfinite(array)][0]}")
        return array

    def blank(self, size: Size) -> NDArray[Any]:
        """Shape (0, ...), with 0 where the shape is free."""
        return np.zeros((0, *self._smallest()), self.dtype)

    def same(self, one: Any, other: Any) -> bool:
        """Bit for bit the same numbers (but 0.0 equals -0.0) in the same shape."""
        return (one is None and other is None) or np.array_equal(one, other)

    def written(self, value: NDArray[Any]) -> list[Any]:
        """Nested lists; see `plain`."""
        return plain(value)

    def read(self, entries: list[Any], size: Size) -> NDArray[Any]:
        """The array of nested lists of numbers."""
        found = np.asarray(entries)
        if not self._fits(found.shape[1:]):
            raise ValueError(f"shape {found.shape[1:]} instead of {self.shape}")
        if np.dtype(self.dtype).kind == "i" and found.dtype.kind not in "iu":
            raise ValueError(f"{found.dtype} instead of whole numbers")  # asarray would cut off the fractions
        return np.asarray(entries, self.dtype)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def _smallest(self) -> tuple[int, ...]:
        return tuple(max(side, 0) for side in self.shape)


def column(key: str, dtype: DTypeLike, shape: tuple[int, ...] = (), *, optional: bool = False) -> dict[str, Column]:
    """Metadata that makes a dataclass field an `ArrayColumn`; an optional one also needs ``default=None``."""
    return {"column": ArrayColumn(key, optional, dtype, shape)}


def columns(result: type) -> dict[str, Column]:
    """The columns of a class of results, by field name, in order of declaration."""
    return {f.name: f.metadata["column"] for f in dataclasses.fields(result) if "column" in f.metadata}


def selector(index: Selector, count: int) -> slice | NDArray[Any]:
    """A numpy row index; a single position becomes an index array of one.

    Raises:
        IndexError: a position that is not there.
    """
    if isinstance(index, slice):
        return index
    if not isinstance(index, np.ndarray | list | tuple):
        position = operator.index(index)  # type: ignore[arg-type]
        if not -count <= position < count:
            raise IndexError(f"position {position} of {count}")
        return np.array([position])
    array = np.asarray(index)
    return array.astype(np.int64) if array.size == 0 else array


def plain(array: NDArray[Any]) -> list[Any]:
    """An array as nested lists; float32 as the shortest decimal that gives it back (0.9, not 0.8999999761)."""
    if array.dtype != np.float32:
        exact: list[Any] = array.tolist()
        return exact
    flat = np.array([float(str(value)) for value in array.ravel()], np.float64)
    # The decimal is read as float64 first: where that second rounding would miss, keep all digits.
    flat = np.where(flat.astype(np.float32) == array.ravel(), flat, array.ravel().astype(np.float64))
    rows: Any = flat.reshape(array.shape).tolist()
    return list(rows)
