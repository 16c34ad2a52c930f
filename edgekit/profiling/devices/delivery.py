"""HOST: brings files to a device: each content once, by its SHA-256, and only what is missing there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DeviceError, InputError, UsageError
from edgekit.profiling.devices.connection import Connection
from edgekit.runtimes.bundle.folder import Bundle, sha256
from edgekit.runtimes.bundle.manifest import MANIFEST
from edgekit.runtimes.inputs import media

_CHUNK = 1 << 20
_WEIGHTS = ".safetensors"

Told = Callable[[int, int], None]
"""Is told how many bytes were sent, and how many there are to send."""


@dataclass(frozen=True)
class Content:
    """One file of this machine."""

    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Tree:
    """A folder to be on the device: ``name`` in ``place``, which is ``bundles``, ``code``, ``data`` or ``wheels``."""

    place: str
    name: str
    files: dict[str, Content]


@dataclass(frozen=True)
class Delivered:
    """Where the trees are on the device, in their order, and what had to be sent for them."""

    paths: tuple[str, ...]
    files: int
    bytes: int


def bundle_tree(bundle: Bundle) -> Tree:
    """A bundle in a folder named as here: its manifest and the files that this guards, nothing else beside them."""
    files = {file.path: Content(bundle.file(file.path), file.sha256, file.bytes) for file in bundle.manifest.files}
    name = bundle.path.resolve().name
    listed = {MANIFEST: _content(bundle.path / MANIFEST), **files}
    return _named("bundles", {f"{name}/{path}": content for path, content in listed.items()})


def code_tree() -> Tree:
    """This edgekit as it stands here, without the trained weights of its demonstrations."""
    root = Path(__file__).parents[2]
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return _tree(
        "code", {f"edgekit/{path.relative_to(root).as_posix()}": path for path in found if path.suffix != _WEIGHTS}
    )


def wheels_tree(folder: Path) -> Tree:
    """The wheels in a folder.

    Raises:
        UsageError: there are none.
    """
    found = {path.name: path for path in sorted(folder.glob("*.whl"))} if folder.is_dir() else {}
    if not found:
        raise UsageError(f"{folder}: no wheels (*.whl) there; fill it with pip download for the device's platform")
    return _tree("wheels", found)


def data_tree(source: str, most: int) -> tuple[Tree, str]:
    """The first images of what names them here (a folder, a file, a glob pattern), and the name of a single one.

    Raises:
        InputError: there are none.
        UsageError: a list of files or a data set, which are not files of this machine.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() != ".txt":
        return _tree("data", {path.name: path}), path.name
    every = media.references(source)
    found = [Path(every[number].name) for number in range(min(len(every), most))]
    if not all(file.is_file() for file in found):
        raise UsageError(
            f"{source}: only image files can be sent to a device: give a folder, a file or a pattern of them"
        )
    return _tree("data", {f"{number:04}-{file.name}": file for number, file in enumerate(found)}), ""


def _tree(place: str, paths: dict[str, Path]) -> Tree:
    return _named(place, {name: _content(path) for name, path in paths.items()})


def _named(place: str, files: dict[str, Content]) -> Tree:
    """A tree whose name is the hash of what is in it."""
    listing = "".join(f"{name}\0{content.sha256}\n" for name, content in sorted(files.items()))
    return Tree(place, hashlib.sha256(listing.encode()).hexdigest(), files)


def _content(path: Path) -> Content:
    try:
        return Content(path, sha256(path), path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def deliver(connection: Connection, trees: Sequence[Tree], told: Told = lambda sent, all_: None) -> Delivered:
    """Bring trees to a device; each is whole there or not there at all.

    Raises:
        DeviceError: no room, a file that changes while it is sent, a lost connection.
    """
    contents = {content.sha256: content for tree in trees for content in tree.files.values()}
    absent = connection.ask("missing", list[str], hashes=list(contents))
    wanted = [contents[key] for key in absent]
    _check_room(connection, sum(content.bytes for content in wanted))
    before = connection.sent
    if wanted:
        _send(connection, wanted, told)
    paths = [
        connection.ask(
            "assemble",
            str,
            place=tree.place,
            name=tree.name,
            files={name: content.sha256 for name, content in tree.files.items()},
            compiled=tree.place == "code",
        )
        for tree in trees
    ]
    return Delivered(tuple(paths), len(wanted), connection.sent - before)


def _check_room(connection: Connection, needed: int) -> None:
    free = connection.facts.free
    if needed > free:
        name = connection.device.name
        raise DeviceError(
            f"{name}: {needed / 1e6:.1f} MB have to go to {connection.facts.folder}, where {free / 1e6:.1f} MB are "
            f"free: free some space there, or add the device with a --folder on another disk"
        )


def _send(connection: Connection, wanted: Sequence[Content], told: Told) -> None:
    """Send contents, and those that arrive damaged once more."""
    damaged = _sent(connection, wanted, told)
    damaged = _sent(connection, damaged, told) if damaged else []
    if damaged:
        raise DeviceError(
            f"{connection.device.name}: {damaged[0].path} arrived with other content than it had, twice: "
            f"is something writing it? Try again when it is done"
        )


def _sent(connection: Connection, wanted: Sequence[Content], told: Told) -> list[Content]:
    files = [[content.sha256, content.bytes] for content in wanted]
    bad = connection.ask("receive", list[str], _read(wanted, told), files=files)
    return [content for content in wanted if content.sha256 in bad]


def _read(wanted: Iterable[Content], told: Told) -> Iterator[bytes]:
    """The contents, each as long as it was said to be: one that has become shorter is filled up, and found damaged."""
    wanted = list(wanted)
    total, sent = sum(content.bytes for content in wanted), 0
    for content in wanted:
        left = content.bytes
        with content.path.open("rb") as stream:
            while left:
                piece = stream.read(min(left, _CHUNK)) or bytes(min(left, _CHUNK))
                left -= len(piece)
                sent += len(piece)
                told(sent, total)
                yield piece
