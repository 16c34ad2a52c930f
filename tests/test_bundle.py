"""Bundles on disk: every damage is noticed, and no accident of a writer loses what was there."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bundles import FILES, contents, forge, sample_manifest, write_bundle

from edgekit.errors import BundleError
from edgekit.runtimes.bundle import folder
from edgekit.runtimes.bundle import manifest_file as manifests
from edgekit.runtimes.bundle.folder import locked, open_bundle, sha256, stage
from edgekit.runtimes.bundle.manifest import MANIFEST, SCHEMA, File
from edgekit.runtimes.model import load

HERE = Path(__file__).parent


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A good bundle."""
    return write_bundle(tmp_path / "cells").path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle that property tests damage and repair."""
    return write_bundle(tmp_path_factory.mktemp("scratch") / "cells").path


def test_a_bundle_comes_back_as_it_was_written(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert open_bundle(str(bundle)) == open_bundle(bundle / MANIFEST) == opened
    assert opened.manifest.contract == sample_manifest().contract
    assert {file.path: file.bytes for file in opened.manifest.files} == {name: len(FILES[name]) for name in FILES}
    assert opened.bytes == sum(map(len, FILES.values()))
    assert opened.file("model.bin").read_bytes() == FILES["model.bin"]
    assert contents(bundle.parent).keys() == {f"cells/{name}" for name in (*FILES, MANIFEST)}


def test_a_copy_elsewhere_opens_too(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "elsewhere" / "renamed")
    assert open_bundle(tmp_path / "elsewhere" / "renamed").manifest == open_bundle(bundle).manifest


def test_a_large_file_is_hashed_in_pieces(tmp_path: Path) -> None:
    import hashlib

    data = os.urandom(3_000_001)
    (tmp_path / "large").write_bytes(data)
    assert sha256(tmp_path / "large") == hashlib.sha256(data).hexdigest()


# ---- damage ----


@given(st.data())
@settings(deadline=None)
def test_any_flipped_bit_is_noticed(scratch: Path, draw: st.DataObject) -> None:
    whole = open_bundle(scratch).manifest
    file = scratch / draw.draw(st.sampled_from([*FILES, MANIFEST]))
    data = file.read_bytes()
    place, bit = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 7))
    try:
        file.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
        if file.name != MANIFEST:
            with pytest.raises(BundleError, match=r"its content is not what was written \(hash differs\); copy"):
                open_bundle(scratch)
            return
        with contextlib.suppress(BundleError):
            assert open_bundle(scratch).manifest == whole  # a bit that changes nothing of what is said
    finally:
        file.write_bytes(data)


@given(st.data())
@settings(deadline=None)
def test_any_truncation_is_noticed(scratch: Path, draw: st.DataObject) -> None:
    file = scratch / draw.draw(st.sampled_from([*FILES, MANIFEST]))
    data = file.read_bytes()
    kept = draw.draw(st.integers(0, len(data) - 2))  # the last byte of the manifest is a line feed
    try:
        file.write_bytes(data[:kept])
        with pytest.raises(BundleError) as refused:
            open_bundle(scratch)
    finally:
        file.write_bytes(data)
    if file.name == MANIFEST:
        assert "not a readable manifest" in str(refused.value)
    else:
        assert f"{kept} bytes, the manifest says {len(data)}; truncated or replaced" in str(refused.value)


def test_added_bytes_are_noticed(bundle: Path) -> None:
    with (bundle / "model.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model.bin: 769 bytes, the manifest says 768; truncated or replaced"):
        open_bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "parts" / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"parts/weights.bin: missing from the bundle; copy the bundle again"):
        open_bundle(bundle)


def test_a_folder_in_the_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "model.bin").unlink()
    (bundle / "model.bin").mkdir()
    with pytest.raises(BundleError, match=r"model.bin: (cannot be read|\d+ bytes, the manifest says)"):
        open_bundle(bundle)


# ---- files that are none: nothing waits, nothing reads without end ----


def in_place_of(bundle: Path, name: str, kind: str) -> Path:
    """Something that is no regular file, or has no end, under the name of one."""
    path = bundle / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
            server.bind(os.path.relpath(path))
    return path


@pytest.mark.parametrize("name", [MANIFEST, "model.bin"])
@pytest.mark.parametrize(("kind", "words"), [("pipe", "a named pipe"), ("device", "a device"), ("socket", "a socket")])
def test_a_pipe_a_device_and_a_socket_are_refused_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (file,) = (file for file in open_bundle(bundle).manifest.files if file.path == "model.bin")
    forged = forge(bundle, tmp_path / "forged", files=(msgspec.structs.replace(file, bytes=0),))
    in_place_of(forged, name, kind)
    begun = time.monotonic()
    # A link to a device leaves the bundle too, which is told first of a file.
    leaves = r"the file name 'model.bin' leaves the bundle" if (name, kind) == ("model.bin", "device") else words
    with pytest.raises(BundleError, match=leaves):
        open_bundle(forged)
    assert time.monotonic() - begun < 2


def test_a_manifest_is_read_up_to_64_MB(bundle: Path) -> None:
    os.truncate(bundle / MANIFEST, 1 << 40)
    with pytest.raises(BundleError, match=r"1099511627776 bytes, and a manifest has at most 67108864; do not use"):
        open_bundle(bundle)
    with pytest.raises(BundleError, match="a manifest has at most"), stage(bundle):
        pass


def test_a_file_of_holes_is_refused_before_it_is_read(bundle: Path, tmp_path: Path) -> None:
    forged = forge(bundle, tmp_path / "forged", files=(File(path="model.bin", bytes=1 << 40, sha256=""),))
    os.truncate(forged / "model.bin", 1 << 40)
    with pytest.raises(
        BundleError, match=r"model.bin: 1099511627776 bytes, of which \d+ are on disk: a sparse file is not a model"
    ):
        open_bundle(forged)


@pytest.mark.parametrize("again", ["model.bin", "./model.bin", ".//model.bin"])
def test_a_file_that_is_named_twice_is_refused(bundle: Path, tmp_path: Path, again: str) -> None:
    files = open_bundle(bundle).manifest.files
    entry = next(file for file in files if file.path == "model.bin")
    forged = forge(bundle, tmp_path / "forged", files=(*files, msgspec.structs.replace(entry, path=again)))
    with pytest.raises(BundleError, match=rf"the manifest names '{again}' more than once"):
        open_bundle(forged)


def test_200000_entries_of_one_file_are_read_once(bundle: Path, tmp_path: Path) -> None:
    files = open_bundle(bundle).manifest.files
    forged = forge(bundle, tmp_path / "forged", files=files * 100_000)
    begun = time.monotonic()
    with pytest.raises(BundleError, match="more than once"):
        open_bundle(forged)
    assert time.monotonic() - begun < 10


def test_a_file_under_many_names_is_hashed_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_bundle(bundle).manifest.files
    entry = next(file for file in files if file.path == "model.bin")
    names = [f"link{number}" for number in range(50)]
    more = tuple(msgspec.structs.replace(entry, path=name) for name in names)
    forged = forge(bundle, tmp_path / "forged", files=(*files, *more))
    for name in names:
        os.link(forged / "model.bin", forged / name)
    read, hashing = list[int](), folder._hash
    monkeypatch.setattr(folder, "_hash", lambda stream, most: read.append(most) or hashing(stream, most))
    open_bundle(forged)
    assert len(read) == len(files)


def test_a_class_name_changed_by_hand_is_noticed(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    assert text.count('"grün"') == 1
    (bundle / MANIFEST).write_text(text.replace('"grün"', '"blue"'), encoding="utf-8")
    with pytest.raises(BundleError, match=r"the manifest was changed after it was written .+ restore the original"):
        open_bundle(bundle)


def test_a_newer_schema_says_to_upgrade(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    (bundle / MANIFEST).write_text(text.replace('"schema": 1', f'"schema": {SCHEMA + 1}'), encoding="utf-8")
    with pytest.raises(BundleError, match=rf"manifest schema {SCHEMA + 1}, .*pip install --upgrade edgekit"):
        open_bundle(bundle)


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"\x89PNG\r\n"], ids=["empty", "text", "object", "binary"])
def test_a_file_that_is_no_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json: not a readable manifest .+ convert the model again"):
        open_bundle(bundle)


def test_places_without_a_bundle_say_so(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing", tmp_path / "nothing" / MANIFEST):
        with pytest.raises(BundleError, match=r"no bundle there \(no manifest.json\); give the folder that edgekit"):
            open_bundle(path)
    with pytest.raises(BundleError, match=r"model\.bin: a file, and a bundle is a folder"):
        open_bundle(bundle / "model.bin")


# ---- forged manifests: with a digest that fits, and still not believed ----


def outside(root: Path, name: str) -> File:
    return File(path=name, bytes=6, sha256=sha256(root / "secret"))


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "parts/../../secret",
        "parts/../model.bin",
        "{root}/secret",
        "..\\secret",
        "parts\\weights.bin",
        "C:secret",
        "C:/secret",
        "link",
        "way/secret",
        "",
        ".",
        "..",
        "model.bin\0",
    ],
)
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    name = name.format(root=tmp_path)
    files = (*open_bundle(bundle).manifest.files, outside(tmp_path, name))
    forged = forge(bundle, tmp_path / "forged", files=files)
    (forged / "link").symlink_to(tmp_path / "secret")
    (forged / "way").symlink_to(tmp_path)
    with pytest.raises(BundleError, match=r"the file name .* leaves the bundle; do not use this bundle"):
        open_bundle(forged)


def test_links_that_stay_inside_are_fine_and_loops_are_refused(bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(bundle).manifest
    entry = next(file for file in manifest.files if file.path == "model.bin")
    files = (*manifest.files, msgspec.structs.replace(entry, path="link"))
    forged = forge(bundle, tmp_path / "forged", files=files)
    (forged / "link").symlink_to("model.bin")
    open_bundle(forged)
    (forged / "link").unlink()
    (forged / "link").symlink_to("link")
    with pytest.raises(BundleError, match=r"a broken link|cannot be read"):
        open_bundle(forged)


def test_a_file_name_without_end_is_refused(bundle: Path, tmp_path: Path) -> None:
    forged = forge(bundle, tmp_path / "forged", files=(File(path="x" * 5000, bytes=1, sha256=""),))
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        open_bundle(forged)


def test_a_graph_may_only_use_guarded_files(bundle: Path, tmp_path: Path) -> None:
    (graph,) = sample_manifest().graphs
    for name in ("other.bin", "../secret", "/etc/passwd"):
        shutil.rmtree(tmp_path / "forged", ignore_errors=True)
        forged = forge(bundle, tmp_path / "forged", graphs=(msgspec.structs.replace(graph, files=(name,)),))
        with pytest.raises(BundleError, match=rf"graph 'model' uses '{name}', which the manifest does not list"):
            open_bundle(forged)


def test_a_bundle_with_another_number_of_graphs_does_not_load(bundle: Path, tmp_path: Path) -> None:
    (graph,) = sample_manifest().graphs
    for count in (0, 2):
        forged = forge(bundle, tmp_path / f"forged{count}", graphs=(graph,) * count)
        with pytest.raises(BundleError, match=f"{count} graphs; a detect model has one"):
            load(forged)


# ---- writing ----


def fail_halfway(bundle: Path) -> None:
    with stage(bundle) as staging:
        (staging.folder / "model.bin").write_bytes(b"half")
        raise RuntimeError("converter")


def test_an_error_while_writing_leaves_the_old_bundle_and_nothing_else(bundle: Path) -> None:
    before = contents(bundle.parent)
    with pytest.raises(RuntimeError, match="converter"):
        fail_halfway(bundle)
    with stage(bundle) as staging:
        (staging.folder / "model.bin").write_bytes(b"changed my mind")
    assert contents(bundle.parent) == before
    open_bundle(bundle)


def test_a_new_bundle_replaces_an_old_one_whole(bundle: Path) -> None:
    (bundle / "left over.txt").write_text("of the old bundle")
    write_bundle(bundle, {"model.bin": b"new"}, name="new")
    assert contents(bundle.parent).keys() == {"cells/model.bin", f"cells/{MANIFEST}"}
    assert open_bundle(bundle).manifest.name == "new"


def test_a_damaged_bundle_may_be_replaced(bundle: Path) -> None:
    (bundle / "model.bin").write_bytes(b"damaged")
    text = (bundle / MANIFEST).read_bytes()
    (bundle / MANIFEST).write_bytes(text[: len(text) // 2])
    write_bundle(bundle, name="new")
    assert open_bundle(bundle).manifest.name == "new"


def test_an_empty_folder_takes_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    write_bundle(tmp_path / "cells")
    assert open_bundle(tmp_path / "cells").path == tmp_path / "cells"


@pytest.mark.parametrize("kind", ["file", "folder", "web page", "no json"])
def test_what_is_not_a_bundle_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mine"
    if kind == "file":
        place.write_text("thesis")
    else:
        place.mkdir()
        (place / "thesis.txt").write_text("thesis")
    if kind == "web page":
        (place / MANIFEST).write_text('{"name": "my web app", "icons": []}')
    if kind == "no json":
        (place / MANIFEST).write_bytes(b"\0" * 9)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="mine: exists and is not a bundle; move it away or choose another -o"):
        write_bundle(place)
    assert contents(tmp_path) == before


def test_a_file_on_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match=r"cannot be written: .+; free space or choose another -o"):
        write_bundle(tmp_path / "file" / "out" / "cells")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody can create files")
def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(BundleError, match=r"/proc/edgekit/cells: cannot be written: .+; free space or choose another"):
        write_bundle(Path("/proc/edgekit/cells"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_keeps_the_old_bundle(small_disk: Path) -> None:
    bundle = write_bundle(small_disk / "cells").path
    before = contents(small_disk)
    with pytest.raises(BundleError, match="cells: cannot be written: No space left on device; free space or choose"):
        write_bundle(bundle, {"model.bin": bytes(300_000)})
    assert contents(small_disk) == before
    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(BundleError, match="No space left on device"):
        write_bundle(bundle)
    (small_disk / "ballast").unlink()
    assert contents(small_disk) == before


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    bundle = write_bundle(small_disk / "cells").path
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(BundleError, match="cells: cannot be written: Read-only file system; free space or choose"):
        write_bundle(bundle)
    open_bundle(bundle)


def script(body: str, path: Path) -> list[str]:
    """A Python process that works on the bundle ``path``."""
    head = "import os, resource, signal, sys, time; from pathlib import Path\n"
    head += "from edgekit.runtimes.bundle.folder import stage\n"
    head += (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whatever the caller of the tests does with it
    )
    return [sys.executable, "-c", f"{head}from sample_bundles import *\npath = Path(sys.argv[1])\n{body}", str(path)]


def test_a_limit_on_file_sizes_is_named(bundle: Path) -> None:
    before = contents(bundle.parent)
    body = "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); write_bundle(path, {'model.bin': bytes(99999)})"
    done = subprocess.run(script(body, bundle), cwd=HERE, capture_output=True, text=True)
    assert "BundleError" in done.stderr
    assert "cells: cannot be written: File too large; free space or choose another -o" in done.stderr
    assert contents(bundle.parent) == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 65536


# ---- other writers, and writers that die ----

WRITE_AND_WAIT = """
with stage(path) as staging:
    (staging.folder / "model.bin").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing the same bundle."""
    process = subprocess.Popen(script(WRITE_AND_WAIT, bundle), cwd=HERE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_and_harms_nobody(bundle: Path, writer: subprocess.Popen[str]) -> None:
    before = contents(bundle.parent)
    for _ in range(2):
        with pytest.raises(
            BundleError, match="cells: another conversion is writing this bundle; wait for it or choose"
        ):
            write_bundle(bundle)
    assert contents(bundle.parent) == before
    assert writer.poll() is None
    assert open_bundle(bundle).manifest.name == "cells"
    write_bundle(bundle.parent / "another")  # its neighbours are free


def test_a_killed_writer_leaves_the_old_bundle_and_is_swept_up(bundle: Path, writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.wait()
    assert (bundle.parent / ".cells.partial").is_dir()
    assert open_bundle(bundle).manifest.name == "cells"
    write_bundle(bundle, name="next")
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["cells"]
    assert open_bundle(bundle).manifest.name == "next"


def test_an_interrupted_writer_cleans_up_itself(bundle: Path, writer: subprocess.Popen[str]) -> None:
    writer.send_signal(signal.SIGINT)
    writer.wait()
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["cells"]
    open_bundle(bundle)


def test_a_crash_between_the_two_renames_brings_the_old_bundle_back(bundle: Path) -> None:
    body = """
rename, renamed = Path.replace, []
def replace(self, target):
    if renamed:
        os.kill(os.getpid(), signal.SIGKILL)
    renamed.append(self)
    return rename(self, target)
Path.replace = replace
write_bundle(path, name="new")
"""
    before = contents(bundle)
    assert subprocess.run(script(body, bundle), cwd=HERE).returncode == -signal.SIGKILL
    assert not bundle.exists()
    with stage(bundle):
        assert contents(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["cells"]


def lose_the_new_one(bundle: Path) -> None:
    with stage(bundle) as staging:
        shutil.rmtree(staging.folder)  # what a tidy user or a clean-up job may do
        staging.commit()


def test_a_failing_second_rename_brings_the_old_bundle_back(bundle: Path) -> None:
    before = contents(bundle.parent)
    with pytest.raises(BundleError, match="cannot be written"):
        lose_the_new_one(bundle)
    assert contents(bundle.parent) == before


def test_what_a_new_bundle_replaced_does_not_come_back(bundle: Path) -> None:
    shutil.copytree(bundle, bundle.parent / ".cells.replaced")
    write_bundle(bundle, name="new")
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["cells"]
    assert open_bundle(bundle).manifest.name == "new"


def test_many_writers_one_after_another_never_show_half_a_bundle(bundle: Path) -> None:
    body = """
turn = 0
while not Path("stop").exists():
    turn += 1
    write_bundle(path, {"model.bin": os.urandom(20000)}, name=f"turn {turn}")
"""
    command = script(body, bundle)
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    process = subprocess.Popen(command, cwd=bundle.parent, env=env)
    seen = set()
    try:
        while len(seen) < 9 and process.poll() is None:
            try:
                seen.add(manifests.decode((bundle / MANIFEST).read_bytes(), "here").name)
            except FileNotFoundError:
                time.sleep(0.0005)  # between the two renames
        (bundle.parent / "stop").touch()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert len(seen) >= 9
    assert open_bundle(bundle).manifest.name.startswith("turn ")


def test_a_lock_excludes_others_and_disappears(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        with pytest.raises(BlockingIOError), locked(path):
            pytest.fail("two hold one lock")
        assert path.exists()
    assert not path.exists()
    with locked(path):
        pass
