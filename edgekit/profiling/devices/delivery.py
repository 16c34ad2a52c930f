"""HOST: brings folders to a device as archives, each by the digest of what is in it, and only what is missing there."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DeviceError, InputError, UsageError
from edgekit.profiling.devices.connection import Connection
from edgekit.runtimes.bundle.folder import Bundle, sha256
from edgekit.runtimes.bundle.manifest import MANIFEST
from edgekit.runtimes.inputs import media
from edgekit.worker.user_modules import import_module

_CHUNK = 1 << 20

OnBytes = Callable[[int, int], None]
"""Called with the bytes sent so far, and those to send in all."""


@dataclass(frozen=True)
class Content:
    """One file of this machine."""

    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Tree:
    """A folder to be on the device in ``place``, which is ``bundles``, ``code``, ``data`` or ``wheels``."""

    place: str
    files: dict[str, Content]

    @property
    def digest(self) -> str:
        """SHA-256 of the names and contents, the folder's name there."""
        listing = "".join(f"{name}\0{content.sha256}\n" for name, content in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(content.bytes for content in self.files.values())


@dataclass(frozen=True)
class Delivered:
    """Where the trees are on the device, in their order, and how many bytes had to be sent for them."""

    paths: tuple[str, ...]
    bytes: int


def bundle_tree(bundle: Bundle) -> Tree:
    """A bundle in a folder named as here: its manifest and the files that this guards, nothing else beside them."""
    files = {file.path: Content(bundle.file(file.path), file.sha256, file.bytes) for file in bundle.manifest.files}
    name = bundle.path.resolve().name
    listed = {MANIFEST: _content(bundle.path / MANIFEST), **files}
    return Tree("bundles", {f"{name}/{path}": content for path, content in listed.items()})


_DEVICE_CODE = (
    "__init__.py", "arrays.py", "decoders.py", "errors.py", "registry.py", "results.py", "structures.py", "tracking.py",
    "emulators", "isolation", "profiling", "runtimes", "worker",
)  # fmt: skip
_HOST_CODE = ("profiling/devices", "profiling/records")


def code_tree(imports: Sequence[str] = ()) -> Tree:
    """The part of this edgekit that a device needs, and the modules of ``imports``.

    Raises:
        UsageError: such a module has no file.
    """
    root = Path(__file__).parents[2]
    found = {}
    for path in sorted(path for top in _DEVICE_CODE for path in (root / top, *(root / top).rglob("*"))):
        name = path.relative_to(root).as_posix()
        if path.is_file() and "__pycache__" not in path.parts and not name.startswith(_HOST_CODE):
            found[f"edgekit/{name}"] = path
    for module in imports:
        found |= _module_files(module)
    return _tree("code", found)


def _module_files(name: str) -> dict[str, Path]:
    """The Python files of a module of the user's: the one, or all of the package that it belongs to."""
    top = import_module(name.partition(".")[0])
    path = Path(getattr(top, "__file__", None) or "")
    if path.suffix != ".py":
        raise UsageError(f"--import {name}: only modules and packages in Python files can be sent to a device")
    if path.name != "__init__.py":
        return {path.name: path}
    return {file.relative_to(path.parent.parent).as_posix(): file for file in sorted(path.parent.rglob("*.py"))}


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
    return Tree(place, {name: _content(path) for name, path in paths.items()})


def _content(path: Path) -> Content:
    try:
        return Content(path, sha256(path), path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def deliver(connection: Connection, trees: Sequence[Tree], on_bytes: OnBytes = lambda sent, all_: None) -> Delivered:
    """Bring trees to a device; each is whole there or not there at all.

    Raises:
        DeviceError: no room, a file that changes while it is sent, a lost connection.
    """
    different = {tree.digest: tree for tree in trees}
    absent = connection.ask("missing", list[bool], trees=[[tree.place, key] for key, tree in different.items()])
    if len(absent) != len(different):
        name = connection.device.name
        raise DeviceError(f"{name}: the device answers for {len(absent)} of {len(different)} folders: update its agent")
    wanted = [tree for tree, is_absent in zip(different.values(), absent, strict=True) if is_absent]
    total, sent = sum(tree.bytes for tree in wanted), 0
    _check_room(connection, total)
    for tree in wanted:
        _send(connection, tree, lambda now, done=sent: on_bytes(done + now, total))  # type: ignore[misc]
        sent += tree.bytes
    folder = connection.facts.folder
    return Delivered(tuple(f"{folder}/{tree.place}/{tree.digest}" for tree in trees), total)


def _check_room(connection: Connection, needed: int) -> None:
    free = connection.facts.free
    if needed > free:
        name = connection.device.name
        raise DeviceError(
            f"{name}: {needed / 1e6:.1f} MB have to go to {connection.facts.folder}, where {free / 1e6:.1f} MB are "
            f"free: free some space there, or add the device with a --folder on another disk"
        )


def _send(connection: Connection, tree: Tree, on_bytes: Callable[[int], None]) -> None:
    """Send a tree as an archive, which the device unpacks beside its place, checks, and renames."""
    changed: list[Path] = []
    compiled = tree.place == "code"
    archive = _archive(tree, on_bytes, changed)
    try:
        connection.ask("unpack", type(None), archive, place=tree.place, digest=tree.digest, compiled=compiled)
    except DeviceError:
        if changed:
            raise DeviceError(
                f"{connection.device.name}: {changed[0]} changed while it was sent: is something writing it? Try again "
                f"when it is done"
            ) from None
        raise


def _archive(tree: Tree, on_bytes: Callable[[int], None], changed: list[Path]) -> Iterator[bytes]:
    """A tree in tar's format. Each file is as long as it was said to be, whatever became of it meanwhile."""
    sent = 0
    for name, content in tree.files.items():
        entry, left, read = tarfile.TarInfo(name), content.bytes, hashlib.sha256()
        entry.size = left
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with content.path.open("rb") as stream:
            while left:
                piece = stream.read(min(left, _CHUNK)) or bytes(min(left, _CHUNK))
                left -= len(piece)
                sent += len(piece)
                read.update(piece)
                on_bytes(sent)
                yield piece
        if read.hexdigest() != content.sha256:
            changed.append(content.path)
        yield bytes(-content.bytes % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
