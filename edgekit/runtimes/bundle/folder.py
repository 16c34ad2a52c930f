"""A bundle on disk: a folder with ``manifest.json`` and the files it names; verified when opened, written atomically.

Writing happens in a hidden sibling folder that is renamed into place at the end, under a lock that dies with its
process. So a crash, a Ctrl-C or a full disk leaves what was there before, and the next writer sweeps up the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from edgekit.errors import BundleError
from edgekit.runtimes.bundle import manifest_file as manifests
from edgekit.runtimes.bundle.manifest import MANIFEST, File, Manifest

_CHUNK = 1 << 20
_PARTIAL = ".partial"
_REPLACED = ".replaced"
_LOCK = ".lock"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Absolute path of one of the bundle's files."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of the model files in bytes, without the manifest."""
        return sum(file.bytes for file in self.manifest.files)


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and check every byte it names.

    Raises:
        BundleError: no bundle there, a newer or invalid manifest, a missing, altered or truncated file, or a file
            name that leaves the bundle.
    """
    root = Path(path)
    if root.name == MANIFEST:
        root = root.parent
    try:
        data = (root / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise BundleError(
            f"{root}: no bundle there (no {MANIFEST}); give the folder that edgekit convert wrote"
        ) from error
    except OSError as error:
        raise BundleError(f"{root}: cannot be read: {error.strerror}") from error
    manifest = manifests.decode(data, str(root / MANIFEST))
    for file in manifest.files:
        _check(root, file)
    listed = {file.path for file in manifest.files}
    for graph in manifest.graphs:
        for name in graph.files:
            if name not in listed:
                raise BundleError(f"{root}: graph {graph.name!r} uses {name!r}, which the manifest does not guard")
    return Bundle(root, manifest)


def _check(root: Path, file: File) -> None:
    """Compare one file with what the manifest says of it."""
    path = root / _inside(root, file.path)
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise BundleError(
                f"{path}: {size} bytes, the manifest says {file.bytes}; truncated or replaced, copy it again"
            )
        if sha256(path) != file.sha256:
            raise BundleError(f"{path}: its content is not what was written (hash differs); copy the bundle again")
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing from the bundle; copy the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _inside(root: Path, name: str) -> PurePosixPath:
    """A file name of a manifest, refused when it points outside the bundle by ``..``, root, drive or link."""
    relative = PurePosixPath(name)
    outside = relative.is_absolute() or ".." in relative.parts or set(name) & set("\\:\0") or not relative.parts
    if outside or not _resolved(root / relative).is_relative_to(root.resolve()):
        raise BundleError(f"{root}: the file name {name!r} leaves the bundle; do not use this bundle")
    return relative


def _resolved(path: Path) -> Path:
    """A path with all links resolved."""
    try:
        return path.resolve()
    except RuntimeError as error:  # what Python before 3.13 says of a link that leads to itself
        raise BundleError(f"{path}: a link that leads nowhere; copy the bundle again") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            total.update(piece)
    return total.hexdigest()


class Staging:
    """A bundle being written. `folder` takes the files, `commit` makes it real."""

    def __init__(self, destination: Path, folder: Path) -> None:
        self.destination = destination
        self.folder = folder
        self.committed = False

    def seal(self, manifest: Manifest) -> Manifest:
        """Hash every file in the folder and write the manifest beside them; returns the completed manifest."""
        files = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name != MANIFEST:
                files.append(File(path=name, bytes=path.stat().st_size, sha256=sha256(path)))
        manifest = msgspec.structs.replace(manifest, files=tuple(files))
        with (self.folder / MANIFEST).open("wb") as stream:
            stream.write(manifests.encode(manifest))
            _flush(stream)
        return manifest

    def commit(self) -> Bundle:
        """Put the sealed bundle at its destination, replacing an older one in one step as seen from outside."""
        replaced = _hidden(self.destination, _REPLACED)
        if self.destination.exists():
            self.destination.replace(replaced)
        try:
            self.folder.replace(self.destination)
        except BaseException:
            if replaced.exists() and not self.destination.exists():
                replaced.replace(self.destination)
            raise
        self.committed = True
        shutil.rmtree(replaced, ignore_errors=True)
        return open_bundle(self.destination)


@contextlib.contextmanager
def stage(destination: str | os.PathLike[str]) -> Iterator[Staging]:
    """Begin a bundle at ``destination``; whatever is not committed when the block ends is removed.

    Raises:
        BundleError: the place cannot be written, holds something that is not a bundle, or another process is
            writing the same bundle.
    """
    target = Path(destination)
    with writing(target), contextlib.ExitStack() as held:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(locked(_hidden(target, _LOCK)))
        except BlockingIOError as error:
            raise BundleError(
                f"{target}: another conversion is writing this bundle; wait for it or choose another -o"
            ) from error
        _sweep(target)
        _refuse_foreign(target)
        folder = _hidden(target, _PARTIAL)
        folder.mkdir()
        staging = Staging(target, folder)
        try:
            yield staging
        finally:
            if not staging.committed:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise the operating system's errors while writing below ``path`` as one clear `BundleError`."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be written: {error.strerror or error}; free space or choose another -o"
        ) from error


def _hidden(target: Path, suffix: str) -> Path:
    return target.parent / f".{target.name}{suffix}"


def _sweep(target: Path) -> None:
    """Clean up after a killed writer: remove its partial folder and restore a bundle that it had moved aside."""
    shutil.rmtree(_hidden(target, _PARTIAL), ignore_errors=True)
    replaced = _hidden(target, _REPLACED)
    if replaced.exists() and not target.exists():
        replaced.replace(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _refuse_foreign(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    manifest = target / MANIFEST
    # Web pages and browser extensions have a manifest.json too. A damaged one of ours may be replaced.
    if not manifest.is_file() or b'"edgekit"' not in manifest.read_bytes():
        raise BundleError(f"{target}: exists and is not a bundle; move it away or choose another -o")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the operating system lets go of it when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it.
    """
    while True:
        with path.open("a+b") as stream:
            try:
                _lock(stream)
            except PermissionError as error:  # what Windows says
                raise BlockingIOError(str(path)) from error
            if not _still_there(path, stream):
                continue  # its last holder removed it between our opening and our locking
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _still_there(path: Path, stream: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _lock(stream: IO[bytes]) -> None:
    if os.name == "nt":  # pragma: no cover - no Windows in the tests
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
