"""Images of Hugging Face datasets, from the hub or from a folder: a seeded choice of a stream that is never read whole.

``hf://OWNER/NAME[@REVISION][?key=value&...]`` is a dataset of the hub, ``hf:///path/to/folder`` (or ``hf://./folder``)
one in a folder: images in subfolders, parquet, or whatever the package ``datasets`` reads. The keys:

- ``split`` (train), ``config`` (the dataset's only one), ``column`` (its only one of images, or ``image``);
- ``count`` (500): at most so many images are taken; ``seed`` (0) of the choice. It is made among some hundred images
  more than that, from up to ten parts of the dataset; name a revision to get the same images again next year.

Datasets bring no code: the package runs none of theirs from version 4 on, and an older one is refused.
"""

from __future__ import annotations

import importlib
import itertools
import re
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from edgekit.errors import InputError, choices
from edgekit.runtimes.inputs.files import MOST_BYTES

FORM = "hf://OWNER/NAME[@REVISION][?split=train&config=NAME&column=image&count=500&seed=0] or hf:///path/to/folder"

KEYS = ("split", "config", "column", "count", "seed")

BUFFER = 256
"""Encoded images that wait to be shuffled; this many more than are wanted are read."""

PATHS_BUFFER = 50_000
"""Folders of images give paths, of which more can wait. They come class by class, and a small buffer would see one."""

FEW_FILES = 32
"""So many files or fewer are also shuffled by their parts, whose lists have to be read from each file."""

IN_MEMORY = 64 << 20
"""Size in bytes from which encoded images are kept in a temporary file."""


@dataclass(frozen=True)
class Address:
    """A parsed address: a dataset of the hub, or a ``local`` folder."""

    path: str
    local: bool
    revision: str | None = None
    config: str | None = None
    split: str = "train"
    column: str = ""
    count: int = 500
    seed: int = 0


def parse(text: str) -> Address:
    """Read an address.

    Raises:
        InputError: not of the form, or an unknown key.
    """
    path, _, query = text[len("hf://") :].partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for key in given:
        if key not in KEYS:
            raise InputError(f"{text!r}: key {choices(key, KEYS)}; the form is {FORM}")
    numbers = {"count": _number(text, given, "count", 500, 1), "seed": _number(text, given, "seed", 0, 0)}
    words = {"config": given.get("config") or None, "column": given.get("column", "")}
    split = given.get("split") or "train"
    if path.startswith(("/", ".")):
        return Address(path, local=True, split=split, **words, **numbers)  # type: ignore[arg-type]
    name = re.fullmatch(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@([\w./-]+))?", path)
    if not name:
        raise InputError(f"{text!r}: not the address of a dataset; the form is {FORM}")
    return Address(name[1], local=False, revision=name[2], split=split, **words, **numbers)  # type: ignore[arg-type]


def _number(text: str, given: dict[str, str], key: str, default: int, least: int) -> int:
    value = given.get(key, str(default))
    if not re.fullmatch(r"\d{1,9}", value) or int(value) < least:
        raise InputError(f"{text!r}: {key} must be a whole number from {least} on, not {value!r}")
    return int(value)


class Examples:
    """The chosen images of a dataset, encoded as they are there. They are fetched as they are asked for, and each once.

    The dataset is opened at once, so that a wrong address is refused before the first image is asked for. Not
    thread-safe.
    """

    def __init__(self, text: str) -> None:
        """Open ``hf://...``.

        Raises:
            InputError: no such dataset, split or column; the package is missing or too old.
        """
        self.name = text
        self._address = parse(text)
        self._encoded = _stream(self._address, text)
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - lives as long as this object
        self._ends = [0]
        self._failure: InputError | None = None
        weakref.finalize(self, self._spool.close)

    def __len__(self) -> int:
        """How many images there are; all are fetched to know that."""
        for number in itertools.count(len(self._ends) - 1):
            if not self.reaches(number):
                break
        return len(self._ends) - 1

    def reaches(self, number: int) -> bool:
        """Whether there is an image of this number, from 0; those before it and itself are fetched.

        Raises:
            InputError: the stream broke off, or the dataset is empty.
        """
        while (there := len(self._ends) - 1) <= number:
            example = self._next()
            if example is None:
                if there == 0:
                    raise InputError(f"{self.name}: no image in this dataset; is it the right split?")
                return False
            self._spool.seek(self._ends[-1])
            self._spool.write(example)
            self._ends.append(self._spool.tell())
        return True

    def _next(self) -> bytes | None:
        if self._failure:  # a stream that broke off does not go on, and must not look like one that ended
            raise self._failure
        try:
            return next(self._encoded, None)
        except InputError as error:
            self._failure = error
            raise
        except Exception as error:  # network, file system and parsers raise whatever they raise
            there = len(self._ends) - 1
            self._failure = InputError(f"{self.name}: broke off after {there} images ({_line(error)}); try again")
            raise self._failure from error

    def __getitem__(self, number: int) -> bytes:
        if not self.reaches(number):
            raise IndexError(f"image {number} of {len(self)}")
        self._spool.seek(self._ends[number])
        return self._spool.read(self._ends[number + 1] - self._ends[number])


def _stream(address: Address, text: str) -> Iterator[bytes]:
    """Open a dataset; its images come out encoded."""
    datasets = _package(text)
    if address.local and not Path(address.path).is_dir():
        raise InputError(f"{text}: no such folder; a dataset of the hub is written as hf://OWNER/NAME")
    try:
        stream = datasets.load_dataset(
            address.path, address.config, split=address.split, revision=address.revision, streaming=True
        )
    except Exception as error:  # the hub's client and a reader for each format raise whatever they raise
        raise InputError(f"{text}: cannot be opened as a dataset ({_line(error)}); the form is {FORM}") from error
    column = address.column or _images(stream.features, datasets.Image, text)
    if stream.features is not None and column not in stream.features:
        raise InputError(f"{text}: column {choices(column, stream.features)}")
    # Encoded: a decoded image would be forty times as large in the buffer, and media decodes all images alike.
    stream = stream.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if stream.num_shards <= FEW_FILES and hasattr(stream, "reshard"):
        stream = stream.reshard()
    buffer = PATHS_BUFFER if stream.info.builder_name == "imagefolder" else BUFFER
    shuffled = stream.shuffle(seed=address.seed, buffer_size=buffer)
    return (_read(example[column], address, text) for example in shuffled.take(address.count))


def _line(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())


def _package(text: str) -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(f"{text}: needs the package datasets: pip install 'datasets>=4'") from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise InputError(
            f"{text}: datasets {datasets.__version__} may run code that a dataset brings: pip install 'datasets>=4'"
        )
    return datasets


def _images(features: Any, kind: type, text: str) -> str:
    """The column of images."""
    found = [name for name, feature in (features or {}).items() if isinstance(feature, kind)]
    if len(found) == 1 or "image" in found:
        return found[0] if len(found) == 1 else "image"
    named = ", ".join(found or features or ["they are not declared"])
    raise InputError(f"{text}: which column holds the images? Add ?column=NAME to the address; columns: {named}")


def _read(example: Any, address: Address, text: str) -> bytes:
    """The bytes of an encoded image, which are in the example or in a file that it names; none where it has no image.

    Such a file is taken from the folder, or from the hub, where the dataset is: a table may name anything.
    """
    if not isinstance(example, dict):
        return b""
    if example.get("bytes"):
        return bytes(example["bytes"])
    path = str(example.get("path") or "")
    origin = re.sub(r"^(?:(?:zip|tar|gzip|bz2|xz|zstd)://[^:]*::)+", "", path)
    folder = Path(address.path).resolve()
    if not (Path(origin).resolve().is_relative_to(folder) if address.local else origin.startswith("hf://datasets/")):
        raise InputError(f"{text}: an example names the file {path!r}, which is not part of the dataset")
    with importlib.import_module("fsspec").open(path, "rb") as file:
        data = bytes(file.read(MOST_BYTES + 1))
    if len(data) > MOST_BYTES:
        raise InputError(f"{text}: {path!r} has more than {MOST_BYTES} bytes, and edgekit reads no more")
    return data
