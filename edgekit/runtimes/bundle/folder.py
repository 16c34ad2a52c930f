"""A bundle on disk: a folder with ``manifest.json`` and the files it names; verified when opened, written atomically.

Writing happens in a hidden sibling folder that is renamed into place at the end, under a lock that dies with its
process. So a crash, a Ctrl-C or a full disk leaves what was there before, and the next writer sweeps up the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from edgekit.errors import BundleError
from edgekit.runtimes.bundle import manifest_file as manifests
from edgekit.runtimes.bundle.manifest import GOLDEN, MANIFEST, File, Manifest
from edgekit.runtimes.bundle.onnx_external import named_files

MOST = 64 << 20
"""The most bytes of a ``manifest.json``. That of a model with 10,000 class names has 1 MB."""

_CHUNK = 1 << 20
_PARTIAL = ".partial"
_REPLACED = ".replaced"
_LOCK = ".lock"


@dataclass(frozen=True, repr=False)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Absolute path of one of the bundle's files."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of the model files in bytes, without the manifest and the golden frames."""
        return sum(file.bytes for file in self.manifest.files if not file.path.startswith(f"{GOLDEN}/"))

    def __repr__(self) -> str:
        return f"<Bundle {self.path}: {self.manifest.summary}, {self.bytes / 1e6:.2f} MB>"


Verify = Callable[[Path, bytes], None]
"""Is given a bundle's folder and the bytes of its manifest, and raises `BundleError` to refuse it. The manifest has the
hash of every other file: a signature of these bytes, kept beside them, is one of the whole bundle."""


def open_bundle(path: str | os.PathLike[str], *, verify: Verify | None = None) -> Bundle:
    """Open a bundle and check every byte it names.

    The hashes tell accidents, such as a cut transfer or an edited file. They do not tell who made the bundle: anyone
    can compute them anew. ``verify`` is the place for a check of that, such as a detached signature.

    Args:
        path: the folder, or the manifest in it.
        verify: is asked before anything in the manifest is believed.

    Raises:
        BundleError: no bundle there, a newer or invalid manifest, a missing, altered or truncated file, a pipe, device
            or file of holes in the place of one, a file name that leaves the bundle or is there twice, or an ONNX file
            that keeps weights in a file that the manifest does not name.
    """
    root = Path(path)
    if root.name == MANIFEST:
        root = root.parent
    try:
        data = _manifest_bytes(root / MANIFEST)
    except FileNotFoundError as error:
        raise BundleError(
            f"{root}: no bundle there (no {MANIFEST}); give the folder that edgekit convert wrote"
        ) from error
    except NotADirectoryError as error:
        raise BundleError(
            f"{root}: a file, and a bundle is a folder; if it is a trained model, convert it first: edgekit convert "
            f"{root} --target TARGET (edgekit inspect shows what is in it)"
        ) from error
    except OSError as error:
        raise BundleError(f"{root}: cannot be read: {error.strerror}") from error
    if verify is not None:
        verify(root, data)
    manifest = manifests.decode(data, str(root / MANIFEST))
    _check_files(root, manifest.files)
    listed = {file.path for file in manifest.files}
    _refuse_unlisted(root, listed)
    for graph in manifest.graphs:
        for name in graph.files:
            if name not in listed:
                raise BundleError(f"{root}: graph {graph.name!r} uses {name!r}, which the manifest does not list")
    return Bundle(root, manifest)


def _refuse_unlisted(root: Path, listed: set[str]) -> None:
    """Refuse ONNX files that have an engine read what the manifest does not list."""
    for name in sorted(listed):
        if not name.lower().endswith(".onnx"):
            continue
        try:
            named = named_files(root / name)
        except ValueError as error:
            raise BundleError(f"{root / name}: not a whole ONNX file ({error}); convert the model again") from error
        # Beside the file, or beside what it links to: engines differ.
        target = (root / name).resolve().relative_to(root.resolve())
        parents = {PurePosixPath(name).parent, PurePosixPath(target.as_posix()).parent}
        for other in sorted(named):
            if not listed.issuperset(str(parent / other) for parent in parents):
                raise BundleError(
                    f"{root / name}: keeps weights in {other!r}, which the manifest does not list; do not use this "
                    "bundle"
                )


def _manifest_bytes(path: Path) -> bytes:
    with _regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MOST:
            raise BundleError(f"{path}: {size} bytes, and a manifest has at most {MOST}; do not use this bundle")
        return stream.read(size)


def _check_files(root: Path, files: Sequence[File]) -> None:
    """Compare every file with what the manifest says of it."""
    named = set[PurePosixPath]()
    hashes: dict[tuple[int, int], str] = {}
    for file in files:
        relative = _inside(root, file.path)
        if relative in named:
            raise BundleError(f"{root}: the manifest names {file.path!r} more than once; do not use this bundle")
        named.add(relative)
        _check(root / relative, file, hashes)


def _check(path: Path, file: File, hashes: dict[tuple[int, int], str]) -> None:
    """Compare one file; ``hashes`` has those of files on disk that were read before, under another name."""
    try:
        with _regular(path) as stream:
            found = os.fstat(stream.fileno())
            if found.st_size != file.bytes:
                raise BundleError(
                    f"{path}: {found.st_size} bytes, the manifest says {file.bytes}; truncated or replaced, copy it "
                    "again"
                )
            _refuse_holes(path, found)
            place = found.st_dev, found.st_ino
            if place not in hashes:
                hashes[place] = _hash(stream, file.bytes)
            if hashes[place] != file.sha256:
                raise BundleError(f"{path}: its content is not what was written (hash differs); copy the bundle again")
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing from the bundle; copy the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, opened to be read. A pipe would never end, a device might do anything."""
    _refuse_special(path, path.stat())  # before it is opened, which is enough for some devices to act

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=opened) as stream:
        _refuse_special(path, os.fstat(stream.fileno()))
        yield stream


def _refuse_special(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise BundleError(f"{path}: cannot be read: it is {kind}; a bundle has regular files only, copy it again")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_SPARSE, _STORED = 1 << 30, 100
"""A file of so many bytes, of which less than one in so many is on disk, is no model: reading it takes for ever."""


def _refuse_holes(path: Path, found: os.stat_result) -> None:
    stored = 512 * getattr(found, "st_blocks", found.st_size)
    if found.st_size > _SPARSE and stored < found.st_size // _STORED:
        raise BundleError(
            f"{path}: {found.st_size} bytes, of which {stored} are on disk: a sparse file is not a model; do not use "
            "this bundle"
        )


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
        raise BundleError(f"{path}: a broken link; copy the bundle again") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return _hash(stream, sys.maxsize)


def _hash(stream: IO[bytes], most: int) -> str:
    """SHA-256 of at most so many bytes."""
    total = hashlib.sha256()
    while most > 0 and (piece := stream.read(min(_CHUNK, most))):
        total.update(piece)
        most -= len(piece)
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


def replace_manifest(folder: Path, manifest: bytes) -> None:
    """Write another manifest into a bundle, in one step: whoever opens the bundle sees the old one or the new one.

    Raises:
        BundleError: it cannot be written, or another process is writing this bundle.
    """
    target = folder.resolve()
    partial = target / f".{MANIFEST}{_PARTIAL}"
    with writing(folder), contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(_hidden(target, _LOCK)))
        except BlockingIOError as error:
            raise BundleError(f"{folder}: another process is writing this bundle; try again when it is done") from error
        try:
            with partial.open("wb") as stream:
                stream.write(manifest)
                _flush(stream)
            partial.replace(target / MANIFEST)
        finally:
            partial.unlink(missing_ok=True)


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


def sweep(out: Path, ours: Callable[[str], bool]) -> None:
    """Clean up after killed writers of all bundles in a folder; those that are being written are left alone.

    Args:
        out: the folder.
        ours: whether a name is one of a bundle: other programs have hidden files, too.
    """
    for lock in out.glob(f".*{_LOCK}"):
        name = lock.name[1 : -len(_LOCK)]
        if not ours(name) or lock.is_symlink():
            continue
        with contextlib.suppress(BlockingIOError), locked(lock):
            _sweep(out / name)


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
    if not manifest.is_file() or b'"edgekit"' not in _manifest_bytes(manifest):
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
